//! What of a CPU's features the world switch asks about, in one word, so that it holds all of it in a register.

use crate::features::CpuFeatures;

/// A set of [`CpuFeatures`], as the world switch needs to know them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SwitchFeatures(u64);

impl SwitchFeatures {
    /// FEAT_RAS: VDISR_EL2 exists.
    pub const RAS: Self = Self(1 << 0);
    /// The GIC's CPU interface has system registers.
    pub const GIC: Self = Self(1 << 1);
    /// FEAT_HCX: HCRX_EL2 exists.
    pub const HCX: Self = Self(1 << 2);
    /// FEAT_FGT.
    pub const FGT: Self = Self(1 << 3);
    /// FEAT_FGT2.
    pub const FGT2: Self = Self(1 << 4);
    /// FEAT_FGT and FEAT_AMUv1: HAFGRTR_EL2 exists.
    pub const FGT_AMU: Self = Self(1 << 5);
    /// FEAT_MPAM.
    pub const MPAM: Self = Self(1 << 6);
    /// MPAMHCR_EL2 exists.
    pub const MPAM_HCR: Self = Self(1 << 7);
    /// FEAT_SME: the host may be in streaming mode.
    pub const SME: Self = Self(1 << 8);
    /// FEAT_SPE, with a buffer that EL2 may give away.
    pub const SPE: Self = Self(1 << 9);
    /// FEAT_TRF: TRFCR_EL1 exists.
    pub const TRF: Self = Self(1 << 10);
    /// FEAT_TRBE, with a buffer that EL2 may give away.
    pub const TRBE: Self = Self(1 << 11);
    /// FEAT_BRBE.
    pub const BRBE: Self = Self(1 << 12);
    /// FEAT_SME without FEAT_FGT: nothing else keeps a guest from TPIDR2_EL0.
    pub const TPIDR2_IN_REACH: Self = Self(1 << 13);
    /// The virtual CPU interface has more than one register of active priorities in each group.
    pub const MORE_PRIORITIES: Self = Self(1 << 14);

    /// Those whose control registers few CPUs have.
    pub const RARE_CONTROLS: Self = Self(Self::FGT2.0 | Self::FGT_AMU.0 | Self::MPAM.0 | Self::MPAM_HCR.0);
    /// Those with which the CPU may act for the host while a guest is in, or keeps what the guest could reach.
    pub const HOST_ACTIVITY: Self =
        Self(Self::SPE.0 | Self::TRF.0 | Self::TRBE.0 | Self::BRBE.0 | Self::TPIDR2_IN_REACH.0);

    /// Those of a CPU.
    pub fn new(features: &CpuFeatures) -> Self {
        let all = [
            (features.ras, Self::RAS),
            (features.gic_system_registers, Self::GIC),
            (features.hcx, Self::HCX),
            (features.fgt, Self::FGT),
            (features.fgt2, Self::FGT2),
            (features.fgt && features.amu, Self::FGT_AMU),
            (features.mpam, Self::MPAM),
            (features.mpam_hcr, Self::MPAM_HCR),
            (features.sme, Self::SME),
            (features.spe && !features.spe_owned_above, Self::SPE),
            (features.trf, Self::TRF),
            (features.trbe && !features.trbe_owned_above, Self::TRBE),
            (features.brbe, Self::BRBE),
            (features.sme && !features.fgt, Self::TPIDR2_IN_REACH),
            (features.gic.active_priority_registers > 1, Self::MORE_PRIORITIES),
        ];
        Self(all.iter().filter(|(present, _)| *present).fold(0, |bits, (_, feature)| bits | feature.0))
    }

    /// True where the CPU has any of `features`.
    #[inline(always)]
    pub const fn has(self, features: Self) -> bool {
        self.0 & features.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::GicFeatures;

    fn having(features: CpuFeatures) -> SwitchFeatures {
        SwitchFeatures::new(&features)
    }

    #[test]
    fn each_feature_is_its_own() {
        let none = CpuFeatures::default();
        assert_eq!(having(none), SwitchFeatures::default());
        let alone = [
            (CpuFeatures { ras: true, ..none }, SwitchFeatures::RAS),
            (CpuFeatures { gic_system_registers: true, ..none }, SwitchFeatures::GIC),
            (CpuFeatures { hcx: true, ..none }, SwitchFeatures::HCX),
            (CpuFeatures { fgt: true, ..none }, SwitchFeatures::FGT),
            (CpuFeatures { fgt2: true, ..none }, SwitchFeatures::FGT2),
            (CpuFeatures { mpam: true, ..none }, SwitchFeatures::MPAM),
            (CpuFeatures { mpam_hcr: true, ..none }, SwitchFeatures::MPAM_HCR),
            (CpuFeatures { spe: true, ..none }, SwitchFeatures::SPE),
            (CpuFeatures { trf: true, ..none }, SwitchFeatures::TRF),
            (CpuFeatures { trbe: true, ..none }, SwitchFeatures::TRBE),
            (CpuFeatures { brbe: true, ..none }, SwitchFeatures::BRBE),
            (
                CpuFeatures { gic: GicFeatures { active_priority_registers: 2, ..none.gic }, ..none },
                SwitchFeatures::MORE_PRIORITIES,
            ),
        ];
        let not_alone = [SwitchFeatures::SME, SwitchFeatures::FGT_AMU, SwitchFeatures::TPIDR2_IN_REACH];
        let of_all = alone.iter().map(|(_, feature)| *feature).chain(not_alone);
        let (count, bits) = of_all.fold((0, 0), |(count, bits), feature| (count + 1, bits | feature.0));
        assert_eq!(bits, (1 << count) - 1, "each has a bit to itself");
        for (index, (features, expected)) in alone.into_iter().enumerate() {
            assert_eq!(having(features), expected, "{index}");
            assert_eq!(expected.0.count_ones(), 1, "{index}");
            assert!(alone[..index].iter().all(|(_, other)| !other.has(expected)), "{index}");
        }
    }

    #[test]
    fn a_register_is_touched_only_where_there_is_one_to_touch() {
        let base = CpuFeatures::default();
        assert_eq!(having(CpuFeatures { amu: true, ..base }), SwitchFeatures::default(), "HAFGRTR_EL2 takes FGT too");
        assert!(having(CpuFeatures { amu: true, fgt: true, ..base }).has(SwitchFeatures::FGT_AMU));
        let priorities = |count| {
            let gic = GicFeatures { active_priority_registers: count, ..GicFeatures::default() };
            having(CpuFeatures { gic, ..base })
        };
        assert_eq!((priorities(1), priorities(2)), (SwitchFeatures::default(), SwitchFeatures::MORE_PRIORITIES));
        let above = CpuFeatures { spe: true, spe_owned_above: true, trbe: true, trbe_owned_above: true, ..base };
        assert_eq!(having(above), SwitchFeatures::default(), "buffers of a higher exception level");
    }

    #[test]
    fn what_a_guest_could_reach_is_put_away() {
        let sme = CpuFeatures { sme: true, ..CpuFeatures::default() };
        assert!(having(sme).has(SwitchFeatures::HOST_ACTIVITY));
        let trapped = having(CpuFeatures { fgt: true, ..sme });
        assert!(!trapped.has(SwitchFeatures::HOST_ACTIVITY) && trapped.has(SwitchFeatures::SME));
        for feature in [SwitchFeatures::SPE, SwitchFeatures::TRF, SwitchFeatures::TRBE, SwitchFeatures::BRBE] {
            assert!(feature.has(SwitchFeatures::HOST_ACTIVITY), "{feature:?}");
        }
    }
}
