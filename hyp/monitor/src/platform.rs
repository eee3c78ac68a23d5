//! What the monitor needs of the machine.

use crate::object::ObjectMemory;
use crate::registers::VcpuContext;
use crate::syndrome::{Exception, Syndrome};
use abi::run::NO_DEADLINE;
use abi::{Pfn, PhysAddr};

/// A CPU's number: its index in [`BootInfo::cpus`](abi::boot::BootInfo::cpus).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct CpuIndex(pub usize);

/// Why [`Platform::run_guest`] came back.
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

/// How a guest goes on after a trap; see [`Platform::run_guest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// At once.
    Resume,
    /// At once, with its FP registers loaded. Its controls in the context let it use them.
    ResumeWithFp,
    /// At once, with its pointer-authentication keys loaded. Its controls in the context let it use them.
    ResumeWithKeys,
    /// Not yet: all of its state comes out.
    Leave,
}

/// What the host has put into a run page, but for the list registers themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RunEntry {
    /// [`RunPage::data`](abi::run::RunPage::data).
    pub data: u64,
    /// [`RunPage::response`](abi::run::RunPage::response).
    pub response: u64,
    /// [`RunPage::interrupt_control`](abi::run::RunPage::interrupt_control).
    pub interrupt_control: u64,
    /// The bits that are set in any of the list registers.
    pub list_register_bits: u64,
}

/// The first words of a run page, in the order of [`RunPage`](abi::run::RunPage): what hyp writes there at an exit, but
/// for the list registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// The timers that assert their interrupts.
    pub timer_lines: u64,
    /// When the virtual timer will, if the guest waits.
    pub virtual_deadline: u64,
    /// When the physical timer will.
    pub physical_deadline: u64,
}

impl Default for RunExit {
    fn default() -> Self {
        Self {
            exit_reason: 0,
            ipa: 0,
            size: 0,
            write: 0,
            data: 0,
            peer: 0,
            timer_lines: 0,
            virtual_deadline: NO_DEADLINE,
            physical_deadline: NO_DEADLINE,
        }
    }
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

    /// Runs the guest that `context` describes until it traps and `next` says that it is to come out; then puts all of
    /// its state back into `context`. The host's state is in the CPU again on return, FP registers included.
    ///
    /// `next` is asked about synchronous exceptions only, and is told ESR_EL2; all else brings the guest out. When it
    /// is called, of the guest's state only the general registers, PC and PSTATE are in `context`, and what the CPU
    /// never holds; the rest is in the CPU still, and what `next` writes to it in `context` is lost.
    fn run_guest(
        &mut self,
        context: &mut VcpuContext,
        next: impl FnMut(Syndrome, &mut VcpuContext) -> Next,
    ) -> GuestTrap;

    /// CNTPCT_EL0.
    fn counter(&self) -> u64;

    /// RNDR, of a CPU that has FEAT_RNG; `None` where it has no number at the moment.
    fn random(&mut self) -> Option<u64>;

    /// Frames that are left in hyp's pool.
    fn free_frames(&self) -> u64;

    /// Reads what the host has put into a run page that hyp has pinned, each word by one 64-bit access, and the first
    /// of its list registers into `list_registers`; the host may write to it meanwhile.
    fn read_run_entry(&mut self, page: Pfn, list_registers: &mut [u64]) -> RunEntry;

    /// Writes the first words and the first list registers, none perhaps, of a run page that hyp has pinned.
    fn write_run_exit(&mut self, page: Pfn, exit: &RunExit, list_registers: &[u64]);
}
