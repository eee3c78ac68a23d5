//! Every transition, done where it is legal and refused where it is not. Each call is compared with the specification
//! and each step judged by the simulated machine.

use crate::common::call::Call::{self, *};
use crate::common::{CARVE_OUT, DEVICE, DIRT, GFN_LIMIT, HIGH, HIGH_PAGES, LOW, LOW_PAGES, PFN_LIMIT, World};
use abi::host::MAX_PAGES_PER_CALL;
use abi::{Error, Gfn, Pfn, PhysAddr};
use ownership::{Access, Rights};

/// Ranges that no call takes, whatever the state: with the error that it must give.
const BAD_RANGES: [(u64, u64, Error); 16] = [
    (LOW, 0, Error::BadRange),
    (LOW, u64::MAX, Error::BadRange),
    (LOW, MAX_PAGES_PER_CALL + 1, Error::BadRange),
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

fn refused(world: &mut World, call: Call, error: Error) {
    assert_eq!(world.apply(&call), Err(error), "{call:?}");
}

fn done(world: &mut World, call: Call) {
    assert_eq!(world.apply(&call), Ok(()), "{call:?}");
}

/// Calls that want pages which the host has to itself, for the first protected guest and the first other one.
fn calls_for_pages_of_the_hosts(first: u64, count: u64) -> [Call; 4] {
    [
        HostShareHyp { first, count },
        HostDonateHyp { first, count },
        HostDonateGuest { guest: 0, first, gfn: 0x100, count },
        HostShareGuest { guest: 1, first, gfn: 0x100, count, rights: Rights::FULL },
    ]
}

/// One protected guest, number 0, and one that is not, number 1.
fn two_guests() -> World {
    World::with_guests(&[true, false], 12)
}

#[test]
fn bad_ranges_are_refused_by_every_call() {
    let mut world = two_guests();
    for (first, count, error) in BAD_RANGES {
        let unshare_and_back =
            [HostUnshareHyp { first, count }, HypDonateHost { first, count }, Reclaim { guest: 0, first, count }];
        for call in calls_for_pages_of_the_hosts(first, count).into_iter().chain(unshare_and_back) {
            refused(&mut world, call, error);
        }
        if count == 1 {
            refused(&mut world, Pin { page: first }, error);
            refused(&mut world, Unpin { page: first }, error);
        }
    }
    world.tear_down();
}

#[test]
fn bad_frames_are_refused_by_every_call() {
    let mut world = two_guests();
    for gfn in BAD_FRAMES {
        let (first, count) = (LOW, 2);
        refused(&mut world, HostDonateGuest { guest: 0, first, gfn, count }, Error::BadRange);
        refused(&mut world, HostShareGuest { guest: 1, first, gfn, count, rights: Rights::FULL }, Error::BadRange);
        refused(&mut world, HostUnshareGuest { guest: 1, gfn, count }, Error::BadRange);
        if gfn != GFN_LIMIT - 1 {
            refused(&mut world, GuestShareHost { guest: 0, gfn }, Error::BadRange);
            refused(&mut world, GuestUnshareHost { guest: 0, gfn }, Error::BadRange);
            refused(&mut world, GuestRelinquish { guest: 0, gfn }, Error::BadRange);
        }
    }
    for count in [0, MAX_PAGES_PER_CALL + 1, u64::MAX] {
        refused(&mut world, HostUnshareGuest { guest: 1, gfn: 0, count }, Error::BadRange);
    }
    world.tear_down();
}

#[test]
fn sharing_with_hyp_and_back() {
    let mut world = World::new();
    done(&mut world, HostShareHyp { first: LOW + 1, count: 3 });
    refused(&mut world, HostShareHyp { first: LOW + 3, count: 1 }, Error::WrongState);
    refused(&mut world, HostShareHyp { first: LOW, count: 5 }, Error::WrongState);
    refused(&mut world, HostDonateHyp { first: LOW + 3, count: 2 }, Error::WrongState);
    refused(&mut world, HostUnshareHyp { first: LOW, count: 2 }, Error::WrongState);
    refused(&mut world, HypDonateHost { first: LOW + 1, count: 1 }, Error::NotYours);
    done(&mut world, HostFault { page: LOW + 1, access: Access::Write });
    done(&mut world, HostUnshareHyp { first: LOW + 2, count: 1 });
    done(&mut world, HostUnshareHyp { first: LOW + 1, count: 1 });
    done(&mut world, HostUnshareHyp { first: LOW + 3, count: 1 });
    refused(&mut world, HostUnshareHyp { first: LOW + 3, count: 1 }, Error::WrongState);
    world.tear_down();
}

#[test]
fn donating_to_hyp_and_back() {
    let mut world = World::new();
    done(&mut world, HostFault { page: LOW + 5, access: Access::Write });
    done(&mut world, HostDonateHyp { first: LOW + 5, count: 2 });
    assert!(world.reached_by_host(Pfn::new(LOW + 5)).is_empty());
    for call in calls_for_pages_of_the_hosts(LOW + 4, 2).into_iter().take(2) {
        refused(&mut world, call, Error::NotYours);
    }
    refused(&mut world, HostUnshareHyp { first: LOW + 5, count: 1 }, Error::NotYours);
    refused(&mut world, Pin { page: LOW + 5 }, Error::NotYours);
    refused(&mut world, HypDonateHost { first: LOW + 5, count: 3 }, Error::NotYours);
    refused(&mut world, HostFault { page: LOW + 6, access: Access::Read }, Error::NotYours);
    done(&mut world, HypDonateHost { first: LOW + 5, count: 2 });
    refused(&mut world, HypDonateHost { first: LOW + 5, count: 2 }, Error::NotYours);
    done(&mut world, HostFault { page: LOW + 6, access: Access::Read });
    world.tear_down();
}

#[test]
fn hyp_maps_a_whole_block_by_pages_and_gives_it_back_page_by_page() {
    let mut world = World::new();
    done(&mut world, HostDonateHyp { first: LOW, count: 512 });
    done(&mut world, AllowAllocations { count: Some(0) });
    refused(&mut world, HypDonateHost { first: LOW + 100, count: 1 }, Error::OutOfMemory);
    done(&mut world, AllowAllocations { count: Some(1) });
    done(&mut world, HypDonateHost { first: LOW + 100, count: 1 });
    done(&mut world, HypDonateHost { first: LOW + 101, count: 411 });
    done(&mut world, HypDonateHost { first: LOW, count: 100 });
    done(&mut world, AllowAllocations { count: None });
    done(&mut world, HostShareHyp { first: LOW, count: 512 });
    done(&mut world, HostUnshareHyp { first: LOW, count: 512 });
    world.tear_down();
}

#[test]
fn what_the_boot_gave_to_hyp_stays_hyps() {
    let mut world = two_guests();
    for first in [CARVE_OUT, LOW + LOW_PAGES - 1] {
        for call in calls_for_pages_of_the_hosts(first, 1) {
            refused(&mut world, call, Error::NotYours);
        }
        refused(&mut world, HypDonateHost { first, count: 1 }, Error::NotYours);
        refused(&mut world, HostUnshareHyp { first, count: 1 }, Error::NotYours);
        refused(&mut world, Reclaim { guest: 0, first, count: 1 }, Error::Busy);
        for access in [Access::Read, Access::Write, Access::Execute] {
            refused(&mut world, HostFault { page: first, access }, Error::NotYours);
        }
    }
    done(&mut world, HostDonateHyp { first: CARVE_OUT - 2, count: 2 });
    refused(&mut world, HypDonateHost { first: CARVE_OUT - 2, count: 3 }, Error::NotYours);
    world.tear_down();
}

#[test]
fn pinned_pages_stay_shared() {
    let mut world = World::new();
    let page = LOW + 7;
    refused(&mut world, Pin { page }, Error::WrongState);
    done(&mut world, HostShareHyp { first: page, count: 2 });
    refused(&mut world, Unpin { page }, Error::WrongState);
    done(&mut world, Pin { page });
    done(&mut world, Pin { page });
    refused(&mut world, HostUnshareHyp { first: page, count: 2 }, Error::Busy);
    refused(&mut world, HostShareHyp { first: page, count: 1 }, Error::Busy);
    refused(&mut world, HostDonateHyp { first: page, count: 1 }, Error::Busy);
    done(&mut world, Unpin { page });
    refused(&mut world, HostUnshareHyp { first: page, count: 1 }, Error::Busy);
    done(&mut world, Unpin { page });
    refused(&mut world, Unpin { page }, Error::WrongState);
    done(&mut world, HostUnshareHyp { first: page, count: 2 });
    world.tear_down();
}

#[test]
fn pins_saturate_with_an_error() {
    let world = World::new();
    let mut cpu = world.cpu.clone();
    world.ownership.host_share_hyp(&mut cpu, Pfn::new(LOW), 1).unwrap();
    for _ in 0..u16::MAX {
        world.ownership.hyp_pin(Pfn::new(LOW)).unwrap();
    }
    assert_eq!(world.ownership.hyp_pin(Pfn::new(LOW)), Err(Error::Limit));
    for _ in 0..u16::MAX {
        world.ownership.hyp_unpin(Pfn::new(LOW)).unwrap();
    }
    assert_eq!(world.ownership.hyp_unpin(Pfn::new(LOW)), Err(Error::WrongState));
}

#[test]
fn a_protected_guests_page_is_its_own() {
    let mut world = two_guests();
    done(&mut world, HostFault { page: LOW + 9, access: Access::Write });
    done(&mut world, HostDonateGuest { guest: 0, first: LOW + 8, gfn: 0x4_0000, count: 4 });
    assert_eq!(world.reached_by_guest(0, Gfn::new(0x4_0001)), [PhysAddr::new((LOW + 9) << 12)]);
    assert!(world.reached_by_host(Pfn::new(LOW + 9)).is_empty());
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 9))[0], DIRT, "the guest finds what the host left for it");
    assert!(!world.machine.is_dirty(Pfn::new(LOW + 9)), "also with its caches off");
    for call in calls_for_pages_of_the_hosts(LOW + 11, 1) {
        refused(&mut world, call, Error::NotYours);
    }
    for (first, count) in [(LOW + 7, 2), (LOW + 11, 2)] {
        for call in calls_for_pages_of_the_hosts(first, count) {
            refused(&mut world, call, Error::NotYours);
        }
    }
    refused(&mut world, HypDonateHost { first: LOW + 8, count: 1 }, Error::NotYours);
    refused(&mut world, HostUnshareHyp { first: LOW + 8, count: 1 }, Error::NotYours);
    refused(&mut world, Pin { page: LOW + 8 }, Error::NotYours);
    refused(&mut world, Reclaim { guest: 0, first: LOW + 8, count: 1 }, Error::Busy);
    for access in [Access::Read, Access::Write, Access::Execute] {
        refused(&mut world, HostFault { page: LOW + 8, access }, Error::NotYours);
    }
    world.tear_down();
}

#[test]
fn two_pages_are_not_given_the_same_frame() {
    let mut world = two_guests();
    done(&mut world, HostDonateGuest { guest: 0, first: LOW, gfn: 0x10, count: 2 });
    refused(&mut world, HostDonateGuest { guest: 0, first: LOW + 4, gfn: 0x11, count: 1 }, Error::WrongState);
    refused(&mut world, HostDonateGuest { guest: 0, first: LOW + 4, gfn: 0xf, count: 2 }, Error::WrongState);
    done(&mut world, HostDonateGuest { guest: 0, first: LOW + 4, gfn: 0xf, count: 1 });
    let rights = Rights::FULL;
    done(&mut world, HostShareGuest { guest: 1, first: LOW + 8, gfn: 0x10, count: 2, rights });
    refused(&mut world, HostShareGuest { guest: 1, first: LOW + 8, gfn: 0x11, count: 1, rights }, Error::WrongState);
    world.tear_down();
}

#[test]
fn the_guests_kind_decides_how_it_gets_memory() {
    let mut world = two_guests();
    let rights = Rights::FULL;
    refused(&mut world, HostDonateGuest { guest: 1, first: LOW, gfn: 0, count: 1 }, Error::WrongState);
    refused(&mut world, HostShareGuest { guest: 0, first: LOW, gfn: 0, count: 1, rights }, Error::WrongState);
    done(&mut world, HostDonateGuest { guest: 0, first: LOW, gfn: 0, count: 1 });
    refused(&mut world, HostUnshareGuest { guest: 0, gfn: 0, count: 1 }, Error::WrongState);
    done(&mut world, HostShareGuest { guest: 1, first: LOW + 1, gfn: 0, count: 1, rights });
    refused(&mut world, GuestShareHost { guest: 1, gfn: 0 }, Error::WrongState);
    refused(&mut world, GuestUnshareHost { guest: 1, gfn: 0 }, Error::WrongState);
    refused(&mut world, GuestRelinquish { guest: 1, gfn: 0 }, Error::WrongState);
    world.tear_down();
}

#[test]
fn a_page_may_be_shared_with_guests_many_times() {
    let mut world = World::with_guests(&[true, false, false], 12);
    let share = |guest, gfn, write, execute| HostShareGuest {
        guest,
        first: LOW + 3,
        gfn,
        count: 2,
        rights: Rights { write, execute },
    };
    done(&mut world, share(1, 0x10, true, true));
    done(&mut world, share(1, 0x20, false, true));
    done(&mut world, share(2, 0x10, true, false));
    done(&mut world, HostFault { page: LOW + 3, access: Access::Execute });
    for call in [
        HostShareHyp { first: LOW + 3, count: 1 },
        HostDonateHyp { first: LOW + 3, count: 1 },
        HostDonateGuest { guest: 0, first: LOW + 3, gfn: 0, count: 1 },
        HostUnshareHyp { first: LOW + 3, count: 1 },
        Pin { page: LOW + 3 },
    ] {
        refused(&mut world, call, Error::WrongState);
    }
    done(&mut world, HostUnshareGuest { guest: 1, gfn: 0x10, count: 2 });
    refused(&mut world, HostUnshareGuest { guest: 1, gfn: 0x10, count: 1 }, Error::WrongState);
    refused(&mut world, HostUnshareGuest { guest: 2, gfn: 0x10, count: 3 }, Error::WrongState);
    done(&mut world, HostUnshareGuest { guest: 2, gfn: 0x11, count: 1 });
    done(&mut world, HostUnshareGuest { guest: 2, gfn: 0x10, count: 1 });
    refused(&mut world, HostDonateHyp { first: LOW + 3, count: 1 }, Error::WrongState);
    done(&mut world, HostUnshareGuest { guest: 1, gfn: 0x20, count: 2 });
    done(&mut world, HostDonateHyp { first: LOW + 3, count: 2 });
    done(&mut world, HypDonateHost { first: LOW + 3, count: 2 });
    world.tear_down();
}

#[test]
fn pages_that_hyp_borrows_are_not_shared_with_guests() {
    let mut world = two_guests();
    let share = HostShareGuest { guest: 1, first: LOW, gfn: 0, count: 1, rights: Rights::FULL };
    done(&mut world, HostShareHyp { first: LOW, count: 1 });
    refused(&mut world, share.clone(), Error::WrongState);
    done(&mut world, Pin { page: LOW });
    refused(&mut world, share, Error::Busy);
    refused(&mut world, HostDonateGuest { guest: 0, first: LOW, gfn: 0, count: 1 }, Error::Busy);
    done(&mut world, Unpin { page: LOW });
    refused(&mut world, HostDonateGuest { guest: 0, first: LOW, gfn: 0, count: 1 }, Error::WrongState);
    world.tear_down();
}

#[test]
fn a_guest_shares_a_page_with_the_host_and_takes_it_back() {
    let mut world = two_guests();
    done(&mut world, HostDonateGuest { guest: 0, first: LOW, gfn: 0x30, count: 3 });
    refused(&mut world, GuestShareHost { guest: 0, gfn: 0x33 }, Error::NotMemory);
    refused(&mut world, GuestUnshareHost { guest: 0, gfn: 0x31 }, Error::WrongState);
    done(&mut world, GuestShareHost { guest: 0, gfn: 0x31 });
    done(&mut world, HostFault { page: LOW + 1, access: Access::Write });
    refused(&mut world, HostFault { page: LOW + 1, access: Access::Execute }, Error::NotYours);
    refused(&mut world, HostFault { page: LOW, access: Access::Read }, Error::NotYours);
    refused(&mut world, GuestShareHost { guest: 0, gfn: 0x31 }, Error::WrongState);
    refused(&mut world, GuestRelinquish { guest: 0, gfn: 0x31 }, Error::WrongState);
    for call in calls_for_pages_of_the_hosts(LOW + 1, 1) {
        refused(&mut world, call, Error::NotYours);
    }
    done(&mut world, GuestUnshareHost { guest: 0, gfn: 0x31 });
    assert!(world.reached_by_host(Pfn::new(LOW + 1)).is_empty());
    refused(&mut world, GuestUnshareHost { guest: 0, gfn: 0x31 }, Error::WrongState);
    refused(&mut world, HostFault { page: LOW + 1, access: Access::Read }, Error::NotYours);
    world.tear_down();
}

#[test]
fn a_guest_gives_a_page_back() {
    let mut world = two_guests();
    done(&mut world, HostDonateGuest { guest: 0, first: LOW + 512, gfn: 0x200, count: 8 });
    done(&mut world, GuestRelinquish { guest: 0, gfn: 0x203 });
    assert!(world.reached_by_guest(0, Gfn::new(0x203)).is_empty());
    refused(&mut world, GuestRelinquish { guest: 0, gfn: 0x203 }, Error::NotMemory);
    done(&mut world, HostFault { page: LOW + 515, access: Access::Read });
    refused(&mut world, HostFault { page: LOW + 514, access: Access::Read }, Error::NotYours);
    done(&mut world, HostDonateGuest { guest: 0, first: LOW, gfn: 0x203, count: 1 });
    world.tear_down();
}

#[test]
fn a_whole_block_changes_hands_as_a_block() {
    let mut world = World::new();
    let guest = world.add_guest(true, Pfn::new(HIGH), 2);
    done(&mut world, HostFault { page: LOW, access: Access::Read });
    done(&mut world, HostDonateGuest { guest, first: LOW, gfn: 0x200, count: 512 });
    let leaf = |world: &World, gfn: u64| {
        let memory = world.guests[0].memory.lock();
        memory.lookup(&world.cpu, Gfn::new(gfn).checked_address().unwrap()).unwrap()
    };
    assert_eq!(leaf(&world, 0x234).level, 2);
    let host = world.ownership.host_leaf(&world.cpu, abi::Ipa::new(LOW << 12)).unwrap();
    assert_eq!((host.level, host.is_valid()), (2, false));
    done(&mut world, GuestShareHost { guest, gfn: 0x234 });
    assert_eq!(leaf(&world, 0x234).level, 2, "sharing needs no change of the guest's own table");
    refused(&mut world, GuestRelinquish { guest, gfn: 0x234 }, Error::WrongState);
    done(&mut world, GuestRelinquish { guest, gfn: 0x235 });
    assert_eq!(leaf(&world, 0x234).level, 3);
    world.tear_down();
}

#[test]
fn a_block_is_not_split_without_a_page_for_the_table() {
    let mut world = World::new();
    let guest = world.add_guest(true, Pfn::new(HIGH), 1);
    done(&mut world, HostDonateGuest { guest, first: LOW, gfn: 0x200, count: 512 });
    refused(&mut world, GuestRelinquish { guest, gfn: 0x200 }, Error::OutOfMemory);
    done(&mut world, TopUp { guest, first: HIGH + 2, count: 1 });
    done(&mut world, GuestRelinquish { guest, gfn: 0x200 });
    world.tear_down();
}

#[test]
fn a_dying_guest_gets_and_gives_nothing() {
    let mut world = two_guests();
    done(&mut world, HostDonateGuest { guest: 0, first: LOW, gfn: 0x200, count: 2 });
    done(&mut world, HostShareGuest { guest: 1, first: LOW + 4, gfn: 0, count: 1, rights: Rights::FULL });
    for guest in [0, 1] {
        done(&mut world, StartTeardown { guest });
    }
    refused(&mut world, HostDonateGuest { guest: 0, first: LOW + 8, gfn: 0, count: 1 }, Error::VmGone);
    refused(&mut world, GuestShareHost { guest: 0, gfn: 0x200 }, Error::VmGone);
    refused(&mut world, GuestUnshareHost { guest: 0, gfn: 0x200 }, Error::VmGone);
    refused(&mut world, GuestRelinquish { guest: 0, gfn: 0x200 }, Error::VmGone);
    let share = HostShareGuest { guest: 1, first: LOW + 8, gfn: 1, count: 1, rights: Rights::FULL };
    refused(&mut world, share, Error::VmGone);
    done(&mut world, HostUnshareGuest { guest: 1, gfn: 0, count: 1 });
    world.tear_down();
}

#[test]
fn pages_of_a_dying_guest_are_reclaimed_wiped() {
    let mut world = World::with_guests(&[true, true], 12);
    done(&mut world, HostDonateGuest { guest: 0, first: LOW, gfn: 0x200, count: 512 });
    done(&mut world, HostDonateGuest { guest: 1, first: HIGH, gfn: 0x1000, count: 4 });
    done(&mut world, GuestShareHost { guest: 0, gfn: 0x205 });
    done(&mut world, StartTeardown { guest: 0 });
    refused(&mut world, Reclaim { guest: 0, first: LOW + 510, count: 3 }, Error::NotYours);
    refused(&mut world, Reclaim { guest: 0, first: HIGH, count: 1 }, Error::NotYours);
    refused(&mut world, Reclaim { guest: 1, first: HIGH, count: 1 }, Error::Busy);
    assert_eq!(
        world.ownership.drain(&mut world.cpu.clone(), &world.guests[0].memory),
        Err(Error::Busy),
        "the guest still holds pages"
    );
    done(&mut world, Reclaim { guest: 0, first: LOW + 1, count: 1 });
    refused(&mut world, Reclaim { guest: 0, first: LOW + 1, count: 1 }, Error::NotYours);
    done(&mut world, Reclaim { guest: 0, first: LOW + 2, count: 510 });
    done(&mut world, HostFault { page: LOW + 5, access: Access::Execute });
    refused(&mut world, HostFault { page: LOW, access: Access::Read }, Error::NotYours);
    done(&mut world, Reclaim { guest: 0, first: LOW, count: 1 });
    assert_eq!(world.guests[0].memory.lock().pages_held(), 0);
    world.tear_down();
}

#[test]
fn a_dropped_proof_changes_nothing() {
    let world = two_guests();
    let mut cpu = world.cpu.clone();
    let frames = world.machine.allocated_frames();
    drop(world.ownership.check_host_share_hyp(&mut cpu, Pfn::new(LOW), 3).unwrap());
    world.compare("after a dropped share");
    drop(world.ownership.check_host_donate_hyp(&mut cpu, Pfn::new(LOW), 3).unwrap());
    world.compare("after a dropped donation");
    let guest = &world.guests[0].memory;
    drop(world.ownership.check_host_donate_guest(&mut cpu, guest, Pfn::new(LOW), Gfn::new(0), 3).unwrap());
    world.compare("after a dropped donation to a guest");
    assert_eq!(world.machine.allocated_frames(), frames);
    world.tear_down();
}

#[test]
fn a_transition_that_runs_out_of_frames_changes_nothing() {
    for call in [
        HostShareHyp { first: LOW + 510, count: 4 },
        HostDonateHyp { first: LOW + 510, count: 4 },
        HostDonateGuest { guest: 0, first: LOW + 510, gfn: 0x3fe, count: 4 },
    ] {
        let mut refusals = 0;
        for frames in 0.. {
            let mut world = two_guests();
            let before = world.machine.allocated_frames();
            done(&mut world, AllowAllocations { count: Some(frames) });
            let result = world.apply(&call);
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
