//! What differs between translation regimes: addresses, attributes, what may change in place, and maintenance.

use core::fmt;

use abi::{Ipa, PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};

use crate::bits;
use crate::environment::Maintenance;
use crate::error::TableError;
use crate::geometry::Geometry;
use crate::tlbi::TlbiPages;

/// An address that a table translates.
pub trait InputAddress: Copy + Eq + fmt::Debug {
    /// Wraps a raw address.
    fn from_raw(raw: u64) -> Self;
    /// The raw address.
    fn into_raw(self) -> u64;
}

impl InputAddress for Ipa {
    fn from_raw(raw: u64) -> Self {
        Self::new(raw)
    }
    fn into_raw(self) -> u64 {
        self.raw()
    }
}

impl InputAddress for VirtAddr {
    fn from_raw(raw: u64) -> Self {
        Self::new(raw)
    }
    fn into_raw(self) -> u64 {
        self.raw()
    }
}

/// Which TLB features the CPUs have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TlbiFeatures {
    /// FEAT_TTL (ID_AA64MMFR2_EL1.TTL): operations by address take a level hint.
    pub level_hint: bool,
    /// FEAT_TLBIRANGE (ID_AA64ISAR0_EL1.TLB >= 2): operations by range exist.
    pub range: bool,
}

/// What may be done to replace one valid descriptor by another (Arm ARM D8.16.1, "Using break-before-make").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// They are the same.
    None,
    /// The new descriptor may overwrite the old one; a flush makes it the only one in use.
    InPlace,
    /// The old descriptor must be made invalid and flushed first.
    BreakBeforeMake,
}

/// What an invalidation has to reach. Addresses are input addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// One leaf of `level` that `input` belongs to; no table was unlinked.
    Leaf {
        /// Any address that the leaf translates.
        input: u64,
        /// The leaf's level.
        level: u8,
    },
    /// Every descriptor that decides for a page of the range.
    Range {
        /// First address, page aligned.
        input: u64,
        /// Bytes, a multiple of the page size.
        size: u64,
        /// The level of all that was removed, where it is only leaves of one level.
        level: Option<u8>,
    },
    /// Everything that the table translates.
    All,
}

/// One translation regime. Implemented by [`Stage2Regime`](crate::stage2::Stage2Regime),
/// [`El2Regime`](crate::el2::El2Regime) and [`El1Regime`](crate::el1::El1Regime).
pub trait Regime: Copy + fmt::Debug {
    /// The address that is translated.
    type Input: InputAddress;
    /// Attributes of a leaf.
    type Attributes: Copy + Eq + fmt::Debug + fmt::Display;

    /// The shape of the tree.
    fn geometry(&self) -> &Geometry;

    /// The bits of a leaf with these attributes, without address and descriptor type.
    ///
    /// # Errors
    /// [`TableError::BadAttributes`] where the CPU cannot express them.
    fn encode(&self, attributes: Self::Attributes) -> Result<u64, TableError>;

    /// The attributes of a leaf; `None` where a field holds a reserved value.
    fn decode(&self, descriptor: u64) -> Option<Self::Attributes>;

    /// Attribute bits that may change while the descriptor is valid: permissions, access flag, dirty state and
    /// software bits.
    fn live_bits(&self) -> u64;

    /// The bits of a leaf to clear, and those to set, so that no CPU may write through it any more, be it by the
    /// hardware's own update of the dirty state. They are among [`live_bits`](Self::live_bits).
    fn write_protection(&self) -> (u64, u64);

    /// True where instructions may be fetched through a leaf with these bits.
    fn is_executable(&self, descriptor: u64) -> bool;

    /// True where data must be cleaned to the point of coherency before it is mapped with these bits, since accesses
    /// through the mapping may bypass the caches.
    fn bypasses_caches(&self, descriptor: u64) -> bool;

    /// Orders the descriptor writes that came before, invalidates what `scope` says for the table at `root` on all
    /// CPUs, and waits for completion. Afterwards no CPU uses an old descriptor.
    fn invalidate<M: Maintenance + ?Sized>(&self, maintenance: &M, root: PhysAddr, scope: Scope);

    /// Makes newly valid descriptors visible to the table walkers of all CPUs.
    fn publish<M: Maintenance + ?Sized>(&self, maintenance: &M);

    /// Brings `outputs`, about to be mapped with the bits of `descriptor`, to where accesses through the mapping look: to
    /// the point of coherency where they may bypass the caches, and out of the instruction caches where instructions may
    /// be fetched.
    fn synchronise_caches<M: Maintenance + ?Sized>(&self, maintenance: &M, descriptor: u64, outputs: PhysRange) {
        let is_executable = self.is_executable(descriptor);
        if self.bypasses_caches(descriptor) {
            maintenance.clean_invalidate_to_poc(outputs);
        } else if is_executable {
            maintenance.clean_to_pou(outputs);
        }
        if is_executable {
            maintenance.invalidate_instruction_cache(outputs);
        }
    }

    /// How a valid leaf or table descriptor may be replaced by another valid one.
    fn change(&self, old: u64, new: u64) -> Change {
        let difference = old ^ new;
        if difference == 0 {
            Change::None
        } else if difference & !self.live_bits() == 0 && old & bits::VALID != 0 {
            Change::InPlace
        } else {
            Change::BreakBeforeMake
        }
    }
}

/// Ends the text of a leaf's attributes with the software bits, where one is set.
pub(crate) fn write_software(f: &mut fmt::Formatter<'_>, software: u8) -> fmt::Result {
    if software == 0 { Ok(()) } else { write!(f, " software={software}") }
}

/// Pages of a range up to which invalidation by single pages is preferred to invalidating everything.
const SINGLE_PAGE_LIMIT: u64 = 16;

/// Carries out `scope` by the operations of a regime: `one` invalidates by a single address with a level hint, `many`
/// by a range. Returns false, having done nothing, where everything is to be invalidated instead.
#[inline(always)]
pub(crate) fn by_address(
    scope: Scope,
    features: TlbiFeatures,
    one: impl Fn(u64, Option<u8>),
    many: impl Fn(u64, TlbiPages, Option<u8>),
) -> bool {
    let hint = |level: Option<u8>| level.filter(|_| features.level_hint);
    match scope {
        Scope::All => false,
        Scope::Leaf { input, level } => {
            one(input, hint(Some(level)));
            true
        }
        Scope::Range { input, size, level } => {
            let mut pages = size / PAGE_SIZE;
            let mut input = input;
            if pages > TlbiPages::MAX || (pages > SINGLE_PAGE_LIMIT && !features.range) {
                return false;
            }
            while pages != 0 {
                let covered = match TlbiPages::at_most(pages) {
                    Some(count) if features.range => {
                        many(input, count, hint(level));
                        count.pages()
                    }
                    _ => {
                        one(input, hint(level));
                        1
                    }
                };
                pages = pages.saturating_sub(covered);
                input = input.wrapping_add(covered.saturating_mul(PAGE_SIZE));
            }
            true
        }
    }
}
