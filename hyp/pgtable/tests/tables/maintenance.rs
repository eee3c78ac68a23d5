//! Which maintenance each operation does, by regime, level and features: the whole sequence, in its order.

use abi::{Ipa, PhysAddr, PhysRange, VirtAddr};
use memsim::{Cpu, Event, Machine};
use pgtable::{
    DsbKind, El1Attributes, El1Config, El1Stage1, El2Attributes, El2Config, El2Stage1, MapOptions, Stage2Attributes,
    Stage2Config, Stage2Execute, Stage2Memory, Tlbi, TlbiFeatures, VirtualHalf,
};

use crate::bench::{Bench, GIB, MIB2, PAGE, pool};

const NONE: TlbiFeatures = TlbiFeatures { level_hint: false, range: false };
const HINT: TlbiFeatures = TlbiFeatures { level_hint: true, range: false };
const RANGE: TlbiFeatures = TlbiFeatures { level_hint: true, range: true };
/// Leaves of each level, by size.
const LEAVES: [(u8, u64); 3] = [(1, GIB), (2, MIB2), (3, PAGE)];
const DATA: El2Attributes = El2Attributes::data();
const OPTIONS: MapOptions = MapOptions { force_pages: false, replace_annotations: false, synchronise_caches: false };

/// What `operation` makes the machine do, without the frames that it takes and gives back.
fn events(machine: &Machine, operation: impl FnOnce()) -> Vec<Event> {
    let before = machine.events().len();
    operation();
    let events = machine.events();
    machine.assert_clean();
    let is_frame = |event: &Event| matches!(event, Event::Allocate(_) | Event::Free(_));
    events[before..].iter().map(|(_, event)| *event).filter(|event| !is_frame(event)).collect()
}

/// The same without the writes to descriptors.
fn maintenance(machine: &Machine, operation: impl FnOnce()) -> Vec<Event> {
    let mut events = events(machine, operation);
    events.retain(|event| !matches!(event, Event::Write { .. }));
    events
}

fn stage2(tlbi: TlbiFeatures) -> Bench {
    Bench::with(Stage2Config { tlbi, ..Stage2Config::new(40, 48) })
}

fn map(bench: &mut Bench, ipa: u64, size: u64) {
    let output = PhysAddr::new(ipa);
    bench.table.map(&mut bench.cpu, Ipa::new(ipa), output, size, Stage2Attributes::memory(), OPTIONS).unwrap();
}

fn el2(tlbi: TlbiFeatures) -> (Machine, Cpu, El2Stage1) {
    let machine = Machine::new(2, pool());
    let root = machine.take_root(1);
    let table =
        El2Stage1::new(root, El2Config { va_bits: 48, pa_bits: 48, hardware_access_flag: false, tlbi }).unwrap();
    machine.track_el2(&table);
    let cpu = machine.cpu(0);
    (machine, cpu, table)
}

fn el1(tlbi: TlbiFeatures) -> (Machine, Cpu, El1Stage1) {
    let machine = Machine::new(2, pool());
    let root = machine.take_root(1);
    let config =
        El1Config { va_bits: 48, pa_bits: 48, half: VirtualHalf::Upper, asid: 0x35, hardware_access_flag: false, tlbi };
    let table = El1Stage1::new(root, config).unwrap();
    machine.track_el1(&table);
    let cpu = machine.cpu(0);
    (machine, cpu, table)
}

/// The sequence of a stage-2 invalidation by IPA, whose instructions are `operations`.
fn by_ipa(bench: &Bench, operations: impl IntoIterator<Item = Tlbi>) -> Vec<Event> {
    let before = [Event::Dsb(DsbKind::Ish), Event::LoadVttbr(bench.table.vttbr_el2()), Event::Isb];
    let after = [
        Event::Dsb(DsbKind::Ish),
        Event::Tlbi(Tlbi::Vmalle1Is),
        Event::Dsb(DsbKind::Ish),
        Event::LoadVttbr(0),
        Event::Isb,
    ];
    before.into_iter().chain(operations.into_iter().map(Event::Tlbi)).chain(after).collect()
}

/// The sequence of a stage-1 invalidation, whose instructions are `operations`.
fn by_va(operations: impl IntoIterator<Item = Tlbi>) -> Vec<Event> {
    let after = [Event::Dsb(DsbKind::Ish), Event::Isb];
    [Event::Dsb(DsbKind::Ishst)].into_iter().chain(operations.into_iter().map(Event::Tlbi)).chain(after).collect()
}

#[test]
fn a_stage2_leaf_goes_by_its_ipa_and_then_the_combined_entries() {
    for (level, size) in LEAVES {
        for tlbi in [NONE, HINT, RANGE] {
            let mut bench = stage2(tlbi);
            map(&mut bench, GIB, 2 * size);
            let ipa = Ipa::new(GIB);
            let seen = maintenance(&bench.machine, || bench.table.unmap(&mut bench.cpu, ipa, size).unwrap());
            let level = Some(level).filter(|_| tlbi.level_hint);
            assert_eq!(seen, by_ipa(&bench, [Tlbi::Ipas2e1Is { ipa, level }]), "{size:#x}, {tlbi:?}");
            bench.finish();
        }
    }
}

#[test]
fn an_el2_page_goes_by_vale2is_and_a_block_by_vae2is() {
    for (level, size) in LEAVES {
        for tlbi in [NONE, HINT, RANGE] {
            let (machine, mut cpu, mut table) = el2(tlbi);
            let address = VirtAddr::new(GIB);
            table.map(&mut cpu, address, PhysAddr::new(GIB), 2 * size, DATA, OPTIONS).unwrap();
            let seen = maintenance(&machine, || table.unmap(&mut cpu, address, size).unwrap());
            let hint = Some(level).filter(|_| tlbi.level_hint);
            let expected = match level {
                3 => Tlbi::Vale2Is { address, level: hint },
                _ => Tlbi::Vae2Is { address, level: hint },
            };
            assert_eq!(seen, by_va([expected]), "{size:#x}, {tlbi:?}");
        }
    }
}

#[test]
fn an_el1_leaf_goes_by_address_and_asid() {
    for (level, size) in LEAVES {
        for tlbi in [NONE, HINT, RANGE] {
            let (machine, mut cpu, mut table) = el1(tlbi);
            let address = VirtAddr::new(0xffff_0000_0000_0000 + GIB);
            table.map(&mut cpu, address, PhysAddr::new(GIB), 2 * size, El1Attributes::data(), OPTIONS).unwrap();
            let seen = maintenance(&machine, || table.unmap(&mut cpu, address, size).unwrap());
            let hint = Some(level).filter(|_| tlbi.level_hint);
            let expected = match level {
                3 => Tlbi::Vale1Is { address, asid: 0x35, level: hint },
                _ => Tlbi::Vae1Is { address, asid: 0x35, level: hint },
            };
            assert_eq!(seen, by_va([expected]), "{size:#x}, {tlbi:?}");
        }
    }
}

#[test]
fn pages_in_a_row_go_one_by_one_as_long_as_they_are_few() {
    for tlbi in [NONE, HINT] {
        let level = Some(3).filter(|_| tlbi.level_hint);
        let pages = |base: u64| (0..16).map(move |page| base + page * PAGE);
        let mut bench = stage2(tlbi);
        map(&mut bench, GIB, 64 * PAGE);
        let seen = maintenance(&bench.machine, || {
            bench.table.unmap(&mut bench.cpu, Ipa::new(GIB), 16 * PAGE).unwrap();
        });
        let expected = pages(GIB).map(|ipa| Tlbi::Ipas2e1Is { ipa: Ipa::new(ipa), level });
        assert_eq!(seen, by_ipa(&bench, expected));
        bench.finish();

        let (machine, mut cpu, mut table) = el2(tlbi);
        let address = VirtAddr::new(GIB);
        table.map(&mut cpu, address, PhysAddr::new(0), 64 * PAGE, DATA, OPTIONS).unwrap();
        let seen = maintenance(&machine, || table.unmap(&mut cpu, address, 16 * PAGE).unwrap());
        assert_eq!(seen, by_va(pages(GIB).map(|page| Tlbi::Vae2Is { address: VirtAddr::new(page), level })));

        let (machine, mut cpu, mut table) = el1(tlbi);
        let base = 0xffff_8000_0000_0000;
        let address = VirtAddr::new(base);
        table.map(&mut cpu, address, PhysAddr::new(0), 64 * PAGE, El1Attributes::data(), OPTIONS).unwrap();
        let seen = maintenance(&machine, || table.unmap(&mut cpu, address, 16 * PAGE).unwrap());
        let expected = pages(base).map(|page| Tlbi::Vae1Is { address: VirtAddr::new(page), asid: 0x35, level });
        assert_eq!(seen, by_va(expected));
    }
}

#[test]
fn where_pages_are_many_everything_of_the_regime_goes() {
    let size = 17 * PAGE;
    let mut bench = stage2(HINT);
    map(&mut bench, GIB, 64 * PAGE);
    let vttbr = bench.table.vttbr_el2();
    let seen = maintenance(&bench.machine, || bench.table.unmap(&mut bench.cpu, Ipa::new(GIB), size).unwrap());
    let expected = [
        Event::Dsb(DsbKind::Ish),
        Event::LoadVttbr(vttbr),
        Event::Isb,
        Event::Tlbi(Tlbi::Vmalls12e1Is),
        Event::Dsb(DsbKind::Ish),
        Event::LoadVttbr(0),
        Event::Isb,
    ];
    assert_eq!(seen, expected);
    bench.finish();

    let address = VirtAddr::new(0xffff_8000_0000_0000);
    let (machine, mut cpu, mut table) = el1(HINT);
    table.map(&mut cpu, address, PhysAddr::new(0), 64 * PAGE, El1Attributes::data(), OPTIONS).unwrap();
    let seen = maintenance(&machine, || table.unmap(&mut cpu, address, size).unwrap());
    assert_eq!(seen, by_va([Tlbi::Vmalle1Is]));

    let address = VirtAddr::new(GIB);
    let (machine, mut cpu, mut table) = el2(HINT);
    table.map(&mut cpu, address, PhysAddr::new(0), 64 * PAGE, DATA, OPTIONS).unwrap();
    let seen = maintenance(&machine, || table.unmap(&mut cpu, address, size).unwrap());
    assert_eq!(seen, by_va([Tlbi::Alle2Is]));
}

/// Address, pages and level of each instruction; a single one covers one page.
fn ranges(events: &[Event]) -> Vec<(u64, u64, Option<u8>)> {
    let range = |event: &Event| match *event {
        Event::Tlbi(Tlbi::Ripas2e1Is { ipa, pages, level }) => Some((ipa.raw(), pages.pages(), level)),
        Event::Tlbi(Tlbi::Ipas2e1Is { ipa, level }) => Some((ipa.raw(), 1, level)),
        Event::Tlbi(Tlbi::Rvae2Is { address, pages, level }) => Some((address.raw(), pages.pages(), level)),
        Event::Tlbi(Tlbi::Vae2Is { address, level }) => Some((address.raw(), 1, level)),
        Event::Tlbi(Tlbi::Rvae1Is { address, asid: 0x35, pages, level }) => Some((address.raw(), pages.pages(), level)),
        Event::Tlbi(Tlbi::Vae1Is { address, asid: 0x35, level }) => Some((address.raw(), 1, level)),
        _ => None,
    };
    events.iter().filter_map(range).collect()
}

#[test]
fn range_instructions_cover_the_range_exactly_and_in_order() {
    // 32 units of 2 pages; 7 units of 64 pages, then 31 of 2, then the last page.
    let expected =
        |base: u64| vec![(base, 448, Some(3)), (base + 448 * PAGE, 62, Some(3)), (base + 510 * PAGE, 1, Some(3))];
    let mut bench = stage2(RANGE);
    bench.table.map(&mut bench.cpu, Ipa::new(0), PhysAddr::new(0), PAGE, Stage2Attributes::memory(), OPTIONS).unwrap();
    map(&mut bench, PAGE, 511 * PAGE);
    let seen = maintenance(&bench.machine, || {
        bench.table.unmap(&mut bench.cpu, Ipa::new(PAGE), 511 * PAGE).unwrap();
    });
    assert_eq!(ranges(&seen), expected(PAGE));
    assert_eq!(seen.len(), 3 + 8, "and nothing but barriers, VTTBR_EL2 and the combined entries");
    bench.finish();

    let (machine, mut cpu, mut table) = el2(RANGE);
    table.map(&mut cpu, VirtAddr::new(0), PhysAddr::new(0), 512 * PAGE - PAGE, DATA, OPTIONS).unwrap();
    table.map(&mut cpu, VirtAddr::new(511 * PAGE), PhysAddr::new(0), PAGE, DATA, OPTIONS).unwrap();
    let seen = maintenance(&machine, || table.unmap(&mut cpu, VirtAddr::new(PAGE), 511 * PAGE).unwrap());
    assert_eq!(ranges(&seen), expected(PAGE));
    assert_eq!(seen.len(), 3 + 3);

    let base = 0xffff_0000_0000_0000;
    let (machine, mut cpu, mut table) = el1(RANGE);
    let attributes = El1Attributes::data();
    table.map(&mut cpu, VirtAddr::new(base), PhysAddr::new(0), 511 * PAGE, attributes, OPTIONS).unwrap();
    table.map(&mut cpu, VirtAddr::new(base + 511 * PAGE), PhysAddr::new(0), PAGE, attributes, OPTIONS).unwrap();
    let seen = maintenance(&machine, || table.unmap(&mut cpu, VirtAddr::new(base + PAGE), 511 * PAGE).unwrap());
    assert_eq!(ranges(&seen), expected(base + PAGE));
    assert_eq!(seen.len(), 3 + 3);
}

#[test]
fn leaves_of_several_levels_and_tables_go_without_a_level_hint() {
    let mut bench = stage2(RANGE);
    // Pages, and a block above them.
    map(&mut bench, GIB + MIB2 - 2 * PAGE, MIB2 + 2 * PAGE);
    map(&mut bench, GIB + 2 * MIB2, PAGE);
    map(&mut bench, GIB, PAGE);
    let ipa = Ipa::new(GIB + MIB2 - 2 * PAGE);
    let seen = maintenance(&bench.machine, || bench.table.unmap(&mut bench.cpu, ipa, MIB2 + 2 * PAGE).unwrap());
    assert_eq!(ranges(&seen), [(ipa.raw(), 512, None), (ipa.raw() + 512 * PAGE, 2, None)]);
    // A table that goes with all it holds.
    let seen = maintenance(&bench.machine, || bench.table.unmap(&mut bench.cpu, Ipa::new(GIB), MIB2).unwrap());
    assert_eq!(ranges(&seen), [(GIB, 512, None)]);
    // Its last page is a table's too.
    let ipa = Ipa::new(GIB + 2 * MIB2);
    let seen = maintenance(&bench.machine, || bench.table.unmap(&mut bench.cpu, ipa, PAGE).unwrap());
    assert_eq!(ranges(&seen), [(ipa.raw(), 1, None)]);
    bench.finish();
}

#[test]
fn a_change_in_place_is_one_write_and_one_flush() {
    for (level, size) in LEAVES {
        let mut bench = stage2(HINT);
        map(&mut bench, GIB, size);
        let ipa = Ipa::new(GIB);
        let attributes = Stage2Attributes { write: false, ..Stage2Attributes::memory() };
        let seen = events(&bench.machine, || bench.table.protect(&mut bench.cpu, ipa, size, attributes).unwrap());
        assert!(matches!(seen[0], Event::Write { old, new, .. } if old ^ new == 1 << 7), "{seen:?}");
        assert_eq!(seen[1..], by_ipa(&bench, [Tlbi::Ipas2e1Is { ipa, level: Some(level) }]));
        bench.finish();
    }
}

#[test]
fn a_conflicting_change_breaks_flushes_and_makes() {
    for (level, size) in LEAVES {
        let mut bench = stage2(HINT);
        map(&mut bench, GIB, size);
        let ipa = Ipa::new(GIB);
        let attributes = Stage2Attributes { memory: Stage2Memory::NormalNonCacheable, ..Stage2Attributes::memory() };
        let seen = events(&bench.machine, || bench.table.protect(&mut bench.cpu, ipa, size, attributes).unwrap());
        let last = seen.len() - 1;
        assert!(matches!(seen[0], Event::Write { new, .. } if new & 1 == 0), "{seen:?}");
        assert_eq!(seen[1..last - 1], by_ipa(&bench, [Tlbi::Ipas2e1Is { ipa, level: Some(level) }]));
        assert!(matches!(seen[last - 1], Event::Write { new, .. } if new & 0x3d == 0x15), "{seen:?}");
        assert_eq!(seen[last], Event::Dsb(DsbKind::Ishst));
        bench.finish();
    }
}

#[test]
fn what_is_made_is_published_as_the_regime_asks() {
    let mut bench = stage2(HINT);
    map(&mut bench, 0, PAGE);
    let machine = bench.machine.clone();
    let seen = maintenance(&machine, || map(&mut bench, PAGE, PAGE));
    assert_eq!(seen, [Event::Dsb(DsbKind::Ishst)]);
    bench.finish();

    let (machine, mut cpu, mut table) = el2(HINT);
    let address = VirtAddr::new(GIB);
    let seen = maintenance(&machine, || table.map(&mut cpu, address, PhysAddr::new(0), PAGE, DATA, OPTIONS).unwrap());
    assert_eq!(seen, [Event::Dsb(DsbKind::Ishst), Event::Isb]);

    let (machine, mut cpu, mut table) = el1(HINT);
    let address = VirtAddr::new(0xffff_0000_0000_0000);
    let seen = maintenance(&machine, || {
        table.map(&mut cpu, address, PhysAddr::new(0), PAGE, El1Attributes::data(), OPTIONS).unwrap();
    });
    assert_eq!(seen, [Event::Dsb(DsbKind::Ishst), Event::Isb]);
}

#[test]
fn a_tree_is_destroyed_with_one_flush_of_its_whole_regime() {
    let mut bench = stage2(RANGE);
    map(&mut bench, GIB, PAGE);
    map(&mut bench, 4 * GIB, GIB);
    let vttbr = bench.table.vttbr_el2();
    let Bench { machine, mut cpu, table } = bench;
    let seen = maintenance(&machine, || _ = table.destroy(&mut cpu));
    let flushes: Vec<_> = seen.iter().filter(|event| matches!(event, Event::Tlbi(_))).collect();
    assert_eq!(flushes, [&Event::Tlbi(Tlbi::Vmalls12e1Is)]);
    assert!(seen.contains(&Event::LoadVttbr(vttbr)));

    let (machine, mut cpu, mut table) = el2(RANGE);
    table.map(&mut cpu, VirtAddr::new(0), PhysAddr::new(0), PAGE, DATA, OPTIONS).unwrap();
    assert_eq!(maintenance(&machine, || _ = table.destroy(&mut cpu)), by_va([Tlbi::Alle2Is]));

    let (machine, mut cpu, mut table) = el1(RANGE);
    let address = VirtAddr::new(0xffff_0000_0000_0000);
    table.map(&mut cpu, address, PhysAddr::new(0), PAGE, El1Attributes::data(), OPTIONS).unwrap();
    assert_eq!(maintenance(&machine, || _ = table.destroy(&mut cpu)), by_va([Tlbi::Vmalle1Is]));
}

#[test]
fn caches_are_cleaned_as_far_as_the_mapping_may_bypass_them() {
    let outputs = PhysRange::from_size(PhysAddr::new(3 * GIB), 2 * PAGE).unwrap();
    let [clean, unify, instructions] =
        [Event::CleanInvalidate(outputs), Event::CleanToPou(outputs), Event::InvalidateInstructionCache(outputs)];
    for (fwb, memory, execute, expected) in [
        (false, Stage2Memory::Normal, Stage2Execute::All, vec![clean, instructions]),
        (false, Stage2Memory::Normal, Stage2Execute::None, vec![clean]),
        (true, Stage2Memory::Normal, Stage2Execute::El0Only, vec![clean, instructions]),
        (true, Stage2Memory::NormalWriteBack, Stage2Execute::All, vec![unify, instructions]),
        (true, Stage2Memory::NormalWriteBack, Stage2Execute::El1Only, vec![unify, instructions]),
        (true, Stage2Memory::NormalWriteBack, Stage2Execute::None, vec![]),
        (false, Stage2Memory::NormalNonCacheable, Stage2Execute::None, vec![clean]),
        (true, Stage2Memory::NormalNonCacheable, Stage2Execute::None, vec![clean]),
        (false, Stage2Memory::DeviceNgnre, Stage2Execute::None, vec![]),
        (true, Stage2Memory::DeviceNgnrne, Stage2Execute::None, vec![]),
    ] {
        let mut bench = Bench::with(Stage2Config { fwb, xnx: true, ..Stage2Config::new(40, 48) });
        let attributes = Stage2Attributes { memory, execute, ..Stage2Attributes::memory() };
        let options = MapOptions { synchronise_caches: true, ..OPTIONS };
        let ipa = Ipa::new(GIB);
        let seen = maintenance(&bench.machine, || {
            bench.table.map(&mut bench.cpu, ipa, outputs.start, outputs.size(), attributes, options).unwrap();
        });
        let publish = [Event::Dsb(DsbKind::Ishst)];
        let expected: Vec<Event> = expected.into_iter().chain(publish).collect();
        assert_eq!(seen, expected, "FEAT_S2FWB {fwb}, {memory:?}, {execute:?}");
        bench.finish();
    }
}

#[test]
fn stage1_cleans_only_what_is_executed() {
    let outputs = PhysRange::from_size(PhysAddr::new(3 * GIB), PAGE).unwrap();
    let options = MapOptions { synchronise_caches: true, ..OPTIONS };
    let code = [
        Event::CleanToPou(outputs),
        Event::InvalidateInstructionCache(outputs),
        Event::Dsb(DsbKind::Ishst),
        Event::Isb,
    ];
    let (machine, mut cpu, mut table) = el2(HINT);
    for (page, attributes, expected) in
        [(0, El2Attributes::code(), &code[..]), (1, DATA, &code[2..]), (2, El2Attributes::device(), &code[2..])]
    {
        let address = VirtAddr::new(page * PAGE);
        let seen = maintenance(&machine, || {
            table.map(&mut cpu, address, outputs.start, PAGE, attributes, options).unwrap();
        });
        assert_eq!(seen, expected, "{attributes:?}");
    }
    let (machine, mut cpu, mut table) = el1(HINT);
    let user = El1Attributes { user: true, user_execute: true, ..El1Attributes::data() };
    for (page, attributes, expected) in [
        (0, El1Attributes::code(), &code[..]),
        (1, user, &code[..]),
        (2, El1Attributes::data(), &code[2..]),
        (3, El1Attributes::device(), &code[2..]),
    ] {
        let address = VirtAddr::new(0xffff_0000_0000_0000 + page * PAGE);
        let seen = maintenance(&machine, || {
            table.map(&mut cpu, address, outputs.start, PAGE, attributes, options).unwrap();
        });
        assert_eq!(seen, expected, "{attributes:?}");
    }
}

#[test]
fn a_page_slot_does_no_more_than_its_page_needs() {
    let (machine, mut cpu, mut table) = el2(RANGE);
    table.map(&mut cpu, VirtAddr::new(GIB), PhysAddr::new(0), PAGE, DATA, OPTIONS).unwrap();
    let address = VirtAddr::new(GIB + 511 * PAGE);
    let slot = table.page_slot(&cpu, address, DATA).unwrap();
    let page = PhysAddr::new(7 * GIB);
    assert_eq!(maintenance(&machine, || slot.map(&mut cpu, page)), [Event::Dsb(DsbKind::Ishst), Event::Isb]);
    assert_eq!(maintenance(&machine, || slot.unmap(&mut cpu)), by_va([Tlbi::Vale2Is { address, level: None }]));
}

#[test]
fn a_remap_that_only_takes_a_right_needs_no_break() {
    let mut bench = stage2(HINT);
    map(&mut bench, GIB, 2 * PAGE);
    let (ipa, output) = (Ipa::new(GIB), PhysAddr::new(GIB));
    let attributes = Stage2Attributes { write: false, ..Stage2Attributes::memory() };
    let machine = bench.machine.clone();
    let seen = events(&machine, || {
        bench.table.remap(&mut bench.cpu, ipa, output, PAGE, attributes, OPTIONS).unwrap();
    });
    assert!(matches!(seen[0], Event::Write { old, new, .. } if old ^ new == 1 << 7), "{seen:?}");
    assert_eq!(seen[1..], by_ipa(&bench, [Tlbi::Ipas2e1Is { ipa, level: Some(3) }]));
    bench.finish();
}

#[test]
fn what_a_remap_finds_vacant_is_made_only_when_the_caches_are_ready() {
    let mut bench = stage2(HINT);
    map(&mut bench, GIB, PAGE);
    map(&mut bench, GIB + 3 * PAGE, PAGE);
    let outputs = PhysRange::from_size(PhysAddr::new(3 * GIB), 3 * PAGE).unwrap();
    let options = MapOptions { synchronise_caches: true, ..OPTIONS };
    let machine = bench.machine.clone();
    let seen = events(&machine, || {
        let (start, size) = (outputs.start, outputs.size());
        bench.table.remap(&mut bench.cpu, Ipa::new(GIB), start, size, Stage2Attributes::memory(), options).unwrap();
    });
    let ready = seen.iter().position(|event| *event == Event::InvalidateInstructionCache(outputs)).unwrap();
    let is_made = |event: &Event| matches!(event, Event::Write { new, .. } if new & 1 != 0);
    assert!(!seen[..ready].iter().any(is_made), "{seen:?}");
    assert_eq!(seen[ready..].iter().filter(|event| is_made(event)).count(), 3, "{seen:?}");
    bench.finish();
}
