//! One CPU's view of the machine: the environment that tables are changed in.

use abi::{PhysAddr, PhysRange};
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};

use crate::event::Event;
use crate::machine::Machine;

/// A handle by which code runs on one CPU of a [`Machine`]. Clones are the same CPU.
#[derive(Clone)]
pub struct Cpu {
    machine: Machine,
    index: usize,
}

impl Cpu {
    pub(crate) fn new(machine: Machine, index: usize) -> Self {
        Self { machine, index }
    }

    /// The CPU's number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The value of VTTBR_EL2.
    pub fn vttbr(&self) -> u64 {
        self.machine.state().vttbr(self.index)
    }

    /// The machine that this CPU belongs to.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }
}

impl TableFrames for Cpu {
    fn allocate(&mut self) -> Option<PhysAddr> {
        self.machine.state().allocate(self.index)
    }

    fn free(&mut self, frame: PhysAddr) {
        self.machine.state().free(self.index, frame);
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.machine.state().memory.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.machine.state().write(self.index, descriptor, value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let mut state = self.machine.state();
        let found = state.memory.read(descriptor);
        if found == current {
            state.write(self.index, descriptor, new);
            Ok(found)
        } else {
            Err(found)
        }
    }
}

impl Maintenance for Cpu {
    fn dsb(&self, kind: DsbKind) {
        self.machine.state().dsb(self.index, kind);
    }

    fn isb(&self) {
        self.machine.state().isb(self.index);
    }

    fn tlbi(&self, operation: Tlbi) {
        self.machine.state().tlbi(self.index, operation);
    }

    fn load_vttbr(&self, vttbr: u64) -> u64 {
        self.machine.state().load_vttbr(self.index, vttbr)
    }

    fn clean_invalidate_to_poc(&self, range: PhysRange) {
        self.machine.state().clean_invalidate(self.index, range);
    }

    fn clean_to_pou(&self, range: PhysRange) {
        self.machine.state().record(self.index, Event::CleanToPou(range));
    }

    fn invalidate_instruction_cache(&self, range: PhysRange) {
        self.machine.state().record(self.index, Event::InvalidateInstructionCache(range));
    }
}
