//! Faults of the host on several CPUs at once: what happens on another CPU while one takes a frame for a table.

use crate::common::{HIGH, LOW, TestCpu, World};
use abi::{Ipa, Pfn, PhysAddr};
use ownership::{Access, HostFault, Wipe};
use pgtable::TableFrames;
use std::thread;

/// A CPU on which something happens whenever it takes a frame, and that says which frame it gets.
struct Interrupted<'a> {
    cpu: TestCpu,
    on_allocate: &'a mut dyn FnMut(&mut TestCpu) -> Option<PhysAddr>,
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

fn ipa(page: u64) -> Ipa {
    Ipa::new(page << 12)
}

/// Resolves a fault on `page`, and on `other_page` on another CPU in the middle of it.
fn fault_beside(world: &World, page: u64, other_page: u64, gets_frame: bool) -> (HostFault, HostFault) {
    let mut other = world.cpu.clone();
    other.0 = world.machine.cpu(1);
    let mut other_fault = None;
    let mut on_allocate = |cpu: &mut TestCpu| {
        let ownership = &world.ownership;
        other_fault.get_or_insert_with(|| {
            thread::scope(|scope| {
                let fault = scope.spawn(|| ownership.resolve_host_fault(&mut other, ipa(other_page), Access::Write));
                fault.join().unwrap()
            })
        });
        if gets_frame { cpu.allocate() } else { None }
    };
    let mut cpu = Interrupted { cpu: world.cpu.clone(), on_allocate: &mut on_allocate };
    let fault = world.ownership.resolve_host_fault(&mut cpu, ipa(page), Access::Write);
    (fault, other_fault.expect("the fault takes a table"))
}

/// What the host reaches at `page`.
fn reached(world: &World, page: u64) -> Vec<u64> {
    world.reached_by_host(Pfn::new(page)).into_iter().map(|address| address.raw() >> 12).collect()
}

#[test]
fn a_fault_does_not_wait_for_another_that_is_in_the_middle() {
    let world = World::new();
    assert_eq!(fault_beside(&world, HIGH + 3, LOW + 3, true), (HostFault::Resume, HostFault::Resume));
    for page in [LOW + 3, HIGH + 3] {
        assert_eq!(reached(&world, page), [page]);
    }
    world.compare("after the faults");
}

#[test]
fn two_faults_that_want_the_same_tables_make_them_once() {
    let world = World::new();
    let before = world.machine.allocated_frames();
    assert_eq!(fault_beside(&world, HIGH + 3, HIGH + 4, true), (HostFault::Resume, HostFault::Resume));
    // The one that was beaten makes its access again.
    let mut cpu = world.cpu.clone();
    assert_eq!(world.ownership.resolve_host_fault(&mut cpu, ipa(HIGH + 3), Access::Write), HostFault::Resume);
    for page in [HIGH + 3, HIGH + 4] {
        assert_eq!(reached(&world, page), [page]);
    }
    assert_eq!(world.machine.allocated_frames() - before, 2);
    world.compare("after the faults");
}

#[test]
fn a_fault_whose_frame_another_cpu_took_for_the_same_table_is_resumed() {
    let world = World::new();
    assert_eq!(fault_beside(&world, HIGH + 3, HIGH + 4, false), (HostFault::Resume, HostFault::Resume));
    let world = World::new();
    let (fault, _) = fault_beside(&world, HIGH + 3, LOW + 3, false);
    assert_eq!(fault, HostFault::Inject, "here nobody made the table");
}

#[test]
fn a_fault_that_finds_no_frame_waits_for_those_that_others_are_about_to_give_back() {
    let world = World::new();
    let mut attempts = 0;
    let mut on_allocate = |cpu: &mut TestCpu| {
        attempts += 1;
        if attempts == 1 { None } else { cpu.allocate() }
    };
    let mut cpu = Interrupted { cpu: world.cpu.clone(), on_allocate: &mut on_allocate };
    assert_eq!(world.ownership.resolve_host_fault(&mut cpu, ipa(HIGH + 3), Access::Write), HostFault::Resume);
    assert_eq!(reached(&world, HIGH + 3), [HIGH + 3]);
    world.compare("after the fault");
}
