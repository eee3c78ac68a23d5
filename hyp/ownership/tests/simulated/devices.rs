//! Pages of devices: they go to guests and to hyp, and are never memory.

use crate::common::calls::*;
use crate::common::step::{Step, host_fault};
use crate::common::*;
use abi::{Error, Pfn, VirtAddr};
use ownership::Access;
use ownership_spec::Rights;
use pgtable::{El2Attributes, MapOptions};

/// First page of a stretch of devices of 4 MiB, aligned to it.
const ALIGNED: u64 = 0x8000;

#[test]
fn a_guest_has_a_device_until_it_is_dead() {
    for vm in [FIRST, SECOND] {
        let mut world = World::with_two_guests();
        world.done(host_fault(DEVICE, Access::Write));
        world.done(host_grant_device(vm, DEVICE, 0x200, 2));
        assert_eq!(world.reached_by(vm, 0x201), [DEVICE + 1]);
        assert!(world.reached_by_host(DEVICE).is_empty());
        world.refused(host_fault(DEVICE, Access::Read), Error::NotYours);
        world.done(host_fault(DEVICE + 2, Access::Read));
        world.refused(reclaim_device(vm, DEVICE, 2), Error::Busy);
        for (first, count) in [(DEVICE, 1), (DEVICE + 1, 2), (DEVICE - 1, 2)] {
            world.refused(host_grant_device(FIRST, first, 0x300, count), Error::NotYours);
            world.refused(host_donate_device_hyp(first, count), Error::NotYours);
        }
        world.refused(hyp_donate_device_host(DEVICE, 1), Error::NotYours);
        world.done(start_teardown(vm));
        world.refused(reclaim_device(vm, DEVICE, 3), Error::NotYours);
        world.done(reclaim_device(vm, DEVICE + 1, 1));
        world.refused(reclaim_device(vm, DEVICE, 2), Error::NotYours);
        world.done(host_fault(DEVICE + 1, Access::Write));
        world.done(reclaim_device(vm, DEVICE, 1));
        assert_eq!(world.memory(vm).lock().pages_held(), 0);
        world.tear_down();
    }
}

#[test]
fn a_device_is_no_memory_to_its_guest() {
    let mut world = World::with_two_guests();
    world.done(host_grant_device(FIRST, DEVICE, 0x200, 1));
    for call in [
        guest_share_host(FIRST, 0x200),
        guest_unshare_host(FIRST, 0x200),
        guest_lend_host(FIRST, 0x200),
        guest_return(FIRST, 0x200),
        guest_relinquish(FIRST, 0x200),
        guest_offer(FIRST, 0x200, SECOND, Rights::FULL),
    ] {
        world.refused(call, Error::NotMemory);
    }
    for call in calls_for_pages_of_the_hosts(DEVICE, 1) {
        world.refused(call, Error::NotMemory);
    }
    world.done(host_grant_device(SECOND, DEVICE + 1, 0x200, 1));
    world.refused(host_unshare_guest(SECOND, 0x200, 1), Error::WrongState);
    world.tear_down();
}

#[test]
fn the_frames_for_a_device_are_vacant() {
    let mut world = World::with_two_guests();
    world.done(host_donate_guest(FIRST, LOW, 0x200, 3));
    world.done(guest_lend_host(FIRST, 0x201));
    world.done(force_reclaim(FIRST, LOW + 2, 1));
    world.done(host_grant_device(FIRST, DEVICE, 0x203, 1));
    for gfn in 0x200..0x204 {
        world.refused(host_grant_device(FIRST, DEVICE + 1, gfn, 1), Error::WrongState);
    }
    world.refused(host_donate_guest(FIRST, LOW + 8, 0x203, 1), Error::WrongState);
    world.refused(host_lend_guest(FIRST, LOW + 8, 0x203, 1), Error::WrongState);
    world.done(host_grant_device(FIRST, DEVICE + 1, 0x204, 1));
    world.tear_down();
}

#[test]
fn memory_is_no_device() {
    let mut world = World::with_two_guests();
    for (first, count) in [(LOW, 1), (LOW - 1, 2), (HIGH + HIGH_PAGES - 1, 2), (CARVE_OUT, 1)] {
        world.refused(host_grant_device(FIRST, first, 0x200, count), Error::BadRange);
        world.refused(host_donate_device_hyp(first, count), Error::BadRange);
    }
    world.tear_down();
}

#[test]
fn hyp_takes_a_device_and_gives_it_back() {
    let mut world = World::with_two_guests();
    world.done(host_fault(DEVICE, Access::Read));
    world.done(host_donate_device_hyp(DEVICE, 2));
    assert!(world.reached_by_host(DEVICE + 1).is_empty());
    for access in [Access::Read, Access::Write, Access::Execute] {
        world.refused(host_fault(DEVICE, access), Error::NotYours);
    }
    world.refused(host_donate_device_hyp(DEVICE + 1, 2), Error::NotYours);
    world.refused(host_grant_device(FIRST, DEVICE, 0, 1), Error::NotYours);
    world.refused(hyp_donate_device_host(DEVICE, 3), Error::NotYours);
    world.refused(hyp_donate_host(DEVICE, 1), Error::NotMemory);
    world.done(hyp_donate_device_host(DEVICE, 1));
    world.done(host_fault(DEVICE, Access::Write));
    world.done(hyp_donate_device_host(DEVICE + 1, 1));
    world.refused(hyp_donate_device_host(DEVICE, 1), Error::NotYours);
    world.tear_down();
}

#[test]
fn hyp_does_not_take_a_device_where_it_has_something_itself() {
    let mut world = World::new();
    let mut cpu = world.cpu.clone();
    let own = range_of(DEVICE + 1, 1);
    let (at, size) = (VirtAddr::new(own.start.raw()), own.size());
    let map = |cpu: &mut _| {
        let mut hyp = world.ownership.hyp().lock();
        hyp.map(cpu, at, own.start, size, El2Attributes::device(), MapOptions::default()).unwrap();
    };
    map(&mut cpu);
    let donate = |cpu: &mut _, first, count| world.ownership.host_donate_device_hyp(cpu, Pfn::new(first), count);
    assert_eq!(donate(&mut cpu, DEVICE, 2), Err(Error::Busy));
    assert_eq!(donate(&mut cpu, DEVICE + 1, 1), Err(Error::Busy));
    world.compare("after a device was not taken");
    world.ownership.hyp().lock().unmap(&mut cpu, at, size).unwrap();
    world.done(host_donate_device_hyp(DEVICE, 2));
    world.tear_down();
}

#[test]
fn a_block_of_a_device_is_granted_as_a_block() {
    let mut world = World::new();
    let guest = world.add_guest(false, HIGH, 4);
    world.done(host_grant_device(guest, ALIGNED, 0x400, 1024));
    assert_eq!(world.guest_leaf(guest, 0x500), (2, true));
    assert_eq!(world.host_leaf(ALIGNED + 5), (2, false));
    world.done(start_teardown(guest));
    world.done(reclaim_device(guest, ALIGNED + 3, 1));
    assert!(world.reached_by(guest, 0x403).is_empty());
    assert_eq!(world.host_leaf(ALIGNED + 600), (2, false), "the other block is whole");
    world.done(reclaim_device(guest, ALIGNED + 4, 1020));
    world.done(reclaim_device(guest, ALIGNED, 3));
    world.tear_down();
}

#[test]
fn a_dying_guest_loses_no_pages_of_a_device_but_those_that_are_taken() {
    let mut world = World::with_two_guests();
    world.done(host_grant_device(FIRST, DEVICE, 0x200, 3));
    world.done(start_teardown(FIRST));
    world.done(reclaim_device(FIRST, DEVICE + 1, 1));
    for (gfn, reached) in [(0x200, &[DEVICE][..]), (0x201, &[]), (0x202, &[DEVICE + 2])] {
        assert_eq!(world.reached_by(FIRST, gfn), reached);
    }
    world.tear_down();
}

#[test]
fn a_device_is_not_granted_without_pages_for_the_tables() {
    let mut world = World::with_guests(&[true], 1);
    world.refused(host_grant_device(FIRST, DEVICE, 0x200, 1), Error::OutOfMemory);
    world.done(Step::TopUp { vm: FIRST, first: HIGH, count: 1 });
    world.done(host_grant_device(FIRST, DEVICE, 0x200, 1));
    world.tear_down();
}

#[test]
fn each_guest_has_its_own_pages_of_a_device() {
    let mut world = World::with_guests(&[true, true], 12);
    world.done(host_grant_device(FIRST, DEVICE, 0x200, 1));
    world.done(host_grant_device(SECOND, DEVICE + 1, 0x200, 1));
    world.done(host_grant_device(FIRST, DEVICE + 2, 0x100, 1));
    world.done(start_teardown(FIRST));
    world.refused(reclaim_device(FIRST, DEVICE, 2), Error::NotYours);
    world.done(reclaim_device(FIRST, DEVICE, 1));
    assert_eq!(world.reached_by(SECOND, 0x200), [DEVICE + 1]);
    world.tear_down();
}
