//! A CPU of the simulated machine, with hyp's means of wiping and a ghost that watches its transitions.

use super::held::check_access;
use super::range_of;
use abi::{Error, Ipa, Pfn, PhysAddr};
use memsim::Cpu;
use ownership::{Access, Call, HostFault, LockedMemory, Wipe, Witness};
use ownership_ghost::{Ghost, Report, Settings};
use pgtable::{Maintenance, TableFrames};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct TestCpu {
    cpu: Cpu,
    ghost: Ghost,
    /// Table frames may run out, on all CPUs.
    starved: Arc<AtomicBool>,
}

impl TestCpu {
    pub fn new(cpu: Cpu) -> Self {
        Self { cpu, ghost: Ghost::new(Settings { sweep: 64, ..Settings::ALL }), starved: Arc::default() }
    }

    /// The CPU with that number.
    pub fn other(&self, number: usize) -> Self {
        Self { starved: self.starved.clone(), ..Self::new(self.cpu.machine().cpu(number)) }
    }

    /// Has the ghost look at what `settings` say, from now on.
    pub fn watch(&mut self, settings: Settings) {
        self.ghost = Ghost::new(settings);
    }

    /// How many calls and faults the ghost has compared.
    pub fn compared(&self) -> u64 {
        self.ghost.compared()
    }

    /// True while table frames may run out.
    pub fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed)
    }

    /// Says whether table frames may run out.
    pub fn set_starved(&self, starved: bool) {
        self.starved.store(starved, Ordering::Relaxed);
    }
}

/// Another handle to the same CPU.
impl Clone for TestCpu {
    fn clone(&self) -> Self {
        self.other(self.cpu.index())
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
        check_access(self.cpu.machine(), descriptor);
        self.cpu.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        check_access(self.cpu.machine(), descriptor);
        self.cpu.write(descriptor, value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        check_access(self.cpu.machine(), descriptor);
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
        pass(self.ghost.before(&self.cpu, memory, call));
    }

    fn after(&mut self, memory: &LockedMemory<'_>, _call: &Call, result: Result<(), Error>) {
        pass(self.ghost.after(&self.cpu, memory, result));
    }

    fn fault(&mut self, memory: &LockedMemory<'_>, ipa: Ipa, access: Access, fault: HostFault) {
        let starved = self.is_starved();
        pass(self.ghost.fault(&self.cpu, memory, ipa, access, fault, starved));
    }
}

#[track_caller]
fn pass(seen: Result<(), Box<Report>>) {
    if let Err(report) = seen {
        panic!("{report}");
    }
}
