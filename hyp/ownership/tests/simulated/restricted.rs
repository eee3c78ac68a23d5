//! A host that keeps only the right to read what it shares.

use crate::common::calls::*;
use crate::common::step::{Step, host_fault};
use crate::common::*;
use abi::Error;
use ownership::Access;

/// The host may only read a page.
#[track_caller]
fn only_reads(world: &mut World, page: u64) {
    world.done(host_fault(page, Access::Read));
    world.refused(host_fault(page, Access::Write), Error::NotYours);
    world.refused(host_fault(page, Access::Execute), Error::NotYours);
}

#[test]
fn the_host_only_reads_what_it_shares_with_hyp_restricted() {
    let mut world = World::new();
    world.done(host_fault(LOW + 1, Access::Write));
    world.done(host_share_hyp_restricted(LOW + 1, 2));
    for page in [LOW + 1, LOW + 2] {
        only_reads(&mut world, page);
    }
    world.done(host_fault(LOW + 3, Access::Write));
    world.refused(host_share_hyp(LOW + 1, 1), Error::WrongState);
    world.refused(host_share_hyp_restricted(LOW + 1, 1), Error::WrongState);
    world.done(hyp_pin(LOW + 1));
    world.refused(host_unshare_hyp(LOW + 1, 2), Error::Busy);
    only_reads(&mut world, LOW + 1);
    world.done(hyp_unpin(LOW + 1));
    world.done(host_unshare_hyp(LOW + 1, 2));
    world.done(host_fault(LOW + 1, Access::Write));
    world.done(host_fault(LOW + 2, Access::Execute));
    world.tear_down();
}

#[test]
fn pages_that_the_host_never_touched_are_restricted_too() {
    let mut world = World::new();
    world.done(host_share_hyp_restricted(HIGH, 2));
    only_reads(&mut world, HIGH);
    world.done(host_unshare_hyp(HIGH, 2));
    world.done(host_fault(HIGH + 1, Access::Write));
    world.tear_down();
}

#[test]
fn a_range_of_both_kinds_is_taken_back_as_one() {
    let mut world = World::new();
    world.done(host_share_hyp(LOW, 2));
    world.done(host_share_hyp_restricted(LOW + 2, 2));
    world.done(host_share_hyp(LOW + 4, 1));
    world.done(host_share_hyp_restricted(LOW + 5, 1));
    world.done(host_fault(LOW, Access::Write));
    world.done(host_unshare_hyp(LOW, 6));
    for page in LOW..LOW + 6 {
        world.done(host_fault(page, Access::Write));
    }
    world.tear_down();
}

#[test]
fn the_host_only_reads_what_guests_borrow_restricted() {
    let mut world = World::with_guests(&[false, false], 12);
    world.done(host_share_guest_restricted(FIRST, LOW, 0x10, 3));
    only_reads(&mut world, LOW + 1);
    world.done(host_share_guest_restricted(SECOND, LOW + 1, 0x10, 1));
    world.done(host_share_guest_restricted(FIRST, LOW + 1, 0x20, 1));
    world.done(host_unshare_guest(FIRST, 0x10, 3));
    world.done(host_fault(LOW, Access::Write));
    only_reads(&mut world, LOW + 1);
    world.done(host_unshare_guest(SECOND, 0x10, 1));
    only_reads(&mut world, LOW + 1);
    world.done(host_unshare_guest(FIRST, 0x20, 1));
    world.done(host_fault(LOW + 1, Access::Write));
    world.tear_down();
}

#[test]
fn all_guests_that_borrow_a_page_agree_on_the_restriction() {
    let mut world = World::with_guests(&[false, false], 12);
    world.done(host_share_guest_restricted(FIRST, LOW, 0x10, 1));
    world.done(host_share_guest(FIRST, LOW + 1, 0x11, 1));
    world.refused(host_share_guest(SECOND, LOW, 0x10, 1), Error::WrongState);
    world.refused(host_share_guest_restricted(SECOND, LOW + 1, 0x10, 1), Error::WrongState);
    world.refused(host_share_guest_restricted(SECOND, LOW, 0x10, 2), Error::WrongState);
    world.refused(host_share_guest(SECOND, LOW, 0x10, 2), Error::WrongState);
    world.done(host_share_guest_restricted(SECOND, LOW, 0x10, 1));
    world.done(host_share_guest(SECOND, LOW + 1, 0x11, 1));
    for call in [host_share_hyp(LOW, 1), host_share_hyp_restricted(LOW, 1), host_donate_hyp(LOW, 1), hyp_pin(LOW)] {
        world.refused(call, Error::WrongState);
    }
    world.tear_down();
}

#[test]
fn a_range_in_which_some_pages_are_restricted_already_joins_them() {
    let mut world = World::with_guests(&[false, false], 12);
    world.done(host_share_guest_restricted(FIRST, LOW + 2, 0x10, 2));
    world.done(host_share_guest_restricted(SECOND, LOW, 0x10, 6));
    for page in LOW..LOW + 6 {
        only_reads(&mut world, page);
    }
    world.done(host_unshare_guest(SECOND, 0x10, 6));
    only_reads(&mut world, LOW + 2);
    world.done(host_fault(LOW + 5, Access::Write));
    world.tear_down();
}

/// The pages that were restricted before the one for which there is no table are the host's again, whole.
#[test]
fn a_restriction_that_runs_out_of_frames_is_undone() {
    let mut world = World::with_guests(&[false, false], 12);
    // The last page of a block is restricted already, so that its table is there, and that of the next block is not.
    world.done(host_share_guest_restricted(FIRST, HIGH + 3, 0x10, 1));
    world.done(Step::AllowAllocations(Some(0)));
    world.refused(host_share_guest_restricted(SECOND, HIGH + 2, 0x10, 4), Error::OutOfMemory);
    world.done(host_fault(HIGH + 2, Access::Write));
    only_reads(&mut world, HIGH + 3);
    world.done(Step::AllowAllocations(None));
    world.done(host_fault(HIGH + 4, Access::Write));
    world.done(host_share_guest_restricted(SECOND, HIGH + 2, 0x10, 4));
    for page in HIGH + 2..HIGH + 6 {
        only_reads(&mut world, page);
    }
    world.tear_down();
}
