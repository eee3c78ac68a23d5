//! What every call refuses, whatever the state: malformed ranges, and what there is no memory for.

use crate::common::calls::*;
use crate::common::step::Step;
use crate::common::*;
use abi::Error;
use abi::host::MAX_PAGES_PER_CALL;
use ownership_spec::Rights;

/// Ranges that no call takes, whatever the state: with the error that it must give.
const BAD_RANGES: [(u64, u64, Error); 17] = [
    (LOW, 0, Error::BadRange),
    (LOW, u64::MAX, Error::BadRange),
    (LOW, MAX_PAGES_PER_CALL + 1, Error::BadRange),
    (LOW, MAX_PAGES_PER_CALL, Error::NotMemory),
    (u64::MAX, 1, Error::BadRange),
    (u64::MAX, 2, Error::BadRange),
    (u64::MAX - 1, 1, Error::BadRange),
    (1 << 52, 1, Error::BadRange),
    (1 << 52 | LOW, 1, Error::BadRange),
    (PFN_LIMIT, 1, Error::BadRange),
    (PFN_LIMIT - 1, 2, Error::BadRange),
    (PFN_LIMIT - 1, 1, Error::NotMemory),
    (DEVICE, 1, Error::NotMemory),
    (LOW - 1, 2, Error::NotMemory),
    (LOW + LOW_PAGES, 1, Error::NotMemory),
    (HIGH - 1, 1, Error::NotMemory),
    (HIGH + HIGH_PAGES - 1, 2, Error::NotMemory),
];

/// Frames that no guest has.
const BAD_FRAMES: [u64; 5] = [GFN_LIMIT, u64::MAX, 1 << 52, 1 << 52 | 0x100, GFN_LIMIT - 1];

/// Ranges that no call takes that is for devices.
const BAD_DEVICES: [(u64, u64); 8] = [
    (DEVICE, 0),
    (DEVICE, u64::MAX),
    (DEVICE, MAX_PAGES_PER_CALL + 1),
    (u64::MAX, 1),
    (PFN_LIMIT - 1, 2),
    (LOW, 1),
    (LOW - 1, 2),
    (HIGH + HIGH_PAGES - 1, 2),
];

#[test]
fn bad_ranges_are_refused_by_every_call() {
    let mut world = World::with_two_guests();
    for (first, count, error) in BAD_RANGES {
        let others = [
            host_unshare_hyp(first, count),
            hyp_donate_host(first, count),
            host_return_guest(FIRST, first, count),
            reclaim(FIRST, first, count),
            force_reclaim(FIRST, first, count),
        ];
        for call in calls_for_pages_of_the_hosts(first, count).into_iter().chain(others) {
            world.refused(call, error);
        }
        if count == 1 {
            world.refused(hyp_pin(first), error);
            world.refused(hyp_unpin(first), error);
        }
    }
    for (first, count) in BAD_DEVICES {
        for call in [
            host_grant_device(FIRST, first, 0x100, count),
            reclaim_device(FIRST, first, count),
            host_donate_device_hyp(first, count),
            hyp_donate_device_host(first, count),
        ] {
            world.refused(call, Error::BadRange);
        }
    }
    world.tear_down();
}

#[test]
fn bad_frames_are_refused_by_every_call() {
    let mut world = World::with_two_guests();
    for gfn in BAD_FRAMES {
        for call in [
            host_donate_guest(FIRST, LOW, gfn, 2),
            host_lend_guest(FIRST, LOW, gfn, 2),
            host_share_guest(SECOND, LOW, gfn, 2),
            host_unshare_guest(SECOND, gfn, 2),
            host_grant_device(FIRST, DEVICE, gfn, 2),
        ] {
            world.refused(call, Error::BadRange);
        }
        if gfn != GFN_LIMIT - 1 {
            for call in [
                guest_share_host(FIRST, gfn),
                guest_unshare_host(FIRST, gfn),
                guest_lend_host(FIRST, gfn),
                guest_return(FIRST, gfn),
                guest_relinquish(FIRST, gfn),
                guest_offer(FIRST, gfn, SECOND, Rights::FULL),
                guest_accept(FIRST, SECOND, 1, gfn, Rights::FULL),
            ] {
                world.refused(call, Error::BadRange);
            }
        }
    }
    for count in [0, MAX_PAGES_PER_CALL + 1, u64::MAX] {
        world.refused(host_unshare_guest(SECOND, 0, count), Error::BadRange);
    }
    world.tear_down();
}

#[test]
fn a_transition_that_runs_out_of_frames_changes_nothing() {
    for call in [
        host_share_hyp(LOW + 510, 4),
        host_donate_hyp(LOW + 510, 4),
        host_donate_guest(FIRST, LOW + 510, 0x3fe, 4),
        host_lend_guest(FIRST, LOW + 510, 0x3fe, 4),
        host_share_hyp_restricted(LOW + 510, 4),
        host_share_guest_restricted(SECOND, LOW + 510, 0x3fe, 4),
        host_grant_device(FIRST, DEVICE, 0, 2),
        host_donate_device_hyp(DEVICE, 2),
    ] {
        let mut refusals = 0;
        for frames in 0.. {
            let mut world = World::with_two_guests();
            let before = world.machine.allocated_frames();
            world.done(Step::AllowAllocations(Some(frames)));
            let result = world.apply(call.clone());
            if result.is_ok() {
                break;
            }
            assert_eq!(result, Err(Error::OutOfMemory));
            assert_eq!(world.machine.allocated_frames(), before, "{call:?} with {frames} frames leaks");
            refusals += 1;
            world.tear_down();
        }
        assert_ne!(refusals, 0, "{call:?} needs no frame and so proves nothing");
    }
}
