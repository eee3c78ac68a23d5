//! Tables that somebody else writes to.

use crate::scene::{ISH, PAGE, Scene, VMALLS12E1IS};
use abi::{Pfn, PhysAddr};
use pgtable::TableFrames;

const OLD: u64 = 0x8000_0000 | PAGE;

#[test]
fn a_changed_descriptor_is_noticed_when_it_is_read() {
    let scene = Scene::new(2);
    scene.machine.corrupt(scene.level3, 0x9000_0000 | PAGE);
    scene.expect_none();
    assert_eq!(scene.other.read(scene.level3), 0x9000_0000 | PAGE);
    scene.expect_violation("holds 0x900007ff, but 0x800007ff was written: another wrote to it");
    scene.cpu.read(scene.level3);
    assert_eq!(scene.machine.violations().len(), 1, "once is enough");
    assert_eq!(scene.machine.unfinished(), [""; 0]);
    scene.cpu.read(scene.level2);
    assert_eq!(scene.machine.violations().len(), 1);
}

#[test]
fn a_changed_descriptor_is_noticed_when_it_is_written() {
    let scene = Scene::new(2);
    scene.machine.corrupt(scene.level3, 0);
    scene.cpu.write(scene.level3, OLD);
    scene.expect_violation("holds 0x0, but 0x800007ff was written");
    assert_eq!(scene.machine.violations().len(), 1, "and what was there before is still what it was");
    scene.cpu.write(scene.level3, 0x9000_0000 | PAGE);
    scene.expect_violation("the output address changes");

    let scene = Scene::new(2);
    scene.machine.corrupt(scene.level3, 0);
    assert_eq!(scene.cpu.compare_exchange(scene.level3, OLD, 0), Err(0));
    scene.expect_violation("another wrote to it");
}

#[test]
fn a_change_that_nobody_met_is_unfinished_business() {
    let scene = Scene::new(2);
    scene.machine.corrupt(scene.level3.checked_add(8).unwrap(), 5);
    assert!(scene.machine.unfinished()[0].contains("does not hold 0x0, which was written there"));
    scene.machine.corrupt(scene.level3.checked_add(8).unwrap(), 0);
    scene.cpu.read(scene.level3.checked_add(8).unwrap());
    scene.machine.assert_clean();
}

#[test]
fn a_change_is_noticed_at_the_latest_when_the_table_goes() {
    let scene = Scene::new(2);
    scene.machine.corrupt(scene.level3.checked_add(16).unwrap(), 0x9000_0000 | PAGE);
    scene.cpu.write(scene.level2, 0);
    scene.expect_violation("another wrote to it");
    scene.run(&[ISH, VMALLS12E1IS, ISH]);
    assert_eq!(scene.machine.unfinished(), [""; 0], "what was never linked by the rules is in no TLB");
}

#[test]
fn other_memory_is_anybodys() {
    let scene = Scene::new(2);
    let frame = PhysAddr::new(0x9000_0000);
    scene.machine.corrupt(frame, 5);
    assert_eq!(scene.cpu.read(frame), 5);
    scene.machine.assert_clean();
}

#[test]
fn data_written_over_a_table_is_noticed_and_the_table_remembered() {
    let scene = Scene::new(2);
    let next = scene.level3.checked_add(8).unwrap();
    scene.cpu.write(next, 0x8000_1000 | PAGE);
    scene.machine.zero_page(0, Pfn::containing(scene.level3));
    scene.expect_violation("is overwritten, but is a table");
    // The pages are still mapped as far as a TLB is concerned, and so they are when they are written again.
    for slot in [scene.level3, next] {
        scene.cpu.write(slot, 0x9000_0000 | PAGE);
        scene.expect_violation(&format!("{slot} is replaced while valid"));
    }

    let scene = Scene::new(2);
    scene.machine.write_word(0, scene.level3.checked_add(8).unwrap(), 0);
    scene.expect_violation("is overwritten, but is a table");
    let scene = Scene::new(2);
    scene.cpu.write(scene.level2, 0);
    scene.machine.write_word(0, scene.level3.checked_add(8).unwrap(), 0);
    scene.expect_violation("is overwritten, but was unlinked and is not clean");
}
