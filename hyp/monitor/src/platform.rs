//! What the monitor needs of the machine.

use crate::object::ObjectMemory;
use crate::registers::VcpuContext;
use crate::syndrome::Exception;
use abi::{Pfn, PhysAddr};

/// A CPU's number: its index in [`BootInfo::cpus`](abi::boot::BootInfo::cpus).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct CpuIndex(pub usize);

/// Why [`Platform::enter_guest`] came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestTrap {
    /// A synchronous exception.
    Synchronous(Exception),
    /// A physical IRQ or FIQ is pending; nobody has acknowledged it.
    Interrupt,
    /// An SError came while the guest was in; ESR_EL2 describes it.
    SError {
        /// ESR_EL2.
        esr: u64,
    },
}

/// The first words of a run page, in the order of [`RunPage`](abi::run::RunPage): all that hyp writes there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct RunExit {
    /// The exit's reason.
    pub exit_reason: u64,
    /// The IPA, or zero.
    pub ipa: u64,
    /// Width of an MMIO access, or zero.
    pub size: u64,
    /// 1 for a write, or zero.
    pub write: u64,
    /// Data, or zero.
    pub data: u64,
    /// The handle of the other VM, or zero.
    pub peer: u64,
}

/// The calling CPU, and what hyp can do on it. A value is good for the handling of one exception on one CPU.
pub trait Platform: ownership::Environment + ObjectMemory {
    /// The calling CPU.
    fn cpu(&self) -> CpuIndex;

    /// Makes an SMC to the firmware: `function` in x0, `arguments` in x1 to x3; gives x0 to x3. Everything else is as
    /// before, or is lost where the firmware says so (CPU_OFF and its like do not return).
    fn firmware_call(&mut self, function: u32, arguments: [u64; 3]) -> [u64; 4];

    /// Where the firmware is to start or resume `cpu` in hyp, and the context value with which that entry finds the
    /// CPU's own data.
    fn firmware_entry(&self, cpu: CpuIndex) -> (PhysAddr, u64);

    /// Runs the guest that `context` describes until it traps, and then puts all of its state back into `context`. The
    /// host's state is in the CPU again on return, FP registers included.
    fn enter_guest(&mut self, context: &mut VcpuContext) -> GuestTrap;

    /// Frames that are left in hyp's pool.
    fn free_frames(&self) -> u64;

    /// Reads [`RunPage::data`](abi::run::RunPage::data) of a run page that hyp has pinned, by one 64-bit access; the
    /// host may write to it meanwhile.
    fn read_run_data(&mut self, page: Pfn) -> u64;

    /// Writes the first words of a run page that hyp has pinned.
    fn write_run_exit(&mut self, page: Pfn, exit: &RunExit);
}
