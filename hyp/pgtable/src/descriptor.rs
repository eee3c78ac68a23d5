//! Descriptors as types, and the leaf that a look-up ends at.

use abi::PhysAddr;

use crate::bits;
use crate::geometry::{LAST_LEVEL, entry_size, may_be_leaf};
use crate::regime::{InputAddress, Regime};

/// A value that software keeps in an invalid descriptor; the hardware ignores it (Arm ARM D8.3.1, bits 63:1 of an
/// invalid descriptor are IGNORED). Any value from 1 to 2^62 - 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Annotation(u64);

impl Annotation {
    /// Bits of the descriptor below the annotation: the valid bit, and one that marks a table being taken down.
    const SHIFT: u32 = 2;
    /// The largest value.
    pub const MAX: u64 = u64::MAX >> Self::SHIFT;

    /// Wraps `value`; `None` where it is 0 or above [`Self::MAX`].
    pub const fn new(value: u64) -> Option<Self> {
        if value == 0 || value > Self::MAX { None } else { Some(Self(value)) }
    }

    /// The value that was wrapped.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The invalid descriptor that holds this annotation.
    pub(crate) const fn encode(self) -> u64 {
        self.0 << Self::SHIFT
    }
}

/// What one descriptor says, `A` being the attributes of the regime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Descriptor<A> {
    /// Faults when walked.
    Invalid {
        /// What software keeps here, if anything.
        annotation: Option<Annotation>,
    },
    /// Faults when walked, until the CPU that is replacing the descriptor has written the new one.
    Locked,
    /// Refers to a table of the next level.
    Table {
        /// The table's address.
        next: PhysAddr,
    },
    /// Maps 1 GiB (level 1) or 2 MiB (level 2).
    Block {
        /// Address that the first byte maps to, aligned to the block's size.
        output: PhysAddr,
        /// Attributes.
        attributes: A,
    },
    /// Maps 4 KiB (level 3).
    Page {
        /// Address that the first byte maps to.
        output: PhysAddr,
        /// Attributes.
        attributes: A,
    },
}

/// The end of a walk: the block, page or invalid descriptor that decides for an input address.
pub struct Leaf<R: Regime> {
    /// What the descriptor says; never a table.
    pub descriptor: Descriptor<R::Attributes>,
    /// The descriptor's level, 0 to 3.
    pub level: u8,
    /// The first input address that the descriptor decides for.
    pub base: R::Input,
    /// Bytes of input that it decides for.
    pub size: u64,
}

impl<R: Regime> Leaf<R> {
    /// The leaf that `raw` is, found at `level` where it decides for the offsets from `base` on; `None` where
    /// [`Descriptor::decode`] says so.
    #[inline]
    pub(crate) fn decode(regime: &R, raw: u64, level: u8, base: u64) -> Option<Self> {
        Some(Self {
            descriptor: Descriptor::decode(raw, level, |bits| regime.decode(bits))?,
            level,
            base: R::Input::from_raw(regime.geometry().input(base)),
            size: entry_size(level),
        })
    }

    /// True where the leaf is a block or a page.
    pub const fn is_valid(&self) -> bool {
        matches!(self.descriptor, Descriptor::Block { .. } | Descriptor::Page { .. })
    }

    /// What software keeps in an invalid leaf.
    pub const fn annotation(&self) -> Option<Annotation> {
        match self.descriptor {
            Descriptor::Invalid { annotation } => annotation,
            _ => None,
        }
    }

    /// True where nothing is mapped and nothing is noted.
    pub const fn is_vacant(&self) -> bool {
        matches!(self.descriptor, Descriptor::Invalid { annotation: None })
    }

    /// Output address and attributes of a valid leaf's first byte.
    pub const fn mapping(&self) -> Option<(PhysAddr, R::Attributes)> {
        match self.descriptor {
            Descriptor::Block { output, attributes } | Descriptor::Page { output, attributes } => {
                Some((output, attributes))
            }
            _ => None,
        }
    }

    /// What `input` translates to, `None` where the leaf is invalid or does not decide for `input`.
    pub fn output_of(&self, input: R::Input) -> Option<PhysAddr> {
        let (output, _) = self.mapping()?;
        let offset = input.into_raw().checked_sub(self.base.into_raw())?;
        if offset < self.size { output.checked_add(offset) } else { None }
    }
}

impl<R: Regime> Clone for Leaf<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: Regime> Copy for Leaf<R> {}

impl<R: Regime> PartialEq for Leaf<R> {
    fn eq(&self, other: &Self) -> bool {
        self.descriptor == other.descriptor
            && self.level == other.level
            && self.base == other.base
            && self.size == other.size
    }
}

impl<R: Regime> core::fmt::Debug for Leaf<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Leaf")
            .field("descriptor", &self.descriptor)
            .field("level", &self.level)
            .field("base", &self.base)
            .field("size", &self.size)
            .finish()
    }
}

/// The end of a walk as it stands in the table: what there is to say of a [`Leaf`] without decoding its attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawLeaf<I> {
    raw: u64,
    /// The descriptor's level, 0 to 3.
    pub level: u8,
    /// The first input address that the descriptor decides for.
    pub base: I,
    /// Bytes of input that it decides for.
    pub size: u64,
}

impl<I: InputAddress> RawLeaf<I> {
    pub(crate) const fn new(raw: u64, level: u8, base: I, size: u64) -> Self {
        Self { raw, level, base, size }
    }

    /// True where the leaf is a block or a page.
    #[inline]
    pub const fn is_valid(&self) -> bool {
        is_leaf(self.raw, self.level)
    }

    /// True where nothing is mapped and nothing is noted.
    #[inline]
    pub const fn is_vacant(&self) -> bool {
        self.raw == 0
    }

    /// What software keeps in an invalid leaf.
    #[inline]
    pub const fn annotation(&self) -> Option<Annotation> {
        match kind(self.raw, self.level) {
            Kind::Annotated => Annotation::new(self.raw >> Annotation::SHIFT),
            _ => None,
        }
    }

    /// The software bits of a valid leaf.
    #[inline]
    pub const fn software(&self) -> Option<u8> {
        if self.is_valid() { Some((self.raw >> bits::SOFTWARE_SHIFT & bits::SOFTWARE_MASK) as u8) } else { None }
    }

    /// What `input` translates to, `None` where the leaf is invalid or does not decide for `input`.
    #[inline]
    pub fn output_of(&self, input: I) -> Option<PhysAddr> {
        let offset = input.into_raw().checked_sub(self.base.into_raw())?;
        if self.is_valid() && offset < self.size { address(self.raw).checked_add(offset) } else { None }
    }
}

/// The kinds of descriptor, before attributes are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Vacant,
    Annotated,
    /// A table that is unlinked, but not yet flushed and freed. Exists only while an operation runs.
    Unlinked,
    Table,
    Leaf,
    /// Being replaced by one CPU while others may walk the table: [`LOCKED`].
    Locked,
    /// An encoding that the architecture reserves.
    Reserved,
}

/// An invalid descriptor that only the CPU that wrote it may replace: the break of a break-before-make while other CPUs
/// change the same table. An unlinked table's has bit 2, below any address, clear.
pub(crate) const LOCKED: u64 = bits::TABLE_OR_PAGE | 1 << 2;

/// What `raw` is at `level`.
pub(crate) const fn kind(raw: u64, level: u8) -> Kind {
    if raw & bits::VALID == 0 {
        if raw == 0 {
            Kind::Vacant
        } else if raw & bits::TABLE_OR_PAGE == 0 {
            Kind::Annotated
        } else if raw == LOCKED {
            Kind::Locked
        } else {
            Kind::Unlinked
        }
    } else if raw & bits::TABLE_OR_PAGE != 0 {
        if level >= LAST_LEVEL { Kind::Leaf } else { Kind::Table }
    } else if level < LAST_LEVEL && may_be_leaf(level) {
        Kind::Leaf
    } else {
        Kind::Reserved
    }
}

/// True where `raw` is [`Kind::Table`] at a level above the last.
#[inline]
pub(crate) const fn is_table(raw: u64) -> bool {
    const TABLE: u64 = bits::VALID | bits::TABLE_OR_PAGE;
    raw & TABLE == TABLE
}

/// True where `raw` is [`Kind::Vacant`] or [`Kind::Annotated`].
#[inline]
pub(crate) const fn is_vacant_or_annotated(raw: u64) -> bool {
    raw & (bits::VALID | bits::TABLE_OR_PAGE) == 0
}

/// True where `raw` is [`Kind::Leaf`] at `level`.
#[inline]
pub(crate) const fn is_leaf(raw: u64, level: u8) -> bool {
    let valid_and_type = raw & (bits::VALID | bits::TABLE_OR_PAGE);
    may_be_leaf(level) && valid_and_type == leaf_type(level)
}

/// The descriptor type of a leaf at `level`, with the valid bit.
const fn leaf_type(level: u8) -> u64 {
    if level >= LAST_LEVEL { bits::VALID | bits::TABLE_OR_PAGE } else { bits::VALID }
}

/// The address in a valid or unlinked descriptor.
pub(crate) const fn address(raw: u64) -> PhysAddr {
    PhysAddr::new(raw & bits::ADDRESS)
}

/// A descriptor of the table at `next`.
pub(crate) const fn table(next: PhysAddr) -> u64 {
    next.raw() & bits::ADDRESS | bits::TABLE_OR_PAGE | bits::VALID
}

/// What stands in for a table's descriptor between its unlinking and the flush.
pub(crate) const fn unlinked(table: u64) -> u64 {
    table & bits::ADDRESS | bits::TABLE_OR_PAGE
}

/// A block or page of `level` that maps to `output`.
pub(crate) const fn leaf(output: u64, attributes: u64, level: u8) -> u64 {
    output & bits::ADDRESS | attributes & bits::ATTRIBUTES | leaf_type(level)
}

impl<A> Descriptor<A> {
    /// Decodes `raw` as found at `level`, with `decode` for the attributes; `None` for an encoding that the
    /// architecture reserves, such as a block whose address is misaligned, or that this crate keeps no longer than an
    /// operation.
    pub(crate) fn decode(raw: u64, level: u8, decode: impl FnOnce(u64) -> Option<A>) -> Option<Self> {
        Some(match kind(raw, level) {
            Kind::Vacant => Self::Invalid { annotation: None },
            Kind::Annotated => Self::Invalid { annotation: Annotation::new(raw >> Annotation::SHIFT) },
            Kind::Locked => Self::Locked,
            Kind::Table => Self::Table { next: address(raw) },
            Kind::Leaf if !address(raw).is_aligned(entry_size(level)) => return None,
            Kind::Leaf if level == LAST_LEVEL => Self::Page { output: address(raw), attributes: decode(raw)? },
            Kind::Leaf => Self::Block { output: address(raw), attributes: decode(raw)? },
            Kind::Unlinked | Kind::Reserved => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use abi::Ipa;

    use super::*;
    use crate::stage2::{Stage2, Stage2Attributes, Stage2Config, Stage2Regime};

    fn decode(raw: u64, level: u8) -> Option<Descriptor<u64>> {
        Descriptor::decode(raw, level, |bits| Some(bits & bits::ATTRIBUTES))
    }

    #[test]
    fn the_type_bits_mean_what_the_level_makes_of_them() {
        let output = PhysAddr::new(0x4000_0000);
        for level in 0..3 {
            assert_eq!(decode(0x4000_0003, level), Some(Descriptor::Table { next: output }));
        }
        assert_eq!(decode(0x4000_0403, 3), Some(Descriptor::Page { output, attributes: 0x400 }));
        assert_eq!(decode(0x4000_0401, 1), Some(Descriptor::Block { output, attributes: 0x400 }));
        assert_eq!(decode(0x4000_0401, 2), Some(Descriptor::Block { output, attributes: 0x400 }));
        for (misaligned, level) in [(0x4000_0401 | 1 << 20, 2), (0x4000_0401 | 1 << 29, 1), (0x4000_0401 | 1 << 12, 1)]
        {
            assert_eq!(decode(misaligned, level), None);
        }
        assert_eq!(decode(0x4000_0401, 0), None);
        assert_eq!(decode(0x4000_0401, 3), None);
        assert_eq!(decode(0x4000_0002, 2), None);
        for level in 0..=3 {
            assert_eq!(decode(LOCKED, level), Some(Descriptor::Locked));
            assert_eq!(decode(LOCKED | 1 << 12, level), None);
        }
    }

    #[test]
    fn annotations_survive_the_round_trip_at_every_level() {
        for value in [1, 2, 3, 0x1234_5678_9abc, Annotation::MAX] {
            let annotation = Annotation::new(value).unwrap();
            assert_eq!(annotation.encode() & 3, 0);
            for level in 0..=3 {
                let expected = Descriptor::Invalid { annotation: Some(annotation) };
                assert_eq!(decode(annotation.encode(), level), Some(expected));
            }
            assert_eq!(annotation.value(), value);
        }
        assert_eq!(Annotation::new(0), None);
        assert_eq!(Annotation::new(Annotation::MAX + 1), None);
        assert_eq!(decode(0, 3), Some(Descriptor::Invalid { annotation: None }));
    }

    #[test]
    fn leaves_keep_only_address_and_attribute_bits() {
        assert_eq!(leaf(0x8000_0fff, 0x400, 3), 0x8000_0403);
        assert_eq!(leaf(0x8000_0000, 0x403, 2), 0x8000_0401);
        assert_eq!(unlinked(table(PhysAddr::new(0x9000))), 0x9002);
    }

    /// The leaf of `level` at 1 GiB that `raw` is.
    fn leaf_of(raw: u64, level: u8) -> Leaf<Stage2Regime> {
        let table = Stage2::new(PhysAddr::new(0), Stage2Config::new(39, 48), 1).unwrap();
        Leaf::decode(table.regime(), raw, level, 1 << 30).unwrap()
    }

    #[test]
    fn a_leaf_translates_what_it_decides_for_and_nothing_else() {
        for (level, size) in [(1, 1 << 30), (2, 2 << 20), (3, 4 << 10)] {
            let leaf = leaf_of(leaf(0x8000_0000, 0x7fc, level), level);
            let output_of = |offset: u64| leaf.output_of(Ipa::new(0x4000_0000u64.wrapping_add(offset)));
            assert_eq!(leaf.size, size);
            assert_eq!(output_of(0), Some(PhysAddr::new(0x8000_0000)));
            assert_eq!(output_of(5), Some(PhysAddr::new(0x8000_0005)));
            assert_eq!(output_of(size - 1), Some(PhysAddr::new(0x8000_0000 + size - 1)));
            assert_eq!(output_of(size), None);
            assert_eq!(output_of(size + 1), None);
            assert_eq!(output_of(u64::MAX), None);
            assert_eq!(leaf_of(0, level).output_of(leaf.base), None);
        }
    }

    #[test]
    fn a_leaf_is_a_mapping_or_noted_or_vacant() {
        let annotation = Annotation::new(7).unwrap();
        let mapped = leaf_of(leaf(0x8000_0000, 0x7fc, 3), 3);
        assert_eq!((mapped.is_valid(), mapped.is_vacant(), mapped.annotation()), (true, false, None));
        assert_eq!(mapped.mapping(), Some((PhysAddr::new(0x8000_0000), Stage2Attributes::memory())));
        let noted = leaf_of(annotation.encode(), 3);
        assert_eq!((noted.is_valid(), noted.is_vacant(), noted.annotation()), (false, false, Some(annotation)));
        let vacant = leaf_of(0, 3);
        assert_eq!((vacant.is_valid(), vacant.is_vacant(), vacant.annotation()), (false, true, None));
        assert_eq!((noted.mapping(), vacant.mapping()), (None, None));
    }

    #[test]
    fn leaves_are_equal_where_all_is() {
        let leaf = leaf_of(0, 3);
        assert_eq!(leaf, leaf_of(0, 3));
        for other in [
            Leaf { descriptor: Descriptor::Invalid { annotation: Annotation::new(1) }, ..leaf },
            Leaf { level: 2, ..leaf },
            Leaf { base: Ipa::new(0), ..leaf },
            Leaf { size: 2 << 20, ..leaf },
        ] {
            assert_ne!(leaf, other);
        }
    }
}
