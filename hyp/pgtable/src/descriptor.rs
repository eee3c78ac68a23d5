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

/// The kinds of descriptor, before attributes are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Vacant,
    Annotated,
    /// A table that is unlinked, but not yet flushed and freed. Exists only while an operation runs.
    Unlinked,
    Table,
    Leaf,
    /// An encoding that the architecture reserves.
    Reserved,
}

/// What `raw` is at `level`.
pub(crate) const fn kind(raw: u64, level: u8) -> Kind {
    if raw & bits::VALID == 0 {
        if raw == 0 {
            Kind::Vacant
        } else if raw & bits::TABLE_OR_PAGE == 0 {
            Kind::Annotated
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
    /// architecture reserves or that this crate keeps no longer than an operation.
    pub(crate) fn decode(raw: u64, level: u8, decode: impl FnOnce(u64) -> Option<A>) -> Option<Self> {
        Some(match kind(raw, level) {
            Kind::Vacant => Self::Invalid { annotation: None },
            Kind::Annotated => Self::Invalid { annotation: Annotation::new(raw >> Annotation::SHIFT) },
            Kind::Table => Self::Table { next: address(raw) },
            Kind::Leaf if level == LAST_LEVEL => Self::Page { output: address(raw), attributes: decode(raw)? },
            Kind::Leaf => Self::Block { output: address(raw), attributes: decode(raw)? },
            Kind::Unlinked | Kind::Reserved => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(decode(0x4000_0401, 0), None);
        assert_eq!(decode(0x4000_0401, 3), None);
        assert_eq!(decode(0x4000_0002, 2), None);
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
}
