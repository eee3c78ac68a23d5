//! What the CPU can do, read off its ID registers.

use crate::inject::ExceptionFeatures;
use abi::run::MAX_LIST_REGISTERS;

/// The ID registers of one CPU, raw. A register that the CPU does not have reads as zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IdRegisters {
    /// MIDR_EL1.
    pub midr_el1: u64,
    /// MPIDR_EL1.
    pub mpidr_el1: u64,
    /// CTR_EL0.
    pub ctr_el0: u64,
    /// CLIDR_EL1.
    pub clidr_el1: u64,
    /// ID_AA64PFR0_EL1.
    pub id_aa64pfr0_el1: u64,
    /// ID_AA64PFR1_EL1.
    pub id_aa64pfr1_el1: u64,
    /// ID_AA64PFR2_EL1.
    pub id_aa64pfr2_el1: u64,
    /// ID_AA64ZFR0_EL1.
    pub id_aa64zfr0_el1: u64,
    /// ID_AA64SMFR0_EL1.
    pub id_aa64smfr0_el1: u64,
    /// ID_AA64DFR0_EL1.
    pub id_aa64dfr0_el1: u64,
    /// ID_AA64DFR1_EL1.
    pub id_aa64dfr1_el1: u64,
    /// ID_AA64ISAR0_EL1.
    pub id_aa64isar0_el1: u64,
    /// ID_AA64ISAR1_EL1.
    pub id_aa64isar1_el1: u64,
    /// ID_AA64ISAR2_EL1.
    pub id_aa64isar2_el1: u64,
    /// ID_AA64ISAR3_EL1.
    pub id_aa64isar3_el1: u64,
    /// ID_AA64MMFR0_EL1.
    pub id_aa64mmfr0_el1: u64,
    /// ID_AA64MMFR1_EL1.
    pub id_aa64mmfr1_el1: u64,
    /// ID_AA64MMFR2_EL1.
    pub id_aa64mmfr2_el1: u64,
    /// ID_AA64MMFR3_EL1.
    pub id_aa64mmfr3_el1: u64,
    /// ID_AA64MMFR4_EL1.
    pub id_aa64mmfr4_el1: u64,
    /// PMCR_EL0, where ID_AA64DFR0_EL1.PMUVer says that there is a PMU.
    pub pmcr_el0: u64,
    /// PMBIDR_EL1, where ID_AA64DFR0_EL1.PMSVer says that there is statistical profiling.
    pub pmbidr_el1: u64,
    /// MPAMIDR_EL1, where ID_AA64PFR0_EL1.MPAM or ID_AA64PFR1_EL1.MPAM_frac says that there is MPAM.
    pub mpamidr_el1: u64,
    /// ICH_VTR_EL2, where ID_AA64PFR0_EL1.GIC says that there are system registers of the GIC.
    pub ich_vtr_el2: u64,
    /// TRBIDR_EL1, where ID_AA64DFR0_EL1.TraceBuffer says that there is a trace buffer.
    pub trbidr_el1: u64,
}

/// The four-bit unsigned field of an ID register whose lowest bit is `shift`.
pub(crate) const fn field(register: u64, shift: u32) -> u64 {
    register >> shift & 0xf
}

/// What a CPU's interrupt controller can do for guests (Arm IHI 0069, ICH_VTR_EL2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GicFeatures {
    /// List registers.
    pub list_registers: usize,
    /// Registers of active priorities in each group: 1, 2 or 4.
    pub active_priority_registers: usize,
    /// Bits of a priority.
    pub priority_bits: u32,
}

impl GicFeatures {
    const fn from_id_registers(id: &IdRegisters) -> Self {
        let value = id.ich_vtr_el2;
        if field(id.id_aa64pfr0_el1, 24) == 0 {
            return Self { list_registers: 0, active_priority_registers: 0, priority_bits: 0 };
        }
        let list_registers = (value & 0x1f) as usize + 1;
        Self {
            list_registers: if list_registers > MAX_LIST_REGISTERS { MAX_LIST_REGISTERS } else { list_registers },
            active_priority_registers: match value >> 26 & 0b111 {
                0..=4 => 1,
                5 => 2,
                _ => 4,
            },
            priority_bits: (value >> 29 & 0b111) as u32 + 1,
        }
    }
}

/// What hyp needs to know of a CPU. The names of fields and their order follow the Arm ARM's ID registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuFeatures {
    /// Bits of physical address (ID_AA64MMFR0_EL1.PARange).
    pub pa_bits: u32,
    /// FEAT_VHE: EL2 has the host extensions.
    pub vhe: bool,
    /// HCR_EL2.E2H can be 0 (ID_AA64MMFR4_EL1.E2H0).
    pub e2h0: bool,
    /// FEAT_VMID16.
    pub vmid16: bool,
    /// FEAT_S2FWB: stage 2 can force write-back.
    pub fwb: bool,
    /// FEAT_XNX: stage 2 tells execution at EL1 from execution at EL0.
    pub xnx: bool,
    /// FEAT_HAFDBS: the CPU sets the access flag.
    pub haf: bool,
    /// FEAT_TLBIRANGE.
    pub tlbirange: bool,
    /// FEAT_RNG: RNDR.
    pub rng: bool,
    /// FEAT_EVT: the finer ID and TLB traps of HCR_EL2.
    pub evt: bool,
    /// FEAT_LOR: limited ordering regions.
    pub lor: bool,
    /// FEAT_TTL: TLB invalidation takes a level hint.
    pub ttl: bool,
    /// FEAT_CSV2_2: SCXTNUM_ELx exist.
    pub scxtnum: bool,
    /// FEAT_SVE.
    pub sve: bool,
    /// FEAT_SME.
    pub sme: bool,
    /// FEAT_SME2: ZT0.
    pub sme2: bool,
    /// FEAT_SME_FA64: all of A64 in streaming mode.
    pub sme_fa64: bool,
    /// FEAT_MTE: the instructions at least.
    pub mte: bool,
    /// FEAT_MTE2: tags in memory.
    pub mte2: bool,
    /// FEAT_PAuth, by whichever algorithm.
    pub pauth: bool,
    /// FEAT_PAuth_LR.
    pub pauth_lr: bool,
    /// FEAT_FGT.
    pub fgt: bool,
    /// FEAT_FGT2.
    pub fgt2: bool,
    /// FEAT_HCX: HCRX_EL2 exists.
    pub hcx: bool,
    /// FEAT_ECV.
    pub ecv: bool,
    /// FEAT_RAS.
    pub ras: bool,
    /// FEAT_RASv1p1, which has HCR_EL2.FIEN.
    pub ras_v1p1: bool,
    /// FEAT_NMI.
    pub nmi: bool,
    /// FEAT_MOPS.
    pub mops: bool,
    /// FEAT_TCR2.
    pub tcr2: bool,
    /// FEAT_SCTLR2.
    pub sctlr2: bool,
    /// FEAT_GCS.
    pub gcs: bool,
    /// FEAT_FPMR.
    pub fpmr: bool,
    /// FEAT_LS64, its single-copy 64-byte loads and stores.
    pub ls64: bool,
    /// FEAT_LS64_V.
    pub ls64_v: bool,
    /// FEAT_LS64_ACCDATA.
    pub ls64_accdata: bool,
    /// FEAT_D128.
    pub d128: bool,
    /// FEAT_SYSREG128.
    pub sysreg128: bool,
    /// FEAT_SPE, where EL2 may give the buffer away.
    pub spe: bool,
    /// SPE's buffer belongs to a higher exception level than EL2 (PMBIDR_EL1.P).
    pub spe_owned_above: bool,
    /// FEAT_TRBE.
    pub trbe: bool,
    /// The trace buffer belongs to a higher exception level than EL2 (TRBIDR_EL1.P).
    pub trbe_owned_above: bool,
    /// FEAT_TRF: TRFCR_ELx exist.
    pub trf: bool,
    /// FEAT_BRBE.
    pub brbe: bool,
    /// FEAT_Debugv8p9.
    pub debug_v8p9: bool,
    /// FEAT_AMUv1.
    pub amu: bool,
    /// FEAT_MPAM, either version.
    pub mpam: bool,
    /// MPAMHCR_EL2 exists (MPAMIDR_EL1.HAS_HCR).
    pub mpam_hcr: bool,
    /// FEAT_PMUv3.
    pub pmu: bool,
    /// Event counters (PMCR_EL0.N); 0 where there is no PMU.
    pub pmu_counters: u64,
    /// The GIC's CPU interface has system registers (ID_AA64PFR0_EL1.GIC).
    pub gic_system_registers: bool,
    /// What that interface can do for guests.
    pub gic: GicFeatures,
    /// CTR_EL0, which guests may read of the CPU itself.
    pub ctr_el0: u64,
    /// AArch32 at EL0.
    pub aarch32_el0: bool,
    /// AArch32 at EL1.
    pub aarch32_el1: bool,
}

impl CpuFeatures {
    /// Reads the features off a CPU's ID registers.
    pub const fn from_id_registers(id: &IdRegisters) -> Self {
        let pmu_version = field(id.id_aa64dfr0_el1, 8);
        let pmu = pmu_version != 0 && pmu_version != 0xf;
        let spe = field(id.id_aa64dfr0_el1, 32) != 0;
        let trbe = field(id.id_aa64dfr0_el1, 44) != 0;
        let sme = field(id.id_aa64pfr1_el1, 24);
        let mte = field(id.id_aa64pfr1_el1, 8);
        let fgt = field(id.id_aa64mmfr0_el1, 56);
        let ls64 = field(id.id_aa64isar1_el1, 60);
        let ras = field(id.id_aa64pfr0_el1, 28);
        let csv2 = field(id.id_aa64pfr0_el1, 56);
        let csv2_fraction = field(id.id_aa64pfr1_el1, 32);
        let ras_fraction = field(id.id_aa64pfr1_el1, 12);
        let mpam_fraction = field(id.id_aa64pfr1_el1, 16);
        let mpam = field(id.id_aa64pfr0_el1, 40) != 0 || mpam_fraction != 0;
        let pauth_architected = field(id.id_aa64isar1_el1, 4) | field(id.id_aa64isar1_el1, 8);
        let pauth_qarma3 = field(id.id_aa64isar2_el1, 12);
        let d128 = field(id.id_aa64mmfr3_el1, 32);
        Self {
            pa_bits: pa_bits(id.id_aa64mmfr0_el1),
            vhe: field(id.id_aa64mmfr1_el1, 8) != 0,
            e2h0: field(id.id_aa64mmfr4_el1, 24) < 8,
            vmid16: field(id.id_aa64mmfr1_el1, 4) == 2,
            fwb: field(id.id_aa64mmfr2_el1, 40) != 0,
            xnx: field(id.id_aa64mmfr1_el1, 28) != 0,
            haf: field(id.id_aa64mmfr1_el1, 0) != 0,
            tlbirange: field(id.id_aa64isar0_el1, 56) >= 2,
            rng: field(id.id_aa64isar0_el1, 60) != 0,
            evt: field(id.id_aa64mmfr2_el1, 56) != 0,
            lor: field(id.id_aa64mmfr1_el1, 16) != 0,
            ttl: field(id.id_aa64mmfr2_el1, 48) != 0,
            scxtnum: csv2 >= 2 || (csv2 == 1 && csv2_fraction >= 2),
            sve: field(id.id_aa64pfr0_el1, 32) != 0,
            sme: sme != 0,
            sme2: sme >= 2,
            sme_fa64: sme != 0 && id.id_aa64smfr0_el1 >> 63 != 0,
            mte: mte != 0,
            mte2: mte >= 2,
            pauth: pauth_architected != 0 || pauth_qarma3 != 0,
            pauth_lr: pauth_lr(id),
            fgt: fgt != 0,
            fgt2: fgt >= 2,
            hcx: field(id.id_aa64mmfr1_el1, 40) != 0,
            ecv: field(id.id_aa64mmfr0_el1, 60) != 0,
            ras: ras != 0,
            ras_v1p1: ras >= 2 || (ras == 1 && ras_fraction != 0),
            nmi: field(id.id_aa64pfr1_el1, 36) != 0,
            mops: field(id.id_aa64isar2_el1, 16) != 0,
            tcr2: field(id.id_aa64mmfr3_el1, 0) != 0,
            sctlr2: field(id.id_aa64mmfr3_el1, 4) != 0,
            gcs: field(id.id_aa64pfr1_el1, 44) != 0,
            fpmr: field(id.id_aa64pfr2_el1, 32) != 0,
            ls64: ls64 >= 1,
            ls64_v: ls64 >= 2,
            ls64_accdata: ls64 >= 3,
            d128: d128 != 0,
            sysreg128: field(id.id_aa64isar2_el1, 32) != 0,
            spe,
            spe_owned_above: spe && id.pmbidr_el1 & 1 << 4 != 0,
            trbe,
            trbe_owned_above: trbe && id.trbidr_el1 & 1 << 4 != 0,
            trf: field(id.id_aa64dfr0_el1, 40) != 0,
            brbe: field(id.id_aa64dfr0_el1, 52) != 0,
            debug_v8p9: field(id.id_aa64dfr0_el1, 0) >= 0xb,
            amu: field(id.id_aa64pfr0_el1, 44) != 0,
            mpam,
            mpam_hcr: mpam && id.mpamidr_el1 & 1 << 17 != 0,
            pmu,
            pmu_counters: if pmu { id.pmcr_el0 >> 11 & 0x1f } else { 0 },
            gic_system_registers: field(id.id_aa64pfr0_el1, 24) != 0,
            gic: GicFeatures::from_id_registers(id),
            ctr_el0: id.ctr_el0,
            aarch32_el0: field(id.id_aa64pfr0_el1, 0) == 2,
            aarch32_el1: field(id.id_aa64pfr0_el1, 4) == 2,
        }
    }

    /// Those that change what an exception does to PSTATE.
    pub const fn exception_features(&self) -> ExceptionFeatures {
        ExceptionFeatures { mte: self.mte, nmi: self.nmi }
    }
}

/// FEAT_PAuth_LR: value 6 of whichever field names the algorithm.
const fn pauth_lr(id: &IdRegisters) -> bool {
    field(id.id_aa64isar1_el1, 4) >= 6 || field(id.id_aa64isar1_el1, 8) >= 6 || field(id.id_aa64isar2_el1, 12) >= 6
}

/// Bits of physical address that ID_AA64MMFR0_EL1.PARange stands for; an unknown value counts as the largest known.
const fn pa_bits(id_aa64mmfr0_el1: u64) -> u32 {
    match field(id_aa64mmfr0_el1, 0) {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        6 => 52,
        _ => 56,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_without_extensions_has_none() {
        let features = CpuFeatures::from_id_registers(&IdRegisters::default());
        assert_eq!(features, CpuFeatures { pa_bits: 32, e2h0: true, ..CpuFeatures::default() });
    }

    #[test]
    fn the_virtual_cpu_interface_is_read_right() {
        let id = |ich_vtr_el2| IdRegisters { id_aa64pfr0_el1: 1 << 24, ich_vtr_el2, ..IdRegisters::default() };
        let gic = |vtr| CpuFeatures::from_id_registers(&id(vtr)).gic;
        let qemu = 0x9008_0003;
        let features = |list_registers, active_priority_registers, priority_bits| GicFeatures {
            list_registers,
            active_priority_registers,
            priority_bits,
        };
        assert_eq!(gic(qemu), features(4, 1, 5));
        assert_eq!(gic(15 | 5 << 26 | 6 << 29), features(16, 2, 7));
        assert_eq!(gic(31 | 6 << 26 | 7 << 29), features(16, 4, 8), "more registers than there can be");
        let none = IdRegisters { ich_vtr_el2: qemu, ..IdRegisters::default() };
        assert_eq!(CpuFeatures::from_id_registers(&none).gic, GicFeatures::default());
    }

    #[test]
    fn a_cortex_a53_is_read_right() {
        let id = IdRegisters {
            id_aa64pfr0_el1: 0x0100_2222,
            id_aa64dfr0_el1: 0x1030_5106,
            id_aa64isar0_el1: 0x0001_1120,
            id_aa64mmfr0_el1: 0x0000_1122,
            pmcr_el0: 6 << 11,
            ich_vtr_el2: 0x9008_0003,
            ..IdRegisters::default()
        };
        let features = CpuFeatures::from_id_registers(&id);
        let expected = CpuFeatures {
            pa_bits: 40,
            e2h0: true,
            pmu: true,
            pmu_counters: 6,
            gic_system_registers: true,
            gic: GicFeatures { list_registers: 4, active_priority_registers: 1, priority_bits: 5 },
            aarch32_el0: true,
            aarch32_el1: true,
            ..CpuFeatures::default()
        };
        assert_eq!(features, expected);
    }

    #[test]
    fn an_implementation_defined_pmu_is_none() {
        let id = IdRegisters { id_aa64dfr0_el1: 0xf << 8, pmcr_el0: !0, ..IdRegisters::default() };
        let features = CpuFeatures::from_id_registers(&id);
        assert!(!features.pmu);
        assert_eq!(features.pmu_counters, 0);
    }

    #[test]
    fn a_vhe_only_cpu_is_found() {
        let id = IdRegisters { id_aa64mmfr4_el1: 0xf << 24, ..IdRegisters::default() };
        assert!(!CpuFeatures::from_id_registers(&id).e2h0);
    }
}
