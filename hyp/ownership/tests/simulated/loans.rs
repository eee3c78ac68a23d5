//! Loans: the owner keeps the title and loses all access, whoever he is, until he has the page again.

use crate::common::calls::*;
use crate::common::step::host_fault;
use crate::common::*;
use abi::{Error, Pfn};
use ownership::Access;
use ownership_spec::Rights;

/// Every access that the host may try.
const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Execute];

#[test]
fn the_host_lends_pages_and_has_no_access_meanwhile() {
    let mut world = World::with_two_guests();
    world.done(host_fault(LOW + 1, Access::Write));
    world.done(host_lend_guest(FIRST, LOW + 1, 0x200, 3));
    assert_eq!(world.reached_by(FIRST, 0x201), [LOW + 2]);
    assert!(world.reached_by_host(LOW + 1).is_empty());
    for access in ACCESSES {
        world.refused(host_fault(LOW + 1, access), Error::NotYours);
    }
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 1))[0], DIRT, "the guest finds what the host left for it");
    for call in calls_for_pages_of_the_hosts(LOW + 3, 1) {
        world.refused(call, Error::WrongState);
    }
    for call in calls_for_pages_of_the_hosts(LOW, 2) {
        world.refused(call, Error::WrongState);
    }
    world.refused(host_unshare_hyp(LOW + 1, 1), Error::WrongState);
    world.refused(hyp_pin(LOW + 1), Error::WrongState);
    world.refused(hyp_donate_host(LOW + 1, 1), Error::NotYours);
    world.refused(host_return_guest(FIRST, LOW + 1, 1), Error::NotYours);
    world.refused(reclaim(FIRST, LOW + 1, 1), Error::Busy);
    world.refused(host_lend_guest(FIRST, LOW + 8, 0x202, 1), Error::WrongState);
    world.tear_down();
}

#[test]
fn a_guest_returns_what_the_host_lent_it_wiped() {
    let mut world = World::with_two_guests();
    world.done(host_lend_guest(FIRST, LOW + 1, 0x200, 2));
    world.machine.fill_page(0, Pfn::new(LOW + 1), 0x5e);
    world.done(guest_return(FIRST, 0x200));
    assert!(world.reached_by(FIRST, 0x200).is_empty());
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 1)), [0; 4096]);
    world.refused(guest_return(FIRST, 0x200), Error::NotMemory);
    world.done(host_fault(LOW + 1, Access::Execute));
    world.refused(host_fault(LOW + 2, Access::Read), Error::NotYours);
    world.done(host_lend_guest(FIRST, LOW + 1, 0x200, 1));
    world.tear_down();
}

#[test]
fn a_guest_does_with_a_loan_what_borrowers_may_do() {
    let mut world = World::with_guests(&[true, true], 12);
    world.done(host_lend_guest(FIRST, LOW, 0x200, 1));
    for call in [
        guest_share_host(FIRST, 0x200),
        guest_unshare_host(FIRST, 0x200),
        guest_lend_host(FIRST, 0x200),
        guest_relinquish(FIRST, 0x200),
        guest_offer(FIRST, 0x200, SECOND, Rights::FULL),
    ] {
        world.refused(call, Error::NotYours);
    }
    world.refused(guest_return(FIRST, 0x201), Error::NotMemory);
    world.tear_down();
}

#[test]
fn a_guest_returns_only_loans() {
    let mut world = World::with_guests(&[true, true], 12);
    world.done(host_donate_guest(FIRST, LOW, 0x200, 2));
    world.refused(guest_return(FIRST, 0x200), Error::WrongState);
    world.done(guest_offer(FIRST, 0x201, SECOND, Rights::FULL));
    world.done(guest_accept(SECOND, FIRST, 1, 0x300, Rights::FULL));
    world.refused(guest_return(SECOND, 0x300), Error::WrongState);
    world.tear_down();
}

#[test]
fn a_loan_of_a_dying_guests_comes_back_wiped() {
    let mut world = World::with_two_guests();
    world.done(host_lend_guest(FIRST, LOW, 0x200, 512));
    world.machine.fill_page(0, Pfn::new(LOW + 7), 0x5e);
    world.done(start_teardown(FIRST));
    world.refused(guest_return(FIRST, 0x200), Error::VmGone);
    world.done(reclaim(FIRST, LOW + 7, 1));
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 7)), [0; 4096]);
    world.done(reclaim(FIRST, LOW, 7));
    world.done(reclaim(FIRST, LOW + 8, 504));
    world.tear_down();
}

#[test]
fn a_guest_lends_a_page_to_the_host_and_has_no_access_meanwhile() {
    let mut world = World::with_two_guests();
    world.done(host_donate_guest(FIRST, LOW, 0x200, 3));
    world.done(guest_lend_host(FIRST, 0x201));
    assert!(world.reached_by(FIRST, 0x201).is_empty());
    for access in ACCESSES {
        world.done(host_fault(LOW + 1, access));
    }
    world.refused(host_fault(LOW, Access::Read), Error::NotYours);
    for call in [
        guest_lend_host(FIRST, 0x201),
        guest_share_host(FIRST, 0x201),
        guest_unshare_host(FIRST, 0x201),
        guest_return(FIRST, 0x201),
        guest_relinquish(FIRST, 0x201),
        guest_offer(FIRST, 0x201, SECOND, Rights::FULL),
        host_donate_guest(FIRST, LOW + 8, 0x201, 1),
        host_lend_guest(FIRST, LOW + 8, 0x201, 1),
        host_grant_device(FIRST, DEVICE, 0x201, 1),
    ] {
        world.refused(call, Error::WrongState);
    }
    for call in calls_for_pages_of_the_hosts(LOW + 1, 1) {
        world.refused(call, Error::NotYours);
    }
    world.tear_down();
}

#[test]
fn the_host_gives_back_what_a_guest_lent_it_as_it_is() {
    let mut world = World::with_guests(&[true, true, false], 12);
    world.done(host_donate_guest(FIRST, LOW, 0x200, 3));
    for gfn in [0x200, 0x201] {
        world.done(guest_lend_host(FIRST, gfn));
    }
    world.machine.fill_page(0, Pfn::new(LOW + 1), 0x77);
    world.refused(host_return_guest(FIRST, LOW, 3), Error::WrongState);
    world.refused(host_return_guest(FIRST, LOW + 1, 3), Error::WrongState);
    world.refused(host_return_guest(SECOND, LOW, 1), Error::NotYours);
    world.refused(host_return_guest(THIRD, LOW, 1), Error::NotYours);
    world.refused(host_return_guest(FIRST, LOW + 3, 1), Error::NotYours);
    world.done(host_return_guest(FIRST, LOW, 2));
    assert_eq!(world.reached_by(FIRST, 0x201), [LOW + 1]);
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 1))[0], 0x77, "the guest finds what the host left for it");
    assert!(!world.machine.is_dirty(Pfn::new(LOW + 1)), "also with its caches off");
    assert!(world.reached_by_host(LOW + 1).is_empty());
    world.refused(host_return_guest(FIRST, LOW, 1), Error::WrongState);
    world.refused(host_fault(LOW + 1, Access::Read), Error::NotYours);
    world.tear_down();
}

#[test]
fn frames_that_were_lent_apart_come_back_where_they_were() {
    let mut world = World::with_two_guests();
    world.done(host_donate_guest(FIRST, LOW, 0x240, 1));
    world.done(host_donate_guest(FIRST, LOW + 1, 0x1ff, 1));
    for gfn in [0x240, 0x1ff] {
        world.done(guest_lend_host(FIRST, gfn));
    }
    world.done(host_return_guest(FIRST, LOW, 2));
    assert_eq!(world.reached_by(FIRST, 0x240), [LOW]);
    assert_eq!(world.reached_by(FIRST, 0x1ff), [LOW + 1]);
    world.tear_down();
}

#[test]
fn what_a_dying_guest_lent_is_reclaimed() {
    let mut world = World::with_two_guests();
    world.done(host_donate_guest(FIRST, LOW, 0x200, 2));
    world.done(guest_lend_host(FIRST, 0x201));
    world.done(start_teardown(FIRST));
    world.refused(host_return_guest(FIRST, LOW + 1, 1), Error::VmGone);
    world.done(reclaim(FIRST, LOW, 2));
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 1)), [0; 4096]);
    world.tear_down();
}

#[test]
fn a_page_of_a_block_is_not_lent_without_a_page_for_the_table() {
    let mut world = World::new();
    let guest = world.add_guest(true, HIGH, 1);
    world.done(host_donate_guest(guest, LOW, 0x200, 512));
    world.refused(guest_lend_host(guest, 0x210), Error::OutOfMemory);
    assert_eq!(world.guest_leaf(guest, 0x210), (2, true));
    world.tear_down();
}

#[test]
fn what_the_host_lends_or_shares_is_its_memory_still() {
    let mut world = World::with_two_guests();
    world.done(host_lend_guest(FIRST, LOW, 0x200, 2));
    world.done(host_donate_guest(FIRST, LOW + 2, 0x202, 1));
    world.done(host_share_guest(SECOND, LOW + 4, 0x200, 1));
    world.done(host_share_hyp(LOW + 5, 1));
    world.done(host_donate_hyp(LOW + 7, 1));
    let is_host_memory = |first, count| world.ownership.is_host_memory(Pfn::new(first), count);
    for (first, count) in [(LOW, 2), (LOW + 3, 4), (HIGH, HIGH_PAGES)] {
        assert!(is_host_memory(first, count), "{first:#x} {count}");
    }
    for (first, count) in
        [(LOW, 3), (LOW + 2, 1), (LOW + 3, 5), (CARVE_OUT, 1), (DEVICE, 1), (LOW - 1, 2), (LOW, 0), (u64::MAX, 1)]
    {
        assert!(!is_host_memory(first, count), "{first:#x} {count}");
    }
    world.tear_down();
}
