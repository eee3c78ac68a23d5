//! Frames that a guest takes for a device's: notes that keep nothing away.

use crate::common::calls::*;
use crate::common::*;
use abi::{Error, Gfn};
use ownership::Presence;
use ownership_spec::Rights;

fn mark(world: &mut World, vm: ownership_spec::Vm, gfn: u64) -> Result<(), Error> {
    let World { cpu, guests, .. } = world;
    let guest = guests.iter().find(|guest| guest.vm == vm).unwrap();
    guest.memory.lock().mark_device(cpu, Gfn::new(gfn))
}

fn unmark(world: &mut World, vm: ownership_spec::Vm, gfn: u64) -> Result<(), Error> {
    let World { cpu, guests, .. } = world;
    let guest = guests.iter().find(|guest| guest.vm == vm).unwrap();
    guest.memory.lock().unmark_device(cpu, Gfn::new(gfn))
}

fn presence(world: &World, vm: ownership_spec::Vm, gfn: u64) -> Presence {
    world.memory(vm).lock().presence(&world.cpu, Gfn::new(gfn).checked_address().unwrap()).unwrap()
}

fn cached(world: &World, vm: ownership_spec::Vm) -> u64 {
    world.memory(vm).lock().cached_pages()
}

#[test]
fn a_mark_comes_and_goes_with_its_tables() {
    let mut world = World::with_two_guests();
    let before = cached(&world, FIRST);
    assert_eq!(unmark(&mut world, FIRST, 0x200), Err(Error::WrongState));
    for _ in 0..2 {
        assert_eq!(mark(&mut world, FIRST, 0x200), Ok(()));
    }
    assert!(cached(&world, FIRST) < before);
    assert_eq!(
        (presence(&world, FIRST, 0x200), presence(&world, FIRST, 0x201)),
        (Presence::AwaitsDevice, Presence::Nothing)
    );
    world.compare("with a mark");
    assert_eq!(unmark(&mut world, FIRST, 0x200), Ok(()));
    assert_eq!((presence(&world, FIRST, 0x200), cached(&world, FIRST)), (Presence::Nothing, before));
    assert_eq!(mark(&mut world, FIRST, GFN_LIMIT), Err(Error::BadRange));
    world.tear_down();
}

#[test]
fn a_mark_is_nothing_to_whatever_comes_and_to_whoever_looks_for_memory() {
    let mut world = World::with_guests(&[true, true], 12);
    for gfn in [0x200, 0x201, 0x210, 0x220, 0x230] {
        assert_eq!(mark(&mut world, FIRST, gfn), Ok(()));
    }
    for call in [
        guest_share_host(FIRST, 0x200),
        guest_unshare_host(FIRST, 0x200),
        guest_lend_host(FIRST, 0x200),
        guest_return(FIRST, 0x200),
        guest_relinquish(FIRST, 0x200),
        guest_offer(FIRST, 0x200, SECOND, Rights::FULL),
    ] {
        world.refused(call, Error::NotMemory);
    }
    world.done(host_grant_device(FIRST, DEVICE, 0x1ff, 3));
    world.done(host_donate_guest(FIRST, LOW, 0x210, 1));
    world.done(host_lend_guest(FIRST, LOW + 1, 0x220, 1));
    world.done(host_donate_guest(SECOND, LOW + 2, 0x300, 1));
    world.done(guest_offer(SECOND, 0x300, FIRST, Rights::FULL));
    world.done(guest_accept(FIRST, SECOND, 1, 0x230, Rights::FULL));
    for gfn in [0x1ff, 0x200, 0x201, 0x210, 0x220, 0x230] {
        assert_eq!(presence(&world, FIRST, gfn), Presence::Mapped, "{gfn:#x}");
    }
    assert_eq!(world.reached_by(FIRST, 0x201), [DEVICE + 2]);
    // A device that is there needs no mark; memory is none.
    for gfn in [0x200, 0x201] {
        assert_eq!((mark(&mut world, FIRST, gfn), unmark(&mut world, FIRST, gfn)), (Ok(()), Ok(())));
        assert_eq!(presence(&world, FIRST, gfn), Presence::Mapped);
    }
    for gfn in [0x210, 0x220, 0x230] {
        let refused = Err(Error::WrongState);
        assert_eq!((mark(&mut world, FIRST, gfn), unmark(&mut world, FIRST, gfn)), (refused, refused), "{gfn:#x}");
    }
    world.tear_down();
}

#[test]
fn a_block_takes_the_place_of_marks() {
    let mut world = World::with_guests(&[true, true], 12);
    for gfn in [0x400, 0x5ff] {
        assert_eq!(mark(&mut world, FIRST, gfn), Ok(()));
    }
    world.done(host_grant_device(FIRST, 0x8000, 0x400, 0x200));
    assert_eq!(world.reached_by(FIRST, 0x5ff), [0x81ff]);
    world.tear_down();
}

#[test]
fn what_keeps_things_away_is_not_marked() {
    let mut world = World::with_guests(&[true, true], 12);
    world.done(host_donate_guest(FIRST, LOW, 0x200, 2));
    world.done(guest_lend_host(FIRST, 0x200));
    world.done(force_reclaim(FIRST, LOW + 1, 1));
    for gfn in [0x200, 0x201] {
        let found = presence(&world, FIRST, gfn);
        let refused = Err(Error::WrongState);
        assert_eq!((mark(&mut world, FIRST, gfn), unmark(&mut world, FIRST, gfn)), (refused, refused), "{gfn:#x}");
        assert_eq!(presence(&world, FIRST, gfn), found);
    }
    world.tear_down();
}

#[test]
fn a_mark_takes_tables_from_the_guests_own_pages() {
    let mut world = World::with_guests(&[true], 1);
    let before = cached(&world, FIRST);
    let outcome = mark(&mut world, FIRST, 0x200);
    assert_eq!(outcome, Err(Error::OutOfMemory), "{before} pages");
    assert_eq!((cached(&world, FIRST), presence(&world, FIRST, 0x200)), (before, Presence::Nothing));
    world.tear_down();
}
