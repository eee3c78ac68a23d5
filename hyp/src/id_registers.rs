//! Reads this CPU's ID registers.

use crate::system_register::mrs;
use monitor::features::{CpuFeatures, IdRegisters};

/// This CPU's ID registers. Those that an extension brings are read only where the CPU has it.
pub fn read() -> IdRegisters {
    let mut id = IdRegisters {
        midr_el1: mrs!("midr_el1"),
        mpidr_el1: mrs!("mpidr_el1"),
        ctr_el0: mrs!("ctr_el0"),
        clidr_el1: mrs!("clidr_el1"),
        id_aa64pfr0_el1: mrs!("id_aa64pfr0_el1"),
        id_aa64pfr1_el1: mrs!("id_aa64pfr1_el1"),
        id_aa64pfr2_el1: mrs!("S3_0_C0_C4_2"),
        id_aa64zfr0_el1: mrs!("S3_0_C0_C4_4"),
        id_aa64smfr0_el1: mrs!("S3_0_C0_C4_5"),
        id_aa64dfr0_el1: mrs!("id_aa64dfr0_el1"),
        id_aa64dfr1_el1: mrs!("id_aa64dfr1_el1"),
        id_aa64isar0_el1: mrs!("id_aa64isar0_el1"),
        id_aa64isar1_el1: mrs!("id_aa64isar1_el1"),
        id_aa64isar2_el1: mrs!("S3_0_C0_C6_2"),
        id_aa64isar3_el1: mrs!("S3_0_C0_C6_3"),
        id_aa64mmfr0_el1: mrs!("id_aa64mmfr0_el1"),
        id_aa64mmfr1_el1: mrs!("id_aa64mmfr1_el1"),
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
    if features.trbe {
        id.trbidr_el1 = mrs!("S3_0_C9_C11_7");
    }
    id
}
