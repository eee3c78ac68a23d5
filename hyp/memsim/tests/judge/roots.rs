//! Roots and VMIDs: one belongs to the other as long as a TLB may hold anything of it.

use crate::scene::{BLOCK, Do, ISH, ISHST, PAGE, Scene, VMALLE1IS, VMALLS12E1IS, VMID};
use abi::{Pfn, PhysRange};
use memsim::TreeKind;
use pgtable::{DsbKind, Maintenance, Stage2, Stage2Config, TableFrames, Tlbi};

/// VTTBR_EL2 for a root that no tree is watched at.
fn vttbr(vmid: u64, root: u64) -> u64 {
    vmid << 48 | root
}

const ROOT: u64 = 0xa000_0000;
const OTHER_ROOT: u64 = 0xa100_0000;

/// Loads VMID 20 with one root and then, after `steps`, with another.
fn reuse(steps: &[Do]) -> Scene {
    let scene = Scene::new(2);
    scene.cpu.load_vttbr(vttbr(20, ROOT));
    scene.cpu.isb();
    scene.run(steps);
    scene.cpu.load_vttbr(vttbr(20, OTHER_ROOT));
    scene
}

#[test]
fn a_vmid_is_flushed_before_it_has_another_root() {
    for steps in [
        &[][..],
        &[ISH, VMALLE1IS, ISH],
        &[VMALLS12E1IS],
        &[VMALLS12E1IS, ISHST],
        &[Do::Tlbi(Tlbi::Vmalls12e1), ISH],
        &[VMALLS12E1IS, Do::Other(&ISH)],
        &[Do::Vttbr(6), Do::Isb, VMALLS12E1IS, ISH],
    ] {
        let message = "VMID 20 was used with the root 0xa0000000, and is not flushed since";
        reuse(steps).expect_violation(message);
    }
    for steps in [
        &[VMALLS12E1IS, ISH][..],
        &[Do::Tlbi(Tlbi::Alle1Is), ISH],
        &[Do::Vttbr(6), Do::Isb, Do::Tlbi(Tlbi::Alle1Is), ISH],
    ] {
        reuse(steps).expect_none();
    }
}

#[test]
fn a_vmid_that_is_loaded_again_is_in_use_again() {
    let scene = Scene::new(2);
    scene.cpu.load_vttbr(vttbr(20, ROOT));
    scene.cpu.isb();
    scene.run(&[VMALLS12E1IS]);
    scene.other.load_vttbr(vttbr(20, ROOT));
    scene.run(&[ISH]);
    scene.cpu.load_vttbr(vttbr(20, OTHER_ROOT));
    scene.expect_violation("VMID 20 was used with the root");
}

#[test]
fn a_root_has_one_vmid() {
    let scene = Scene::new(2);
    scene.cpu.load_vttbr(vttbr(20, ROOT));
    let before = scene.other.load_vttbr(vttbr(20, ROOT));
    assert_eq!((before, scene.other.vttbr()), (vttbr(VMID.into(), scene.root.raw()), vttbr(20, ROOT)));
    scene.expect_none();
    scene.other.load_vttbr(vttbr(21, ROOT));
    scene.expect_violation("VMID 20 was used with the root 0xa0000000");
}

#[test]
fn a_tree_is_not_used_with_a_vmid_that_was_another_roots() {
    for (steps, flushed) in [(&[][..], false), (&[VMALLS12E1IS, ISH], true)] {
        let scene = Scene::new(2);
        scene.cpu.load_vttbr(vttbr(9, ROOT));
        scene.cpu.isb();
        scene.run(steps);
        let root = scene.machine.take_root(1);
        let table = Stage2::new(root, Stage2Config::new(39, 48), 9).unwrap();
        scene.machine.track_stage2(&table);
        scene.cpu.load_vttbr(table.vttbr_el2());
        if flushed {
            scene.expect_none();
        } else {
            scene.expect_violation("VMID 9 was used with the root 0xa0000000");
        }
    }
}

#[test]
fn a_vmid_whose_tree_is_gone_for_good_serves_another() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level1_slot(), 0);
    scene.run(&[ISH, VMALLS12E1IS, ISH]);
    scene.run(&[Do::Vttbr(6), Do::Isb, Do::Other(&Do::Vttbr(6)), Do::Other(&Do::Isb)]);
    scene.machine.forget(scene.root);
    scene.cpu.load_vttbr(vttbr(VMID.into(), OTHER_ROOT));
    scene.cpu.isb();
    scene.machine.assert_clean();
}

#[test]
fn a_root_that_is_loaded_is_not_used_for_anything_else() {
    let mut scene = Scene::new(2);
    let frame = scene.cpu.allocate().unwrap();
    let page = PhysRange::from_size(frame, 4096).unwrap();
    let pfn = Pfn::containing(frame);
    scene.other.load_vttbr(vttbr(20, frame.raw()));
    scene.other.isb();
    let held = "VTTBR_EL2 of CPU 1 holds it as a root";
    scene.machine.zero_page(0, pfn);
    scene.expect_violation(&format!("{frame} is overwritten, but {held}"));
    scene.machine.write_word(0, frame, 1);
    scene.expect_violation("is overwritten, but VTTBR_EL2");
    scene.cpu.free(frame);
    scene.expect_violation(&format!("{frame} is freed, but {held}"));
    let root = scene.machine.take_root(1);
    assert_eq!(root, frame);
    scene.machine.return_root(page);
    scene.expect_violation(&format!("{frame} is returned to the pool, but {held}"));

    let mut scene = Scene::new(2);
    let frame = scene.cpu.allocate().unwrap();
    scene.other.load_vttbr(vttbr(20, frame.raw()));
    scene.other.load_vttbr(vttbr(6, ROOT));
    scene.other.isb();
    scene.machine.zero_page(0, Pfn::containing(frame));
    scene.cpu.free(frame);
    scene.machine.assert_clean();
}

#[test]
fn every_page_of_a_root_is_part_of_the_tree() {
    let machine = Scene::new(2).machine;
    let cpu = machine.cpu(0);
    let root = machine.take_root(4);
    let table = Stage2::new(root, Stage2Config::new(41, 48), 9).unwrap();
    let kind = TreeKind::Stage2 { vmid: 9 };
    // What stands there before counts as well as what comes afterwards.
    let slot = |page: u64, index: u64| root.checked_add(page * 4096 + index * 8).unwrap();
    for page in 0..4 {
        cpu.write(slot(page, 0), (page << 34 | 0x80_0000_0000) | BLOCK);
    }
    machine.track_stage2(&table);
    for page in 0..4 {
        cpu.write(slot(page, 3), (page << 35 | 0x90_0000_0000) | BLOCK);
    }
    cpu.dsb(DsbKind::Ishst);
    for page in 0..4 {
        for (index, output) in [(0, page << 34 | 0x80_0000_0000), (3, page << 35 | 0x90_0000_0000)] {
            let found = machine.translations(kind, page << 39 | index << 30);
            assert_eq!((found.len(), found[0].output.raw(), found[0].current), (1, output, true));
        }
    }
    machine.assert_clean();
    for page in 0..4 {
        cpu.write(slot(page, 3), 0);
        let input = page << 39 | 3 << 30;
        let stale = machine.translations(kind, input + 0x1234);
        assert_eq!((stale.len(), stale[0].output.raw()), (1, page << 35 | 0x90_0000_1234));
        assert!(machine.unfinished()[page as usize].contains(&format!("for input {input:#x} at level 1")));
    }
    machine.zero_page(0, Pfn::containing(slot(3, 0)));
    let last = machine.violations().pop().unwrap();
    assert!(last.message.contains("but is a table of stage 2 of VMID 9"), "{last}");
}

#[test]
fn a_tree_that_goes_leaves_the_others_alone() {
    let scene = Scene::new(2);
    let root = scene.machine.take_root(1);
    let table = Stage2::new(root, Stage2Config::new(39, 48), 9).unwrap();
    scene.machine.track_stage2(&table);
    // What is only noted maps nothing.
    scene.cpu.write(root, 0x1234);
    scene.cpu.write(scene.level3, 0);
    scene.machine.forget(root);
    scene.expect_none();
    assert_eq!(scene.machine.unfinished().len(), 1);
    assert_eq!(scene.reachable(), [0x8000_0000]);
    scene.cpu.write(root, BLOCK);
    scene.expect_none();
    scene.cpu.write(scene.level3, 0x9000_0000 | PAGE);
    scene.expect_violation("is made valid before its old value is flushed");
}

#[test]
fn a_tree_is_found_by_its_root() {
    let scene = Scene::new(2);
    let root = scene.machine.take_root(1);
    scene.machine.track_stage2(&Stage2::new(root, Stage2Config::new(39, 48), 9).unwrap());
    let lock = scene.machine.declare_lock("of the second", 1);
    scene.machine.guard_tree(root, lock);
    scene.cpu.write(scene.level3.checked_add(8).unwrap(), 0x8000_1000 | PAGE);
    scene.expect_none();
    scene.cpu.write(root, 0x4000_0000 | BLOCK);
    scene.expect_violation("of stage 2 of VMID 9 is written while of the second is not held at all");
}
