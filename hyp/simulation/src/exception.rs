//! Exceptions as the hardware reports them.

use monitor::platform::GuestTrap;
use monitor::syndrome::{Exception, exception_class};

/// ESR_EL2 of an exception of that class, by an instruction of 32 bits, with that ISS.
pub const fn esr(class: u64, iss: u64) -> u64 {
    class << 26 | 1 << 25 | iss
}

/// The exception of an HVC.
pub fn hvc(immediate: u16) -> Exception {
    Exception { esr: esr(exception_class::HVC64, u64::from(immediate)), far: 0, hpfar: 0 }
}

/// The exception of an SMC.
pub fn smc(immediate: u16) -> Exception {
    Exception { esr: esr(exception_class::SMC64, u64::from(immediate)), far: 0, hpfar: 0 }
}

/// The exception of a stage-2 fault at `ipa`.
pub fn abort(class: u64, iss: u64, ipa: u64) -> Exception {
    Exception { esr: esr(class, iss), far: 0xffff_0000_0000_0000 | ipa & 0xfff, hpfar: ipa >> 12 << 4 }
}

/// A guest's trap.
pub fn trap(exception: Exception) -> GuestTrap {
    GuestTrap::Synchronous(exception)
}
