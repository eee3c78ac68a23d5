//! Pages that the host takes from a living guest by force, and the frames that are left behind.

use crate::common::calls::*;
use crate::common::step::{Step, host_fault};
use crate::common::*;
use abi::{Error, Gfn, Pfn};
use ownership::annotation::Absence;
use ownership::{Access, Presence};
use ownership_spec::Rights;

/// What a guest finds at a frame.
fn presence(world: &World, vm: ownership_spec::Vm, gfn: u64) -> Presence {
    world.memory(vm).lock().presence(&world.cpu, Gfn::new(gfn).checked_address().unwrap()).unwrap()
}

const POISONED: Presence = Presence::Absent(Absence::Poisoned);

#[test]
fn what_is_taken_by_force_comes_wiped_and_leaves_a_mark() {
    let mut world = World::with_two_guests();
    world.done(host_donate_guest(FIRST, LOW, 0x200, 4));
    world.machine.fill_page(0, Pfn::new(LOW + 1), 0x5e);
    world.done(force_reclaim(FIRST, LOW + 1, 2));
    assert!(world.reached_by(FIRST, 0x201).is_empty());
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 1)), [0; 4096]);
    for gfn in [0x201, 0x202] {
        assert_eq!(presence(&world, FIRST, gfn), POISONED);
    }
    assert_eq!(presence(&world, FIRST, 0x203), Presence::Mapped);
    world.done(host_fault(LOW + 1, Access::Write));
    world.refused(host_fault(LOW, Access::Read), Error::NotYours);
    world.refused(force_reclaim(FIRST, LOW + 1, 1), Error::NotYours);
    world.tear_down();
}

#[test]
fn a_guest_is_told_what_is_at_a_frame() {
    let mut world = World::with_two_guests();
    world.done(host_donate_guest(FIRST, LOW, 0x200, 3));
    world.done(guest_lend_host(FIRST, 0x201));
    world.done(force_reclaim(FIRST, LOW + 2, 1));
    let lent = Presence::Absent(Absence::LentToHost(Pfn::new(LOW + 1)));
    for (gfn, expected) in [(0x200, Presence::Mapped), (0x201, lent), (0x202, POISONED), (0x203, Presence::Nothing)] {
        assert_eq!(presence(&world, FIRST, gfn), expected, "{gfn:#x}");
    }
    world.tear_down();
}

#[test]
fn nothing_comes_to_a_poisoned_frame_ever() {
    let mut world = World::with_guests(&[true, true], 12);
    world.done(host_donate_guest(FIRST, LOW, 0x200, 1));
    world.done(force_reclaim(FIRST, LOW, 1));
    world.done(host_donate_guest(SECOND, LOW + 8, 0x200, 1));
    world.done(guest_offer(SECOND, 0x200, FIRST, Rights::FULL));
    for call in [
        host_donate_guest(FIRST, LOW, 0x200, 1),
        host_donate_guest(FIRST, LOW, 0x1ff, 2),
        host_lend_guest(FIRST, LOW, 0x200, 1),
        host_grant_device(FIRST, DEVICE, 0x200, 1),
        guest_accept(FIRST, SECOND, 1, 0x200, Rights::FULL),
        guest_share_host(FIRST, 0x200),
        guest_unshare_host(FIRST, 0x200),
        guest_lend_host(FIRST, 0x200),
        guest_return(FIRST, 0x200),
        guest_relinquish(FIRST, 0x200),
        guest_offer(FIRST, 0x200, SECOND, Rights::FULL),
    ] {
        world.refused(call, Error::WrongState);
    }
    assert_eq!(presence(&world, FIRST, 0x200), POISONED);
    world.done(host_donate_guest(FIRST, LOW, 0x201, 1));
    world.tear_down();
}

#[test]
fn pages_are_taken_whoever_uses_them_but_another_guest() {
    let mut world = World::with_guests(&[true, true], 12);
    world.done(host_donate_guest(FIRST, LOW, 0x200, 6));
    world.done(guest_share_host(FIRST, 0x200));
    world.done(host_fault(LOW, Access::Write));
    world.done(guest_lend_host(FIRST, 0x201));
    world.done(guest_offer(FIRST, 0x202, SECOND, Rights::FULL));
    world.done(guest_offer(FIRST, 0x203, SECOND, Rights::FULL));
    world.done(guest_accept(SECOND, FIRST, 2, 0x300, Rights::FULL));
    world.done(host_lend_guest(FIRST, LOW + 6, 0x300, 1));
    world.refused(force_reclaim(FIRST, LOW, 7), Error::Busy);
    world.done(force_reclaim(FIRST, LOW, 3));
    world.done(force_reclaim(FIRST, LOW + 4, 3));
    for gfn in [0x200, 0x201, 0x202, 0x204, 0x300] {
        assert_eq!(presence(&world, FIRST, gfn), POISONED, "{gfn:#x}");
    }
    world.refused(guest_accept(SECOND, FIRST, 1, 0x301, Rights::FULL), Error::WrongState);
    world.done(guest_drop(SECOND, FIRST, 2));
    world.done(force_reclaim(FIRST, LOW + 3, 1));
    world.tear_down();
}

#[test]
fn force_is_for_living_guests_and_their_pages() {
    let mut world = World::with_guests(&[true, true, false], 12);
    world.done(host_donate_guest(FIRST, LOW, 0x200, 2));
    world.done(host_share_guest(THIRD, LOW + 8, 0x10, 1));
    world.refused(force_reclaim(SECOND, LOW, 1), Error::NotYours);
    world.refused(force_reclaim(FIRST, LOW + 1, 2), Error::NotYours);
    world.refused(force_reclaim(FIRST, CARVE_OUT, 1), Error::NotYours);
    world.refused(force_reclaim(THIRD, LOW + 8, 1), Error::WrongState);
    world.done(start_teardown(FIRST));
    world.refused(force_reclaim(FIRST, LOW, 1), Error::VmGone);
    world.tear_down();
}

#[test]
fn a_whole_block_is_poisoned_without_a_table() {
    let mut world = World::new();
    let guest = world.add_guest(true, HIGH, 1);
    world.done(host_donate_guest(guest, LOW, 0x200, 512));
    world.done(force_reclaim(guest, LOW, 512));
    assert_eq!(world.guest_leaf(guest, 0x300), (2, false));
    assert_eq!(presence(&world, guest, 0x300), POISONED);
    world.tear_down();
}

#[test]
fn part_of_a_block_is_not_poisoned_without_a_page_for_the_table() {
    let mut world = World::new();
    let guest = world.add_guest(true, HIGH, 1);
    world.done(host_donate_guest(guest, LOW, 0x200, 512));
    world.refused(force_reclaim(guest, LOW + 5, 2), Error::OutOfMemory);
    assert_eq!(world.guest_leaf(guest, 0x205), (2, true));
    world.done(Step::TopUp { vm: guest, first: HIGH + 2, count: 1 });
    world.done(force_reclaim(guest, LOW + 5, 2));
    assert_eq!(world.reached_by(guest, 0x204), [LOW + 4]);
    assert!(world.reached_by(guest, 0x205).is_empty());
    world.tear_down();
}

#[test]
fn frames_in_any_order_are_poisoned_together() {
    let mut world = World::with_two_guests();
    for (page, gfn) in [(LOW, 0x240), (LOW + 1, 0x1ff), (LOW + 2, 0x200), (LOW + 3, 0x10)] {
        world.done(host_donate_guest(FIRST, page, gfn, 1));
    }
    world.done(force_reclaim(FIRST, LOW, 4));
    for gfn in [0x240, 0x1ff, 0x200, 0x10] {
        assert_eq!(presence(&world, FIRST, gfn), POISONED, "{gfn:#x}");
    }
    world.tear_down();
}
