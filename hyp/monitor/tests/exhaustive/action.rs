//! What a CPU does: a host call, a call of a guest's, or an access of the host's.

use abi::Error;
use abi::host::{HostCall, VmHandle};
use abi::{Ipa, PAGE_SIZE};
use monitor::platform::{GuestTrap, RunExit};
use monitor::registers::HostRegisters;
use monitor::syndrome::exception_class::DATA_ABORT_LOWER;
use monitor::{HostAction, Monitor};
use simulation::{TestPlatform, abort, host_call, hvc, trap};
use std::fmt;
use std::sync::{Arc, Mutex};

/// ISS of a translation fault at level 2, for a write.
const WRITE_FAULT: u64 = 1 << 6 | 0x06;

/// What a CPU does.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// A call of the host's.
    Host(HostCall, Vec<u64>),
    /// A guest runs and makes a call.
    Guest { handle: VmHandle, function: u32, arguments: Vec<u64> },
    /// The host writes to a page.
    Write(u64),
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Seen {
    /// The results of a host call.
    Host(Result<[u64; 3], Error>),
    /// Why a guest stopped, with what the run page says, and x0 if it went on.
    Guest { run: Result<u64, Error>, exit: RunExit, x0: Option<u64> },
    /// How the host goes on.
    Write(HostAction),
}

impl Seen {
    /// The error with which a call was refused, of the host's or a guest's.
    pub fn refusal(&self) -> Option<Error> {
        match self {
            Seen::Host(result) => result.err(),
            Seen::Guest { run: Err(error), .. } => Some(*error),
            Seen::Guest { x0, .. } => x0.and_then(Error::from_register),
            Seen::Write(_) => None,
        }
    }
}

impl Action {
    /// Does it on a CPU, with the vCPU that has the CPU's number.
    pub fn take(&self, monitor: &Monitor, cpu: &mut TestPlatform) -> Seen {
        match self {
            Action::Host(call, arguments) => Seen::Host(host_call(monitor, cpu, *call, arguments)),
            Action::Guest { handle, function, arguments } => guest_call(monitor, cpu, *handle, *function, arguments),
            Action::Write(page) => {
                let mut registers = HostRegisters { elr: 0x1000, spsr: 0x3c5, ..HostRegisters::new() };
                let exception = abort(DATA_ABORT_LOWER, WRITE_FAULT, page * PAGE_SIZE);
                Seen::Write(monitor.host_exit(cpu, &mut registers, &exception))
            }
        }
    }
}

fn guest_call(monitor: &Monitor, cpu: &mut TestPlatform, handle: VmHandle, function: u32, arguments: &[u64]) -> Seen {
    let x0 = Arc::new(Mutex::new(None));
    let (answer, registers) = (x0.clone(), arguments.to_vec());
    cpu.guest.clear();
    cpu.guest_does(move |context| {
        context.general.x[0] = u64::from(function);
        context.general.x[1..=registers.len()].copy_from_slice(&registers);
        trap(hvc(0))
    });
    cpu.guest_does(move |context| {
        *answer.lock().unwrap() = Some(context.general.x[0]);
        GuestTrap::Interrupt
    });
    let index = cpu.cpu.index() as u64;
    let run = host_call(monitor, cpu, HostCall::VcpuRun, &[u64::from(handle.0), index]).map(|[reason, ..]| reason);
    cpu.guest.clear();
    let exit = match (&run, monitor.vms().initialised(handle)) {
        (Ok(_), Ok(vm)) => run_page(cpu, vm.vcpu(index).unwrap().run_page().raw()),
        _ => RunExit::default(),
    };
    let x0 = *x0.lock().unwrap();
    Seen::Guest { run, exit, x0 }
}

/// What hyp wrote to a run page.
fn run_page(cpu: &TestPlatform, page: u64) -> RunExit {
    let word = |index: u64| cpu.machine().read_word(abi::PhysAddr::new(page * PAGE_SIZE + index * 8));
    RunExit {
        exit_reason: word(0),
        ipa: word(1),
        size: word(2),
        write: word(3),
        data: word(4),
        peer: word(5),
        ..RunExit::default()
    }
}

/// The address of a guest's frame.
pub fn address(gfn: u64) -> u64 {
    Ipa::new(gfn * PAGE_SIZE).raw()
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Host(call, arguments) => write!(f, "{call:?}{arguments:x?}"),
            Action::Guest { handle, function, arguments } => {
                write!(f, "guest {:#x}: {function:#x}{arguments:x?}", handle.0)
            }
            Action::Write(page) => write!(f, "write to page {page:#x}"),
        }
    }
}
