//! The TLB invalidate instructions (Arm ARM D8.17 and C5.5), with the operand that each takes.

use abi::{Ipa, VirtAddr};

/// Pages, counted from `SCALE` and `NUM`, that one range instruction covers: (NUM + 1) * 2^(5 * SCALE + 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlbiPages {
    scale: u8,
    num: u8,
}

impl TlbiPages {
    /// The largest number of pages that one instruction covers.
    pub const MAX: u64 = 32 << 16;

    /// The instruction that covers the most of `pages` without covering more; `None` for fewer than two pages.
    pub const fn at_most(pages: u64) -> Option<Self> {
        let mut scale = 3u8;
        loop {
            let unit = 1u64 << (5 * scale as u32 + 1);
            let units = pages / unit;
            if units != 0 {
                let num = if units > 32 { 31 } else { units as u8 - 1 };
                return Some(Self { scale, num });
            }
            if scale == 0 {
                return None;
            }
            scale -= 1;
        }
    }

    /// Pages of 4 KiB that are covered.
    pub const fn pages(self) -> u64 {
        (self.num as u64 + 1) << (5 * self.scale as u32 + 1)
    }

    /// NUM in bits 43:39, SCALE in 45:44, TG = 4 KiB in 47:46.
    const fn operand(self) -> u64 {
        1 << 46 | (self.scale as u64) << 44 | (self.num as u64) << 39
    }
}

/// One TLB invalidate instruction. Names are the architecture's; `Is` is the inner shareable form, names without it
/// reach only the CPU that executes them.
///
/// `level` is the hint of FEAT_TTL: the leaf that was removed stood at this level, 1 to 3, and no table descriptor is
/// to be invalidated. `None` makes no promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tlbi {
    /// `TLBI IPAS2E1IS`: stage-2 entries of one IPA, of the VMID in VTTBR_EL2.
    Ipas2e1Is {
        /// Any IPA that the entry translates.
        ipa: Ipa,
        /// Level hint.
        level: Option<u8>,
    },
    /// `TLBI IPAS2E1`: as [`Tlbi::Ipas2e1Is`], this CPU only.
    Ipas2e1 {
        /// Any IPA that the entry translates.
        ipa: Ipa,
        /// Level hint.
        level: Option<u8>,
    },
    /// `TLBI RIPAS2E1IS`: stage-2 entries of a range of IPAs (FEAT_TLBIRANGE).
    Ripas2e1Is {
        /// First IPA.
        ipa: Ipa,
        /// Length.
        pages: TlbiPages,
        /// Level hint.
        level: Option<u8>,
    },
    /// `TLBI VMALLE1IS`: at EL2, all stage-1 and combined entries of the VMID in VTTBR_EL2; at EL1, all of the EL1&0
    /// regime's stage-1 entries.
    Vmalle1Is,
    /// `TLBI VMALLE1`: as [`Tlbi::Vmalle1Is`], this CPU only.
    Vmalle1,
    /// `TLBI VMALLS12E1IS`: all stage-1, stage-2 and combined entries of the VMID in VTTBR_EL2.
    Vmalls12e1Is,
    /// `TLBI VMALLS12E1`: as [`Tlbi::Vmalls12e1Is`], this CPU only.
    Vmalls12e1,
    /// `TLBI ALLE1IS`: all entries of the EL1&0 regime, of every VMID.
    Alle1Is,
    /// `TLBI ALLE1`: as [`Tlbi::Alle1Is`], this CPU only.
    Alle1,
    /// `TLBI VAE2IS`: EL2 stage-1 entries of one address, of every level.
    Vae2Is {
        /// Any address that the entry translates.
        address: VirtAddr,
        /// Level hint.
        level: Option<u8>,
    },
    /// `TLBI VALE2IS`: EL2 stage-1 last-level entries of one address.
    Vale2Is {
        /// Any address that the entry translates.
        address: VirtAddr,
        /// Level hint.
        level: Option<u8>,
    },
    /// `TLBI RVAE2IS`: EL2 stage-1 entries of a range of addresses (FEAT_TLBIRANGE).
    Rvae2Is {
        /// First address.
        address: VirtAddr,
        /// Length.
        pages: TlbiPages,
        /// Level hint.
        level: Option<u8>,
    },
    /// `TLBI ALLE2IS`: all EL2 stage-1 entries.
    Alle2Is,
    /// `TLBI ALLE2`: as [`Tlbi::Alle2Is`], this CPU only.
    Alle2,
    /// `TLBI VAE1IS`: EL1&0 stage-1 entries of one address and ASID, or global, of every level.
    Vae1Is {
        /// Any address that the entry translates.
        address: VirtAddr,
        /// Address space identifier.
        asid: u16,
        /// Level hint.
        level: Option<u8>,
    },
    /// `TLBI VALE1IS`: EL1&0 stage-1 last-level entries of one address and ASID, or global.
    Vale1Is {
        /// Any address that the entry translates.
        address: VirtAddr,
        /// Address space identifier.
        asid: u16,
        /// Level hint.
        level: Option<u8>,
    },
    /// `TLBI RVAE1IS`: EL1&0 stage-1 entries of a range of addresses (FEAT_TLBIRANGE).
    Rvae1Is {
        /// First address.
        address: VirtAddr,
        /// Address space identifier.
        asid: u16,
        /// Length.
        pages: TlbiPages,
        /// Level hint.
        level: Option<u8>,
    },
}

/// Page number of `address` in bits 43:0 of an operand by address.
const fn page_number(address: u64) -> u64 {
    address >> 12 & 0xfff_ffff_ffff
}

/// TTL, bits 47:44 of an operand by address: 4 KiB granule in 47:46, level in 45:44.
const fn ttl(level: Option<u8>) -> u64 {
    match level {
        Some(level) if level >= 1 && level <= 3 => 0b0100 << 44 | (level as u64) << 44,
        _ => 0,
    }
}

/// An operand by range: base page number in bits 36:0, level in 38:37.
const fn range(address: u64, pages: TlbiPages, level: Option<u8>) -> u64 {
    let level = match level {
        Some(level) if level >= 1 && level <= 3 => level as u64,
        _ => 0,
    };
    pages.operand() | level << 37 | address >> 12 & 0x1f_ffff_ffff
}

impl Tlbi {
    /// The value of the instruction's register operand; `None` where the instruction takes none.
    #[inline(always)]
    pub const fn operand(self) -> Option<u64> {
        Some(match self {
            Self::Ipas2e1Is { ipa, level } | Self::Ipas2e1 { ipa, level } => {
                ipa.raw() >> 12 & 0xf_ffff_ffff | ttl(level)
            }
            Self::Ripas2e1Is { ipa, pages, level } => range(ipa.raw(), pages, level),
            Self::Vae2Is { address, level } | Self::Vale2Is { address, level } => {
                page_number(address.raw()) | ttl(level)
            }
            Self::Rvae2Is { address, pages, level } => range(address.raw(), pages, level),
            Self::Vae1Is { address, asid, level } | Self::Vale1Is { address, asid, level } => {
                page_number(address.raw()) | ttl(level) | (asid as u64) << 48
            }
            Self::Rvae1Is { address, asid, pages, level } => range(address.raw(), pages, level) | (asid as u64) << 48,
            Self::Vmalle1Is
            | Self::Vmalle1
            | Self::Vmalls12e1Is
            | Self::Vmalls12e1
            | Self::Alle1Is
            | Self::Alle1
            | Self::Alle2Is
            | Self::Alle2 => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operand_by_address_holds_page_number_hint_and_asid() {
        let ipa = Ipa::new(0x12_3456_7000);
        assert_eq!(Tlbi::Ipas2e1Is { ipa, level: Some(3) }.operand(), Some(0x0000_7000_0123_4567));
        assert_eq!(Tlbi::Ipas2e1Is { ipa, level: None }.operand(), Some(0x0123_4567));
        let address = VirtAddr::new(0xffff_8000_1234_5000);
        let operand = Tlbi::Vae1Is { address, asid: 0xbeef, level: Some(2) }.operand();
        assert_eq!(operand, Some(0xbeef_6ff8_0001_2345));
        assert_eq!(Tlbi::Alle2Is.operand(), None);
    }

    #[test]
    fn operand_by_range_holds_scale_and_num() {
        let pages = TlbiPages::at_most(512).unwrap();
        assert_eq!(pages.pages(), 512);
        // 512 = (7 + 1) * 2^6: SCALE 1, NUM 7.
        let operand = Tlbi::Ripas2e1Is { ipa: Ipa::new(0x4000_0000), pages, level: Some(3) }.operand();
        assert_eq!(operand, Some(1 << 46 | 1 << 44 | 7 << 39 | 3 << 37 | 0x4_0000));
    }

    #[test]
    fn a_range_instruction_never_covers_more_than_asked() {
        assert_eq!(TlbiPages::at_most(0), None);
        assert_eq!(TlbiPages::at_most(1), None);
        for pages in (2..70_000u64).chain([TlbiPages::MAX - 1, TlbiPages::MAX, u64::MAX]) {
            let covered = TlbiPages::at_most(pages).unwrap().pages();
            assert!(covered <= pages && covered * 2 >= pages.min(TlbiPages::MAX), "{pages}: {covered}");
        }
        for pages in [TlbiPages::MAX, TlbiPages::MAX + 1, 33 << 16, u64::MAX] {
            assert_eq!(TlbiPages::at_most(pages), Some(TlbiPages { scale: 3, num: 31 }), "{pages}");
        }
    }

    #[test]
    fn only_the_levels_of_leaves_are_hinted_at() {
        let ipa = Ipa::new(0x4000_0000);
        let pages = TlbiPages::at_most(512).unwrap();
        let range = 1 << 46 | 1 << 44 | 7 << 39 | 0x4_0000;
        for level in [None, Some(0), Some(4), Some(u8::MAX)] {
            assert_eq!(Tlbi::Ipas2e1Is { ipa, level }.operand(), Some(0x4_0000), "{level:?}");
            assert_eq!(Tlbi::Ripas2e1Is { ipa, pages, level }.operand(), Some(range), "{level:?}");
        }
        for level in 1..=3 {
            let (hint, bits) = (Some(level), u64::from(level));
            assert_eq!(Tlbi::Ipas2e1Is { ipa, level: hint }.operand(), Some((4 | bits) << 44 | 0x4_0000));
            assert_eq!(Tlbi::Ripas2e1Is { ipa, pages, level: hint }.operand(), Some(range | bits << 37));
        }
    }

    #[test]
    fn each_instruction_has_the_operand_worked_out_by_hand() {
        let level = Some(2);
        // The largest IPA; an address of the upper half, of which bits 55:12 count, or 48:12 by range.
        let ipa = Ipa::new(0xffff_ffff_f000);
        let address = VirtAddr::new(0xffab_cdef_0123_4000);
        // 96 = (0 + 1) * 2^6 and a rest: SCALE 1, NUM 0, TG 1.
        let pages = TlbiPages::at_most(96).unwrap();
        for (operation, operand) in [
            (Tlbi::Ipas2e1Is { ipa, level }, 0x0000_600f_ffff_ffff),
            (Tlbi::Ipas2e1 { ipa, level }, 0x0000_600f_ffff_ffff),
            (Tlbi::Ripas2e1Is { ipa, pages, level }, 0x0000_504f_ffff_ffff),
            (Tlbi::Vae2Is { address, level }, 0x0000_6abc_def0_1234),
            (Tlbi::Vale2Is { address, level }, 0x0000_6abc_def0_1234),
            (Tlbi::Rvae2Is { address, pages, level }, 0x0000_505c_def0_1234),
            (Tlbi::Vae1Is { address, asid: 0x1234, level }, 0x1234_6abc_def0_1234),
            (Tlbi::Vale1Is { address, asid: 0x1234, level }, 0x1234_6abc_def0_1234),
            (Tlbi::Rvae1Is { address, asid: 0x1234, pages, level }, 0x1234_505c_def0_1234),
        ] {
            assert_eq!(operation.operand(), Some(operand), "{operation:?}");
        }
    }
}
