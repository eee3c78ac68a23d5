//! Calls of PSCI (Arm DEN0022), by whatever conduit works from the exception level that the loader runs at.

use crate::processor;
use abi::psci::{PSCI_VERSION, SYSTEM_OFF};
use boot_plan::Survey;
use core::arch::asm;

/// How a call reaches firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// Not at all.
    None,
    /// SMC.
    Smc,
    /// HVC, to a hypervisor: the loader runs at EL1, then.
    Hvc,
}

impl Conduit {
    /// The conduit that the device tree names.
    pub fn of(survey: &Survey) -> Self {
        match survey.psci.first().filter(|psci| psci.standard).map(|psci| psci.method.as_str()) {
            Some("smc") => Self::Smc,
            Some("hvc") if processor::exception_level() == processor::ExceptionLevel::El1 => Self::Hvc,
            _ => Self::None,
        }
    }

    /// Calls `function`, which takes no arguments; `None` where there is no way.
    fn call(self, function: u32) -> Option<u64> {
        let result: u64;
        match self {
            Self::None => return None,
            // SAFETY: the device tree says that firmware takes PSCI calls by SMC; by SMCCC they change x0 to x17 and
            // no memory of ours.
            Self::Smc => unsafe {
                asm!("smc #0", inout("x0") u64::from(function) => result, clobber_abi("C"), options(nostack));
            },
            // SAFETY: as above, by HVC.
            Self::Hvc => unsafe {
                asm!("hvc #0", inout("x0") u64::from(function) => result, clobber_abi("C"), options(nostack));
            },
        }
        Some(result)
    }
}

/// PSCI's version, as PSCI_VERSION returns it; 0 where there is none.
pub fn psci_version(conduit: Conduit) -> u32 {
    conduit.call(PSCI_VERSION).map_or(0, |version| version as u32)
}

/// Ends the boot: powers the machine off, or else stops.
pub fn power_off(conduit: Conduit) -> ! {
    conduit.call(SYSTEM_OFF);
    processor::wait_forever()
}
