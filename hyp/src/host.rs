//! The first entry to the host on each CPU.

use crate::machine::Machine;
use crate::{barrier, controls, cpu_data, layout};
use aarch64_cpu::registers::{CNTKCTL_EL1, CNTP_CTL_EL0, CNTV_CTL_EL0, SCTLR_EL1, Writeable};
use abi::PAGE_SIZE;
use monitor::cpu_power::BootRequest;
use monitor::registers::{HostRegisters, PSTATE_DAIF, PSTATE_EL1H, SCTLR_EL1_RESET};

unsafe extern "C" {
    /// In `vectors.S`.
    fn start_host(frame: *const HostRegisters, stack_top: u64) -> !;
}

/// Enters the host at EL1 as a CPU comes out of reset: interrupts masked, MMU off, `request.context` in x0.
pub fn start(machine: &Machine, request: BootRequest) -> ! {
    let cpu = cpu_data::index();
    controls::initialise(&machine.features, &machine.host_controls);
    let stack_top = layout::cpu_base(cpu).raw().wrapping_add(layout::STACK_TOP);
    let mut frame = HostRegisters { elr: request.entry, spsr: PSTATE_EL1H | PSTATE_DAIF, ..HostRegisters::new() };
    frame.set_x(0, request.context);
    // SAFETY: the controls name the host's stage 2, and everything above SCTLR_EL1 is EL1's own state in its reset
    // value. `start_host` gives up this stack and does not come back.
    unsafe {
        controls::load_host(&machine.host_controls, machine.switch_features);
        SCTLR_EL1.set(SCTLR_EL1_RESET);
        CNTKCTL_EL1.set(0);
        CNTV_CTL_EL0.set(0);
        CNTP_CTL_EL0.set(0);
        barrier::isb();
        start_host(&frame, stack_top)
    }
}

const _: () = assert!(size_of::<HostRegisters>() as u64 <= PAGE_SIZE / 4);
