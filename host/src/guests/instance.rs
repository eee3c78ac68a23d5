//! One life of a guest, from its creation to its end or its reset.

use super::devices::{self, Clock, SharedGic, Uart};
use super::runner::Page;
use super::scheduler::Scheduler;
use super::terminal::Console;
use crate::hypercall::{self, InterruptInfo};
use crate::vm::{OnDemand, Returned, Setup, Vm, VmError};
use abi::host::VmHandle;
use abi::run::ExitReason;
use abi::{Error, Gfn, Ipa};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// How a guest came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// PSCI SYSTEM_OFF.
    Off,
    /// PSCI SYSTEM_RESET: it starts again.
    Reset,
    /// It did what hyp cannot go on from.
    Error,
    /// It used a page that had been taken from it.
    Poisoned,
    /// It could not be given what it needs.
    Failed(VmError),
    /// Hyp refused the named call.
    Refused(&'static str, Error),
    /// The user wanted it.
    Quit,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Off => f.write_str("powered off"),
            Ending::Reset => f.write_str("reset"),
            Ending::Error => f.write_str("stopped: it did what hyp cannot go on from"),
            Ending::Poisoned => f.write_str("stopped: it used a page that had been taken from it"),
            Ending::Failed(error) => write!(f, "stopped: {error}"),
            Ending::Refused(call, error) => write!(f, "stopped: {call}: {error}"),
            Ending::Quit => f.write_str("ended"),
        }
    }
}

/// A guest that runs.
pub struct Instance {
    /// Its handle.
    pub handle: VmHandle,
    /// Its memory and its bus.
    pub vm: Mutex<Vm>,
    /// Its interrupt controller.
    pub gic: SharedGic,
    /// Its console.
    pub uart: Uart,
    clock: Clock,
    run_pages: Vec<Page>,
    ending: Mutex<Option<Ending>>,
    exits: AtomicU64,
}

impl Instance {
    /// Builds the guest.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn new(
        setup: &Setup<'_>,
        scheduler: &Arc<Scheduler>,
        guest: usize,
        interrupts: &InterruptInfo,
        console: Console,
    ) -> Result<Self, VmError> {
        let vcpus = setup.vcpus as usize;
        let gic = SharedGic::new(scheduler, guest, vcpus, interrupts).map_err(|_| VmError::Interrupts)?;
        let (uart, clock) = (devices::console(&gic, console), devices::clock(&gic));
        let mut vm = Vm::create_with(setup, |space| devices::add(space, &gic, vcpus, &uart, &clock))?;
        vm.on_demand = OnDemand::Block;
        let run_pages = vm.vcpus.iter().map(|vcpu| Page::new(vcpu.run_page())).collect();
        Ok(Self {
            handle: vm.handle(),
            vm: Mutex::new(vm),
            gic,
            uart,
            clock,
            run_pages,
            ending: Mutex::new(None),
            exits: AtomicU64::new(0),
        })
    }

    /// The run page of a vCPU.
    pub fn run_page(&self, vcpu: usize) -> Page {
        self.run_pages[vcpu]
    }

    /// Raises the interrupts that time alone raises: the clock's alarm.
    pub fn look_at_clock(&self) {
        self.clock.with(|_| ());
    }

    /// Counts an exit.
    pub fn count_exit(&self) {
        self.exits.fetch_add(1, Ordering::Relaxed);
    }

    /// How many exits there were.
    pub fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }

    /// Takes note of the guest's end. The first counts.
    pub fn end(&self, ending: Ending) {
        self.ending.lock().get_or_insert(ending);
    }

    /// True once its end has been noted.
    pub fn has_ended(&self) -> bool {
        self.ending.lock().is_some()
    }

    /// How it ended.
    pub fn ending(&self) -> Ending {
        self.ending.lock().unwrap_or(Ending::Quit)
    }

    /// Takes note of pages that come back, and returns what the guest lent: the host has no use for it.
    pub fn pages_back(&self, reason: ExitReason, address: Ipa) {
        let mut vm = self.vm.lock();
        let frame = Gfn::containing(address);
        if reason != ExitReason::Lent {
            vm.take_relinquished(frame);
        } else if let Some(page) = vm.page_of(frame)
            && let Err(error) = hypercall::vm_return(self.handle, page, 1)
        {
            self.end(Ending::Refused("VM_RETURN", error));
        }
    }

    /// Takes the guest apart. Nothing else may use it any more.
    ///
    /// # Errors
    /// The call that hyp refused.
    pub fn take_apart(self) -> Result<Returned, VmError> {
        self.vm.into_inner().destroy()
    }
}
