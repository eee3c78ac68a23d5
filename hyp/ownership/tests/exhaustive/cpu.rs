//! A CPU of the simulated machine, with hyp's means of wiping and a ghost that compares each transition under its locks.

use crate::world::range_of;
use abi::{Error, Ipa, Pfn, PhysAddr};
use memsim::Cpu;
use ownership::{Access, Call, HostFault, LockedMemory, Wipe, Witness};
use ownership_ghost::{Ghost, Report, Settings};
use pgtable::{Maintenance, TableFrames};

/// The CPU that makes all calls.
pub struct TestCpu {
    cpu: Cpu,
    ghost: Ghost,
}

impl TestCpu {
    pub fn new(cpu: Cpu) -> Self {
        Self { cpu, ghost: Ghost::new(Settings::ALL) }
    }

    /// How many calls and faults the ghost has compared.
    pub fn compared(&self) -> u64 {
        self.ghost.compared()
    }
}

impl TableFrames for TestCpu {
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
        self.cpu.write(descriptor, value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.cpu.compare_exchange(descriptor, current, new)
    }
}

memsim::forward_maintenance!([] TestCpu, cpu);

impl Wipe for TestCpu {
    fn wipe(&mut self, page: Pfn) {
        let reached_by = self.cpu.machine().stage2_of(page.checked_address().unwrap());
        assert!(reached_by.is_empty(), "{page} is wiped while {reached_by:?} reach it");
        self.cpu.machine().zero_page(self.cpu.index(), page);
        self.cpu.clean_invalidate_to_poc(range_of(page.raw(), 1));
    }
}

impl Witness for TestCpu {
    fn before(&mut self, memory: &LockedMemory<'_>, call: &Call) {
        pass(self.ghost.before(&self.cpu.machine().freeze(), memory, call));
    }

    fn after(&mut self, memory: &LockedMemory<'_>, _call: &Call, result: Result<(), Error>) {
        pass(self.ghost.after(&self.cpu.machine().freeze(), memory, result));
    }

    fn fault(&mut self, memory: &LockedMemory<'_>, ipa: Ipa, access: Access, fault: HostFault) {
        pass(self.ghost.fault(&self.cpu.machine().freeze(), memory, ipa, access, fault, false));
    }
}

fn pass(seen: Result<(), Box<Report>>) {
    if let Err(report) = seen {
        panic!("{report}");
    }
}
