//! Faults of the host: what is mapped, how large, and what is injected.

use crate::common::calls::*;
use crate::common::step::{Step, host_fault};
use crate::common::*;
use abi::{Error, Ipa};
use ownership::{Access, HostFault as Outcome};

#[test]
fn memory_is_mapped_by_the_largest_block_that_is_all_the_hosts() {
    let mut world = World::new();
    world.done(host_fault(LOW + 3, Access::Write));
    assert_eq!(world.host_leaf(LOW), (2, true));
    assert_eq!(world.host_leaf(LOW + 511), (2, true));
    // The block of 2 MiB that ends in the carve-out is mapped page by page.
    world.done(host_fault(CARVE_OUT - 1, Access::Read));
    assert_eq!(world.host_leaf(CARVE_OUT - 1), (3, true));
    assert_eq!(world.host_leaf(CARVE_OUT - 2), (3, false));
}

#[test]
fn a_block_around_the_hole_between_banks_is_not_mapped() {
    let mut world = World::new();
    world.done(host_fault(HIGH, Access::Read));
    assert_eq!(world.host_leaf(HIGH), (3, true));
    for page in [HIGH - 1, HIGH + HIGH_PAGES] {
        assert!(!world.host_leaf(page).1);
        world.done(host_fault(page, Access::Read));
        let found = world.ownership.host_leaf(&world.cpu, Ipa::new(page << 12)).unwrap();
        let (_, attributes) = found.mapping().unwrap();
        assert_eq!(attributes, pgtable::Stage2Attributes::device(), "{page:#x} is no memory");
        assert_eq!(found.level, 3);
    }
}

#[test]
fn devices_are_mapped_by_the_largest_block_without_memory() {
    let mut world = World::new();
    world.done(host_fault(DEVICE, Access::Write));
    assert_eq!(world.host_leaf(DEVICE), (1, true), "the first GiB holds no memory");
    let above = LOW + 0x800;
    world.done(host_fault(above, Access::Read));
    assert_eq!(world.host_leaf(above), (2, true), "the second GiB holds some");
    world.refused(host_fault(above, Access::Execute), Error::NotYours);
    let fresh = 0xc_0000;
    world.refused(host_fault(fresh, Access::Execute), Error::NotYours);
    assert!(!world.host_leaf(fresh).1);
}

#[test]
fn a_device_block_never_takes_memory_beside_it_along() {
    for (page, level) in [(HIGH - 1, 3), (HIGH + HIGH_PAGES, 3), (HIGH + 0x400, 2), (HIGH + 0x4_0000, 1)] {
        let mut world = World::new();
        world.done(host_fault(page, Access::Read));
        assert_eq!(world.host_leaf(page), (level, true), "{page:#x}");
        assert!(!world.host_leaf(HIGH).1, "memory is mapped with the device at {page:#x}");
    }
}

#[test]
fn addresses_beyond_the_address_size_are_injected() {
    let mut world = World::new();
    world.done(host_fault(PFN_LIMIT - 1, Access::Read));
    for page in [PFN_LIMIT, 1 << 51, u64::MAX >> 12] {
        world.refused(host_fault(page, Access::Read), Error::NotYours);
    }
}

#[test]
fn a_fault_that_another_cpu_resolved_is_resumed() {
    let mut world = World::new();
    for _ in 0..2 {
        world.done(host_fault(LOW + 3, Access::Write));
    }
    let frames = world.machine.allocated_frames();
    world.done(host_fault(LOW + 400, Access::Execute));
    assert_eq!(world.machine.allocated_frames(), frames);
}

#[test]
fn without_a_frame_the_fault_is_injected_and_may_be_tried_again() {
    let mut world = World::new();
    world.done(Step::AllowAllocations(Some(0)));
    let fault = host_fault(HIGH, Access::Read);
    assert!(world.apply(fault.clone()).is_err());
    world.done(Step::AllowAllocations(None));
    world.done(fault);
}

#[test]
fn a_page_in_a_mapped_block_is_taken_out_and_put_back() {
    let mut world = World::with_guests(&[true], 4);
    world.done(host_fault(LOW + 3, Access::Write));
    world.done(host_donate_guest(FIRST, LOW + 8, 0, 1));
    assert_eq!(world.host_leaf(LOW + 7), (3, true), "the rest of the block stays mapped");
    world.refused(host_fault(LOW + 8, Access::Read), Error::NotYours);
    world.done(guest_relinquish(FIRST, 0));
    world.done(host_fault(LOW + 8, Access::Execute));
    assert_eq!(world.host_leaf(LOW + 8), (3, true));
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
