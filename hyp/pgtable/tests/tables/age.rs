//! The access flag: asked for and cleared over ranges, set leaf by leaf, by software and by the hardware.

use std::cell::Cell;

use abi::{Ipa, PhysAddr, VirtAddr};
use memsim::{Access, Cpu, Event, Fault, Machine, TreeKind};
use pgtable::shared::Outcome;
use pgtable::{
    Annotation, DsbKind, El1Attributes, El1Config, El1Stage1, El2Attributes, El2Config, El2Stage1, MapOptions,
    Stage2Attributes, Stage2Config, TableError, TableFrames, Tlbi, TlbiFeatures, VirtualHalf,
};

use crate::bench::{Bench, GIB, MIB2, PAGE, VMID, pool, tlbis};
use crate::racing::Racing;

const KIND: TreeKind = TreeKind::Stage2 { vmid: VMID };
const RANGE: TlbiFeatures = TlbiFeatures { level_hint: true, range: true };
/// AF.
const FLAG: u64 = 1 << 10;

fn young() -> Stage2Attributes {
    Stage2Attributes::memory().with_software(5)
}

fn old() -> Stage2Attributes {
    Stage2Attributes { access_flag: false, ..young() }
}

fn with_range() -> Bench {
    Bench::with(Stage2Config { tlbi: RANGE, ..Stage2Config::new(40, 48) })
}

impl Bench {
    fn age(&mut self, ipa: u64, size: u64) -> Result<bool, TableError> {
        self.table.test_and_clear_young(&mut self.cpu, Ipa::new(ipa), size)
    }

    fn make_young(&self, ipa: u64) -> Result<Outcome, TableError> {
        self.table.make_young(&mut self.cpu.clone(), Ipa::new(ipa))
    }

    fn flag(&self, ipa: u64) -> Option<bool> {
        Some(self.mapping(ipa)?.1.access_flag)
    }
}

#[test]
fn young_pages_are_told_and_cleared_with_one_flush() {
    let mut bench = with_range();
    bench.lay(GIB, 5 * GIB, 64 * PAGE, young(), true);
    let (was_young, invalidations) = bench.tlbis(|bench| bench.age(GIB, 64 * PAGE));
    assert_eq!(was_young, Ok(true));
    let [Tlbi::Ripas2e1Is { ipa, pages, level }, Tlbi::Vmalle1Is] = invalidations[..] else {
        panic!("{invalidations:?}");
    };
    assert_eq!((ipa.raw(), pages.pages(), level), (GIB, 64, Some(3)));
    for page in 0..64 {
        let expected = Some((5 * GIB + page * PAGE, old()));
        assert_eq!(bench.mapping(GIB + page * PAGE), expected, "nothing else changes");
    }
    let (was_young, events) = bench.events(|bench| bench.age(GIB, 64 * PAGE));
    assert_eq!((was_young, events), (Ok(false), vec![]), "nothing is left to do");
    bench.finish();
}

#[test]
fn only_what_was_young_is_flushed() {
    let mut bench = with_range();
    bench.lay(GIB, GIB, 8 * PAGE, old(), true);
    bench.lay(GIB + 8 * PAGE, GIB + 8 * PAGE, PAGE, young(), true);
    bench.lay(GIB + 9 * PAGE, GIB + 9 * PAGE, 8 * PAGE, old(), true);
    let (was_young, invalidations) = bench.tlbis(|bench| bench.age(GIB, 17 * PAGE));
    assert_eq!(was_young, Ok(true));
    let ipa = Ipa::new(GIB + 8 * PAGE);
    assert_eq!(invalidations, [Tlbi::Ipas2e1Is { ipa, level: Some(3) }, Tlbi::Vmalle1Is]);
    bench.finish();
}

#[test]
fn a_leaf_that_the_range_cuts_is_aged_as_a_whole() {
    for (size, level) in [(MIB2, 2), (GIB, 1)] {
        let mut bench = with_range();
        bench.lay(GIB, GIB, size, young(), false);
        let (was_young, invalidations) = bench.tlbis(|bench| bench.age(GIB + 3 * PAGE, PAGE));
        assert_eq!(was_young, Ok(true));
        assert_eq!(invalidations, [Tlbi::Ipas2e1Is { ipa: Ipa::new(GIB), level: Some(level) }, Tlbi::Vmalle1Is]);
        assert_eq!((bench.leaf_size(GIB), bench.flag(GIB)), (size, Some(false)));
        bench.finish();
    }
}

#[test]
fn blocks_and_pages_are_aged_together() {
    let mut bench = Bench::new();
    bench.lay(GIB - PAGE, 3 * GIB - PAGE, GIB + MIB2 + 3 * PAGE, young(), false);
    let (was_young, invalidations) = bench.tlbis(|bench| bench.age(GIB - PAGE, GIB + MIB2 + 2 * PAGE));
    assert_eq!((was_young, invalidations), (Ok(true), vec![Tlbi::Vmalls12e1Is]));
    for (ipa, expected) in
        [(GIB - PAGE, false), (GIB, false), (2 * GIB, false), (2 * GIB + MIB2, false), (2 * GIB + MIB2 + PAGE, true)]
    {
        assert_eq!(bench.flag(ipa), Some(expected), "{ipa:#x}");
    }
    bench.finish();
}

#[test]
fn what_is_not_mapped_is_neither_young_nor_changed() {
    let mut bench = Bench::new();
    let note = Annotation::new(0x1ff).unwrap();
    bench.table.annotate(&mut bench.cpu, Ipa::new(GIB), PAGE, Some(note)).unwrap();
    bench.table.annotate(&mut bench.cpu, Ipa::new(2 * GIB), GIB, Some(note)).unwrap();
    for (ipa, size) in [(0, GIB), (GIB, PAGE), (2 * GIB + PAGE, PAGE), (0, 1 << 40)] {
        let (was_young, events) = bench.events(|bench| bench.age(ipa, size));
        assert_eq!((was_young, events), (Ok(false), vec![]));
    }
    assert_eq!(bench.leaf(GIB).annotation(), Some(note));
    bench.finish();
}

#[test]
fn the_ends_of_every_input_space_are_aged() {
    for bits in 32..=48 {
        let mut bench = Bench::with(Stage2Config::new(bits, 48));
        let last = (1u64 << bits) - PAGE;
        bench.lay(last, GIB, PAGE, young(), true);
        assert_eq!(bench.age(0, 1 << bits), Ok(true), "{bits} bits");
        assert_eq!(bench.flag(last), Some(false));
        bench.lay(0, 0, PAGE, young(), true);
        assert_eq!(bench.make_young(last | 0xfff), Ok(Outcome::Done));
        assert_eq!(bench.age(last, PAGE), Ok(true));
        assert_eq!(bench.age(0, PAGE), Ok(true));
        assert_eq!(bench.age(0, 1 << bits), Ok(false));
        assert_eq!(bench.age(PAGE, 1 << bits), Err(TableError::BadRange));
        assert_eq!(bench.age(1, PAGE), Err(TableError::Misaligned));
        assert_eq!(bench.make_young(1 << bits), Err(TableError::BadRange));
        bench.finish();
    }
}

#[test]
fn a_leaf_that_changes_under_our_hands_stays_young_and_keeps_the_change() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, 2 * PAGE, young(), true);
    let once = Cell::new(true);
    let before = |cpu: &Cpu, slot: PhysAddr, _new| {
        if once.replace(false) {
            cpu.write(slot, cpu.read(slot) | 8 << 55);
        }
    };
    let mut racing = Racing { cpu: bench.cpu.clone(), before };
    let was_young = bench.table.test_and_clear_young(&mut racing, Ipa::new(GIB), 2 * PAGE);
    bench.machine.assert_clean();
    assert_eq!(was_young, Ok(true));
    assert_eq!(bench.mapping(GIB), Some((GIB, young().with_software(13))));
    assert_eq!(bench.mapping(GIB + PAGE), Some((GIB + PAGE, old())));
    bench.finish();
}

#[test]
fn a_foreign_descriptor_ends_the_ageing_but_not_its_flush() {
    let mut bench = Bench::new();
    bench.lay(0, 0, PAGE, young(), true);
    bench.lay(GIB, GIB, PAGE, young(), true);
    let slot = PhysAddr::new(bench.table.root().raw() + 2 * 8);
    bench.cpu.write(slot, 0x1000_0002);
    let (result, invalidations) = bench.tlbis(|bench| bench.age(0, 4 * GIB));
    assert_eq!(result, Err(TableError::Corrupt));
    assert_eq!(invalidations, [Tlbi::Vmalls12e1Is]);
    assert_eq!(bench.make_young(2 * GIB), Err(TableError::Corrupt));
    bench.cpu.write(slot, 0);
    bench.finish();
}

#[test]
fn a_leaf_is_made_young_without_a_flush() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, GIB, old(), false);
    bench.lay(2 * GIB, 2 * GIB, PAGE, old(), false);
    for ipa in [GIB + MIB2 + 0x123, 2 * GIB + 0xfff] {
        let (outcome, events) = bench.events(|bench| bench.make_young(ipa));
        assert_eq!(outcome, Ok(Outcome::Done));
        assert!(matches!(events[..], [Event::Write { .. }, Event::Dsb(DsbKind::Ishst)]), "{events:?}");
        assert_eq!(bench.mapping(ipa), Some((ipa, young())));
        let (outcome, events) = bench.events(|bench| bench.make_young(ipa));
        assert_eq!((outcome, tlbis(&events)), (Ok(Outcome::AlreadyDone), vec![]));
        assert!(!events.iter().any(|event| matches!(event, Event::Write { .. })));
    }
    let note = Annotation::new(3);
    bench.table.annotate(&mut bench.cpu, Ipa::new(4 * GIB), PAGE, note).unwrap();
    assert_eq!(bench.make_young(0), Err(TableError::NotMapped));
    assert_eq!(bench.make_young(4 * GIB), Err(TableError::NotMapped));
    bench.finish();
}

#[test]
fn a_lost_race_is_run_again_until_it_is_told() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, PAGE, old(), true);
    let changes = Cell::new(0);
    let change = |most: u32, bits: u64| {
        let changes = &changes;
        move |cpu: &Cpu, slot: PhysAddr, _new: u64| {
            if changes.get() < most {
                changes.set(changes.get() + 1);
                cpu.write(slot, cpu.read(slot) ^ bits);
            }
        }
    };
    let software = 1 << 58;
    let mut racing = Racing { cpu: bench.cpu.clone(), before: change(3, software) };
    assert_eq!(bench.table.make_young(&mut racing, Ipa::new(GIB)), Ok(Outcome::Done));
    assert_eq!(bench.mapping(GIB), Some((GIB, young().with_software(13))), "the other change is not lost");

    bench.age(GIB, PAGE).unwrap();
    changes.set(0);
    let mut racing = Racing { cpu: bench.cpu.clone(), before: change(1, FLAG) };
    assert_eq!(bench.table.make_young(&mut racing, Ipa::new(GIB)), Ok(Outcome::AlreadyDone));

    bench.age(GIB, PAGE).unwrap();
    changes.set(0);
    let mut racing = Racing { cpu: bench.cpu.clone(), before: change(u32::MAX, software) };
    assert_eq!(bench.table.make_young(&mut racing, Ipa::new(GIB)), Ok(Outcome::Busy));
    assert!((2..100).contains(&changes.get()), "{} attempts", changes.get());
    assert_eq!(bench.flag(GIB), Some(false));
    pgtable::Maintenance::dsb(&bench.cpu, DsbKind::Ishst);
    bench.finish();
}

#[test]
fn a_locked_descriptor_is_busy() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, PAGE, old(), true);
    let root = bench.table.root().raw();
    let slot = PhysAddr::new(root + 5 * 8);
    bench.cpu.write(slot, 0b110);
    assert_eq!(bench.make_young(5 * GIB), Ok(Outcome::Busy));
    bench.cpu.write(slot, 0);
    bench.finish();
}

#[test]
fn without_hardware_update_an_old_leaf_faults_until_software_makes_it_young() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, PAGE, young(), true);
    let address = PhysAddr::new(GIB + 8);
    assert_eq!(bench.cpu.access(KIND, GIB + 8, Access::Read), Ok(address));
    assert_eq!(bench.age(GIB, PAGE), Ok(true));
    assert_eq!(bench.cpu.access(KIND, GIB + 8, Access::Read), Err(Fault::AccessFlag { level: 3 }));
    assert_eq!(bench.age(GIB, PAGE), Ok(false));
    assert_eq!(bench.make_young(GIB + 8), Ok(Outcome::Done));
    assert_eq!(bench.cpu.access(KIND, GIB + 8, Access::Read), Ok(address));
    bench.finish();
}

#[test]
fn with_hardware_update_an_access_makes_a_leaf_young() {
    let mut bench = Bench::with(Stage2Config { hardware_access_flag: true, ..Stage2Config::new(40, 48) });
    bench.lay(GIB, GIB, MIB2, young(), false);
    assert_eq!(bench.age(GIB, MIB2), Ok(true));
    assert_eq!(bench.age(GIB, MIB2), Ok(false));
    let other = bench.machine.cpu(1);
    assert_eq!(other.access(KIND, GIB + PAGE, Access::Write), Ok(PhysAddr::new(GIB + PAGE)));
    assert_eq!(bench.flag(GIB), Some(true));
    assert_eq!(bench.age(GIB + 5 * PAGE, PAGE), Ok(true));
    bench.finish();
}

#[test]
fn the_stage1_regimes_age_too() {
    let options = MapOptions::default();
    let machine = Machine::new(2, pool());
    let mut cpu = machine.cpu(0);
    let root = machine.take_root(1);
    let config = El2Config { va_bits: 48, pa_bits: 48, hardware_access_flag: false, tlbi: RANGE };
    let mut el2 = El2Stage1::new(root, config).unwrap();
    machine.track_el2(&el2);
    let root = machine.take_root(1);
    let config = El1Config {
        va_bits: 48,
        pa_bits: 48,
        half: VirtualHalf::Upper,
        asid: 9,
        hardware_access_flag: false,
        tlbi: RANGE,
    };
    let mut el1 = El1Stage1::new(root, config).unwrap();
    machine.track_el1(&el1);
    let output = PhysAddr::new(GIB);
    let invalidations = |before: usize| {
        let events: Vec<Event> = machine.events()[before..].iter().map(|(_, event)| *event).collect();
        tlbis(&events)
    };

    let address = VirtAddr::new(GIB);
    el2.map(&mut cpu, address, output, MIB2, El2Attributes::data(), options).unwrap();
    let before = machine.events().len();
    assert_eq!(el2.test_and_clear_young(&mut cpu, address, MIB2), Ok(true));
    machine.assert_clean();
    assert_eq!(invalidations(before), [Tlbi::Vae2Is { address, level: Some(2) }]);
    assert_eq!(el2.test_and_clear_young(&mut cpu, address, MIB2), Ok(false));
    assert_eq!(el2.make_young(&mut cpu, VirtAddr::new(GIB + 5)), Ok(Outcome::Done));
    machine.assert_clean();
    assert_eq!(el2.test_and_clear_young(&mut cpu, address, MIB2), Ok(true));

    let address = VirtAddr::new(!0 - PAGE + 1);
    el1.map(&mut cpu, address, output, PAGE, El1Attributes::data(), options).unwrap();
    let before = machine.events().len();
    assert_eq!(el1.test_and_clear_young(&mut cpu, address, PAGE), Ok(true));
    machine.assert_clean();
    assert_eq!(invalidations(before), [Tlbi::Vale1Is { address, asid: 9, level: Some(3) }]);
    assert_eq!(el1.test_and_clear_young(&mut cpu, address, PAGE), Ok(false));
    assert_eq!(el1.make_young(&mut cpu, VirtAddr::new(!0)), Ok(Outcome::Done));
    machine.assert_clean();
    let leaf = el1.lookup(&cpu, address).unwrap();
    assert_eq!(leaf.mapping(), Some((output, El1Attributes::data())));
    assert_eq!(el1.test_and_clear_young(&mut cpu, address, PAGE), Ok(true));
    for root in [el1.destroy(&mut cpu), el2.destroy(&mut cpu)] {
        machine.forget(root.start);
    }
    machine.assert_no_leak();
    machine.assert_clean();
}
