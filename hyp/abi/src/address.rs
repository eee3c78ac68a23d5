//! Typed addresses and page numbers.
//!
//! Physical, intermediate-physical and virtual addresses never mix: each is a type of its own, and none converts to
//! another without saying so.

use core::fmt;

/// log2 of the translation granule: 4 KiB (Arm ARM D8.2).
pub const PAGE_SHIFT: u32 = 12;
/// The translation granule in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

macro_rules! address {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw value in bytes; any alignment.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw value in bytes.
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The address `bytes` above this one, or `None` where the sum does not fit 64 bits.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// Bytes from `base` up to this address, or `None` where `base` is above it.
            pub const fn offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// True if the address is a multiple of `alignment`, which must be a power of two.
            pub const fn is_aligned(self, alignment: u64) -> bool {
                self.0 & (alignment - 1) == 0
            }

            /// The largest multiple of `alignment` (a power of two) that is not above this address.
            pub const fn align_down(self, alignment: u64) -> Self {
                Self(self.0 & !(alignment - 1))
            }

            /// The smallest multiple of `alignment` (a power of two) that is not below this address, or `None` where
            /// that does not fit 64 bits.
            pub const fn align_up(self, alignment: u64) -> Option<Self> {
                match self.0.checked_add(alignment - 1) {
                    Some(raw) => Some(Self(raw & !(alignment - 1))),
                    None => None,
                }
            }

            /// Offset within its 4 KiB page, in bytes.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

macro_rules! frame_number {
    ($(#[$meta:meta])* $name:ident of $address:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw frame number.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw frame number.
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The frame that holds `address`.
            pub const fn containing(address: $address) -> Self {
                Self(address.raw() >> PAGE_SHIFT)
            }

            /// The frame's first byte, or `None` where the number is too large for a 64-bit address.
            pub const fn checked_address(self) -> Option<$address> {
                if self.0 >> (64 - PAGE_SHIFT) == 0 {
                    Some($address::new(self.0 << PAGE_SHIFT))
                } else {
                    None
                }
            }

            /// The frame `count` above this one, or `None` where the sum does not fit 64 bits.
            pub const fn checked_add(self, count: u64) -> Option<Self> {
                match self.0.checked_add(count) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A physical address: what stage 2, or EL2's stage 1, produces.
    PhysAddr
}
address! {
    /// An intermediate physical address: what a guest, or the host, takes for physical.
    Ipa
}
address! {
    /// A virtual address: what stage 1 translates.
    VirtAddr
}
frame_number! {
    /// A physical frame number: physical address >> 12.
    Pfn of PhysAddr
}
frame_number! {
    /// A guest frame number: intermediate physical address >> 12.
    Gfn of Ipa
}

/// A range of physical memory, `start` inclusive, `end` exclusive, both in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PhysRange {
    /// First byte.
    pub start: PhysAddr,
    /// One past the last byte.
    pub end: PhysAddr,
}

impl PhysRange {
    /// The range of `size` bytes from `start`, or `None` where its end does not fit 64 bits.
    pub const fn from_size(start: PhysAddr, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Bytes in the range; 0 where the end is not above the start.
    pub const fn size(&self) -> u64 {
        self.end.raw().saturating_sub(self.start.raw())
    }

    /// True where the range holds no byte.
    pub const fn is_empty(&self) -> bool {
        self.size() == 0
    }

    /// True where `address` lies in the range.
    pub const fn contains(&self, address: PhysAddr) -> bool {
        self.start.raw() <= address.raw() && address.raw() < self.end.raw()
    }

    /// True where all of `other` lies in the range.
    pub const fn contains_range(&self, other: &PhysRange) -> bool {
        self.start.raw() <= other.start.raw() && other.end.raw() <= self.end.raw()
    }

    /// True where the two ranges have a byte in common.
    pub const fn overlaps(&self, other: &PhysRange) -> bool {
        !self.is_empty()
            && !other.is_empty()
            && self.start.raw() < other.end.raw()
            && other.start.raw() < self.end.raw()
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.raw(), self.end.raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_at_the_top_of_the_address_space_is_refused() {
        let top = PhysAddr::new(u64::MAX - 10);
        assert_eq!(top.checked_add(11), None);
        assert_eq!(top.align_up(PAGE_SIZE), None);
        assert_eq!(PhysRange::from_size(top, 100), None);
        assert_eq!(Pfn::new(1 << 52).checked_address(), None);
        assert_eq!(Pfn::new((1 << 52) - 1).checked_address(), Some(PhysAddr::new(!0xfff)));
    }

    #[test]
    fn ranges_overlap_only_where_they_share_a_byte() {
        let range = |start, end| PhysRange { start: PhysAddr::new(start), end: PhysAddr::new(end) };
        assert!(range(0, 10).overlaps(&range(9, 12)));
        assert!(!range(0, 10).overlaps(&range(10, 12)));
        assert!(!range(5, 5).overlaps(&range(0, 10)));
        assert!(range(0, 10).contains_range(&range(0, 10)));
        assert!(!range(0, 10).contains_range(&range(0, 11)));
        assert!(!range(0, 10).contains(PhysAddr::new(10)));
    }
}
