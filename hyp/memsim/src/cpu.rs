//! One CPU's view of the machine: the environment that tables are changed in.

use std::sync::{Arc, MutexGuard};

use abi::{PhysAddr, PhysRange};
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};

use crate::access::{Access, Fault};
use crate::checker::State;
use crate::locks::{Hold, Lock, Store};
use crate::machine::Machine;
use crate::schedule::Schedule;
use crate::tree::TreeKind;

/// A handle by which code runs on one CPU of a [`Machine`]. Clones are the same CPU.
#[derive(Clone)]
pub struct Cpu {
    machine: Machine,
    index: usize,
    /// Decides when the CPU's steps are taken; `None` for as they come.
    schedule: Option<Arc<Schedule>>,
}

impl Cpu {
    pub(crate) fn new(machine: Machine, index: usize) -> Self {
        Self { machine, index, schedule: None }
    }

    /// The same CPU, whose steps `schedule` decides on.
    pub(crate) fn scheduled(self, schedule: Arc<Schedule>) -> Self {
        Self { schedule: Some(schedule), ..self }
    }

    /// The machine's state for one step of this CPU, once it is its turn.
    pub(crate) fn step(&self) -> MutexGuard<'_, State> {
        if let Some(schedule) = &self.schedule {
            schedule.step(self.index, false);
        }
        self.machine.state()
    }

    /// The body of a loop that waits for another CPU: lets another run first, in [`Machine::interleave`].
    pub fn relax(&self) {
        if let Some(schedule) = &self.schedule {
            schedule.step(self.index, true);
        }
    }

    /// The CPU's number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The value of VTTBR_EL2.
    pub fn vttbr(&self) -> u64 {
        self.machine.state().vttbr(self.index)
    }

    /// What the hardware of this CPU makes of an access to `input`, an input address of the tree of that kind, by what the
    /// tables in memory say now; where the tree's configuration has the hardware do so, it sets the access flag. What a TLB
    /// may still hold is told by [`Machine::translations`].
    ///
    /// # Errors
    /// The fault that is taken.
    ///
    /// # Panics
    /// Where no such tree is watched.
    pub fn access(&self, kind: TreeKind, input: u64, access: Access) -> Result<PhysAddr, Fault> {
        self.step().access(self.index, kind, input, access)
    }

    /// Says that this CPU has taken `lock`: call it when it has. It is a violation to take a lock that the CPU holds, one
    /// whose rank is not above that of all it holds, or one that another holds if either does so exclusively.
    pub fn acquire(&self, lock: Lock, hold: Hold) {
        self.step().acquire(self.index, lock, hold);
    }

    /// Says that this CPU gives up `lock`: call it before it does. It is a violation unless the CPU holds it.
    pub fn release(&self, lock: Lock) {
        self.step().release(self.index, lock);
    }

    /// The machine that this CPU belongs to.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }
}

impl TableFrames for Cpu {
    fn allocate(&mut self) -> Option<PhysAddr> {
        self.step().allocate(self.index)
    }

    fn free(&mut self, frame: PhysAddr) {
        self.step().free(self.index, frame);
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.step().read(self.index, descriptor)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.step().write(self.index, descriptor, value, Store::Plain);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let mut state = self.step();
        let found = state.read(self.index, descriptor);
        if found == current {
            state.write(self.index, descriptor, new, Store::Exchange);
            Ok(found)
        } else {
            Err(found)
        }
    }
}

impl Maintenance for Cpu {
    fn dsb(&self, kind: DsbKind) {
        self.step().dsb(self.index, kind);
    }

    fn isb(&self) {
        self.step().isb(self.index);
    }

    fn tlbi(&self, operation: Tlbi) {
        self.step().tlbi(self.index, operation);
    }

    fn load_vttbr(&self, vttbr: u64) -> u64 {
        self.step().load_vttbr(self.index, vttbr)
    }

    fn clean_invalidate_to_poc(&self, range: PhysRange) {
        self.step().clean_invalidate(self.index, range);
    }

    fn clean_to_pou(&self, range: PhysRange) {
        self.step().clean_to_pou(self.index, range);
    }

    fn invalidate_instruction_cache(&self, range: PhysRange) {
        self.step().invalidate_instructions(self.index, range);
    }
}
