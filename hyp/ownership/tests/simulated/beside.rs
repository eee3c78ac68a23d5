//! Faults of the host on several CPUs at once: what happens on another CPU while one takes a frame for a table.

use crate::common::cpu::TestCpu;
use crate::common::interrupted::Interrupted;
use crate::common::{HIGH, LOW, World};
use abi::Ipa;
use ownership::{Access, HostFault};
use pgtable::TableFrames;
use std::thread;

fn ipa(page: u64) -> Ipa {
    Ipa::new(page << 12)
}

/// Resolves a fault on `page`, and on `other_page` on another CPU in the middle of it.
fn fault_beside(world: &World, page: u64, other_page: u64, gets_frame: bool) -> (HostFault, HostFault) {
    let mut other = world.cpu.other(1);
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
    let mut cpu = Interrupted { cpu: world.cpu.clone(), on_allocate: &mut on_allocate, in_locks: &mut || () };
    let fault = world.ownership.resolve_host_fault(&mut cpu, ipa(page), Access::Write);
    (fault, other_fault.expect("the fault takes a table"))
}

#[test]
fn a_fault_does_not_wait_for_another_that_is_in_the_middle() {
    let world = World::new();
    assert_eq!(fault_beside(&world, HIGH + 3, LOW + 3, true), (HostFault::Resume, HostFault::Resume));
    for page in [LOW + 3, HIGH + 3] {
        assert_eq!(world.reached_by_host(page), [page]);
    }
    world.compare("after the faults");
}

#[test]
fn two_faults_that_want_the_same_tables_make_them_once() {
    let world = World::new();
    let before = world.machine.allocated_frames();
    assert_eq!(fault_beside(&world, HIGH + 3, HIGH + 2, true), (HostFault::Resume, HostFault::Resume));
    // The one that was beaten makes its access again.
    let mut cpu = world.cpu.clone();
    assert_eq!(world.ownership.resolve_host_fault(&mut cpu, ipa(HIGH + 3), Access::Write), HostFault::Resume);
    for page in [HIGH + 3, HIGH + 2] {
        assert_eq!(world.reached_by_host(page), [page]);
    }
    assert_eq!(world.machine.allocated_frames() - before, 2);
    world.compare("after the faults");
}

#[test]
fn a_fault_whose_frame_another_cpu_took_for_the_same_table_is_resumed() {
    let world = World::new();
    assert_eq!(fault_beside(&world, HIGH + 3, HIGH + 2, false), (HostFault::Resume, HostFault::Resume));
    let world = World::new();
    world.cpu.set_starved(true);
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
    let mut cpu = Interrupted { cpu: world.cpu.clone(), on_allocate: &mut on_allocate, in_locks: &mut || () };
    assert_eq!(world.ownership.resolve_host_fault(&mut cpu, ipa(HIGH + 3), Access::Write), HostFault::Resume);
    assert_eq!(world.reached_by_host(HIGH + 3), [HIGH + 3]);
    world.compare("after the fault");
}
