//! What EL2's control registers hold while the host runs, and while a guest does.
//!
//! All values are for HCR_EL2.E2H = 0. For the host they follow the arm64 boot protocol: it finds every feature of the
//! CPU as it would without hyp. For a guest they are an allow-list: what is not given is trapped.

use crate::control_bits::{cnthctl, cptr, fine_grained, hcr, hcrx, ich_hcr, mdcr};
use crate::features::CpuFeatures;

/// ICC_SRE_EL2: SRE, DFB, DIB; with Enable, EL1 may reach ICC_SRE_EL1.
const ICC_SRE_EL2_SRE: u64 = 0b0111;
/// ICC_SRE_EL2.Enable.
const ICC_SRE_EL2_ENABLE: u64 = 1 << 3;
/// ZCR_EL2.LEN and SMCR_EL2.LEN: the longest vector that the CPU has.
const VECTOR_LENGTH_MAX: u64 = 0xf;
/// SMCR_EL2.FA64.
const SMCR_EL2_FA64: u64 = 1 << 31;
/// SMCR_EL2.EZT0.
const SMCR_EL2_EZT0: u64 = 1 << 30;
/// PMSCR_EL2.PCT and PA: EL1's profiles may hold physical time and addresses.
const PMSCR_EL2_PCT_PA: u64 = 1 << 6 | 1 << 4;
/// BRBCR_EL2.CC and MPRED: EL1's branch records may hold cycle counts and mispredictions.
const BRBCR_EL2_CC_MPRED: u64 = 1 << 3 | 1 << 4;

/// MPAM2_EL2.EnMPAMSM: MPAMSM_EL1 does not trap.
const MPAM2_EL2_ENMPAMSM: u64 = 1 << 50;
/// MPAM2_EL2.TRAPMPAM1EL1, TRAPMPAM0EL1 and TIDR: MPAM1_EL1, MPAM0_EL1 and MPAMIDR_EL1 trap.
const MPAM2_EL2_TRAP_ALL: u64 = 1 << 48 | 1 << 49 | 1 << 58;
/// MPAMHCR_EL2.TRAP_MPAMIDR_EL1: the same as MPAM2_EL2.TIDR, on CPUs that do not have that.
const MPAMHCR_EL2_TRAP_MPAMIDR: u64 = 1 << 31;

/// The values for EL2's control registers that differ between host and guests, in the order in which the world switch loads
/// them, two at a time. Where the CPU lacks a feature, its registers do not exist and are not to be
/// written: HCRX_EL2 (`hcx`), the fine-grained traps (`fgt`, with `amu` for HAFGRTR_EL2; `fgt2`), ICH_HCR_EL2 and
/// ICC_SRE_EL2 (`gic_system_registers`), MPAM2_EL2 (`mpam`) and MPAMHCR_EL2 (`mpam_hcr`).
///
/// While these are a guest's, nothing of the CPU may act for the host on the guest's memory: where the CPU has SPE,
/// TRBE or BRBE, the world switch also clears PMSCR_EL1, TRFCR_EL1 and BRBCR_EL1, waits for the buffers, and switches them
/// off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TrapControls {
    /// VPIDR_EL2: what EL1 reads as MIDR_EL1.
    pub vpidr_el2: u64,
    /// VMPIDR_EL2: what EL1 reads as MPIDR_EL1.
    pub vmpidr_el2: u64,
    /// HCR_EL2.
    pub hcr_el2: u64,
    /// CPTR_EL2.
    pub cptr_el2: u64,
    /// MDCR_EL2.
    pub mdcr_el2: u64,
    /// CNTHCTL_EL2.
    pub cnthctl_el2: u64,
    /// VTCR_EL2.
    pub vtcr_el2: u64,
    /// VTTBR_EL2.
    pub vttbr_el2: u64,
    /// ICC_SRE_EL2.
    pub icc_sre_el2: u64,
    /// ICH_HCR_EL2.
    pub ich_hcr_el2: u64,
    /// HFGRTR_EL2.
    pub hfgrtr_el2: u64,
    /// HFGWTR_EL2.
    pub hfgwtr_el2: u64,
    /// HFGITR_EL2.
    pub hfgitr_el2: u64,
    /// HDFGRTR_EL2.
    pub hdfgrtr_el2: u64,
    /// HDFGWTR_EL2.
    pub hdfgwtr_el2: u64,
    /// HCRX_EL2.
    pub hcrx_el2: u64,
    /// HAFGRTR_EL2.
    pub hafgrtr_el2: u64,
    /// HFGRTR2_EL2.
    pub hfgrtr2_el2: u64,
    /// HFGWTR2_EL2.
    pub hfgwtr2_el2: u64,
    /// HFGITR2_EL2.
    pub hfgitr2_el2: u64,
    /// HDFGRTR2_EL2.
    pub hdfgrtr2_el2: u64,
    /// HDFGWTR2_EL2.
    pub hdfgwtr2_el2: u64,
    /// MPAM2_EL2.
    pub mpam2_el2: u64,
    /// MPAMHCR_EL2.
    pub mpamhcr_el2: u64,
}

/// Registers that are set once for the host and that no guest reaches: each only where the CPU has the feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostOnlyControls {
    /// ZCR_EL2, where there is SVE.
    pub zcr_el2: Option<u64>,
    /// SMCR_EL2, where there is SME.
    pub smcr_el2: Option<u64>,
    /// PMSCR_EL2, where there is SPE that EL2 may give away.
    pub pmscr_el2: Option<u64>,
    /// BRBCR_EL2, where there is BRBE.
    pub brbcr_el2: Option<u64>,
}

impl HostOnlyControls {
    /// The values for a CPU.
    pub fn new(features: &CpuFeatures) -> Self {
        let mut smcr = VECTOR_LENGTH_MAX;
        if features.sme_fa64 {
            smcr |= SMCR_EL2_FA64;
        }
        if features.sme2 {
            smcr |= SMCR_EL2_EZT0;
        }
        Self {
            zcr_el2: features.sve.then_some(VECTOR_LENGTH_MAX),
            smcr_el2: features.sme.then_some(smcr),
            pmscr_el2: (features.spe && !features.spe_owned_above).then_some(PMSCR_EL2_PCT_PA),
            brbcr_el2: features.brbe.then_some(BRBCR_EL2_CC_MPRED),
        }
    }
}

/// The identity and stage 2 that go with [`TrapControls`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Translation {
    /// VTCR_EL2.
    pub vtcr_el2: u64,
    /// VTTBR_EL2: root table and VMID.
    pub vttbr_el2: u64,
}

impl TrapControls {
    /// For the host: EL1 and EL0 find everything that the CPU has; only SMC traps.
    pub fn host(features: &CpuFeatures, midr_el1: u64, mpidr_el1: u64, translation: Translation) -> Self {
        Self {
            hcr_el2: host_hcr(features),
            hcrx_el2: host_hcrx(features),
            cptr_el2: cptr::RES1 | if features.sve { 0 } else { cptr::TZ } | if features.sme { 0 } else { cptr::TSM },
            mdcr_el2: host_mdcr(features),
            cnthctl_el2: cnthctl::EL1PCTEN | cnthctl::EL1PCEN,
            hfgrtr_el2: fine_grained::REGISTERS,
            hfgwtr_el2: fine_grained::REGISTERS,
            hfgitr_el2: fine_grained::INSTRUCTIONS,
            hdfgrtr_el2: fine_grained::DEBUG_READ,
            hdfgwtr_el2: fine_grained::DEBUG_WRITE,
            hafgrtr_el2: 0,
            hfgrtr2_el2: fine_grained::REGISTERS2,
            hfgwtr2_el2: fine_grained::REGISTERS2,
            hfgitr2_el2: fine_grained::INSTRUCTIONS2,
            hdfgrtr2_el2: fine_grained::DEBUG_READ2,
            hdfgwtr2_el2: fine_grained::DEBUG_WRITE2,
            ich_hcr_el2: 0,
            icc_sre_el2: ICC_SRE_EL2_SRE | ICC_SRE_EL2_ENABLE,
            mpam2_el2: MPAM2_EL2_ENMPAMSM,
            mpamhcr_el2: 0,
            vpidr_el2: midr_el1,
            vmpidr_el2: mpidr_el1,
            vtcr_el2: translation.vtcr_el2,
            vttbr_el2: translation.vttbr_el2,
        }
    }

    /// For a guest: the base architecture, FP and, where the CPU has it, pointer authentication on first use, the virtual
    /// timer, a virtual CPU interface. VMPIDR_EL2 is the vCPU's to set.
    pub fn guest(features: &CpuFeatures, midr_el1: u64, translation: Translation) -> Self {
        Self {
            hcr_el2: guest_hcr(features),
            hcrx_el2: if features.mops { hcrx::MSCEN } else { 0 },
            cptr_el2: cptr::RES1
                | cptr::TZ
                | cptr::TSM
                | cptr::TFP
                | cptr::TTA
                | if features.amu { cptr::TAM } else { 0 },
            mdcr_el2: guest_mdcr(features),
            cnthctl_el2: cnthctl::EL1PCTEN,
            ich_hcr_el2: ich_hcr::EN,
            icc_sre_el2: ICC_SRE_EL2_SRE,
            mpam2_el2: MPAM2_EL2_TRAP_ALL,
            mpamhcr_el2: MPAMHCR_EL2_TRAP_MPAMIDR,
            vpidr_el2: midr_el1,
            vtcr_el2: translation.vtcr_el2,
            vttbr_el2: translation.vttbr_el2,
            ..Self::default()
        }
    }

    /// Lets the guest use FP and SIMD without a trap.
    pub fn enable_fp(&mut self) {
        self.cptr_el2 &= !cptr::TFP;
    }

    /// Makes the guest's next use of FP or SIMD trap.
    pub fn disable_fp(&mut self) {
        self.cptr_el2 |= cptr::TFP;
    }

    /// Lets the guest use pointer authentication without a trap, of a CPU that has it.
    pub fn give_keys(&mut self) {
        self.hcr_el2 |= hcr::APK_API;
    }

    /// True where the guest may use pointer authentication without a trap, so that the keys in the CPU must be its own.
    #[inline(always)]
    pub const fn gives_keys(&self) -> bool {
        self.hcr_el2 & hcr::APK_API != 0
    }
}

/// HCR_EL2 for the host.
fn host_hcr(features: &CpuFeatures) -> u64 {
    let mut value = hcr::VM | hcr::TSC | hcr::RW;
    for (present, bits) in [
        (features.pauth, hcr::APK_API),
        (features.mte2, hcr::ATA),
        (features.fwb, hcr::FWB),
        (features.ras_v1p1, hcr::FIEN),
        (features.scxtnum, hcr::ENSCXT),
    ] {
        if present {
            value |= bits;
        }
    }
    value
}

/// HCRX_EL2 for the host.
fn host_hcrx(features: &CpuFeatures) -> u64 {
    let mut value = 0;
    for (present, bits) in [
        (features.ls64_accdata, hcrx::ENAS0),
        (features.ls64, hcrx::ENALS),
        (features.ls64_v, hcrx::ENASR),
        (features.mops, hcrx::MSCEN),
        (features.tcr2, hcrx::TCR2EN),
        (features.sctlr2, hcrx::SCTLR2EN),
        (features.d128, hcrx::D128EN),
        (features.sysreg128, hcrx::ENIDCP128),
        (features.gcs, hcrx::GCSEN),
        (features.fpmr, hcrx::ENFPM),
        (features.pauth_lr, hcrx::PACMEN),
    ] {
        if present {
            value |= bits;
        }
    }
    value
}

/// MDCR_EL2 for the host: every counter is EL1's (HPMN), and so are the profiling and trace buffers.
fn host_mdcr(features: &CpuFeatures) -> u64 {
    let mut value = features.pmu_counters;
    if features.spe {
        value |= mdcr::E2PB_EL1;
    }
    if features.trbe && !features.trbe_owned_above {
        value |= mdcr::E2TB_EL1;
    }
    if features.debug_v8p9 {
        value |= mdcr::EBWE;
    }
    value
}

/// HCR_EL2 for a guest.
fn guest_hcr(features: &CpuFeatures) -> u64 {
    let mut value = hcr::VM
        | hcr::SWIO
        | hcr::PTW
        | hcr::FMO_IMO_AMO
        | hcr::FB
        | hcr::BSU_INNER
        | hcr::TWI_TWE
        | hcr::TID1
        | hcr::TID3
        | hcr::TSC
        | hcr::TIDCP
        | hcr::TACR
        | hcr::TSW
        | hcr::RW;
    for (present, bits) in [
        (features.lor, hcr::TLOR),
        (features.ras, hcr::TERR | hcr::TEA),
        (features.fwb, hcr::FWB),
        // What TID2 traps but CTR_EL0, which a guest reads often and is given as it is.
        (features.evt, hcr::TID4),
        (!features.evt, hcr::TID2),
        (features.mte, hcr::TID5),
    ] {
        if present {
            value |= bits;
        }
    }
    value
}

/// MDCR_EL2 for a guest: no debug, no performance monitors, no profiling, no trace. HPMN stays the host's, whose
/// counters go on counting its own events.
fn guest_mdcr(features: &CpuFeatures) -> u64 {
    let mut value = features.pmu_counters | mdcr::TDRA | mdcr::TDA | mdcr::TDOSA;
    for (present, bits) in [
        (features.pmu, mdcr::TPM | mdcr::TPMCR),
        (features.spe, mdcr::TPMS),
        (features.trf, mdcr::TTRF),
        (features.fgt, mdcr::TDCC),
    ] {
        if present {
            value |= bits;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::IdRegisters;

    /// The features of a CPU that claims every field of its ID registers.
    fn everything() -> CpuFeatures {
        CpuFeatures::from_id_registers(&IdRegisters {
            id_aa64pfr0_el1: 0x1111_1111_1111_1111,
            id_aa64pfr1_el1: 0x2222_2222_2222_2222,
            id_aa64pfr2_el1: !0,
            id_aa64smfr0_el1: !0,
            id_aa64dfr0_el1: 0x1111_1111_1111_1111,
            id_aa64isar0_el1: !0,
            id_aa64isar1_el1: 0x3111_1111_1111_1111,
            id_aa64isar2_el1: !0,
            id_aa64mmfr0_el1: 0x2222_2222_2222_2225,
            id_aa64mmfr1_el1: 0x2222_2222_2222_2222,
            id_aa64mmfr2_el1: !0,
            id_aa64mmfr3_el1: !0,
            pmcr_el0: 6 << 11,
            ..IdRegisters::default()
        })
    }

    fn host(features: &CpuFeatures) -> TrapControls {
        TrapControls::host(features, 0x1234, 0x8000_0001, Translation { vtcr_el2: 7, vttbr_el2: 9 })
    }

    fn guest(features: &CpuFeatures) -> TrapControls {
        TrapControls::guest(features, 0x1234, Translation { vtcr_el2: 7, vttbr_el2: 9 })
    }

    #[test]
    fn the_host_of_a_plain_cpu_finds_no_trap_but_smc() {
        let controls = host(&CpuFeatures::default());
        assert_eq!(controls.hcr_el2, 1 << 31 | 1 << 19 | 1);
        assert_eq!(controls.cptr_el2, 0x33ff, "as the boot protocol has it");
        assert_eq!((controls.mdcr_el2, controls.hcrx_el2), (0, 0));
        assert_eq!(controls.cnthctl_el2, 3);
        assert_eq!((controls.icc_sre_el2, controls.ich_hcr_el2), (0xf, 0));
        assert_eq!((controls.mpam2_el2, controls.mpamhcr_el2), (1 << 50, 0));
        assert_eq!((controls.vpidr_el2, controls.vmpidr_el2), (0x1234, 0x8000_0001));
        assert_eq!((controls.vtcr_el2, controls.vttbr_el2), (7, 9));
    }

    #[test]
    fn the_host_finds_every_feature_untrapped() {
        let features = everything();
        let controls = host(&features);
        assert_eq!(controls.cptr_el2, 0x22ff, "SVE, SME, FP, trace, activity monitors");
        let hcr = 1 | 1 << 19 | 1 << 31 | 0b11 << 40 | 1 << 46 | 1 << 56;
        assert_eq!(controls.hcr_el2 & !(1 << 47 | 1 << 53), hcr, "VM, TSC, RW, APK, API, FWB, ATA");
        assert_eq!(controls.mdcr_el2, 6 | 0b11 << 12 | 0b11 << 24, "HPMN, E2PB, E2TB");
        let hcrx = 0b111 | 1 << 11 | 1 << 14 | 1 << 15 | 1 << 17 | 0b1111 << 21;
        assert_eq!(controls.hcrx_el2, hcrx, "LS64, MOPS, TCR2, SCTLR2, D128, GCS, FPM, PACM");
        for (name, register, bits) in [
            ("nTPIDR2_EL0, nSMPRI_EL1", controls.hfgrtr_el2, 0b11 << 54),
            ("nPIR_EL1, nPIRE0_EL1", controls.hfgrtr_el2, 0b11 << 57),
            ("nPOR_EL1, nPOR_EL0", controls.hfgrtr_el2, 0b11 << 59),
            ("nGCS_EL1, nGCS_EL0", controls.hfgwtr_el2, 0b11 << 52),
            ("nBRBIALL, nBRBINJ", controls.hfgitr_el2, 0b11 << 55),
            ("nBRBDATA, nBRBCTL, nBRBIDR", controls.hdfgrtr_el2, 0b111 << 59),
            ("nPMSNEVFR_EL1", controls.hdfgwtr_el2, 1 << 62),
            ("nPMICNTR_EL0, nPMUACR_EL1", controls.hdfgrtr2_el2, 0b10100),
            ("nPMZR_EL0", controls.hdfgwtr2_el2, 1 << 21),
        ] {
            assert_eq!(register & bits, bits, "{name}");
        }
        let positive = [
            controls.hfgrtr_el2 & ((1 << 50) - 1),
            controls.hfgitr_el2 & ((1 << 55) - 1),
            controls.hdfgrtr_el2 & ((1 << 59) - 1),
            controls.hafgrtr_el2,
        ];
        assert_eq!(positive, [0; 4], "where a one traps there is none");
    }

    #[test]
    fn a_host_with_many_breakpoints_may_select_them() {
        let banked = CpuFeatures { debug_v8p9: true, ..CpuFeatures::default() };
        assert_eq!(host(&banked).mdcr_el2, 1 << 43);
        assert_eq!(guest(&banked).mdcr_el2 & 1 << 43, 0);
    }

    #[test]
    fn host_only_registers_exist_with_their_feature() {
        assert_eq!(HostOnlyControls::new(&CpuFeatures::default()), HostOnlyControls::default());
        let controls = HostOnlyControls::new(&everything());
        assert_eq!(controls.zcr_el2, Some(0xf));
        assert_eq!(controls.smcr_el2, Some(1 << 31 | 1 << 30 | 0xf));
        assert_eq!((controls.pmscr_el2, controls.brbcr_el2), (Some(0x50), Some(0x18)));
        let above = CpuFeatures { spe_owned_above: true, trbe_owned_above: true, ..everything() };
        assert_eq!(HostOnlyControls::new(&above).pmscr_el2, None);
        assert_eq!(host(&above).mdcr_el2 >> 24 & 0b11, 0);
    }

    #[test]
    fn a_guest_is_trapped_where_it_is_given_nothing() {
        for features in [CpuFeatures::default(), everything()] {
            let controls = guest(&features);
            assert_eq!(controls.cptr_el2 & !(1 << 30), 0x0010_37ff, "SVE, SME, FP, trace");
            let always = 1 | 0b111 << 3 | 0b11 << 13 | 0b101 << 16 | 1 << 19 | 0b111 << 20 | 1 << 31;
            assert_eq!(controls.hcr_el2 & always, always, "VM, interrupts, WFx, IDs, SMC, TIDCP, TACR, TSW, RW");
            let cache_ids = (controls.hcr_el2 >> 17 & 1, controls.hcr_el2 >> 49 & 1);
            assert_eq!(cache_ids, if features.evt { (0, 1) } else { (1, 0) }, "TID2 or TID4");
            let never = 1 << 27 | 1 << 34 | 1 << 47 | 1 << 53 | 1 << 56;
            assert_eq!(controls.hcr_el2 & never, 0, "TGE, E2H, FIEN, ENSCXT, ATA");
            assert_eq!(controls.hcrx_el2 & !hcrx::MSCEN, 0);
            assert_eq!(controls.mdcr_el2 & 0b111 << 9, 0b111 << 9, "TDA, TDOSA, TDRA");
            assert_eq!(controls.mdcr_el2 & (0b11 << 12 | 0b11 << 24), 0, "no buffer is the guest's");
            assert_eq!((controls.hfgrtr_el2, controls.hfgwtr_el2, controls.hfgitr_el2), (0, 0, 0));
            assert_eq!(controls.cnthctl_el2, 1, "the physical timer is the host's");
            assert_eq!((controls.ich_hcr_el2, controls.icc_sre_el2), (1, 0b0111), "ICC_SRE_EL1 traps");
            assert_eq!(
                controls.mpam2_el2,
                1 << 48 | 1 << 49 | 1 << 58,
                "MPAM1_EL1, MPAM0_EL1, MPAMIDR_EL1, MPAMSM_EL1"
            );
            assert_eq!(controls.mpamhcr_el2, 1 << 31, "MPAMIDR_EL1");
            assert_eq!((controls.vtcr_el2, controls.vttbr_el2), (7, 9));
        }
        let controls = guest(&everything());
        assert_eq!(controls.hcr_el2 & (0b111 << 35), 0b111 << 35, "TLOR, TERR, TEA");
        assert_eq!(controls.hcr_el2 & (1 << 49 | 1 << 58 | 1 << 46), 1 << 49 | 1 << 58 | 1 << 46);
        assert_eq!(controls.hcr_el2 & 0b11 << 40, 0, "APK, API: the keys are the host's still");
        assert_eq!(
            controls.mdcr_el2 & (1 << 27 | 1 << 19 | 1 << 14 | 0b11 << 5),
            1 << 27 | 1 << 19 | 1 << 14 | 0b11 << 5
        );
        assert_ne!(controls.cptr_el2 & 1 << 30, 0, "activity monitors");
    }

    #[test]
    fn keys_are_given_once_and_for_all() {
        let mut controls = guest(&everything());
        assert!(!controls.gives_keys());
        let before = controls;
        controls.give_keys();
        assert!(controls.gives_keys());
        assert_eq!(controls, TrapControls { hcr_el2: before.hcr_el2 | 0b11 << 40, ..before });
        assert!(host(&everything()).gives_keys());
    }

    #[test]
    fn fp_traps_until_it_is_switched_on() {
        let mut controls = guest(&CpuFeatures::default());
        assert_ne!(controls.cptr_el2 & 1 << 10, 0);
        let before = controls;
        controls.enable_fp();
        assert_eq!(controls.cptr_el2, before.cptr_el2 & !(1 << 10));
        controls.disable_fp();
        assert_eq!(controls, before);
    }
}
