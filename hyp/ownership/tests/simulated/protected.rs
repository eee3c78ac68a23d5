//! Memory that a protected guest owns: how it gets it, shares it with the host, and how it comes back.

use crate::common::calls::*;
use crate::common::step::host_fault;
use crate::common::*;
use abi::{Error, Pfn};
use ownership::Access;
use ownership_spec::Rights;

#[test]
fn a_protected_guests_page_is_its_own() {
    let mut world = World::with_two_guests();
    world.done(host_fault(LOW + 9, Access::Write));
    world.done(host_donate_guest(FIRST, LOW + 8, 0x4_0000, 4));
    assert_eq!(world.reached_by(FIRST, 0x4_0001), [LOW + 9]);
    assert!(world.reached_by_host(LOW + 9).is_empty());
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 9))[0], DIRT, "the guest finds what the host left for it");
    assert!(!world.machine.is_dirty(Pfn::new(LOW + 9)), "also with its caches off");
    for call in calls_for_pages_of_the_hosts(LOW + 11, 1) {
        world.refused(call, Error::NotYours);
    }
    for (first, count) in [(LOW + 7, 2), (LOW + 11, 2)] {
        for call in calls_for_pages_of_the_hosts(first, count) {
            world.refused(call, Error::NotYours);
        }
    }
    world.refused(hyp_donate_host(LOW + 8, 1), Error::NotYours);
    world.refused(host_unshare_hyp(LOW + 8, 1), Error::NotYours);
    world.refused(hyp_pin(LOW + 8), Error::NotYours);
    world.refused(reclaim(FIRST, LOW + 8, 1), Error::Busy);
    for access in [Access::Read, Access::Write, Access::Execute] {
        world.refused(host_fault(LOW + 8, access), Error::NotYours);
    }
    world.tear_down();
}

#[test]
fn two_pages_are_not_given_the_same_frame() {
    let mut world = World::with_two_guests();
    world.done(host_donate_guest(FIRST, LOW, 0x10, 2));
    world.refused(host_donate_guest(FIRST, LOW + 4, 0x11, 1), Error::WrongState);
    world.refused(host_donate_guest(FIRST, LOW + 4, 0xf, 2), Error::WrongState);
    world.done(host_donate_guest(FIRST, LOW + 4, 0xf, 1));
    world.done(host_share_guest(SECOND, LOW + 8, 0x10, 2));
    world.refused(host_share_guest(SECOND, LOW + 8, 0x11, 1), Error::WrongState);
    world.tear_down();
}

#[test]
fn the_guests_kind_decides_how_it_gets_memory() {
    let mut world = World::with_two_guests();
    world.refused(host_donate_guest(SECOND, LOW, 0, 1), Error::WrongState);
    world.refused(host_lend_guest(SECOND, LOW, 0, 1), Error::WrongState);
    world.refused(force_reclaim(SECOND, LOW, 1), Error::WrongState);
    world.refused(host_share_guest(FIRST, LOW, 0, 1), Error::WrongState);
    world.done(host_donate_guest(FIRST, LOW, 0, 1));
    world.refused(host_unshare_guest(FIRST, 0, 1), Error::WrongState);
    world.done(host_share_guest(SECOND, LOW + 1, 0, 1));
    world.refused(guest_share_host(SECOND, 0), Error::WrongState);
    world.refused(guest_unshare_host(SECOND, 0), Error::WrongState);
    for call in [
        guest_relinquish(SECOND, 0),
        guest_lend_host(SECOND, 0),
        guest_return(SECOND, 0),
        guest_offer(SECOND, 0, FIRST, Rights::FULL),
        guest_withdraw(SECOND, 1),
        guest_drop(SECOND, FIRST, 1),
        guest_accept(SECOND, FIRST, 1, 1, Rights::FULL),
        guest_accept(FIRST, SECOND, 1, 1, Rights::FULL),
    ] {
        world.refused(call, Error::WrongState);
    }
    world.tear_down();
}

#[test]
fn a_guest_shares_a_page_with_the_host_and_takes_it_back() {
    let mut world = World::with_two_guests();
    world.done(host_donate_guest(FIRST, LOW, 0x30, 3));
    world.refused(guest_share_host(FIRST, 0x33), Error::NotMemory);
    world.refused(guest_unshare_host(FIRST, 0x31), Error::WrongState);
    world.done(guest_share_host(FIRST, 0x31));
    world.done(host_fault(LOW + 1, Access::Write));
    world.refused(host_fault(LOW + 1, Access::Execute), Error::NotYours);
    world.refused(host_fault(LOW, Access::Read), Error::NotYours);
    world.refused(guest_share_host(FIRST, 0x31), Error::WrongState);
    world.refused(guest_relinquish(FIRST, 0x31), Error::WrongState);
    for call in calls_for_pages_of_the_hosts(LOW + 1, 1) {
        world.refused(call, Error::NotYours);
    }
    world.done(guest_unshare_host(FIRST, 0x31));
    assert!(world.reached_by_host(LOW + 1).is_empty());
    world.refused(guest_unshare_host(FIRST, 0x31), Error::WrongState);
    world.refused(host_fault(LOW + 1, Access::Read), Error::NotYours);
    world.tear_down();
}

#[test]
fn a_guest_gives_a_page_back() {
    let mut world = World::with_two_guests();
    world.done(host_donate_guest(FIRST, LOW + 512, 0x200, 8));
    world.done(guest_relinquish(FIRST, 0x203));
    assert!(world.reached_by(FIRST, 0x203).is_empty());
    world.refused(guest_relinquish(FIRST, 0x203), Error::NotMemory);
    world.done(host_fault(LOW + 515, Access::Read));
    world.refused(host_fault(LOW + 514, Access::Read), Error::NotYours);
    world.done(host_donate_guest(FIRST, LOW, 0x203, 1));
    world.tear_down();
}

#[test]
fn a_dying_guest_gets_and_gives_nothing() {
    let mut world = World::with_two_guests();
    world.done(host_donate_guest(FIRST, LOW, 0x200, 2));
    world.done(host_share_guest(SECOND, LOW + 4, 0, 1));
    for vm in [FIRST, SECOND] {
        world.done(start_teardown(vm));
    }
    world.refused(host_donate_guest(FIRST, LOW + 8, 0, 1), Error::VmGone);
    world.refused(guest_share_host(FIRST, 0x200), Error::VmGone);
    world.refused(guest_unshare_host(FIRST, 0x200), Error::VmGone);
    for call in [
        guest_relinquish(FIRST, 0x200),
        guest_lend_host(FIRST, 0x200),
        guest_return(FIRST, 0x200),
        guest_offer(FIRST, 0x200, SECOND, Rights::FULL),
        guest_accept(FIRST, SECOND, 1, 1, Rights::FULL),
        guest_withdraw(FIRST, 1),
        guest_drop(FIRST, SECOND, 1),
        host_lend_guest(FIRST, LOW + 8, 0, 1),
        host_return_guest(FIRST, LOW, 1),
        force_reclaim(FIRST, LOW, 1),
        host_grant_device(FIRST, DEVICE, 0, 1),
        host_grant_device(SECOND, DEVICE, 8, 1),
        host_share_guest_restricted(SECOND, LOW + 8, 1, 1),
    ] {
        world.refused(call, Error::VmGone);
    }
    let share = host_share_guest(SECOND, LOW + 8, 1, 1);
    world.refused(share, Error::VmGone);
    world.done(host_unshare_guest(SECOND, 0, 1));
    world.tear_down();
}

#[test]
fn pages_of_a_dying_guest_are_reclaimed_wiped() {
    let mut world = World::with_guests(&[true, true], 12);
    world.done(host_donate_guest(FIRST, LOW, 0x200, 512));
    world.done(host_donate_guest(SECOND, HIGH, 0x1000, 4));
    world.done(guest_share_host(FIRST, 0x205));
    world.done(start_teardown(FIRST));
    world.refused(reclaim(FIRST, LOW + 510, 3), Error::NotYours);
    world.refused(reclaim(FIRST, HIGH, 1), Error::NotYours);
    world.refused(reclaim(SECOND, HIGH, 1), Error::Busy);
    assert_eq!(
        world.ownership.drain(&mut world.cpu.clone(), &world.guests[0].memory),
        Err(Error::Busy),
        "the guest still holds pages"
    );
    world.done(reclaim(FIRST, LOW + 1, 1));
    world.refused(reclaim(FIRST, LOW + 1, 1), Error::NotYours);
    world.done(reclaim(FIRST, LOW + 2, 510));
    world.done(host_fault(LOW + 5, Access::Execute));
    world.refused(host_fault(LOW, Access::Read), Error::NotYours);
    world.done(reclaim(FIRST, LOW, 1));
    assert_eq!(world.guests[0].memory.lock().pages_held(), 0);
    world.tear_down();
}
