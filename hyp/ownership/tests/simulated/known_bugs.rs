//! Mistakes that hypervisors of this kind have made with memory; each test is named after one.

use crate::common::call::Call::*;
use crate::common::{DEVICE, LOW, LOW_PAGES, World};
use abi::{Error, Gfn, Pfn};
use ownership::{Access, Rights};

#[test]
fn hyps_own_pages_stayed_mapped_in_the_hosts_stage_2() {
    let mut world = World::new();
    // A block that the host maps reaches up to the carve-out and no further.
    world.apply(&HostFault { page: crate::common::CARVE_OUT - 1, access: Access::Write }).unwrap();
    for page in crate::common::CARVE_OUT..LOW + LOW_PAGES {
        assert!(world.reached_by_host(Pfn::new(page)).is_empty());
    }
}

#[test]
fn a_count_overflowed_in_a_range_share() {
    let mut world = World::with_guests(&[true, false], 4);
    for count in [u64::MAX, u64::MAX - LOW, 1 << 52, (1 << 52) + 1, 1 << 63] {
        let rights = Rights::FULL;
        assert_eq!(world.apply(&HostShareHyp { first: LOW, count }), Err(Error::BadRange));
        assert_eq!(world.apply(&HostShareGuest { guest: 1, first: LOW, gfn: 0, count, rights }), Err(Error::BadRange));
        assert_eq!(
            world.apply(&HostDonateGuest { guest: 0, first: LOW, gfn: u64::MAX, count: 2 }),
            Err(Error::BadRange)
        );
    }
}

#[test]
fn memory_was_shared_that_is_no_memory() {
    let mut world = World::with_guests(&[true, false], 4);
    world.apply(&HostFault { page: DEVICE, access: Access::Write }).unwrap();
    let rights = Rights::FULL;
    for call in [
        HostShareHyp { first: DEVICE, count: 1 },
        HostDonateHyp { first: DEVICE, count: 1 },
        HostDonateGuest { guest: 0, first: DEVICE, gfn: 0, count: 1 },
        HostShareGuest { guest: 1, first: DEVICE, gfn: 0, count: 1, rights },
        Reclaim { guest: 0, first: DEVICE, count: 1 },
    ] {
        assert_eq!(world.apply(&call), Err(Error::NotMemory), "{call:?}");
    }
}

#[test]
fn the_cache_was_not_looked_at_before_a_donation() {
    let mut world = World::with_guests(&[true, false], 0);
    world.apply(&HostFault { page: LOW, access: Access::Write }).unwrap();
    let call = HostDonateGuest { guest: 0, first: LOW, gfn: 0, count: 1 };
    assert_eq!(world.apply(&call), Err(Error::OutOfMemory));
    assert!(!world.reached_by_host(Pfn::new(LOW)).is_empty(), "the host lost a page that nobody got");
    let rights = Rights::FULL;
    assert_eq!(
        world.apply(&HostShareGuest { guest: 1, first: LOW, gfn: 0, count: 1, rights }),
        Err(Error::OutOfMemory)
    );
    world.apply(&TopUp { guest: 0, first: LOW + 1, count: 1 }).unwrap();
    assert_eq!(world.apply(&call), Err(Error::OutOfMemory), "one table of two");
    world.apply(&TopUp { guest: 0, first: LOW + 2, count: 1 }).unwrap();
    world.apply(&call).unwrap();
}

#[test]
fn a_page_was_donated_while_it_was_pinned() {
    let mut world = World::with_guests(&[true], 4);
    world.apply(&HostShareHyp { first: LOW, count: 1 }).unwrap();
    world.apply(&Pin { page: LOW }).unwrap();
    assert_eq!(world.apply(&HostDonateGuest { guest: 0, first: LOW, gfn: 0, count: 1 }), Err(Error::Busy));
    assert_eq!(world.apply(&HostDonateHyp { first: LOW, count: 1 }), Err(Error::Busy));
}

#[test]
fn a_share_was_rolled_back_in_part() {
    let mut world = World::with_guests(&[true, false], 4);
    world.apply(&HostDonateHyp { first: LOW + 3, count: 1 }).unwrap();
    let rights = Rights::FULL;
    for call in [
        HostShareHyp { first: LOW, count: 4 },
        HostDonateGuest { guest: 0, first: LOW, gfn: 0, count: 4 },
        HostShareGuest { guest: 1, first: LOW, gfn: 0, count: 4, rights },
    ] {
        assert_eq!(world.apply(&call), Err(Error::NotYours), "{call:?}");
    }
    // Nothing was left behind: the pages before the one that is not the host's can still be shared and donated.
    world.apply(&HostShareHyp { first: LOW, count: 3 }).unwrap();
    world.apply(&HostUnshareHyp { first: LOW, count: 3 }).unwrap();
    world.apply(&HostDonateGuest { guest: 0, first: LOW, gfn: 0, count: 3 }).unwrap();
}

#[test]
fn a_page_of_the_cache_was_given_away_while_the_guest_used_it() {
    let mut world = World::with_guests(&[true, true], 4);
    let cached = world.guests[0].root.raw() + 1;
    for call in [
        HostDonateGuest { guest: 1, first: cached, gfn: 0, count: 1 },
        TopUp { guest: 1, first: cached, count: 1 },
        HostShareHyp { first: cached, count: 1 },
    ] {
        assert_eq!(world.apply(&call), Err(Error::NotYours), "{call:?}");
    }
}

#[test]
fn another_vms_page_was_taken_with_a_dying_vms_handle() {
    let mut world = World::with_guests(&[true, true], 4);
    world.apply(&HostDonateGuest { guest: 1, first: LOW, gfn: 0, count: 1 }).unwrap();
    world.apply(&StartTeardown { guest: 0 }).unwrap();
    assert_eq!(world.apply(&Reclaim { guest: 0, first: LOW, count: 1 }), Err(Error::NotYours));
    assert!(!world.reached_by_guest(1, Gfn::new(0)).is_empty());
}

#[test]
fn a_page_reached_the_next_owner_unwiped() {
    let mut world = World::with_guests(&[true], 4);
    world.apply(&HostDonateGuest { guest: 0, first: LOW, gfn: 0, count: 2 }).unwrap();
    world.machine.fill_page(0, Pfn::new(LOW), 0x5e);
    world.machine.fill_page(0, Pfn::new(LOW + 1), 0x5e);
    world.apply(&GuestRelinquish { guest: 0, gfn: 0 }).unwrap();
    assert_eq!(world.machine.read_page(Pfn::new(LOW)), [0; 4096]);
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 1)), [0x5e; 4096]);
    world.apply(&StartTeardown { guest: 0 }).unwrap();
    world.apply(&Reclaim { guest: 0, first: LOW + 1, count: 1 }).unwrap();
    assert_eq!(world.machine.read_page(Pfn::new(LOW + 1)), [0; 4096]);
}

#[test]
fn donated_pages_were_lost_when_a_vm_ended() {
    let mut world = World::with_guests(&[true, false], 8);
    world.apply(&HostDonateGuest { guest: 0, first: LOW + 1, gfn: 0x1ff, count: 512 }).unwrap();
    world.apply(&GuestShareHost { guest: 0, gfn: 0x200 }).unwrap();
    let rights = Rights::FULL;
    world.apply(&HostShareGuest { guest: 1, first: LOW + 600, gfn: 0x1ff, count: 3, rights }).unwrap();
    world.tear_down();
}
