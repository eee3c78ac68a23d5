//! Reads this CPU's ID registers.

use crate::barrier;
use crate::system_register::{mrs, msr};
use aarch64_cpu::registers::{
    CLIDR_EL1, ID_AA64DFR0_EL1, ID_AA64DFR1_EL1, ID_AA64ISAR0_EL1, ID_AA64ISAR1_EL1, ID_AA64MMFR0_EL1,
    ID_AA64MMFR1_EL1, ID_AA64PFR0_EL1, ID_AA64PFR1_EL1, MIDR_EL1, MPIDR_EL1, Readable,
};
use monitor::features::{CpuFeatures, IdRegisters};

/// ICC_SRE_EL2: system registers in use, no bypass, and EL1 may do the same.
const ICC_SRE_EL2_ALL: u64 = 0xf;

/// This CPU's ID registers. Those that an extension brings are read only where the CPU has it.
pub fn read() -> IdRegisters {
    let mut id = IdRegisters {
        midr_el1: MIDR_EL1.get(),
        mpidr_el1: MPIDR_EL1.get(),
        ctr_el0: mrs!("ctr_el0"),
        clidr_el1: CLIDR_EL1.get(),
        id_aa64pfr0_el1: ID_AA64PFR0_EL1.get(),
        id_aa64pfr1_el1: ID_AA64PFR1_EL1.get(),
        id_aa64pfr2_el1: mrs!("S3_0_C0_C4_2"),
        id_aa64zfr0_el1: mrs!("S3_0_C0_C4_4"),
        id_aa64smfr0_el1: mrs!("S3_0_C0_C4_5"),
        id_aa64dfr0_el1: ID_AA64DFR0_EL1.get(),
        id_aa64dfr1_el1: ID_AA64DFR1_EL1.get(),
        id_aa64isar0_el1: ID_AA64ISAR0_EL1.get(),
        id_aa64isar1_el1: ID_AA64ISAR1_EL1.get(),
        id_aa64isar2_el1: mrs!("S3_0_C0_C6_2"),
        id_aa64isar3_el1: mrs!("S3_0_C0_C6_3"),
        id_aa64mmfr0_el1: ID_AA64MMFR0_EL1.get(),
        id_aa64mmfr1_el1: ID_AA64MMFR1_EL1.get(),
        id_aa64mmfr2_el1: mrs!("S3_0_C0_C7_2"),
        id_aa64mmfr3_el1: mrs!("S3_0_C0_C7_3"),
        id_aa64mmfr4_el1: mrs!("S3_0_C0_C7_4"),
        ..IdRegisters::default()
    };
    let features = CpuFeatures::from_id_registers(&id);
    if features.pmu {
        id.pmcr_el0 = mrs!("pmcr_el0");
    }
    if features.spe {
        id.pmbidr_el1 = mrs!("S3_0_C9_C10_7");
    }
    if features.mpam {
        id.mpamidr_el1 = mrs!("S3_0_C10_C4_4");
    }
    if features.gic_system_registers {
        // SAFETY: the value that `controls::load` keeps there; without it ICH_VTR_EL2 could not be read.
        unsafe { msr!("S3_4_C12_C9_5", ICC_SRE_EL2_ALL) };
        barrier::isb();
        id.ich_vtr_el2 = mrs!("S3_4_C12_C11_1");
    }
    if features.trbe {
        id.trbidr_el1 = mrs!("S3_0_C9_C11_7");
    }
    id
}
