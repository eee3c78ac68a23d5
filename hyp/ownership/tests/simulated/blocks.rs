//! Blocks of 2 MiB change hands as blocks, and the host's are cut only where they must be.

use crate::common::calls::*;
use crate::common::step::{Step, host_fault};
use crate::common::*;
use abi::Error;
use ownership::Access;

#[test]
fn a_whole_block_changes_hands_as_a_block() {
    let mut world = World::new();
    let guest = world.add_guest(true, HIGH, 2);
    world.done(host_fault(LOW, Access::Read));
    world.done(host_donate_guest(guest, LOW, 0x200, 512));
    assert_eq!(world.guest_leaf(guest, 0x234), (2, true));
    assert_eq!(world.host_leaf(LOW), (2, false));
    world.done(guest_share_host(guest, 0x234));
    assert_eq!(world.guest_leaf(guest, 0x234), (2, true), "sharing needs no change of the guest's own table");
    world.refused(guest_relinquish(guest, 0x234), Error::WrongState);
    world.done(guest_relinquish(guest, 0x235));
    assert_eq!(world.guest_leaf(guest, 0x234), (3, true));
    world.tear_down();
}

#[test]
fn a_block_is_not_split_without_a_page_for_the_table() {
    let mut world = World::new();
    let guest = world.add_guest(true, HIGH, 1);
    world.done(host_donate_guest(guest, LOW, 0x200, 512));
    world.refused(guest_relinquish(guest, 0x200), Error::OutOfMemory);
    world.done(Step::TopUp { vm: guest, first: HIGH + 2, count: 1 });
    world.done(guest_relinquish(guest, 0x200));
    world.tear_down();
}

#[test]
fn lent_and_shared_blocks_stay_blocks_too() {
    for restricted in [false, true] {
        let mut world = World::new();
        let lent = world.add_guest(true, HIGH, 1);
        let shared = world.add_guest(false, HIGH + 2, 1);
        world.done(host_fault(LOW, Access::Read));
        world.done(host_lend_guest(lent, LOW, 0x200, 512));
        assert_eq!((world.guest_leaf(lent, 0x3ff), world.host_leaf(LOW)), ((2, true), (2, false)));
        world.done(start_teardown(lent));
        world.done(reclaim(lent, LOW, 512));
        if restricted {
            // The host's own table is cut into pages, so that the restriction is lifted without a frame.
            world.done(host_share_guest_restricted(shared, LOW, 0x200, 512));
            assert_eq!(world.host_leaf(LOW), (3, true));
        } else {
            world.done(host_fault(LOW, Access::Read));
            world.done(host_share_guest(shared, LOW, 0x200, 512));
            assert_eq!(world.host_leaf(LOW), (2, true), "what the host shares it keeps");
        }
        assert_eq!(world.guest_leaf(shared, 0x3ff), (2, true));
        world.done(host_unshare_guest(shared, 0x200, 512));
        world.done(host_fault(LOW + 9, Access::Write));
        world.tear_down();
    }
}

#[test]
fn a_block_that_lies_askew_is_mapped_by_pages() {
    let mut world = World::new();
    let guest = world.add_guest(true, HIGH, 4);
    world.done(host_donate_guest(guest, LOW, 0x201, 512));
    assert_eq!(world.guest_leaf(guest, 0x234), (3, true));
    assert_eq!(world.host_leaf(LOW), (2, false), "the host loses it as a block all the same");
    world.tear_down();
}

#[test]
fn the_host_loses_the_pages_of_a_block_and_no_others() {
    let mut world = World::new();
    let guest = world.add_guest(true, HIGH, 4);
    world.done(host_fault(LOW, Access::Write));
    world.done(host_donate_guest(guest, LOW + 1, 0x201, 510));
    for page in [LOW, LOW + 511] {
        assert_eq!(world.reached_by_host(page), [page], "the rest of the block stays mapped");
    }
    assert_eq!(world.host_leaf(LOW + 1), (3, false));
    world.tear_down();
}

#[test]
fn a_block_of_a_dying_guest_is_reclaimed_as_a_block() {
    let mut world = World::new();
    let guest = world.add_guest(true, HIGH, 1);
    let frames = world.machine.allocated_frames();
    world.done(host_donate_guest(guest, LOW, 0x200, 512));
    world.done(start_teardown(guest));
    world.done(reclaim(guest, LOW, 512));
    assert!(world.machine.allocated_frames() <= frames, "no table is left of it");
    world.done(host_fault(LOW + 5, Access::Write));
    assert_eq!(world.host_leaf(LOW), (2, true), "the host has a block again");
    world.tear_down();
}

#[test]
fn part_of_a_dying_guests_block_is_reclaimed_without_a_page_for_a_table() {
    let mut world = World::new();
    let guest = world.add_guest(true, HIGH, 1);
    world.done(host_donate_guest(guest, LOW, 0x200, 512));
    world.done(start_teardown(guest));
    world.done(reclaim(guest, LOW + 100, 1));
    assert!(world.reached_by(guest, 0x200).is_empty(), "the dead guest has lost the whole block");
    world.done(reclaim(guest, LOW, 100));
    world.done(reclaim(guest, LOW + 101, 411));
    world.tear_down();
}

#[test]
fn a_block_of_a_plain_guest_is_unshared_whole_without_a_table() {
    let mut world = World::new();
    let guest = world.add_guest(false, HIGH, 1);
    world.done(host_share_guest(guest, LOW, 0x200, 512));
    world.refused(host_unshare_guest(guest, 0x200, 511), Error::OutOfMemory);
    world.done(host_unshare_guest(guest, 0x200, 512));
    world.done(host_share_guest(guest, LOW, 0x200, 512));
    world.done(Step::TopUp { vm: guest, first: HIGH + 2, count: 1 });
    world.done(host_unshare_guest(guest, 0x2ff, 2));
    assert_eq!(world.guest_leaf(guest, 0x2fe), (3, true));
    assert_eq!(world.guest_leaf(guest, 0x2ff), (3, false));
    world.tear_down();
}
