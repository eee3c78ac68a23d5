//! Writes EL2's control registers, as `monitor::traps` computed them.

use crate::system_register::msr;
use crate::{barrier, interrupt_registers};
use aarch64_cpu::registers::{
    CNTHCTL_EL2, CNTHP_CTL_EL2, CNTVOFF_EL2, CPTR_EL2, HCR_EL2, ICH_HCR_EL2, MDCR_EL2, MIDR_EL1, MPIDR_EL1, Readable,
    VMPIDR_EL2, VTCR_EL2, VTTBR_EL2, Writeable,
};
use monitor::features::CpuFeatures;
use monitor::switch_features::SwitchFeatures;
use monitor::traps::{HostOnlyControls, TrapControls};

/// Loads the host's controls, and as its identity the calling CPU's, without the barrier.
///
/// # Safety
/// As for [`load_guest`].
#[inline(always)]
pub unsafe fn load_host(controls: &TrapControls, features: SwitchFeatures) {
    // SAFETY: the caller's word; what EL1 reads as its identity affects nothing else.
    unsafe {
        msr!("vpidr_el2", MIDR_EL1.get());
        VMPIDR_EL2.set(MPIDR_EL1.get());
        load(controls, features);
    }
}

/// Loads a guest's controls, its identity among them, without the barrier: an exception return follows, or the caller's ISB.
///
/// # Safety
/// The values must come from `monitor::traps` for this CPU, which [`initialise`] has been called on, and the stage 2 that
/// they name must be that of whoever runs next at EL1.
#[inline(always)]
pub unsafe fn load_guest(controls: &TrapControls, features: SwitchFeatures) {
    // SAFETY: as for `load_host`.
    unsafe {
        msr!("vpidr_el2", controls.vpidr_el2);
        VMPIDR_EL2.set(controls.vmpidr_el2);
        load(controls, features);
    }
}

/// Loads all but the identity.
///
/// # Safety
/// As for [`load_guest`].
#[inline(always)]
unsafe fn load(controls: &TrapControls, features: SwitchFeatures) {
    // SAFETY: the caller's word: the values keep EL2 as it is and confine EL1 to the stage 2 named. Registers that an
    // extension brings are written only where the CPU has it.
    unsafe {
        HCR_EL2.set(controls.hcr_el2);
        CPTR_EL2.set(controls.cptr_el2);
        MDCR_EL2.set(controls.mdcr_el2);
        CNTHCTL_EL2.set(controls.cnthctl_el2);
        VTCR_EL2.set(controls.vtcr_el2);
        VTTBR_EL2.set(controls.vttbr_el2);
        if features.has(SwitchFeatures::GIC) {
            msr!("S3_4_C12_C9_5", controls.icc_sre_el2);
            ICH_HCR_EL2.set(controls.ich_hcr_el2);
        }
        if features.has(SwitchFeatures::FGT) {
            msr!("S3_4_C1_C1_4", controls.hfgrtr_el2);
            msr!("S3_4_C1_C1_5", controls.hfgwtr_el2);
            msr!("S3_4_C1_C1_6", controls.hfgitr_el2);
            msr!("S3_4_C3_C1_4", controls.hdfgrtr_el2);
            msr!("S3_4_C3_C1_5", controls.hdfgwtr_el2);
        }
        if features.has(SwitchFeatures::HCX) {
            msr!("S3_4_C1_C2_2", controls.hcrx_el2);
        }
        if features.has(SwitchFeatures::RARE_CONTROLS) {
            load_rare(controls, features);
        }
    }
}

/// Loads what few CPUs have.
///
/// # Safety
/// As for [`load_guest`].
#[inline(never)]
unsafe fn load_rare(controls: &TrapControls, features: SwitchFeatures) {
    // SAFETY: as for `load`.
    unsafe {
        if features.has(SwitchFeatures::FGT_AMU) {
            msr!("S3_4_C3_C1_6", controls.hafgrtr_el2);
        }
        if features.has(SwitchFeatures::FGT2) {
            msr!("S3_4_C3_C1_0", controls.hdfgrtr2_el2);
            msr!("S3_4_C3_C1_1", controls.hdfgwtr2_el2);
            msr!("S3_4_C3_C1_2", controls.hfgrtr2_el2);
            msr!("S3_4_C3_C1_3", controls.hfgwtr2_el2);
            msr!("S3_4_C3_C1_7", controls.hfgitr2_el2);
        }
        if features.has(SwitchFeatures::MPAM) {
            msr!("S3_4_C10_C5_0", controls.mpam2_el2);
        }
        if features.has(SwitchFeatures::MPAM_HCR) {
            msr!("S3_4_C10_C4_0", controls.mpamhcr_el2);
        }
    }
}

/// Loads CPTR_EL2 alone, and waits until it is in force.
///
/// # Safety
/// The value must come from `monitor::traps` for this CPU, and be that of whoever runs next at EL1 once it does.
pub unsafe fn load_cptr(cptr_el2: u64) {
    CPTR_EL2.set(cptr_el2);
    barrier::isb();
}

/// Loads HCR_EL2 alone.
///
/// # Safety
/// As for [`load_cptr`], without the barrier: an exception return follows, or the caller's ISB.
pub unsafe fn load_hcr(hcr_el2: u64) {
    HCR_EL2.set(hcr_el2);
}

/// Sets, once on each CPU, what belongs to the host alone, what is the same for host and guests, and what the host must not
/// find at an unknown reset value. `host` are the host's controls.
pub fn initialise(features: &CpuFeatures, host: &TrapControls) {
    let controls = HostOnlyControls::new(features);
    // SAFETY: each register exists on this CPU. The host's CPTR_EL2 lets EL2 and EL1 at FP, SVE and SME; nothing else
    // here affects EL2's own execution.
    unsafe {
        // Its value after a reset is unknown, and may keep EL2 from ZCR_EL2 and SMCR_EL2.
        load_cptr(host.cptr_el2);
        msr!("hstr_el2", 0); // nothing of AArch32 traps
        CNTVOFF_EL2.set(0);
        CNTHP_CTL_EL2.set(0);
        if features.vhe {
            msr!("S3_4_C14_C3_1", 0); // CNTHV_CTL_EL2
        }
        if let Some(value) = controls.zcr_el2 {
            barrier::isb();
            msr!("S3_4_C1_C2_0", value);
        }
        if let Some(value) = controls.smcr_el2 {
            barrier::isb();
            msr!("S3_4_C1_C2_6", value);
        }
        if let Some(value) = controls.pmscr_el2 {
            msr!("S3_4_C9_C9_0", value);
        }
        if let Some(value) = controls.brbcr_el2 {
            msr!("S2_4_C9_C0_0", value);
        }
        if features.trf {
            msr!("S3_4_C1_C2_1", 0); // TRFCR_EL2: EL2 is not traced
        }
        if features.gcs {
            msr!("S3_0_C2_C5_0", 0); // GCSCR_EL1
            msr!("S3_0_C2_C5_2", 0); // GCSCRE0_EL1
        }
        if features.gic_system_registers {
            // The registers of the virtual CPU interface may be reached only once ICC_SRE_EL2.SRE is in force, as it is then
            // for good.
            msr!("S3_4_C12_C9_5", host.icc_sre_el2);
            barrier::isb();
            ICH_HCR_EL2.set(0);
            interrupt_registers::initialise(&features.gic);
        }
    }
    barrier::isb();
}
