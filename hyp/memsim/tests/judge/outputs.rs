//! No stage-2 leaf leads to a table of the hypervisor's.

use crate::scene::{BLOCK, ISH, ISHST, PAGE, Scene, TABLE, VMALLS12E1IS, VMID};
use abi::PhysAddr;
use memsim::TreeKind;
use pgtable::{
    DsbKind, El1Config, El1Stage1, El2Config, El2Stage1, Maintenance, Stage2, Stage2Config, TableFrames, TlbiFeatures,
    VirtualHalf,
};

/// A second stage-2 tree, of VMID 9; the slot of its first descriptor.
fn second_tree(scene: &Scene) -> PhysAddr {
    let root = scene.machine.take_root(1);
    scene.machine.track_stage2(&Stage2::new(root, Stage2Config::new(39, 48), 9).unwrap());
    root
}

fn el2_tree(scene: &Scene) -> PhysAddr {
    let root = scene.machine.take_root(1);
    let config = El2Config { va_bits: 39, pa_bits: 48, hardware_access_flag: false, tlbi: TlbiFeatures::default() };
    scene.machine.track_el2(&El2Stage1::new(root, config).unwrap());
    root
}

#[test]
fn no_page_of_stage_2_is_a_table() {
    for table in [|scene: &Scene| scene.root, |scene: &Scene| scene.level2, |scene: &Scene| scene.level3] {
        let scene = Scene::new(2);
        let table = table(&scene);
        scene.cpu.write(scene.level3.checked_add(8).unwrap(), table.raw() | PAGE);
        scene.expect_violation(&format!("maps {table}, a table of stage 2 of VMID 5"));
    }
    let scene = Scene::new(2);
    let beside = scene.level3.raw() + 0x1000;
    scene.cpu.write(scene.level3.checked_add(8).unwrap(), beside | PAGE);
    scene.expect_none();
}

#[test]
fn no_block_of_stage_2_holds_a_table() {
    for (table, block, caught) in [(2, 0, true), (2, 0x20_0000, false), (1, 0, true), (1, 0x4000_0000, false)] {
        let scene = Scene::new(2);
        let slot = if table == 2 { scene.level2 } else { scene.root };
        scene.cpu.write(slot.checked_add(16).unwrap(), block | BLOCK);
        if caught {
            scene.expect_violation("a table of stage 2 of VMID 5");
        } else {
            scene.expect_none();
        }
    }
}

#[test]
fn the_tables_of_other_trees_are_out_of_reach_too() {
    let scene = Scene::new(2);
    let root = el2_tree(&scene);
    scene.cpu.write(scene.level3.checked_add(8).unwrap(), root.raw() | PAGE);
    scene.expect_violation(&format!("maps {root}, a table of EL2 stage 1"));

    let scene = Scene::new(2);
    let second = second_tree(&scene);
    scene.cpu.write(second, BLOCK);
    scene.expect_violation("of stage 2 of VMID 9 maps 0x100000, a table of stage 2 of VMID 5");
}

#[test]
fn the_hypervisor_maps_its_own_tables_and_el1_has_its_own() {
    let scene = Scene::new(2);
    let root = el2_tree(&scene);
    scene.cpu.write(root, scene.level3.raw() & !0x3fff_ffff | 0x741);
    scene.expect_none();

    let config = El1Config {
        va_bits: 39,
        pa_bits: 48,
        half: VirtualHalf::Lower,
        asid: 1,
        hardware_access_flag: false,
        tlbi: TlbiFeatures::default(),
    };
    let root = scene.machine.take_root(1);
    scene.machine.track_el1(&El1Stage1::new(root, config).unwrap());
    scene.cpu.write(scene.level3.checked_add(8).unwrap(), root.raw() | PAGE);
    scene.expect_none();
}

#[test]
fn an_unlinked_table_is_out_of_reach_until_it_is_clean() {
    let map = |scene: &Scene| {
        scene.cpu.write(scene.level2.checked_add(8).unwrap(), 0x20_0000 | BLOCK);
        let slot = scene.level1_slot().checked_add(8).unwrap();
        scene.cpu.write(slot, BLOCK);
    };
    // The pool has nothing else in the first GiB once the root is elsewhere: only the tables beneath the root.
    let scene = Scene::new(2);
    let second = second_tree(&scene);
    scene.cpu.write(scene.level2, 0);
    scene.cpu.write(second, scene.level3.raw() & !0x3fff_ffff | BLOCK);
    map(&scene);
    scene.expect_violation("a table of");

    let mut scene = Scene::new(2);
    let child = scene.cpu.allocate().unwrap();
    scene.cpu.write(child, 0x9000_0000 | PAGE);
    let slot = scene.level2.checked_add(8).unwrap();
    scene.cpu.write(slot, child.raw() | TABLE);
    scene.run(&[ISHST]);
    scene.cpu.write(slot, 0);
    scene.cpu.write(scene.level3.checked_add(8).unwrap(), child.raw() | PAGE);
    scene.expect_violation(&format!("maps {child}, a table of stage 2 of VMID 5 that was unlinked and is not clean"));

    let mut scene = Scene::new(2);
    let child = scene.cpu.allocate().unwrap();
    scene.cpu.write(child, 0x9000_0000 | PAGE);
    let slot = scene.level2.checked_add(8).unwrap();
    scene.cpu.write(slot, child.raw() | TABLE);
    scene.run(&[ISHST]);
    scene.cpu.write(slot, 0);
    scene.run(&[ISH, VMALLS12E1IS, ISH]);
    scene.cpu.write(scene.level3.checked_add(8).unwrap(), child.raw() | PAGE);
    scene.expect_none();
}

#[test]
fn a_page_that_software_may_reach_becomes_no_table() {
    // By a page, by a block, and by a leaf that only a TLB still has.
    let link = |scene: &Scene, child: PhysAddr| {
        scene.cpu.write(scene.level2.checked_add(24).unwrap(), child.raw() | TABLE);
    };
    let mut scene = Scene::new(2);
    let child = scene.cpu.allocate().unwrap();
    scene.cpu.write(scene.level3.checked_add(8).unwrap(), child.raw() | PAGE);
    scene.run(&[ISHST]);
    scene.expect_none();
    link(&scene, child);
    scene.expect_violation(&format!("{child} becomes a table of stage 2 of VMID 5, but stage 2 of VMID 5 may still"));

    let scene = Scene::new(2);
    let second = second_tree(&scene);
    let beyond = PhysAddr::new(0x5000_0000);
    scene.cpu.write(second, 0x4000_0000 | BLOCK);
    scene.expect_none();
    link(&scene, beyond);
    scene.expect_violation("0x50000000 becomes a table of stage 2 of VMID 5, but stage 2 of VMID 9 may still reach it");

    let mut scene = Scene::new(2);
    let child = scene.cpu.allocate().unwrap();
    let slot = scene.level3.checked_add(8).unwrap();
    scene.cpu.write(slot, child.raw() | PAGE);
    scene.run(&[ISHST]);
    scene.cpu.write(slot, 0);
    scene.run(&[ISH, VMALLS12E1IS]);
    link(&scene, child);
    scene.expect_violation("may still reach it");

    let mut scene = Scene::new(2);
    let child = scene.cpu.allocate().unwrap();
    let slot = scene.level3.checked_add(8).unwrap();
    scene.cpu.write(slot, child.raw() | PAGE);
    scene.run(&[ISHST]);
    scene.cpu.write(slot, 0);
    scene.run(&[ISH, VMALLS12E1IS, ISH]);
    link(&scene, child);
    scene.expect_none();
}

#[test]
fn a_root_is_not_taken_from_what_software_may_reach() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level2.checked_add(8).unwrap(), 0x4000_0000 | BLOCK);
    let root = PhysAddr::new(0x4010_0000);
    scene.machine.track_stage2(&Stage2::new(root, Stage2Config::new(39, 48), 9).unwrap());
    scene.expect_violation("0x40100000 becomes a table of stage 2 of VMID 9, but stage 2 of VMID 5");
}

#[test]
fn what_a_tree_reaches_follows_every_change_of_it() {
    let scene = Scene::new(2);
    let of_the_tree = [TreeKind::Stage2 { vmid: VMID }];
    let reached = |address: u64| scene.machine.stage2_of(PhysAddr::new(address));
    // In place, with a right taken and given, and by a table that comes and goes.
    for value in [0x8000_0000 | PAGE & !(1 << 7), 0x8000_0000 | PAGE, 0x8000_0000 | PAGE | 1 << 55] {
        scene.cpu.write(scene.level3, value);
        assert_eq!(reached(0x8000_0000), of_the_tree);
    }
    scene.run(&[ISH, VMALLS12E1IS, ISH]);
    assert_eq!(reached(0x8000_0000), of_the_tree);
    scene.cpu.write(scene.level1_slot(), 0);
    scene.cpu.dsb(DsbKind::Ish);
    assert_eq!(reached(0x8000_0000), of_the_tree);
    scene.run(&[VMALLS12E1IS, ISH]);
    assert_eq!(reached(0x8000_0000), []);
    scene.cpu.write(scene.level1_slot(), scene.level2.raw() | TABLE);
    assert_eq!(reached(0x8000_0000), of_the_tree);
    scene.expect_none();
}
