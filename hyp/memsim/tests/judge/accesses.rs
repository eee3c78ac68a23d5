//! Accesses by hardware.

use crate::scene::{IPA, ISHST, PAGE, Scene, TABLE, kind};
use abi::PhysAddr;
use memsim::{Access, Event, Fault, Hold, Machine, TreeKind};
use pgtable::{
    El1Config, El1Stage1, El2Config, El2Stage1, Stage2, Stage2Config, TableFrames, TlbiFeatures, VirtualHalf,
};

const ALL: [Access; 3] = [Access::Read, Access::Write, Access::Execute];
const AF: u64 = 1 << 10;

/// The root, of level 1, of a stage-2 tree whose access flag the hardware sets.
fn with_hardware_access_flag(scene: &Scene) -> (TreeKind, PhysAddr) {
    let root = scene.machine.take_root(1);
    let config = Stage2Config { hardware_access_flag: true, ..Stage2Config::new(39, 40) };
    scene.machine.track_stage2(&Stage2::new(root, config, 8).unwrap());
    (TreeKind::Stage2 { vmid: 8 }, root)
}

#[test]
fn an_access_goes_where_the_tables_say() {
    let scene = Scene::new(2);
    for access in ALL {
        assert_eq!(scene.cpu.access(kind(), IPA + 0x123, access), Ok(PhysAddr::new(0x8000_0123)));
    }
    let (of_blocks, root) = with_hardware_access_flag(&scene);
    scene.cpu.write(root.checked_add(16).unwrap(), 0xc000_0000 | 0x7fd);
    assert_eq!(scene.other.access(of_blocks, 0x8123_4567, Access::Read), Ok(PhysAddr::new(0xc123_4567)));
    scene.expect_none();
}

#[test]
fn what_is_not_mapped_faults_at_the_level_where_the_walk_ends() {
    let scene = Scene::new(2);
    for (input, level) in [(0, 1), (IPA + 0x20_0000, 2), (IPA + 0x1000, 3), (1 << 39, 0), (u64::MAX, 0)] {
        let fault = Fault::Translation { level };
        assert_eq!(scene.cpu.access(kind(), input, Access::Read), Err(fault), "{input:#x}");
    }
    assert_eq!(Fault::Translation { level: 2 }.to_string(), "translation fault, level 2");
    let (of_blocks, root) = with_hardware_access_flag(&scene);
    scene.cpu.write(root, 0x100_4000_0000 | 0x7fd);
    assert_eq!(scene.cpu.access(of_blocks, 0, Access::Read), Err(Fault::AddressSize { level: 1 }));
}

#[test]
fn each_right_is_asked_for_by_its_access() {
    let scene = Scene::new(2);
    let page = 0x8000_0000 | PAGE;
    let none = 0b10 << 53;
    for (value, allowed) in [
        (page, [true, true, true]),
        (page & !(1 << 6), [false, true, true]),
        (page & !(1 << 7), [true, false, true]),
        (page | none, [true, true, false]),
        // FEAT_XNX: EL0 only, and EL1 only.
        (page | 0b01 << 53, [true, true, false]),
        (page | 0b11 << 53, [true, true, true]),
    ] {
        scene.cpu.write(scene.level3, value);
        for (access, allowed) in ALL.into_iter().zip(allowed) {
            let result = scene.cpu.access(kind(), IPA, access);
            let expected = if allowed { Ok(PhysAddr::new(0x8000_0000)) } else { Err(Fault::Permission { level: 3 }) };
            assert_eq!(result, expected, "{value:#x} {access:?}");
        }
    }
}

#[test]
fn a_clear_access_flag_faults_first_unless_the_hardware_sets_it() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level3, 0x8000_0000 | PAGE & !AF & !(1 << 7));
    assert_eq!(scene.cpu.access(kind(), IPA, Access::Read), Err(Fault::AccessFlag { level: 3 }));
    assert_eq!(scene.cpu.access(kind(), IPA, Access::Write), Err(Fault::AccessFlag { level: 3 }));
    assert_eq!(scene.cpu.read(scene.level3) & AF, 0);

    let scene = Scene::new(2);
    let (of_blocks, root) = with_hardware_access_flag(&scene);
    let old = 0xc000_0000 | 0x7fd & !AF & !(1 << 7);
    scene.cpu.write(root, old);
    assert_eq!(scene.other.access(of_blocks, 8, Access::Write), Err(Fault::Permission { level: 1 }));
    assert_eq!(scene.cpu.read(root), old, "an access that is not allowed leaves the flag");
    assert_eq!(scene.other.access(of_blocks, 8, Access::Read), Ok(PhysAddr::new(0xc000_0008)));
    assert_eq!(scene.cpu.read(root), old | AF);
    let update = Event::SetAccessFlag { address: root, old, new: old | AF };
    assert_eq!(scene.machine.events().last(), Some(&(1, update)));
    let events = scene.machine.events().len();
    assert_eq!(scene.other.access(of_blocks, 8, Access::Read), Ok(PhysAddr::new(0xc000_0008)));
    assert_eq!(scene.machine.events().len(), events, "once is enough");
    scene.expect_none();
}

#[test]
fn what_the_hardware_sets_breaks_no_rule() {
    let scene = Scene::new(2);
    let (of_blocks, root) = with_hardware_access_flag(&scene);
    let lock = scene.machine.declare_lock("tables", 1);
    scene.machine.guard_tree(root, lock);
    scene.cpu.acquire(lock, Hold::Exclusive);
    let old = 0xc000_0000 | 0x7fd & !AF;
    scene.cpu.write(root, old);
    scene.run(&[ISHST]);
    assert!(scene.other.access(of_blocks, 0, Access::Execute).is_ok());
    // A CPU that expects what it wrote finds that it is no longer so.
    assert_eq!(scene.cpu.compare_exchange(root, old, 0), Err(old | AF));
    scene.cpu.release(lock);
    scene.machine.assert_clean();
}

#[test]
fn stage_1_has_its_own_rights() {
    let scene = Scene::new(2);
    let machine: &Machine = &scene.machine;
    let tlbi = TlbiFeatures::default();
    let el2 = machine.take_root(1);
    let config = El2Config { va_bits: 39, pa_bits: 48, hardware_access_flag: true, tlbi };
    machine.track_el2(&El2Stage1::new(el2, config).unwrap());
    let el1 = machine.take_root(1);
    let config =
        El1Config { va_bits: 39, pa_bits: 48, half: VirtualHalf::Upper, asid: 7, hardware_access_flag: true, tlbi };
    machine.track_el1(&El1Stage1::new(el1, config).unwrap());
    let top = !0 << 39;
    let of_el1 = TreeKind::El1 { asid: 7 };
    let (read_only, user, pxn, uxn) = (1 << 7, 1 << 6, 1 << 53, 1 << 54);
    for (index, (kind, input, root, bits, allowed)) in [
        (TreeKind::El2, 0, el2, 0, [true, true, true]),
        (TreeKind::El2, 0, el2, read_only, [true, false, true]),
        (TreeKind::El2, 0, el2, uxn, [true, true, false]),
        (of_el1, top, el1, 0, [true, true, true]),
        (of_el1, top, el1, read_only, [true, false, true]),
        (of_el1, top, el1, pxn, [true, true, false]),
        (of_el1, top, el1, uxn, [true, true, true]),
        (of_el1, top, el1, user, [true, true, false]),
        (of_el1, top, el1, user | read_only, [true, false, true]),
    ]
    .into_iter()
    .enumerate()
    {
        // Without the access flag, which the hardware sets, at a place of its own.
        let at = index as u64;
        scene.cpu.write(root.checked_add(at * 8).unwrap(), 0x4000_0000 | 0x301 | bits);
        for (access, allowed) in ALL.into_iter().zip(allowed) {
            let result = scene.cpu.access(kind, input + (at << 30) + 0x10, access);
            let expected = if allowed { Ok(PhysAddr::new(0x4000_0010)) } else { Err(Fault::Permission { level: 1 }) };
            assert_eq!(result, expected, "{kind} {bits:#x} {access:?}");
        }
    }
    assert_eq!(scene.cpu.access(of_el1, 0, Access::Read), Err(Fault::Translation { level: 0 }));
    scene.expect_none();
}

#[test]
fn a_table_that_was_unlinked_is_not_walked() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level2, 0);
    assert_eq!(scene.cpu.access(kind(), IPA, Access::Read), Err(Fault::Translation { level: 2 }));
    assert_eq!(scene.machine.translations(kind(), IPA).len(), 1, "but a TLB may have it");
    assert_eq!(TABLE, 3);
}
