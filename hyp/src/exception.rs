//! The host's exceptions to EL2.

use crate::environment::El2Environment;
use crate::firmware;
use crate::machine::{self, Machine};
use aarch64_cpu::registers::{
    ELR_EL1, ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, HPFAR_EL2, Readable, SCTLR_EL1, SPSR_EL1, VBAR_EL1, Writeable,
};
use monitor::host_exit::HostAction;
use monitor::inject::{Injection, Interrupted};
use monitor::registers::HostRegisters;
use monitor::syndrome::{Cause, Exception, Syndrome};

/// The kind of a synchronous exception in the vectors.
const SYNCHRONOUS: u64 = 0;

/// From the vectors: the host came to EL2. Returns to where `frame` says.
pub extern "C" fn host_exception(frame: &mut HostRegisters, kind: u64) {
    let Some(machine) = machine::get() else { firmware::halt() };
    if kind != SYNCHRONOUS {
        return ignore(frame, kind);
    }
    let syndrome = Syndrome(ESR_EL2.get());
    if let Cause::Hypercall { immediate } = syndrome.cause() {
        machine.monitor.host_hypercall(&mut El2Environment, frame, immediate);
    } else {
        other_exception(machine, frame, syndrome);
    }
}

/// A synchronous exception that is no HVC.
#[inline(never)]
fn other_exception(machine: &Machine, frame: &mut HostRegisters, syndrome: Syndrome) {
    let exception = Exception { esr: syndrome.0, far: FAR_EL2.get(), hpfar: HPFAR_EL2.get() };
    match machine.monitor.host_exit(&mut El2Environment, frame, &exception) {
        HostAction::Resume => {}
        HostAction::Inject(injection) => inject(machine, frame, exception, &injection),
    }
}

/// The host's interrupts and SErrors go to EL1; HCR_EL2 routes none here.
#[cold]
fn ignore(frame: &HostRegisters, kind: u64) {
    log::warn!("asynchronous exception {kind} of the host at {:#x}: ignored", frame.elr);
}

/// Makes the host take an exception at EL1 when it goes on.
#[cold]
fn inject(machine: &Machine, frame: &mut HostRegisters, exception: Exception, injection: &Injection) {
    log::debug!("host: {exception} at {:#x}: injected at EL1", frame.elr);
    let taken = injection.take(&Interrupted {
        pc: frame.elr,
        pstate: frame.spsr,
        vbar_el1: VBAR_EL1.get(),
        sctlr_el1: SCTLR_EL1.get(),
        features: machine.features.exception_features(),
    });
    frame.elr = taken.pc;
    frame.spsr = taken.pstate;
    ELR_EL1.set(taken.elr_el1);
    SPSR_EL1.set(taken.spsr_el1);
    ESR_EL1.set(taken.esr_el1);
    if let Some(far) = taken.far_el1 {
        FAR_EL1.set(far);
    }
}
