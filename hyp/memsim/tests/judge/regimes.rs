//! What a stage-1 tree needs that stage 2 does not, and the other way round.

use crate::scene::{Do, IPA, ISH, PAGE, SY, Scene, TABLE, VMALLE1IS, VMALLS12E1IS, VMID, by_ipa, kind};
use abi::{Ipa, PhysAddr, VirtAddr};
use memsim::{Cpu, Machine};
use pgtable::{
    DsbKind, El1Config, El1Stage1, El2Config, El2Stage1, Maintenance, TableFrames, Tlbi, TlbiFeatures, VirtualHalf,
};

/// A machine of two CPUs with tables of levels 1, 2 and 3 in one of the stage-1 regimes, and one page mapped at 0.
struct Stage1 {
    machine: Machine,
    cpu: Cpu,
    level2: PhysAddr,
    level3: PhysAddr,
}

impl Stage1 {
    fn new(machine: Machine, root: PhysAddr, page: u64) -> Self {
        let mut cpu = machine.cpu(0);
        let level2 = cpu.allocate().unwrap();
        let level3 = cpu.allocate().unwrap();
        cpu.write(level3, page);
        cpu.write(level2, level3.raw() | TABLE);
        cpu.write(root, level2.raw() | TABLE);
        cpu.dsb(DsbKind::Ishst);
        cpu.isb();
        machine.assert_clean();
        Self { machine, cpu, level2, level3 }
    }

    fn el2() -> Self {
        let machine = Scene::new(2).machine;
        let root = machine.take_root(1);
        let config = El2Config { va_bits: 39, pa_bits: 48, hardware_access_flag: false, tlbi: TlbiFeatures::default() };
        machine.track_el2(&El2Stage1::new(root, config).unwrap());
        Self::new(machine, root, 0x9000_0000 | 0x743)
    }

    /// The page is not global.
    fn el1() -> Self {
        let machine = Scene::new(2).machine;
        let root = machine.take_root(1);
        let config = El1Config {
            va_bits: 39,
            pa_bits: 48,
            half: VirtualHalf::Lower,
            asid: 7,
            hardware_access_flag: false,
            tlbi: TlbiFeatures::default(),
        };
        machine.track_el1(&El1Stage1::new(root, config).unwrap());
        Self::new(machine, root, 0x9000_0000 | 0xf03)
    }

    /// True where `steps` leave nothing unfinished.
    fn is_enough(&self, steps: &[Do]) -> bool {
        let other = self.machine.cpu(1);
        for step in steps {
            let (cpu, step) = match step {
                Do::Other(step) => (&other, **step),
                step => (&self.cpu, *step),
            };
            match step {
                Do::Dsb(kind) => cpu.dsb(kind),
                Do::Tlbi(operation) => cpu.tlbi(operation),
                Do::Isb => cpu.isb(),
                Do::Other(_) | Do::Vttbr(_) => panic!("not for stage 1"),
            }
        }
        self.machine.unfinished().is_empty()
    }
}

const NSH: Do = Do::Dsb(DsbKind::Nsh);
const NSHST: Do = Do::Dsb(DsbKind::Nshst);
const ISHST: Do = Do::Dsb(DsbKind::Ishst);
const BY_ADDRESS: Do = Do::Tlbi(Tlbi::Vae2Is { address: VirtAddr::new(0), level: None });
const ALL_OF_EL2: Do = Do::Tlbi(Tlbi::Alle2Is);

#[test]
fn barriers_around_an_invalidation_of_el2_reach_all_cpus() {
    for (steps, enough) in [
        (&[ISHST, BY_ADDRESS, ISH, Do::Isb][..], true),
        (&[ISH, ALL_OF_EL2, SY, Do::Isb], true),
        (&[NSH, BY_ADDRESS, ISH, Do::Isb], false),
        (&[NSHST, BY_ADDRESS, ISH, Do::Isb], false),
        (&[ISHST, BY_ADDRESS, NSH, Do::Isb], false),
        (&[ISHST, BY_ADDRESS, ISHST, Do::Isb], false),
        (&[BY_ADDRESS, ISH, Do::Isb], false),
        (&[ISHST, BY_ADDRESS, Do::Isb], false),
        (&[ISHST, BY_ADDRESS, ISH], false),
        (&[ISHST, Do::Other(&BY_ADDRESS), Do::Other(&ISH), ISH, Do::Isb], false),
        (&[ISHST, BY_ADDRESS, Do::Other(&ISH), Do::Isb], false),
        (&[ISHST, BY_ADDRESS, ISH, Do::Other(&Do::Isb)], false),
    ] {
        let stage1 = Stage1::el2();
        stage1.cpu.write(stage1.level3, 0);
        assert_eq!(stage1.is_enough(steps), enough, "{steps:?}");
    }
}

#[test]
fn a_page_of_el2_is_not_replaced_before_it_is_flushed() {
    for (steps, enough) in [(&[ISHST, BY_ADDRESS, ISH][..], true), (&[ISHST, BY_ADDRESS][..], false)] {
        let stage1 = Stage1::el2();
        stage1.cpu.write(stage1.level3, 0);
        stage1.is_enough(steps);
        stage1.cpu.write(stage1.level3, 0xa000_0000 | 0x743);
        let violations = stage1.machine.violations();
        assert_eq!(violations.is_empty(), enough);
        let text = violations.first().map_or(String::new(), |violation| violation.message.clone());
        assert!(enough || text.contains("made valid before its old value is flushed (EL2 stage 1)"), "{text}");
    }
}

#[test]
fn a_table_of_el1_goes_only_with_its_own_asid() {
    let by_asid = |asid: u16| Do::Tlbi(Tlbi::Vae1Is { address: VirtAddr::new(0), asid, level: None });
    for (asid, enough) in [(7, true), (8, false)] {
        let stage1 = Stage1::el1();
        stage1.cpu.write(stage1.level3, 0);
        assert!(stage1.is_enough(&[ISHST, by_asid(7), ISH, Do::Isb]));
        stage1.cpu.write(stage1.level2, 0);
        assert_eq!(stage1.is_enough(&[ISHST, by_asid(asid), ISH, Do::Isb]), enough, "ASID {asid}");
    }
}

#[test]
fn global_and_not_global_are_not_exchanged_in_place() {
    let stage1 = Stage1::el1();
    stage1.cpu.write(stage1.level3, 0x9000_0000 | 0x703);
    let violations = stage1.machine.violations();
    assert!(violations[0].message.contains("global and not global change"), "{}", violations[0]);
}

#[test]
fn memory_type_contiguous_bit_and_address_need_a_break_in_stage_1_too() {
    for (bits, reason) in [
        (1 << 2, "memory type"),
        (1 << 4, "memory type"),
        (1 << 8, "shareability"),
        (1 << 12, "output address"),
        (1 << 52, "contiguous"),
        (1 << 12 | 1 << 10, "output address"),
    ] {
        for stage1 in [Stage1::el1(), Stage1::el2()] {
            let old = stage1.cpu.read(stage1.level3);
            stage1.cpu.write(stage1.level3, old ^ bits);
            let violations = stage1.machine.violations();
            assert!(violations[0].message.contains(reason), "{bits:#x}: {}", violations[0]);
        }
    }
    for bits in [1 << 7, 1 << 10, 1 << 51, 1 << 54, 1 << 55, 1 << 58] {
        for stage1 in [Stage1::el1(), Stage1::el2()] {
            let old = stage1.cpu.read(stage1.level3);
            stage1.cpu.write(stage1.level3, old ^ bits);
            assert!(stage1.machine.violations().is_empty(), "{bits:#x}");
        }
    }
}

#[test]
fn what_el0_may_write_takes_the_right_to_execute_from_el1() {
    let stage1 = Stage1::el1();
    stage1.cpu.write(stage1.level3, 0x9000_0000 | 0xf03 | 1 << 6);
    assert!(!stage1.is_enough(&[ISHST, Do::Isb]), "a right of EL1 is gone");
    let flush = Do::Tlbi(Tlbi::Vae1Is { address: VirtAddr::new(0), asid: 7, level: Some(3) });
    assert!(stage1.is_enough(&[flush, ISH, Do::Isb]));
}

#[test]
fn a_leaf_stays_within_the_physical_addresses() {
    let scene = Scene::new(2);
    let slot = scene.level3.checked_add(8).unwrap();
    scene.cpu.write(slot, ((1 << 48) - 0x1000) | PAGE);
    scene.expect_none();
    let root = scene.machine.take_root(1);
    let config = pgtable::Stage2Config::new(36, 36);
    scene.machine.track_stage2(&pgtable::Stage2::new(root, config, 9).unwrap());
    scene.cpu.write(root, 1 << 36 | 0x7fd);
    scene.expect_violation("maps to 0x1000000000, which is beyond 36 bits");
}

#[test]
fn nothing_is_mapped_over_what_another_cpu_has_not_flushed() {
    let unlink = |steps: &[Do]| {
        let scene = Scene::new(2);
        scene.other.write(scene.level3, 0);
        scene.cpu.write(scene.level2, 0);
        scene.run(&[ISH, VMALLS12E1IS, ISH]);
        scene.run(steps);
        scene.cpu.write(scene.level2, 0x9000_0000 | crate::scene::BLOCK);
        scene
    };
    let scene = unlink(&[]);
    let page = scene.level3;
    scene.expect_violation(&format!("is made valid before {page}, which decided for the same input, is flushed"));
    static STEPS: [Do; 5] = [ISH, by_ipa(IPA), ISH, VMALLE1IS, ISH];
    unlink(&STEPS.each_ref().map(Do::Other)).expect_none();
}

#[test]
fn beside_what_is_not_flushed_all_may_be_mapped() {
    let scene = Scene::new(2);
    let slot = |index: u64| scene.level3.checked_add(index * 8).unwrap();
    scene.cpu.write(slot(0), 0);
    scene.run(&[ISH, VMALLS12E1IS, ISH]);
    scene.cpu.write(slot(1), 0x8000_1000 | PAGE);
    scene.run(&[crate::scene::ISHST]);
    scene.cpu.write(slot(1), 0);
    for index in [0, 2] {
        scene.cpu.write(slot(index), (0x8000_0000 + index * 0x1000) | PAGE);
        scene.expect_none();
    }
    // The same input in another tree.
    let root = scene.machine.take_root(1);
    let config = pgtable::Stage2Config::new(39, 48);
    scene.machine.track_stage2(&pgtable::Stage2::new(root, config, 9).unwrap());
    scene.cpu.write(root.checked_add(8).unwrap(), 0xc000_0000 | crate::scene::BLOCK);
    scene.expect_none();
}

#[test]
fn another_tree_that_comes_publishes_nothing() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level3.checked_add(8).unwrap(), 0x8000_1000 | PAGE);
    let root = scene.machine.take_root(1);
    let config = pgtable::Stage2Config::new(39, 48);
    scene.machine.track_stage2(&pgtable::Stage2::new(root, config, 9).unwrap());
    assert_eq!(scene.machine.unfinished().len(), 1);
    scene.run(&[crate::scene::ISHST]);
    assert_eq!(scene.machine.translations(kind(), IPA + 0x1000).len(), 1);
    scene.machine.assert_clean();
}

#[test]
fn tables_that_come_and_go_with_all_beneath_are_known_by_place() {
    for is_disturbed in [false, true] {
        let mut scene = Scene::new(2);
        if is_disturbed {
            // Beside what is of interest here.
            scene.machine.corrupt(scene.level3.checked_add(8).unwrap(), 0x1000);
        }
        let (level2, level3) = (scene.cpu.allocate().unwrap(), scene.cpu.allocate().unwrap());
        let page = level3.checked_add(5 * 8).unwrap();
        let table = level2.checked_add(7 * 8).unwrap();
        scene.cpu.write(page, 0x8000_5000 | PAGE);
        scene.cpu.write(table, level3.raw() | TABLE);
        let slot = scene.root.checked_add(3 * 8).unwrap();
        scene.cpu.write(slot, level2.raw() | TABLE);
        scene.run(&[crate::scene::ISHST]);
        let input = 3 << 30 | 7 << 21 | 5 << 12;
        assert_eq!(scene.machine.translations(kind(), input).len(), 1);
        scene.cpu.write(slot, 0);
        let unfinished = scene.machine.unfinished();
        for (slot, input, level) in [(slot, 3 << 30, 1), (table, 3 << 30 | 7 << 21, 2), (page, input, 3)] {
            let held = format!("what {slot} held");
            let line = unfinished.iter().find(|line| line.contains(&held)).unwrap();
            assert!(line.contains(&format!("for input {input:#x} at level {level}, may still be used")), "{line}");
        }
        assert_eq!(unfinished.len(), 3 + usize::from(is_disturbed), "{unfinished:#?}");
        assert_eq!(scene.machine.reachable(VMID, Ipa::new(input)), [PhysAddr::new(0x8000_5000)]);
        scene.run(&[ISH, by_ipa(input), ISH, VMALLE1IS, ISH]);
        assert_eq!(scene.machine.unfinished().len(), usize::from(is_disturbed));
        scene.expect_none();
    }
    let mut scene = Scene::new(2);
    let child = scene.cpu.allocate().unwrap();
    let slot = child.checked_add(5 * 8).unwrap();
    scene.cpu.write(slot, child.raw() | PAGE);
    scene.cpu.write(scene.level2.checked_add(8).unwrap(), child.raw() | TABLE);
    scene.expect_violation(&format!("{slot} of stage 2 of VMID 5 maps {child}"));
}
