//! Faults of the host: what is mapped, how large, and what is injected.

use crate::common::call::Call::*;
use crate::common::{CARVE_OUT, DEVICE, HIGH, HIGH_PAGES, LOW, PFN_LIMIT, World};
use abi::{Error, Ipa};
use ownership::{Access, HostFault as Outcome};

/// Level and validity of the host's leaf at a page.
fn leaf(world: &World, page: u64) -> (u8, bool) {
    let leaf = world.ownership.host_leaf(&world.cpu, Ipa::new(page << 12)).unwrap();
    (leaf.level, leaf.is_valid())
}

#[test]
fn memory_is_mapped_by_the_largest_block_that_is_all_the_hosts() {
    let mut world = World::new();
    world.apply(&HostFault { page: LOW + 3, access: Access::Write }).unwrap();
    assert_eq!(leaf(&world, LOW), (2, true));
    assert_eq!(leaf(&world, LOW + 511), (2, true));
    // The block of 2 MiB that ends in the carve-out is mapped page by page.
    world.apply(&HostFault { page: CARVE_OUT - 1, access: Access::Read }).unwrap();
    assert_eq!(leaf(&world, CARVE_OUT - 1), (3, true));
    assert_eq!(leaf(&world, CARVE_OUT - 2), (3, false));
}

#[test]
fn a_block_around_the_hole_between_banks_is_not_mapped() {
    let mut world = World::new();
    world.apply(&HostFault { page: HIGH, access: Access::Read }).unwrap();
    assert_eq!(leaf(&world, HIGH), (3, true));
    for page in [HIGH - 1, HIGH + HIGH_PAGES] {
        assert_eq!(leaf(&world, page), (3, false));
        world.apply(&HostFault { page, access: Access::Read }).unwrap();
        let found = world.ownership.host_leaf(&world.cpu, Ipa::new(page << 12)).unwrap();
        let (_, attributes) = found.mapping().unwrap();
        assert_eq!(attributes, pgtable::Stage2Attributes::device(), "{page:#x} is no memory");
        assert_eq!(found.level, 3);
    }
}

#[test]
fn devices_are_mapped_by_the_largest_block_without_memory() {
    let mut world = World::new();
    world.apply(&HostFault { page: DEVICE, access: Access::Write }).unwrap();
    assert_eq!(leaf(&world, DEVICE), (1, true), "the first GiB holds no memory");
    let above = LOW + 0x800;
    world.apply(&HostFault { page: above, access: Access::Read }).unwrap();
    assert_eq!(leaf(&world, above), (2, true), "the second GiB holds some");
    assert_eq!(world.apply(&HostFault { page: above, access: Access::Execute }), Err(Error::NotYours));
    let fresh = 0xc_0000;
    assert_eq!(world.apply(&HostFault { page: fresh, access: Access::Execute }), Err(Error::NotYours));
    assert!(!leaf(&world, fresh).1);
}

#[test]
fn a_device_block_never_takes_memory_beside_it_along() {
    for (page, level) in [(HIGH - 1, 3), (HIGH + HIGH_PAGES, 3), (HIGH + 0x400, 2), (HIGH + 0x4_0000, 1)] {
        let mut world = World::new();
        world.apply(&HostFault { page, access: Access::Read }).unwrap();
        assert_eq!(leaf(&world, page), (level, true), "{page:#x}");
        assert!(!leaf(&world, HIGH).1, "memory is mapped with the device at {page:#x}");
    }
}

#[test]
fn addresses_beyond_the_address_size_are_injected() {
    let mut world = World::new();
    world.apply(&HostFault { page: PFN_LIMIT - 1, access: Access::Read }).unwrap();
    for page in [PFN_LIMIT, 1 << 51, u64::MAX >> 12] {
        assert_eq!(world.apply(&HostFault { page, access: Access::Read }), Err(Error::NotYours));
    }
}

#[test]
fn a_fault_that_another_cpu_resolved_is_resumed() {
    let mut world = World::new();
    for _ in 0..2 {
        world.apply(&HostFault { page: LOW + 3, access: Access::Write }).unwrap();
    }
    let frames = world.machine.allocated_frames();
    world.apply(&HostFault { page: LOW + 400, access: Access::Execute }).unwrap();
    assert_eq!(world.machine.allocated_frames(), frames);
}

#[test]
fn without_a_frame_the_fault_is_injected_and_may_be_tried_again() {
    let mut world = World::new();
    world.apply(&AllowAllocations { count: Some(0) }).unwrap();
    let fault = HostFault { page: HIGH, access: Access::Read };
    assert!(world.apply(&fault).is_err());
    world.apply(&AllowAllocations { count: None }).unwrap();
    world.apply(&fault).unwrap();
}

#[test]
fn a_page_in_a_mapped_block_is_taken_out_and_put_back() {
    let mut world = World::with_guests(&[true], 4);
    world.apply(&HostFault { page: LOW + 3, access: Access::Write }).unwrap();
    world.apply(&HostDonateGuest { guest: 0, first: LOW + 8, gfn: 0, count: 1 }).unwrap();
    assert_eq!(leaf(&world, LOW + 7), (3, true), "the rest of the block stays mapped");
    assert_eq!(world.apply(&HostFault { page: LOW + 8, access: Access::Read }), Err(Error::NotYours));
    world.apply(&GuestRelinquish { guest: 0, gfn: 0 }).unwrap();
    world.apply(&HostFault { page: LOW + 8, access: Access::Execute }).unwrap();
    assert_eq!(leaf(&world, LOW + 8), (3, true));
}

#[test]
fn any_byte_of_a_page_may_fault() {
    let world = World::new();
    let mut cpu = world.cpu.clone();
    for offset in [0, 1, 7, 0xfff] {
        let ipa = Ipa::new((LOW << 12) + offset);
        assert_eq!(world.ownership.resolve_host_fault(&mut cpu, ipa, Access::Read), Outcome::Resume);
        let ipa = Ipa::new((CARVE_OUT << 12) + offset);
        assert_eq!(world.ownership.resolve_host_fault(&mut cpu, ipa, Access::Read), Outcome::Inject);
    }
}
