//! Mistakes that hypervisors of this kind have made with memory; each test is named after one.

use crate::common::calls::*;
use crate::common::step::{Step, host_fault};
use crate::common::*;
use abi::{Error, Pfn};
use ownership::Access;

#[test]
fn hyps_own_pages_stayed_mapped_in_the_hosts_stage_2() {
    let mut world = World::new();
    // A block that the host maps reaches up to the carve-out and no further.
    world.done(host_fault(CARVE_OUT - 1, Access::Write));
    for page in CARVE_OUT..LOW + LOW_PAGES {
        assert!(world.reached_by_host(page).is_empty());
    }
}

#[test]
fn a_count_overflowed_in_a_range_share() {
    let mut world = World::with_guests(&[true, false], 4);
    for count in [u64::MAX, u64::MAX - LOW, 1 << 52, (1 << 52) + 1, 1 << 63] {
        world.refused(host_share_hyp(LOW, count), Error::BadRange);
        world.refused(host_share_guest(SECOND, LOW, 0, count), Error::BadRange);
        assert_eq!(world.apply(host_donate_guest(FIRST, LOW, u64::MAX, 2)), Err(Error::BadRange));
    }
}

#[test]
fn memory_was_shared_that_is_no_memory() {
    let mut world = World::with_guests(&[true, false], 4);
    world.done(host_fault(DEVICE, Access::Write));
    for call in [
        host_share_hyp(DEVICE, 1),
        host_donate_hyp(DEVICE, 1),
        host_donate_guest(FIRST, DEVICE, 0, 1),
        host_share_guest(SECOND, DEVICE, 0, 1),
        reclaim(FIRST, DEVICE, 1),
    ] {
        world.refused(call, Error::NotMemory);
    }
}

#[test]
fn the_cache_was_not_looked_at_before_a_donation() {
    let mut world = World::with_guests(&[true, false], 0);
    world.done(host_fault(LOW, Access::Write));
    let call = host_donate_guest(FIRST, LOW, 0, 1);
    world.refused(call.clone(), Error::OutOfMemory);
    assert!(!world.reached_by_host(LOW).is_empty(), "the host lost a page that nobody got");
    assert_eq!(world.apply(host_share_guest(SECOND, LOW, 0, 1)), Err(Error::OutOfMemory));
    world.done(Step::TopUp { vm: FIRST, first: LOW + 1, count: 1 });
    world.refused(call.clone(), Error::OutOfMemory);
    world.done(Step::TopUp { vm: FIRST, first: LOW + 2, count: 1 });
    world.done(call.clone());
}

#[test]
fn a_page_was_donated_while_it_was_pinned() {
    let mut world = World::with_guests(&[true], 4);
    world.done(host_share_hyp(LOW, 1));
    world.done(hyp_pin(LOW));
    world.refused(host_donate_guest(FIRST, LOW, 0, 1), Error::Busy);
    world.refused(host_donate_hyp(LOW, 1), Error::Busy);
}

#[test]
fn a_share_was_rolled_back_in_part() {
    let mut world = World::with_guests(&[true, false], 4);
    world.done(host_donate_hyp(LOW + 3, 1));
    for call in [host_share_hyp(LOW, 4), host_donate_guest(FIRST, LOW, 0, 4), host_share_guest(SECOND, LOW, 0, 4)] {
        world.refused(call, Error::NotYours);
    }
    // Nothing was left behind: the pages before the one that is not the host's can still be shared and donated.
    world.done(host_share_hyp(LOW, 3));
    world.done(host_unshare_hyp(LOW, 3));
    world.done(host_donate_guest(FIRST, LOW, 0, 3));
}

#[test]
fn a_page_of_the_cache_was_given_away_while_the_guest_used_it() {
    let mut world = World::with_guests(&[true, true], 4);
    let cached = world.guests[0].root.raw() + 1;
    world.refused(Step::TopUp { vm: SECOND, first: cached, count: 1 }, Error::NotYours);
    for call in [host_donate_guest(SECOND, cached, 0, 1), host_share_hyp(cached, 1)] {
        world.refused(call, Error::NotYours);
    }
}

#[test]
fn another_vms_page_was_taken_with_a_dying_vms_handle() {
    let mut world = World::with_guests(&[true, true], 4);
    world.done(host_donate_guest(SECOND, LOW, 0, 1));
    world.done(start_teardown(FIRST));
    world.refused(reclaim(FIRST, LOW, 1), Error::NotYours);
    assert!(!world.reached_by(SECOND, 0).is_empty());
}

#[test]
fn a_page_reached_the_next_owner_unwiped() {
    let mut world = World::with_guests(&[true], 4);
    world.done(host_donate_guest(FIRST, LOW, 0, 2));
    world.machine.fill_page(0, Pfn::new(LOW), 0x5e);
    world.machine.fill_page(0, Pfn::new(LOW + 1), 0x5e);
    world.done(guest_relinquish(FIRST, 0));
    assert_eq!(world.machine.read_page(Pfn::new(LOW)), [0; 4096]);
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 1)), [0x5e; 4096]);
    world.done(start_teardown(FIRST));
    world.done(reclaim(FIRST, LOW + 1, 1));
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 1)), [0; 4096]);
}

#[test]
fn donated_pages_were_lost_when_a_vm_ended() {
    let mut world = World::with_guests(&[true, false], 8);
    world.done(host_donate_guest(FIRST, LOW + 1, 0x1ff, 512));
    world.done(guest_share_host(FIRST, 0x200));
    world.done(host_share_guest(SECOND, LOW + 600, 0x1ff, 3));
    world.tear_down();
}

#[test]
fn a_device_was_given_where_memory_was_meant() {
    let mut world = World::with_two_guests();
    world.done(host_grant_device(FIRST, DEVICE, 0x200, 1));
    for first in [DEVICE, DEVICE + 1] {
        for call in calls_for_pages_of_the_hosts(first, 1) {
            world.refused(call, Error::NotMemory);
        }
        world.refused(force_reclaim(FIRST, first, 1), Error::NotMemory);
        world.refused(host_return_guest(FIRST, first, 1), Error::NotMemory);
    }
    // And memory where a device was meant.
    world.refused(host_grant_device(FIRST, LOW, 0x300, 1), Error::BadRange);
    world.refused(host_donate_device_hyp(LOW, 1), Error::BadRange);
    world.tear_down();
}

#[test]
fn the_hosts_root_table_was_counted_wrong() {
    let mut world = World::with_guests(&[true], 4);
    let host_root = world.machine.cpu(0).vttbr() >> 12 & 0xf_ffff_ffff;
    let frames = world.machine.allocated_frames();
    for page in [LOW, HIGH, DEVICE] {
        for _ in 0..3 {
            // What makes tables below the root, and empties them again.
            world.done(host_fault(page, Access::Read));
            match page {
                DEVICE => {
                    world.done(host_donate_device_hyp(page, 1));
                    world.done(hyp_donate_device_host(page, 1));
                }
                _ => {
                    world.done(host_donate_guest(FIRST, page, 0, 1));
                    world.done(guest_relinquish(FIRST, 0));
                }
            }
        }
    }
    assert_eq!(world.ownership.state(Pfn::new(host_root)), Some(ownership::PageState::Hyp));
    world.refused(hyp_donate_host(host_root, 1), Error::NotYours);
    world.done(host_fault(LOW + 1, Access::Write));
    // Three of the host's tables and hyp's of the device, each made once, however often they came and went.
    let more = world.machine.allocated_frames() - frames;
    assert!(more <= 10, "{more} frames are out");
    world.tear_down();
}

#[test]
fn a_refused_top_up_leaked_the_pages_before_the_bad_one() {
    let mut world = World::with_guests(&[true], 4);
    world.done(host_share_hyp(LOW + 3, 1));
    world.refused(Step::TopUp { vm: FIRST, first: LOW, count: 4 }, Error::WrongState);
    assert_eq!(world.memory(FIRST).lock().cached_pages(), 4);
    world.done(Step::TopUp { vm: FIRST, first: LOW, count: 3 });
    assert_eq!(world.memory(FIRST).lock().cached_pages(), 7);
    world.tear_down();
}

#[test]
fn a_freed_page_was_not_as_it_came() {
    let mut world = World::with_guests(&[true], 4);
    world.done(host_donate_guest(FIRST, LOW, 0x200, 512));
    let cached = world.memory(FIRST).lock().cached_pages();
    for _ in 0..4 {
        // A table is split off a block, goes back to the cache with what was in it, and is used anew elsewhere.
        world.done(host_donate_guest(FIRST, HIGH, 0x4_0000, 1));
        world.done(guest_relinquish(FIRST, 0x4_0000));
        assert_eq!(world.memory(FIRST).lock().cached_pages(), cached);
    }
    world.tear_down();
}

#[test]
fn two_cpus_gave_pages_back_at_once() {
    let mut world = World::with_guests(&[true, true], 8);
    let frames = world.machine.allocated_frames();
    let give_and_take = |number: usize, vm: ownership_spec::Vm, first: u64| {
        let (mut cpu, guest) = (world.cpu.other(number), world.memory(vm));
        for round in 0..40 {
            let gfn = abi::Gfn::new(0x200 << (round % 3));
            world.ownership.host_donate_guest(&mut cpu, guest, Pfn::new(first), gfn, 1).unwrap();
            assert_eq!(world.ownership.guest_relinquish(&mut cpu, guest, gfn), Ok(Pfn::new(first)));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| give_and_take(1, SECOND, HIGH));
        give_and_take(0, FIRST, LOW);
    });
    for vm in [FIRST, SECOND] {
        assert_eq!(world.memory(vm).lock().cached_pages(), 8, "every page of a table came back");
    }
    world.machine.assert_clean();
    world.done(host_donate_guest(FIRST, LOW, 0x200, 1));
    world.done(guest_relinquish(FIRST, 0x200));
    let more = world.machine.allocated_frames() - frames;
    assert!(more <= 4, "{more} frames of the host's tables are out");
    world.tear_down();
}

#[test]
fn a_fault_of_the_host_raced_with_a_donation_of_the_page() {
    let mut world = World::with_guests(&[true], 8);
    let barrier = std::sync::Barrier::new(2);
    let page = Pfn::new(LOW + 3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut cpu = world.cpu.other(1);
            for _ in 0..100 {
                barrier.wait();
                // It may come before or after: it never stops hyp, and never maps a page that is gone.
                let _ = world.host_access(&mut cpu, page, Access::Write);
            }
        });
        let (mut cpu, guest, gfn) = (world.cpu.clone(), world.memory(FIRST), abi::Gfn::new(0x200));
        for _ in 0..100 {
            barrier.wait();
            world.ownership.host_donate_guest(&mut cpu, guest, page, gfn, 1).unwrap();
            assert!(world.reached_by_host(page.raw()).is_empty());
            world.ownership.guest_relinquish(&mut cpu, guest, gfn).unwrap();
        }
    });
    world.machine.assert_clean();
    world.done(host_fault(page.raw(), Access::Write));
    world.tear_down();
}
