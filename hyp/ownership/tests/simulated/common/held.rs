//! The locks that a CPU holds, and whether they allow what it does to a table.

use super::{FIRST, SECOND, World};
use abi::PhysAddr;
use memsim::{Machine, TreeKind};
use ownership::{Lock, Rank};
use pgtable::TableFrames;
use std::sync::atomic::{AtomicU32, Ordering};

thread_local! {
    static HELD_RANKS: &'static AtomicU32 = Box::leak(Box::default());
}

/// The ranks that this thread, which plays a CPU, holds.
pub fn held_ranks() -> &'static AtomicU32 {
    HELD_RANKS.with(|word| *word)
}

/// Does what takes no lock because there is nobody else yet.
pub fn before_there_are_others<R>(start: impl FnOnce() -> R) -> R {
    held_ranks().store(u32::MAX, Ordering::Relaxed);
    let result = start();
    held_ranks().store(0, Ordering::Relaxed);
    result
}

/// Panics where this thread accesses the descriptor at `descriptor` and does not hold the lock of its tree. Tables that are
/// not linked yet, or not any more, have none. Whose lock of a rank is held is not known here, and without debug assertions,
/// nothing is.
#[track_caller]
pub fn check_access(machine: &Machine, descriptor: PhysAddr) {
    if !cfg!(debug_assertions) {
        return;
    }
    let Some(tree) = machine.tree_of(descriptor) else { return };
    let ranks = match tree {
        TreeKind::Stage2 { vmid: 0 } => Rank::Host.bit(),
        TreeKind::Stage2 { .. } => Rank::Guest.bit() | Rank::SecondGuest.bit(),
        TreeKind::El2 => Rank::Hyp.bit(),
        TreeKind::El1 { .. } => return,
    };
    let held = held_ranks().load(Ordering::Relaxed);
    assert!(held & ranks != 0, "{descriptor} of {tree} is accessed while ranks {held:#b} are held");
}

#[test]
#[should_panic(expected = "of stage 2 of VMID 1 is accessed while ranks 0b0 are held")]
fn a_table_is_not_read_without_its_lock() {
    let world = World::with_guests(&[true], 1);
    world.cpu.read(world.guest(FIRST).root.checked_address().unwrap());
}

#[test]
#[should_panic(expected = "of EL2 stage 1 is accessed while ranks 0b10000 are held")]
fn a_table_is_not_written_under_the_lock_of_another() {
    let world = World::with_guests(&[true], 1);
    let root = world.ownership.hyp().lock().root();
    let _guest = world.memory(FIRST).lock();
    world.cpu.write(root, 0);
}

#[test]
#[should_panic(expected = "of stage 2 of VMID 0 is accessed while ranks 0b1000 are held")]
fn a_table_is_not_exchanged_under_the_lock_of_another() {
    let world = World::new();
    let host = PhysAddr::new(world.machine.cpu(0).vttbr() & 0xffff_ffff_fffe);
    let _hyp = world.ownership.hyp().lock();
    let _ = world.cpu.compare_exchange(host, 0, 0);
}

#[test]
fn a_second_guests_table_is_read_under_its_lock() {
    let world = World::with_guests(&[true, true], 1);
    let (first, _second) = Lock::lock_two(world.memory(FIRST), world.memory(SECOND)).unwrap();
    drop(first);
    assert_eq!(held_ranks().load(Ordering::Relaxed), Rank::SecondGuest.bit());
    world.cpu.read(world.guest(SECOND).root.checked_address().unwrap());
}
