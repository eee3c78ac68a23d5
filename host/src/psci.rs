//! PSCI calls, by the conduit of the device tree (Arm DEN0022).

use crate::call::{self, Instruction, Registers};
use crate::device_tree::Conduit;
use core::sync::atomic::{AtomicU8, Ordering};
use smccc::{Call, Hvc, Smc};

/// The conduit: 0 none, 1 HVC, 2 SMC. The panic path reads it.
static CONDUIT: AtomicU8 = AtomicU8::new(0);

/// Makes `conduit` the one to use.
pub fn set_conduit(conduit: Option<Conduit>) {
    let number = match conduit {
        None => 0,
        Some(Conduit::Hvc) => 1,
        Some(Conduit::Smc) => 2,
    };
    CONDUIT.store(number, Ordering::Relaxed);
}

/// The instruction that reaches PSCI; `None` where there is no PSCI.
pub fn instruction() -> Option<Instruction> {
    match CONDUIT.load(Ordering::Relaxed) {
        1 => Some(Instruction::Hvc),
        2 => Some(Instruction::Smc),
        _ => None,
    }
}

/// Calls `function` with x1 to x3 and returns x0, a code of `abi::psci` or a value.
pub fn call(function: u32, [first, second, third]: [u64; 3]) -> i64 {
    let mut arguments = [0; 17];
    arguments[..3].copy_from_slice(&[first, second, third]);
    let result = match instruction() {
        Some(Instruction::Hvc) => Hvc::call64(function, arguments),
        Some(_) => Smc::call64(function, arguments),
        None => return abi::psci::NOT_SUPPORTED,
    };
    // A 32-bit call returns its code in w0.
    if abi::smccc::is_64_bit(function) { result[0] as i64 } else { i64::from(result[0] as i32) }
}

/// As [`call()`], by that instruction whatever the device tree says.
pub fn call_by(instruction: Instruction, function: u32, [first, second, third]: [u64; 3]) -> i64 {
    // SAFETY: PSCI takes no memory from the host.
    let [result, ..] = unsafe { call::raw(instruction, [function.into(), first, second, third]) };
    if abi::smccc::is_64_bit(function) { result as i64 } else { i64::from(result as i32) }
}

/// CPU_ON: starts the CPU of affinity `mpidr` at `entry` with `context` in x0.
pub fn cpu_on(mpidr: u64, entry: u64, context: u64) -> i64 {
    call(abi::psci::CPU_ON_64, [mpidr, entry, context])
}

/// CPU_OFF for the calling CPU; comes back only where it was refused.
pub fn cpu_off() -> i64 {
    call(abi::psci::CPU_OFF, [0; 3])
}

/// AFFINITY_INFO of one CPU.
pub fn affinity_info(mpidr: u64) -> i64 {
    call(abi::psci::AFFINITY_INFO_64, [mpidr, 0, 0])
}

/// SYSTEM_OFF.
pub fn system_off() -> ! {
    call(abi::psci::SYSTEM_OFF, [0; 3]);
    halt()
}

/// SYSTEM_RESET.
pub fn system_reset() -> ! {
    call(abi::psci::SYSTEM_RESET, [0; 3]);
    halt()
}

/// Stops this CPU where nothing else is left to do.
fn halt() -> ! {
    loop {
        aarch64_cpu::asm::wfe();
    }
}

/// The registers of a PSCI call, to be made with [`crate::call::raw`].
pub const fn registers(function: u32, argument: u64) -> Registers {
    [function as u64, argument, 0, 0]
}
