//! A CPU on which other things happen in the middle of what it does.

use super::cpu::TestCpu;
use abi::{Error, Ipa, Pfn, PhysAddr};
use ownership::{Access, Call, HostFault, LockedMemory, Wipe, Witness};
use pgtable::TableFrames;

pub struct Interrupted<'a> {
    pub cpu: TestCpu,
    /// Happens whenever the CPU takes a frame, and says which frame it gets.
    pub on_allocate: &'a mut (dyn FnMut(&mut TestCpu) -> Option<PhysAddr> + Send),
    /// Happens whenever a transition has its locks.
    pub in_locks: &'a mut (dyn FnMut() + Send),
}

impl TableFrames for Interrupted<'_> {
    fn allocate(&mut self) -> Option<PhysAddr> {
        (self.on_allocate)(&mut self.cpu)
    }

    fn free(&mut self, frame: PhysAddr) {
        self.cpu.free(frame);
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.cpu.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.cpu.write(descriptor, value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.cpu.compare_exchange(descriptor, current, new)
    }
}

memsim::forward_maintenance!([] Interrupted<'_>, cpu);

impl Wipe for Interrupted<'_> {
    fn wipe(&mut self, page: Pfn) {
        self.cpu.wipe(page);
    }
}

impl Witness for Interrupted<'_> {
    fn before(&mut self, memory: &LockedMemory<'_>, call: &Call) {
        self.cpu.before(memory, call);
        (self.in_locks)();
    }

    fn after(&mut self, memory: &LockedMemory<'_>, call: &Call, result: Result<(), Error>) {
        self.cpu.after(memory, call, result);
    }

    fn fault(&mut self, memory: &LockedMemory<'_>, ipa: Ipa, access: Access, fault: HostFault) {
        self.cpu.fault(memory, ipa, access, fault);
    }
}
