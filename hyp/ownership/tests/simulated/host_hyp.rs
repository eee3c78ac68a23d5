//! Between the host and hyp.

use crate::common::calls::*;
use crate::common::step::{Step, host_fault};
use crate::common::*;
use abi::{Error, Pfn};
use ownership::Access;

#[test]
fn sharing_with_hyp_and_back() {
    let mut world = World::new();
    world.done(host_share_hyp(LOW + 1, 3));
    world.refused(host_share_hyp(LOW + 3, 1), Error::WrongState);
    world.refused(host_share_hyp(LOW, 5), Error::WrongState);
    world.refused(host_donate_hyp(LOW + 3, 2), Error::WrongState);
    world.refused(host_unshare_hyp(LOW, 2), Error::WrongState);
    world.refused(hyp_donate_host(LOW + 1, 1), Error::NotYours);
    world.done(host_fault(LOW + 1, Access::Write));
    world.done(host_unshare_hyp(LOW + 2, 1));
    world.done(host_unshare_hyp(LOW + 1, 1));
    world.done(host_unshare_hyp(LOW + 3, 1));
    world.refused(host_unshare_hyp(LOW + 3, 1), Error::WrongState);
    world.tear_down();
}

#[test]
fn what_hyp_borrowed_leaves_the_hosts_block_whole() {
    let mut world = World::new();
    world.done(host_fault(LOW, Access::Write));
    world.done(host_share_hyp(LOW + 1, 3));
    world.done(host_unshare_hyp(LOW + 1, 3));
    assert_eq!(world.host_leaf(LOW + 1), (2, true));
    world.tear_down();
}

#[test]
fn donating_to_hyp_and_back() {
    let mut world = World::new();
    world.done(host_fault(LOW + 5, Access::Write));
    world.done(host_donate_hyp(LOW + 5, 2));
    assert!(world.reached_by_host(LOW + 5).is_empty());
    for call in calls_for_pages_of_the_hosts(LOW + 4, 2).into_iter().take(3) {
        world.refused(call, Error::NotYours);
    }
    world.refused(host_unshare_hyp(LOW + 5, 1), Error::NotYours);
    world.refused(hyp_pin(LOW + 5), Error::NotYours);
    world.refused(hyp_donate_host(LOW + 5, 3), Error::NotYours);
    world.refused(host_fault(LOW + 6, Access::Read), Error::NotYours);
    world.done(hyp_donate_host(LOW + 5, 2));
    world.refused(hyp_donate_host(LOW + 5, 2), Error::NotYours);
    world.done(host_fault(LOW + 6, Access::Read));
    world.tear_down();
}

#[test]
fn hyp_maps_a_whole_block_by_pages_and_gives_it_back_page_by_page() {
    let mut world = World::new();
    world.done(host_donate_hyp(LOW, 512));
    world.done(Step::AllowAllocations(Some(0)));
    world.refused(hyp_donate_host(LOW + 100, 1), Error::OutOfMemory);
    world.done(Step::AllowAllocations(Some(1)));
    world.done(hyp_donate_host(LOW + 100, 1));
    world.done(hyp_donate_host(LOW + 101, 411));
    world.done(hyp_donate_host(LOW, 100));
    world.done(Step::AllowAllocations(None));
    world.done(host_share_hyp(LOW, 512));
    world.done(host_unshare_hyp(LOW, 512));
    world.tear_down();
}

#[test]
fn what_the_boot_gave_to_hyp_stays_hyps() {
    let mut world = World::with_two_guests();
    for first in [CARVE_OUT, LOW + LOW_PAGES - 1] {
        for call in calls_for_pages_of_the_hosts(first, 1) {
            world.refused(call, Error::NotYours);
        }
        world.refused(hyp_donate_host(first, 1), Error::NotYours);
        world.refused(host_unshare_hyp(first, 1), Error::NotYours);
        world.refused(reclaim(FIRST, first, 1), Error::Busy);
        for access in [Access::Read, Access::Write, Access::Execute] {
            world.refused(host_fault(first, access), Error::NotYours);
        }
    }
    world.done(host_donate_hyp(CARVE_OUT - 2, 2));
    world.refused(hyp_donate_host(CARVE_OUT - 2, 3), Error::NotYours);
    world.tear_down();
}

#[test]
fn pinned_pages_stay_shared() {
    let mut world = World::new();
    let page = LOW + 7;
    world.refused(hyp_pin(page), Error::WrongState);
    world.done(host_share_hyp(page, 2));
    world.refused(hyp_unpin(page), Error::WrongState);
    world.done(hyp_pin(page));
    world.done(hyp_pin(page));
    world.refused(host_unshare_hyp(page, 2), Error::Busy);
    world.refused(host_share_hyp(page, 1), Error::Busy);
    world.refused(host_donate_hyp(page, 1), Error::Busy);
    world.done(hyp_unpin(page));
    world.refused(host_unshare_hyp(page, 1), Error::Busy);
    world.done(hyp_unpin(page));
    world.refused(hyp_unpin(page), Error::WrongState);
    world.done(host_unshare_hyp(page, 2));
    world.tear_down();
}

#[test]
fn pins_saturate_with_an_error() {
    let world = World::new();
    let mut cpu = world.cpu.clone();
    world.ownership.host_share_hyp(&mut cpu, Pfn::new(LOW), 1, false).unwrap();
    for _ in 0..u16::MAX {
        world.ownership.hyp_pin(&mut cpu, Pfn::new(LOW)).unwrap();
    }
    assert_eq!(world.ownership.hyp_pin(&mut cpu, Pfn::new(LOW)), Err(Error::Limit));
    for _ in 0..u16::MAX {
        world.ownership.hyp_unpin(&mut cpu, Pfn::new(LOW)).unwrap();
    }
    assert_eq!(world.ownership.hyp_unpin(&mut cpu, Pfn::new(LOW)), Err(Error::WrongState));
}
