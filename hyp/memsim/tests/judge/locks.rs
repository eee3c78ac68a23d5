//! Locks, and the trees that they guard.

use crate::scene::{PAGE, Scene, TABLE};
use abi::PhysAddr;
use memsim::{Event, Hold, Lock};
use pgtable::{DsbKind, Maintenance, TableFrames};

/// pgtable's mark of a descriptor that is being changed.
const MARK: u64 = 0b10;

fn guarded() -> (Scene, Lock) {
    let scene = Scene::new(2);
    let lock = scene.machine.declare_lock("host tables", 2);
    scene.machine.guard_tree(scene.root, lock);
    (scene, lock)
}

/// A descriptor that is not in use.
fn vacant(scene: &Scene) -> PhysAddr {
    scene.level3.checked_add(8).unwrap()
}

const NEW: u64 = 0x8000_1000 | PAGE;

#[test]
fn a_lock_is_taken_and_released_by_its_holder() {
    let (scene, lock) = guarded();
    for hold in [Hold::Exclusive, Hold::Shared] {
        scene.cpu.acquire(lock, hold);
        scene.cpu.release(lock);
        scene.other.acquire(lock, hold);
        scene.other.release(lock);
    }
    scene.machine.assert_clean();
    let events = scene.machine.events();
    assert!(events.contains(&(1, Event::Acquire { lock, hold: Hold::Shared })));
    assert_eq!(events.last(), Some(&(1, Event::Release(lock))));
}

#[test]
fn a_lock_knows_what_it_was_declared_as() {
    let (scene, first) = guarded();
    let second = scene.machine.declare_lock("second", 7);
    assert_eq!((first.index(), first.name(), first.rank()), (0, "host tables", 2));
    assert_eq!((second.index(), second.name(), second.rank()), (1, "second", 7));
    assert_eq!(second.to_string(), "second");
}

#[test]
fn a_lock_is_not_taken_twice() {
    for again in [Hold::Exclusive, Hold::Shared] {
        let (scene, lock) = guarded();
        scene.cpu.acquire(lock, Hold::Shared);
        scene.cpu.acquire(lock, again);
        scene.expect_violation("host tables is taken by CPU 0, which holds it already");
    }
}

#[test]
fn a_lock_is_not_released_by_another_nor_twice() {
    let (scene, lock) = guarded();
    scene.cpu.acquire(lock, Hold::Exclusive);
    scene.other.release(lock);
    scene.expect_violation("host tables is released by CPU 1, which does not hold it");

    let (scene, lock) = guarded();
    scene.cpu.acquire(lock, Hold::Exclusive);
    scene.cpu.release(lock);
    scene.expect_none();
    scene.cpu.release(lock);
    scene.expect_violation("is released by CPU 0, which does not hold it");
}

#[test]
fn locks_are_taken_in_the_order_of_their_ranks() {
    for (rank, in_order) in [(1, false), (2, false), (3, true)] {
        let (scene, lock) = guarded();
        let next = scene.machine.declare_lock("next", rank);
        scene.cpu.acquire(lock, Hold::Exclusive);
        // What another CPU holds does not count.
        scene.other.acquire(next, Hold::Shared);
        scene.other.release(next);
        scene.expect_none();
        scene.cpu.acquire(next, Hold::Shared);
        if in_order {
            scene.expect_none();
        } else {
            scene.expect_violation("next is taken out of order, while host tables is held");
        }
    }
}

#[test]
fn an_exclusive_holder_is_alone() {
    for (first, second, excluded) in [
        (Hold::Exclusive, Hold::Exclusive, true),
        (Hold::Exclusive, Hold::Shared, true),
        (Hold::Shared, Hold::Exclusive, true),
        (Hold::Shared, Hold::Shared, false),
    ] {
        let (scene, lock) = guarded();
        scene.cpu.acquire(lock, first);
        scene.other.acquire(lock, second);
        if excluded {
            scene.expect_violation("while CPU 0 holds it");
        } else {
            scene.expect_none();
        }
    }
}

#[test]
fn a_lock_that_is_still_held_is_unfinished() {
    let (scene, lock) = guarded();
    scene.other.acquire(lock, Hold::Shared);
    assert_eq!(scene.machine.unfinished(), ["CPU 1: host tables is still held"]);
    scene.other.release(lock);
    scene.machine.assert_clean();
}

#[test]
fn a_guarded_tree_is_written_only_under_its_lock() {
    let (scene, _) = guarded();
    scene.cpu.write(vacant(&scene), NEW);
    scene.expect_violation("is written while host tables is not held at all");

    let (scene, _) = guarded();
    let _ = scene.cpu.compare_exchange(vacant(&scene), 0, NEW);
    scene.expect_violation("is written while host tables is not held at all");

    let (scene, lock) = guarded();
    scene.other.acquire(lock, Hold::Exclusive);
    scene.cpu.write(vacant(&scene), NEW);
    scene.expect_violation(&format!("{} of stage 2 of VMID 5 is written", vacant(&scene)));

    let (scene, lock) = guarded();
    scene.cpu.acquire(lock, Hold::Exclusive);
    scene.cpu.write(vacant(&scene), NEW);
    scene.cpu.dsb(DsbKind::Ishst);
    scene.cpu.release(lock);
    scene.machine.assert_clean();
}

#[test]
fn under_a_shared_lock_descriptors_are_exchanged() {
    let (scene, lock) = guarded();
    scene.cpu.acquire(lock, Hold::Shared);
    scene.cpu.write(vacant(&scene), NEW);
    scene.expect_violation("is written while host tables is not held exclusively");

    let (scene, lock) = guarded();
    scene.cpu.acquire(lock, Hold::Shared);
    scene.other.acquire(lock, Hold::Shared);
    assert_eq!(scene.cpu.compare_exchange(vacant(&scene), 0, NEW), Ok(0));
    assert_eq!(scene.other.compare_exchange(vacant(&scene), 0, NEW), Err(NEW));
    scene.expect_none();
}

#[test]
fn a_marked_descriptor_is_stored_to_by_the_cpu_that_marked_it() {
    let (scene, lock) = guarded();
    scene.cpu.acquire(lock, Hold::Shared);
    assert_eq!(scene.cpu.compare_exchange(vacant(&scene), 0, MARK), Ok(0));
    scene.cpu.write(vacant(&scene), NEW);
    scene.expect_none();
    scene.cpu.write(vacant(&scene), NEW | 1 << 55);
    scene.expect_violation("not held exclusively");

    // What is merely vacant, another may take at any time.
    let (scene, lock) = guarded();
    scene.cpu.acquire(lock, Hold::Shared);
    assert!(scene.cpu.compare_exchange(scene.level3, 0x8000_0000 | PAGE, 0).is_ok());
    scene.cpu.write(scene.level3, 0);
    scene.expect_violation("not held exclusively");

    let (scene, lock) = guarded();
    scene.cpu.acquire(lock, Hold::Shared);
    scene.other.acquire(lock, Hold::Shared);
    assert_eq!(scene.cpu.compare_exchange(vacant(&scene), 0, MARK), Ok(0));
    scene.other.write(vacant(&scene), NEW);
    scene.expect_violation("not held exclusively");
}

#[test]
fn a_marked_descriptor_is_not_replaced_by_another_cpu() {
    for hold in [Hold::Shared, Hold::Exclusive] {
        let (scene, lock) = guarded();
        scene.cpu.acquire(lock, Hold::Shared);
        assert_eq!(scene.cpu.compare_exchange(vacant(&scene), 0, MARK), Ok(0));
        if hold == Hold::Exclusive {
            // Who has the tree alone may mend what is left.
            scene.cpu.release(lock);
        }
        scene.other.acquire(lock, hold);
        assert_eq!(scene.other.compare_exchange(vacant(&scene), MARK, NEW), Ok(MARK));
        match hold {
            Hold::Shared => scene.expect_violation("which CPU 0 has marked for itself"),
            Hold::Exclusive => scene.expect_none(),
        }
    }
}

#[test]
fn tables_that_are_not_linked_yet_and_trees_without_a_guard_need_no_lock() {
    let (mut scene, lock) = guarded();
    let child = scene.cpu.allocate().unwrap();
    scene.cpu.write(child, 0x8020_0000 | PAGE);
    scene.expect_none();
    scene.cpu.acquire(lock, Hold::Exclusive);
    scene.cpu.write(scene.level2.checked_add(8).unwrap(), child.raw() | TABLE);
    scene.cpu.release(lock);
    scene.expect_none();
    scene.cpu.write(child, 0x8020_0000 | PAGE | 1 << 55);
    scene.expect_violation("not held at all");

    let scene = Scene::new(2);
    scene.machine.declare_lock("of something else", 1);
    scene.cpu.write(vacant(&scene), NEW);
    scene.expect_none();
}
