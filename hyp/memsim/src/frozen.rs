//! All tables at one moment.

use std::sync::MutexGuard;

use abi::PhysAddr;
use pgtable::TableFrames;

use crate::checker::State;
use crate::machine::Machine;

/// Memory as it is, for whoever walks many tables: nothing happens on the machine for as long as this exists.
pub struct Frozen<'a> {
    state: MutexGuard<'a, State>,
}

impl Machine {
    /// Stops the machine. Whoever has this must not use the machine or its CPUs otherwise: he would wait for himself.
    ///
    /// # Panics
    /// Where a descriptor is not what the machine's CPUs left there.
    pub fn freeze(&self) -> Frozen<'_> {
        let state = self.state();
        assert!(state.foreign.is_empty(), "memory was changed by nobody's hand");
        Frozen { state }
    }
}

/// Only reading is done here; anything else panics.
impl TableFrames for Frozen<'_> {
    fn allocate(&mut self) -> Option<PhysAddr> {
        None
    }

    fn free(&mut self, frame: PhysAddr) {
        panic!("{frame} is freed while the machine is stopped");
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.state.memory.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, _value: u64) {
        panic!("{descriptor} is written while the machine is stopped");
    }

    fn compare_exchange(&self, descriptor: PhysAddr, _current: u64, _new: u64) -> Result<u64, u64> {
        panic!("{descriptor} is written while the machine is stopped");
    }
}
