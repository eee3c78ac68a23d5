//! The CPU's registers, and leaving for hyp.

use aarch64_cpu::registers::{CNTVOFF_EL2, CurrentEL, ID_AA64MMFR0_EL1, MPIDR_EL1, Readable};
use abi::PhysAddr;
use boot_plan::machine::BootCpu;
use core::arch::asm;
use core::fmt;

/// An exception level that the loader can be entered at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExceptionLevel {
    /// A kernel's.
    El1,
    /// A hypervisor's, which is needed.
    El2,
    /// Firmware's.
    El3,
}

impl fmt::Display for ExceptionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::El1 => "EL1",
            Self::El2 => "EL2",
            Self::El3 => "EL3",
        })
    }
}

/// The current exception level.
pub fn exception_level() -> ExceptionLevel {
    match CurrentEL.read(CurrentEL::EL) {
        1 => ExceptionLevel::El1,
        2 => ExceptionLevel::El2,
        _ => ExceptionLevel::El3,
    }
}

/// Whether HCR_EL2.E2H can be 0, as hyp needs it: ID_AA64MMFR4_EL1.E2H0 is not negative (FEAT_E2H0).
pub fn has_plain_el2() -> bool {
    let id_aa64mmfr4_el1: u64;
    // SAFETY: reading an ID register has no effect; an older CPU, which reserves this one, reads it as zero.
    unsafe { asm!("mrs {}, S3_0_C0_C7_4", out(reg) id_aa64mmfr4_el1, options(nomem, nostack, preserves_flags)) };
    id_aa64mmfr4_el1 >> 24 & 0xf < 8
}

/// What the boot plan has to know of this CPU.
pub fn boot_cpu() -> BootCpu {
    // ID_AA64MMFR0_EL1.PARange (Arm ARM D24.2).
    let address_bits = match ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange) {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    };
    BootCpu { mpidr: MPIDR_EL1.get(), address_bits }
}

/// CNTPCT_EL0 when CNTVCT_EL0 was `virtual_counter`.
pub fn physical_counter(virtual_counter: u64) -> u64 {
    virtual_counter.wrapping_add(CNTVOFF_EL2.get())
}

/// Leaves the loader for `entry` with x0 = `argument`.
///
/// # Safety
/// There must be code at `entry`, published, that takes the machine from here.
pub unsafe fn enter(entry: PhysAddr, argument: PhysAddr) -> ! {
    // SAFETY: the caller's contract.
    unsafe {
        asm!("br {entry}", entry = in(reg) entry.raw(), in("x0") argument.raw(), options(noreturn));
    }
}

/// Stops this CPU for good.
pub fn wait_forever() -> ! {
    loop {
        aarch64_cpu::asm::wfi();
    }
}
