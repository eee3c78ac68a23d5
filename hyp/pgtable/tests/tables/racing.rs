//! A CPU beside which something else happens at the worst moment.

use abi::{PhysAddr, PhysRange};
use memsim::Cpu;
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};

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

impl<F> Maintenance for Racing<F> {
    fn dsb(&self, kind: DsbKind) {
        self.cpu.dsb(kind);
    }

    fn isb(&self) {
        self.cpu.isb();
    }

    fn tlbi(&self, operation: Tlbi) {
        self.cpu.tlbi(operation);
    }

    fn load_vttbr(&self, vttbr: u64) -> u64 {
        self.cpu.load_vttbr(vttbr)
    }

    fn clean_invalidate_to_poc(&self, range: PhysRange) {
        self.cpu.clean_invalidate_to_poc(range);
    }

    fn clean_to_pou(&self, range: PhysRange) {
        self.cpu.clean_to_pou(range);
    }

    fn invalidate_instruction_cache(&self, range: PhysRange) {
        self.cpu.invalidate_instruction_cache(range);
    }
}
