//! How an input address is cut into table indices: input size, start level, root tables.

use abi::{PAGE_SHIFT, PAGE_SIZE};

use crate::error::TableError;

/// The level of pages, at which every walk ends.
pub const LAST_LEVEL: u8 = 3;
/// Descriptors in a table of 4 KiB.
pub const ENTRIES: u64 = 512;
/// log2 of [`ENTRIES`]: input bits that a level resolves.
pub(crate) const LEVEL_BITS: u32 = 9;

/// The shape of one tree of tables (Arm ARM D8.2, 4 KiB granule).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    input_bits: u32,
    output_bits: u32,
    input_base: u64,
    start_level: u8,
    /// log2 of the bytes that a descriptor of the root decides for.
    start_shift: u32,
    root_tables: u32,
}

impl Geometry {
    /// Shape of a stage-2 tree: the fewest levels, with up to 16 root tables side by side (Arm ARM D8.2.2,
    /// "Concatenated translation tables").
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where either size is out of range (32 to 48 bits) or the IPA is larger than
    /// the PA.
    pub const fn stage2(ipa_bits: u32, pa_bits: u32) -> Result<Self, TableError> {
        if ipa_bits < 32 || ipa_bits > pa_bits || output_size(pa_bits).is_none() {
            return Err(TableError::BadConfiguration);
        }
        let start_level = match ipa_bits {
            32..=34 => 2,
            35..=43 => 1,
            _ => 0,
        };
        let single = PAGE_SHIFT + LEVEL_BITS * (LAST_LEVEL as u32 + 1 - start_level as u32);
        let root_tables = 1 << ipa_bits.saturating_sub(single);
        let start_shift = entry_shift(start_level);
        Ok(Self { input_bits: ipa_bits, output_bits: pa_bits, input_base: 0, start_level, start_shift, root_tables })
    }

    /// Shape of a stage-1 tree for virtual addresses of `va_bits` bits, whose lowest address is `input_base`.
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where either size is out of range (32 to 48 bits).
    pub(crate) const fn stage1(va_bits: u32, pa_bits: u32, input_base: u64) -> Result<Self, TableError> {
        if va_bits < 32 || va_bits > 48 || output_size(pa_bits).is_none() {
            return Err(TableError::BadConfiguration);
        }
        let start_level = if va_bits > 39 { 0 } else { 1 };
        let start_shift = entry_shift(start_level);
        Ok(Self { input_bits: va_bits, output_bits: pa_bits, input_base, start_level, start_shift, root_tables: 1 })
    }

    /// Bits of an input address.
    pub const fn input_bits(&self) -> u32 {
        self.input_bits
    }

    /// Bits of an output address.
    pub const fn output_bits(&self) -> u32 {
        self.output_bits
    }

    /// The lowest input address; 0 but for the upper half of EL1's virtual addresses.
    pub const fn input_base(&self) -> u64 {
        self.input_base
    }

    /// Bytes of input address space.
    #[inline]
    pub const fn input_size(&self) -> u64 {
        1_u64.wrapping_shl(self.input_bits)
    }

    /// The first address that is none of an output.
    #[inline]
    pub(crate) const fn output_end(&self) -> u64 {
        1_u64.wrapping_shl(self.output_bits)
    }

    /// The level of the root, 0 to 2.
    pub const fn start_level(&self) -> u8 {
        self.start_level
    }

    /// log2 of the bytes that a descriptor of the root decides for.
    #[inline]
    pub(crate) const fn start_shift(&self) -> u32 {
        self.start_shift
    }

    /// Tables side by side at the root, 1 to 16.
    pub const fn root_tables(&self) -> u32 {
        self.root_tables
    }

    /// Bytes of the root, which is also its alignment.
    pub const fn root_size(&self) -> u64 {
        self.root_tables as u64 * PAGE_SIZE
    }

    /// T0SZ or T1SZ of the regime's translation control register.
    pub const fn size_field(&self) -> u64 {
        64 - self.input_bits as u64
    }

    /// PS or IPS of the regime's translation control register.
    pub const fn output_size_field(&self) -> u64 {
        match output_size(self.output_bits) {
            Some(field) => field,
            None => 0,
        }
    }

    /// The offset of `input` in the input space, or `None` where it lies outside.
    pub(crate) const fn offset(&self, input: u64) -> Option<u64> {
        let offset = input.wrapping_sub(self.input_base);
        if offset < self.input_size() { Some(offset) } else { None }
    }

    /// The input address at `offset`.
    pub(crate) const fn input(&self, offset: u64) -> u64 {
        self.input_base.wrapping_add(offset)
    }
}

/// Bytes of input that one descriptor of `level` covers: 512 GiB, 1 GiB, 2 MiB, 4 KiB.
pub const fn entry_size(level: u8) -> u64 {
    1 << entry_shift(level)
}

/// log2 of [`entry_size`].
pub const fn entry_shift(level: u8) -> u32 {
    PAGE_SHIFT + LEVEL_BITS * LAST_LEVEL.saturating_sub(level) as u32
}

/// True where a leaf may stand at `level`: blocks of 1 GiB and 2 MiB, and pages.
pub const fn may_be_leaf(level: u8) -> bool {
    level >= 1 && level <= LAST_LEVEL
}

/// The PS encoding of a physical address size in bits (Arm ARM D19.2.166 VTCR_EL2.PS); 52 bits are left out.
const fn output_size(bits: u32) -> Option<u64> {
    Some(match bits {
        32 => 0,
        36 => 1,
        40 => 2,
        42 => 3,
        44 => 4,
        48 => 5,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage2_uses_the_fewest_levels() {
        let shapes = [
            (32, 2, 4),
            (33, 2, 8),
            (34, 2, 16),
            (35, 1, 1),
            (36, 1, 1),
            (39, 1, 1),
            (40, 1, 2),
            (42, 1, 8),
            (43, 1, 16),
            (44, 0, 1),
            (48, 0, 1),
        ];
        for (bits, level, tables) in shapes {
            let geometry = Geometry::stage2(bits, 48).unwrap();
            assert_eq!((geometry.start_level(), geometry.root_tables()), (level, tables), "{bits} bits");
            assert_eq!(geometry.root_size(), u64::from(tables) * 4096);
        }
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert_eq!(Geometry::stage2(31, 48), Err(TableError::BadConfiguration));
        assert_eq!(Geometry::stage2(49, 48), Err(TableError::BadConfiguration));
        assert_eq!(Geometry::stage2(40, 36), Err(TableError::BadConfiguration));
        assert_eq!(Geometry::stage2(40, 41), Err(TableError::BadConfiguration));
        assert_eq!(Geometry::stage1(49, 48, 0), Err(TableError::BadConfiguration));
        assert_eq!(Geometry::stage1(31, 48, 0), Err(TableError::BadConfiguration));
    }

    #[test]
    fn stage1_has_one_root_table_and_starts_at_level_1_up_to_39_bits() {
        for (bits, level) in [(32, 1), (33, 1), (38, 1), (39, 1), (40, 0), (48, 0)] {
            let geometry = Geometry::stage1(bits, 32, 0).unwrap();
            assert_eq!((geometry.input_bits(), geometry.output_bits()), (bits, 32));
            assert_eq!((geometry.start_level(), geometry.root_tables()), (level, 1), "{bits} bits");
            assert_eq!((geometry.input_size(), geometry.size_field()), (1 << bits, 64 - u64::from(bits)));
        }
    }

    #[test]
    fn each_output_size_has_its_encoding_and_no_other_is_taken() {
        let encodings = [(32, 0), (36, 1), (40, 2), (42, 3), (44, 4), (48, 5)];
        for (bits, field) in encodings {
            assert_eq!(Geometry::stage1(39, bits, 0).unwrap().output_size_field(), field, "{bits} bits");
            assert_eq!(Geometry::stage2(32, bits).unwrap().output_size_field(), field, "{bits} bits");
        }
        for bits in (0..=64).filter(|bits| encodings.iter().all(|(size, _)| size != bits)) {
            assert_eq!(Geometry::stage1(39, bits, 0), Err(TableError::BadConfiguration), "{bits} bits");
            assert_eq!(Geometry::stage2(32, bits), Err(TableError::BadConfiguration), "{bits} bits");
        }
    }

    #[test]
    fn the_upper_half_ends_at_the_top_of_the_address_space() {
        let geometry = Geometry::stage1(48, 48, !0 << 48).unwrap();
        assert_eq!(geometry.offset(u64::MAX), Some((1 << 48) - 1));
        assert_eq!(geometry.offset(0), None);
        assert_eq!(geometry.offset((!0 << 48) - 1), None);
        assert_eq!(geometry.input(0), !0 << 48);
    }

    #[test]
    fn each_level_covers_512_of_the_next() {
        assert_eq!([0, 1, 2, 3].map(entry_size), [512 << 30, 1 << 30, 2 << 20, 4 << 10]);
    }
}
