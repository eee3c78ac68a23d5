//! A CPU beside which something else happens at the worst moment.

use abi::PhysAddr;
use memsim::Cpu;
use pgtable::TableFrames;

/// Calls `before` with the descriptor and its new value before each write of one, be it by compare-exchange.
pub struct Racing<F> {
    pub cpu: Cpu,
    pub before: F,
}

impl<F: Fn(&Cpu, PhysAddr, u64)> TableFrames for Racing<F> {
    fn allocate(&mut self) -> Option<PhysAddr> {
        self.cpu.allocate()
    }

    fn free(&mut self, frame: PhysAddr) {
        self.cpu.free(frame);
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.cpu.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        (self.before)(&self.cpu, descriptor, value);
        self.cpu.write(descriptor, value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        (self.before)(&self.cpu, descriptor, new);
        self.cpu.compare_exchange(descriptor, current, new)
    }
}

memsim::forward_maintenance!([<F>] Racing<F>, cpu);
