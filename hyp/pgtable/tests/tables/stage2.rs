//! Stage-2 operations one by one, judged by memsim.

use crate::bench::{Bench, GIB, MIB2, PAGE};
use abi::{Ipa, PhysAddr};
use memsim::Event;
use pgtable::{
    Annotation, Descriptor, DsbKind, MapOptions, Stage2, Stage2Attributes, Stage2Config, Stage2Memory, TableError,
    Tlbi, TlbiFeatures,
};

fn memory() -> Stage2Attributes {
    Stage2Attributes::memory()
}

fn read_only() -> Stage2Attributes {
    Stage2Attributes { write: false, ..memory() }
}

impl Bench {
    fn map_with(
        &mut self,
        ipa: u64,
        output: u64,
        size: u64,
        attributes: Stage2Attributes,
        options: MapOptions,
    ) -> Result<(), TableError> {
        self.table.map(&mut self.cpu, Ipa::new(ipa), PhysAddr::new(output), size, attributes, options)
    }

    fn map(&mut self, ipa: u64, output: u64, size: u64) -> Result<(), TableError> {
        self.map_with(ipa, output, size, memory(), MapOptions::default())
    }

    fn remap(&mut self, ipa: u64, output: u64, size: u64, attributes: Stage2Attributes) -> Result<(), TableError> {
        let options = MapOptions { replace_annotations: true, ..MapOptions::default() };
        self.table.remap(&mut self.cpu, Ipa::new(ipa), PhysAddr::new(output), size, attributes, options)
    }

    fn unmap(&mut self, ipa: u64, size: u64) -> Result<(), TableError> {
        self.table.unmap(&mut self.cpu, Ipa::new(ipa), size)
    }

    fn annotate(&mut self, ipa: u64, size: u64, value: u64) -> Result<(), TableError> {
        self.table.annotate(&mut self.cpu, Ipa::new(ipa), size, Annotation::new(value))
    }

    fn annotation(&self, ipa: u64) -> Option<u64> {
        self.table.lookup(&self.cpu, Ipa::new(ipa)).unwrap().annotation().map(Annotation::value)
    }
}

#[test]
fn the_largest_leaves_that_fit_are_used() {
    let mut bench = Bench::new();
    bench.map(GIB - MIB2 - PAGE, 3 * GIB - MIB2 - PAGE, GIB + 2 * MIB2 + 2 * PAGE).unwrap();
    for (ipa, size) in
        [(GIB - MIB2 - PAGE, PAGE), (GIB - MIB2, MIB2), (GIB, GIB), (2 * GIB, MIB2), (2 * GIB + MIB2, PAGE)]
    {
        assert_eq!(bench.leaf_size(ipa), size, "{ipa:#x}");
        assert_eq!(bench.translate(ipa), Some(ipa + 2 * GIB));
    }
    assert_eq!(bench.translate(GIB - MIB2 - 2 * PAGE), None);
    assert_eq!(bench.translate(2 * GIB + MIB2 + PAGE), None);
    bench.finish();
}

#[test]
fn blocks_are_used_only_where_the_output_is_aligned_too() {
    let mut bench = Bench::new();
    bench.map(GIB, GIB + MIB2, GIB).unwrap();
    bench.map(4 * GIB, 4 * GIB + PAGE, MIB2).unwrap();
    assert_eq!(bench.leaf_size(GIB), MIB2);
    assert_eq!(bench.leaf_size(4 * GIB), PAGE);
    bench
        .map_with(6 * GIB, 6 * GIB, MIB2, memory(), MapOptions { force_pages: true, ..MapOptions::default() })
        .unwrap();
    assert_eq!(bench.leaf_size(6 * GIB), PAGE);
    bench.finish();
}

#[test]
fn an_equal_mapping_is_kept_and_another_is_refused() {
    let mut bench = Bench::new();
    bench.map(0, GIB, GIB).unwrap();
    let events = bench.machine.events().len();
    bench.map(MIB2 + PAGE, GIB + MIB2 + PAGE, PAGE).unwrap();
    assert_eq!(bench.machine.events().len(), events, "nothing was to be done");
    assert_eq!(bench.leaf_size(0), GIB);
    assert_eq!(bench.map(MIB2, GIB, PAGE), Err(TableError::Exists));
    let attributes = read_only();
    assert_eq!(bench.map_with(0, GIB, GIB, attributes, MapOptions::default()), Err(TableError::Exists));
    bench.map(0, GIB, 2 * GIB).unwrap();
    assert_eq!(bench.translate(2 * GIB - PAGE), Some(3 * GIB - PAGE));
    bench.finish();
}

#[test]
fn a_refused_map_changes_nothing_before_the_conflict() {
    let mut bench = Bench::new();
    bench.map(GIB + PAGE, 0, PAGE).unwrap();
    let frames = bench.machine.allocated_frames();
    assert_eq!(bench.map(0, 0, 2 * GIB), Err(TableError::Exists));
    assert_eq!(bench.translate(0), None);
    assert_eq!(bench.machine.allocated_frames(), frames);
    bench.finish();
}

#[test]
fn unmapping_part_of_a_block_keeps_the_rest() {
    let mut bench = Bench::new();
    bench.map(GIB, GIB, GIB).unwrap();
    bench.unmap(GIB + MIB2 + PAGE, 2 * PAGE).unwrap();
    assert_eq!(bench.translate(GIB + MIB2 + PAGE), None);
    assert_eq!(bench.translate(GIB + MIB2 + 2 * PAGE), None);
    assert_eq!(bench.translate(GIB + MIB2), Some(GIB + MIB2));
    assert_eq!(bench.translate(GIB + MIB2 + 3 * PAGE), Some(GIB + MIB2 + 3 * PAGE));
    assert_eq!(bench.leaf_size(GIB), MIB2);
    assert_eq!(bench.leaf_size(2 * GIB - 1), MIB2);
    assert_eq!(bench.leaf_size(GIB + MIB2), PAGE);
    bench.finish();
}

#[test]
fn unmapping_part_of_the_only_leaf_keeps_the_rest() {
    for size in [MIB2, GIB] {
        let mut bench = Bench::new();
        bench.map(GIB, GIB, size).unwrap();
        bench.unmap(GIB, PAGE).unwrap();
        assert_eq!(bench.translate(GIB), None);
        assert_eq!(bench.translate(GIB + PAGE), Some(GIB + PAGE));
        assert_eq!(bench.translate(GIB + size - PAGE), Some(GIB + size - PAGE));
        bench.annotate(GIB, size, 3).unwrap();
        bench.unmap(GIB + PAGE, size - 2 * PAGE).unwrap();
        assert_eq!((bench.annotation(GIB), bench.annotation(GIB + PAGE)), (Some(3), None));
        assert_eq!(bench.annotation(GIB + size - PAGE), Some(3));
        bench.finish();
    }
}

#[test]
fn splitting_a_block_breaks_it_once() {
    let mut bench = Bench::new();
    bench.map(GIB, GIB, GIB).unwrap();
    let before = bench.machine.events().len();
    bench.unmap(GIB + PAGE, PAGE).unwrap();
    let flushes = bench.machine.events()[before..]
        .iter()
        .filter(|(_, event)| matches!(event, Event::Tlbi(Tlbi::Ipas2e1Is { .. })))
        .count();
    assert_eq!(flushes, 1);
    bench.finish();
}

#[test]
fn empty_tables_are_freed_by_the_unmap_that_emptied_them() {
    let mut bench = Bench::new();
    for page in [0, 1, 511] {
        bench.map(GIB + page * PAGE, page * PAGE, PAGE).unwrap();
    }
    assert_eq!(bench.machine.allocated_frames(), 2);
    bench.unmap(GIB + PAGE, PAGE).unwrap();
    bench.unmap(GIB, PAGE).unwrap();
    assert_eq!(bench.machine.allocated_frames(), 2);
    bench.unmap(GIB + 511 * PAGE, PAGE).unwrap();
    assert_eq!(bench.machine.allocated_frames(), 0);
    assert_eq!(bench.leaf_size(GIB), GIB);
    bench.finish();
}

#[test]
fn a_range_is_unmapped_with_one_flush() {
    let mut bench = Bench::new();
    bench.map(GIB - 100 * PAGE, GIB - 100 * PAGE, GIB + 200 * PAGE).unwrap();
    let before = bench.machine.events().len();
    bench.unmap(GIB - 100 * PAGE, GIB + 200 * PAGE).unwrap();
    let flushes: Vec<_> = bench.machine.events()[before..]
        .iter()
        .filter_map(|(_, event)| if let Event::Tlbi(operation) = event { Some(*operation) } else { None })
        .collect();
    assert_eq!(flushes, [Tlbi::Vmalls12e1Is]);
    assert_eq!(bench.machine.allocated_frames(), 0);
    bench.finish();
}

#[test]
fn a_leaf_is_broken_by_the_book() {
    let tlbi = TlbiFeatures { level_hint: true, range: true };
    let mut bench = Bench::with(Stage2Config { tlbi, ..Stage2Config::new(40, 48) });
    bench.map(GIB, GIB, 2 * PAGE).unwrap();
    let before = bench.machine.events().len();
    bench.unmap(GIB, PAGE).unwrap();
    let root = bench.table.vttbr_el2();
    let events: Vec<Event> = bench.machine.events()[before..].iter().map(|(_, event)| *event).collect();
    let ipa = Ipa::new(GIB);
    let expected = [
        Event::Dsb(DsbKind::Ish),
        Event::LoadVttbr(root),
        Event::Isb,
        Event::Tlbi(Tlbi::Ipas2e1Is { ipa, level: Some(3) }),
        Event::Dsb(DsbKind::Ish),
        Event::Tlbi(Tlbi::Vmalle1Is),
        Event::Dsb(DsbKind::Ish),
        Event::LoadVttbr(0),
        Event::Isb,
    ];
    assert!(matches!(events[0], Event::Write { new: 0, .. }), "{events:?}");
    assert_eq!(events[1..], expected);
    assert_eq!(bench.cpu.vttbr(), 0, "VTTBR_EL2 is put back");
    bench.finish();
}

#[test]
fn vttbr_is_left_alone_where_it_holds_the_table_already() {
    let mut bench = Bench::new();
    bench.map(GIB, GIB, PAGE).unwrap();
    pgtable::Maintenance::load_vttbr(&bench.cpu, bench.table.vttbr_el2());
    pgtable::Maintenance::isb(&bench.cpu);
    bench.unmap(GIB, PAGE).unwrap();
    assert_eq!(bench.cpu.vttbr(), bench.table.vttbr_el2());
    bench.machine.assert_clean();
}

#[test]
fn range_invalidation_is_used_where_the_cpu_has_it() {
    let tlbi = TlbiFeatures { level_hint: true, range: true };
    let mut bench = Bench::with(Stage2Config { tlbi, ..Stage2Config::new(40, 48) });
    bench.map(GIB, GIB, 64 * PAGE).unwrap();
    let before = bench.machine.events().len();
    bench.unmap(GIB, 51 * PAGE).unwrap();
    let operations: Vec<Tlbi> = bench.machine.events()[before..]
        .iter()
        .filter_map(|(_, event)| if let Event::Tlbi(operation) = event { Some(*operation) } else { None })
        .collect();
    let [Tlbi::Ripas2e1Is { ipa, pages, level }, Tlbi::Ipas2e1Is { ipa: last, .. }, Tlbi::Vmalle1Is] = operations[..]
    else {
        panic!("{operations:?}");
    };
    assert_eq!((ipa.raw(), pages.pages(), level, last.raw()), (GIB, 50, Some(3), GIB + 50 * PAGE));
    bench.finish();
}

#[test]
fn the_widest_invalidation_takes_over_where_single_ones_would_be_many() {
    let operations = |range, pages: u64, block: u64| {
        let tlbi = TlbiFeatures { level_hint: false, range };
        let mut bench = Bench::with(Stage2Config { tlbi, ..Stage2Config::new(40, 48) });
        bench.map(0, 0, 2 * block * pages).unwrap();
        let before = bench.machine.events().len();
        bench.unmap(0, block * pages).unwrap();
        let operation = |event| if let Event::Tlbi(operation) = event { Some(operation) } else { None };
        let operations: Vec<Tlbi> =
            bench.machine.events()[before..].iter().filter_map(|(_, event)| operation(*event)).collect();
        bench.finish();
        operations
    };
    assert_eq!(operations(false, 16, PAGE).len(), 17, "sixteen pages and the combined entries");
    assert_eq!(operations(false, 17, PAGE), [Tlbi::Vmalls12e1Is]);
    assert_eq!(operations(false, 2, MIB2), [Tlbi::Vmalls12e1Is]);
    assert_eq!(operations(true, 8, GIB).len(), 2);
    assert_eq!(operations(true, 9, GIB), [Tlbi::Vmalls12e1Is]);
}

#[test]
fn annotations_take_the_largest_descriptors_and_split_blocks() {
    let mut bench = Bench::new();
    bench.map(GIB, GIB, GIB).unwrap();
    bench.annotate(GIB + 2 * MIB2, MIB2, 7).unwrap();
    assert_eq!(bench.annotation(GIB + 2 * MIB2 + PAGE), Some(7));
    assert_eq!(bench.leaf_size(GIB + 2 * MIB2), MIB2);
    assert_eq!(bench.machine.allocated_frames(), 1);
    bench.annotate(GIB + 3 * MIB2 + PAGE, PAGE, 9).unwrap();
    assert_eq!(bench.translate(GIB + 3 * MIB2), Some(GIB + 3 * MIB2));
    assert_eq!(bench.annotation(GIB + 3 * MIB2 + PAGE), Some(9));
    // Part of a larger annotated range.
    bench.annotate(GIB + 2 * MIB2 + 5 * PAGE, PAGE, 11).unwrap();
    assert_eq!(bench.annotation(GIB + 2 * MIB2 + 4 * PAGE), Some(7));
    assert_eq!(bench.annotation(GIB + 2 * MIB2 + 5 * PAGE), Some(11));
    // A whole table goes, and is freed.
    bench.annotate(GIB + 2 * MIB2, 2 * MIB2, 12).unwrap();
    assert_eq!(bench.machine.allocated_frames(), 1);
    assert_eq!(bench.leaf_size(GIB + 3 * MIB2), MIB2);
    assert_eq!(bench.map(GIB + 3 * MIB2, 0, PAGE), Err(TableError::Annotated));
    let options = MapOptions { replace_annotations: true, ..MapOptions::default() };
    bench.map_with(GIB + 3 * MIB2, 0, PAGE, memory(), options).unwrap();
    assert_eq!(bench.annotation(GIB + 3 * MIB2 + PAGE), Some(12));
    bench.table.annotate(&mut bench.cpu, Ipa::new(GIB), GIB, None).unwrap();
    assert_eq!(bench.machine.allocated_frames(), 0);
    bench.finish();
}

#[test]
fn remap_breaks_before_it_makes() {
    let mut bench = Bench::new();
    bench.map(GIB, GIB, GIB).unwrap();
    bench.remap(GIB + MIB2, 5 * GIB, MIB2, memory()).unwrap();
    assert_eq!(bench.translate(GIB + MIB2 + PAGE), Some(5 * GIB + PAGE));
    assert_eq!(bench.translate(GIB), Some(GIB));
    // Misaligned output: the block becomes a table of pages.
    bench.remap(GIB + MIB2, 6 * GIB + PAGE, MIB2, read_only()).unwrap();
    assert_eq!(bench.translate(GIB + MIB2 + PAGE), Some(6 * GIB + 2 * PAGE));
    bench.remap(GIB + MIB2 - PAGE, 9 * GIB, 3 * PAGE, memory()).unwrap();
    assert_eq!(bench.translate(GIB + MIB2 - PAGE), Some(9 * GIB));
    assert_eq!(bench.translate(GIB + MIB2 + PAGE), Some(9 * GIB + 2 * PAGE));
    assert_eq!(bench.translate(GIB + MIB2 + 2 * PAGE), Some(6 * GIB + 3 * PAGE));
    bench.annotate(3 * GIB, GIB, 5).unwrap();
    bench.remap(3 * GIB, 0, 2 * GIB, memory()).unwrap();
    assert_eq!(bench.leaf_size(3 * GIB), GIB);
    bench.finish();
}

#[test]
fn protect_changes_permissions_in_place_and_flushes() {
    let mut bench = Bench::new();
    bench.map(GIB, GIB, 2 * MIB2).unwrap();
    bench.table.protect(&mut bench.cpu, Ipa::new(GIB + PAGE), PAGE, read_only()).unwrap();
    bench.machine.assert_clean();
    let leaf = bench.table.lookup(&bench.cpu, Ipa::new(GIB + PAGE)).unwrap();
    assert_eq!(leaf.mapping(), Some((PhysAddr::new(GIB + PAGE), read_only())));
    let leaf = bench.table.lookup(&bench.cpu, Ipa::new(GIB)).unwrap();
    assert_eq!(leaf.mapping(), Some((PhysAddr::new(GIB), memory())));
    let before = bench.machine.events().len();
    bench.table.protect(&mut bench.cpu, Ipa::new(GIB + MIB2), MIB2, read_only()).unwrap();
    let written: Vec<_> = bench.machine.events()[before..]
        .iter()
        .filter(|(_, event)| matches!(event, Event::Write { .. }))
        .copied()
        .collect();
    assert_eq!(written.len(), 1, "no break is due: {written:?}");
    bench.machine.assert_clean();
    // A memory type cannot change in place.
    let uncached = Stage2Attributes { memory: Stage2Memory::NormalNonCacheable, ..memory() };
    bench.table.protect(&mut bench.cpu, Ipa::new(GIB), 2 * MIB2, uncached).unwrap();
    assert_eq!(bench.translate(GIB + MIB2), Some(GIB + MIB2));
    bench.finish();
}

#[test]
fn protect_refuses_holes() {
    let mut bench = Bench::new();
    bench.map(GIB, GIB, PAGE).unwrap();
    bench.annotate(GIB + PAGE, PAGE, 1).unwrap();
    let result = bench.table.protect(&mut bench.cpu, Ipa::new(GIB), 2 * PAGE, read_only());
    assert_eq!(result, Err(TableError::NotMapped));
    let leaf = bench.table.lookup(&bench.cpu, Ipa::new(GIB)).unwrap();
    assert_eq!(leaf.mapping(), Some((PhysAddr::new(GIB), memory())));
    bench.finish();
}

#[test]
fn lookup_tells_how_large_a_hole_is() {
    let mut bench = Bench::new();
    bench.map(GIB + PAGE, 0, PAGE).unwrap();
    for (ipa, level, base, size) in [
        (0u64, 1, 0, GIB),
        (GIB, 3, GIB, PAGE),
        (GIB + MIB2 + 5, 2, GIB + MIB2, MIB2),
        ((1 << 40) - 1, 1, 1023 * GIB, GIB),
    ] {
        let leaf = bench.table.lookup(&bench.cpu, Ipa::new(ipa)).unwrap();
        assert!(leaf.is_vacant());
        assert_eq!((leaf.level, leaf.base.raw(), leaf.size), (level, base, size), "{ipa:#x}");
    }
    assert_eq!(bench.table.lookup(&bench.cpu, Ipa::new(1 << 40)), Err(TableError::BadRange));
    bench.finish();
}

#[test]
fn ranges_are_checked() {
    let mut bench = Bench::with(Stage2Config::new(36, 40));
    assert_eq!(bench.map(1, 0, PAGE), Err(TableError::Misaligned));
    assert_eq!(bench.map(0, 1, PAGE), Err(TableError::Misaligned));
    assert_eq!(bench.map(0, 0, PAGE + 1), Err(TableError::Misaligned));
    assert_eq!(bench.map(0, 0, 0), Err(TableError::BadRange));
    assert_eq!(bench.map(1 << 36, 0, PAGE), Err(TableError::BadRange));
    assert_eq!(bench.map((1 << 36) - PAGE, 0, 2 * PAGE), Err(TableError::BadRange));
    assert_eq!(bench.map(PAGE, 0, !(PAGE - 1)), Err(TableError::BadRange));
    assert_eq!(bench.map(0, (1 << 40) - PAGE, 2 * PAGE), Err(TableError::BadRange));
    assert_eq!(bench.map(0, !0 << 12, PAGE), Err(TableError::BadRange));
    assert_eq!(bench.unmap(!0 << 12, PAGE), Err(TableError::BadRange));
    bench.map((1 << 36) - PAGE, (1 << 40) - PAGE, PAGE).unwrap();
    bench.finish();
}

#[test]
fn every_ipa_size_maps_its_whole_space_and_its_ends() {
    for bits in 32..=48 {
        let mut bench = Bench::with(Stage2Config::new(bits, 48));
        let size = 1u64 << bits;
        bench.map(size - PAGE, 0, PAGE).unwrap();
        bench.map(0, PAGE, PAGE).unwrap();
        assert_eq!(bench.translate(size - 1), Some(PAGE - 1), "{bits} bits");
        assert_eq!(bench.translate(0), Some(PAGE));
        assert_eq!(bench.translate(size / 2), None);
        bench.unmap(0, size).unwrap();
        assert_eq!(bench.machine.allocated_frames(), 0);
        if bits <= 39 {
            bench.map(0, 0, size).unwrap();
            assert_eq!(bench.translate(size - 1), Some(size - 1));
        }
        bench.finish();
    }
}

#[test]
fn visit_shows_every_leaf_in_order_and_stops_early() {
    use std::ops::ControlFlow;
    let mut bench = Bench::new();
    bench.map(GIB - PAGE, 0, PAGE).unwrap();
    bench.map(2 * GIB, 2 * GIB, GIB).unwrap();
    let mut seen = Vec::new();
    let flow = bench
        .table
        .visit(&bench.cpu, Ipa::new(GIB - 2 * PAGE), 3 * GIB, |leaf| {
            seen.push((leaf.base.raw(), leaf.size, leaf.is_valid()));
            ControlFlow::<()>::Continue(())
        })
        .unwrap();
    assert_eq!(flow, ControlFlow::Continue(()));
    let expected = [
        (GIB - 2 * PAGE, PAGE, false),
        (GIB - PAGE, PAGE, true),
        (GIB, GIB, false),
        (2 * GIB, GIB, true),
        (3 * GIB, GIB, false),
    ];
    assert_eq!(seen, expected);
    let first = bench
        .table
        .visit(&bench.cpu, Ipa::new(0), 1 << 40, |leaf| {
            if leaf.is_valid() { ControlFlow::Break(leaf.base) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(first, ControlFlow::Break(Ipa::new(GIB - PAGE)));
    let mut tables = 0;
    bench.table.visit_tables(&bench.cpu, |_| tables += 1).unwrap();
    assert_eq!(tables, bench.machine.allocated_frames());
    bench.finish();
}

#[test]
fn foreign_descriptors_are_reported() {
    let mut bench = Bench::new();
    bench.map(GIB, GIB, PAGE).unwrap();
    let mut tables = Vec::new();
    bench.table.visit_tables(&bench.cpu, |table| tables.push(table)).unwrap();
    let (level3, level2) = (tables[0], tables[1]);
    for (slot, value) in [
        (level3.checked_add(8).unwrap(), 0b01),
        (level2.checked_add(8).unwrap(), 0x9000_0002),
        // Reserved shareability.
        (level3.checked_add(16).unwrap(), 0x1000_01ff),
    ] {
        pgtable::TableFrames::write(&bench.cpu, slot, value);
        let visit = bench.table.visit(&bench.cpu, Ipa::new(GIB), GIB, |_| std::ops::ControlFlow::<()>::Continue(()));
        assert_eq!(visit, Err(TableError::Corrupt), "{value:#x}");
        pgtable::TableFrames::write(&bench.cpu, slot, 0);
    }
}

#[test]
fn what_is_vacant_is_mapped_without_a_flush() {
    let mut bench = Bench::new();
    bench.annotate(3 * GIB, PAGE, 7).unwrap();
    let before = bench.machine.events().len();
    for (ipa, size) in [(GIB, PAGE), (GIB + PAGE, MIB2), (2 * GIB, GIB)] {
        bench.map(ipa, ipa, size).unwrap();
    }
    let noted = bench.machine.events().len();
    bench.annotate(3 * GIB, PAGE, 8).unwrap();
    let events = &bench.machine.events()[noted..];
    assert!(matches!(events, [(_, Event::Write { .. })]), "a note is nothing to the hardware: {events:?}");
    let options = MapOptions { replace_annotations: true, ..MapOptions::default() };
    bench.map_with(3 * GIB, GIB, PAGE, memory(), options).unwrap();
    let events = &bench.machine.events()[before..];
    assert!(!events.iter().any(|(_, event)| matches!(event, Event::Tlbi(_))), "{events:?}");
    bench.finish();
}

#[test]
fn protect_leaves_what_has_the_attributes_already_alone() {
    let mut bench = Bench::new();
    bench.map(GIB, GIB, GIB).unwrap();
    let before = bench.machine.events().len();
    bench.table.protect(&mut bench.cpu, Ipa::new(GIB + PAGE), PAGE, memory()).unwrap();
    bench.table.protect(&mut bench.cpu, Ipa::new(GIB), GIB, memory()).unwrap();
    assert_eq!(bench.machine.events()[before..], [], "nothing is written, flushed or split");
    assert_eq!(bench.leaf_size(GIB + PAGE), GIB);
    bench.finish();
}

#[test]
fn caches_are_synchronised_between_the_old_mapping_and_the_new() {
    let new = |value: u64| value & 1 != 0 && value & 0xffff_ffff_f000 >= 8 * GIB && value & 0xffff_ffff_f000 < 9 * GIB;
    for (start, size) in [(GIB, GIB), (GIB, PAGE), (GIB + MIB2 - PAGE, 3 * PAGE), (GIB + PAGE, 2 * MIB2)] {
        let mut bench = Bench::new();
        bench.map(GIB, 4 * GIB, GIB).unwrap();
        let before = bench.machine.events().len();
        let options = MapOptions { synchronise_caches: true, ..MapOptions::default() };
        let ipa = Ipa::new(start);
        bench.table.remap(&mut bench.cpu, ipa, PhysAddr::new(8 * GIB), size, memory(), options).unwrap();
        let events = &bench.machine.events()[before..];
        let cleaned = events.iter().position(|(_, event)| matches!(event, Event::CleanInvalidate(_))).unwrap();
        let made = events.iter().position(|(_, event)| matches!(event, Event::Write { new: value, .. } if new(*value)));
        let broken = events.iter().position(|(_, event)| matches!(event, Event::Tlbi(_))).unwrap();
        assert!(broken < cleaned && made.is_some_and(|made| cleaned < made), "{start:#x}, {size:#x}");
        assert_eq!(bench.translate(start + size - PAGE), Some(8 * GIB + size - PAGE));
        bench.finish();
    }
}

#[test]
fn caches_are_synchronised_before_the_mapping_can_be_used() {
    for (fwb, memory_type, clean) in [
        (false, Stage2Memory::Normal, true),
        (true, Stage2Memory::Normal, true),
        (true, Stage2Memory::NormalWriteBack, false),
        (false, Stage2Memory::NormalWriteBack, true),
        (false, Stage2Memory::DeviceNgnre, false),
    ] {
        let mut bench = Bench::with(Stage2Config { fwb, ..Stage2Config::new(40, 48) });
        let attributes = Stage2Attributes { memory: memory_type, ..memory() };
        let options = MapOptions { synchronise_caches: true, ..MapOptions::default() };
        bench.map_with(GIB, GIB, PAGE, attributes, options).unwrap();
        let events = bench.machine.events();
        let find = |wanted: fn(&Event) -> bool| events.iter().position(|(_, event)| wanted(event));
        let cleaned = find(|event| matches!(event, Event::CleanInvalidate(_)));
        let invalidated = find(|event| matches!(event, Event::InvalidateInstructionCache(_))).unwrap();
        let linked = events.iter().rposition(|(_, event)| matches!(event, Event::Write { .. })).unwrap();
        assert_eq!(cleaned.is_some(), clean, "{fwb} {memory_type:?}");
        assert!(cleaned.is_none_or(|at| at < linked) && invalidated < linked);
        bench.finish();
    }
}

#[test]
fn allocation_failure_leaves_the_table_as_it_was() {
    let prepare = || {
        let mut bench = Bench::new();
        bench.map(GIB, GIB, GIB).unwrap();
        bench.annotate(3 * GIB, GIB, 4).unwrap();
        bench
    };
    type Operation = fn(&mut Bench) -> Result<(), TableError>;
    let operations: [(Operation, usize); 5] = [
        (|bench| bench.map(6 * GIB - PAGE, PAGE, 2 * PAGE), 4),
        (|bench| bench.unmap(GIB + PAGE, PAGE), 2),
        (|bench| bench.annotate(2 * GIB - PAGE, GIB + 2 * PAGE, 8), 4),
        (|bench| bench.remap(GIB + MIB2, 0, 2 * PAGE, read_only()), 2),
        (|bench| bench.table.protect(&mut bench.cpu, Ipa::new(GIB), PAGE, read_only()), 2),
    ];
    for (number, (operation, needed)) in operations.into_iter().enumerate() {
        for budget in 0..=needed {
            let mut bench = prepare();
            let picture = picture(&bench);
            bench.machine.fail_allocations_after(budget);
            let result = operation(&mut bench);
            if budget < needed {
                assert_eq!(result, Err(TableError::OutOfFrames), "operation {number}, {budget} frames");
                assert_eq!(self::picture(&bench), picture);
                assert_eq!(bench.machine.allocated_frames(), 0);
            } else {
                assert_eq!(result, Ok(()), "operation {number}");
            }
            bench.machine.assert_clean();
            bench.finish();
        }
    }
}

fn picture(bench: &Bench) -> Vec<(u64, u64, Descriptor<Stage2Attributes>)> {
    let mut leaves = Vec::new();
    let flow = bench.table.visit(&bench.cpu, Ipa::new(0), 1 << 40, |leaf| {
        leaves.push((leaf.base.raw(), leaf.size, leaf.descriptor));
        std::ops::ControlFlow::<()>::Continue(())
    });
    assert!(flow.is_ok());
    leaves
}

#[test]
fn a_bad_root_is_refused() {
    let config = Stage2Config::new(40, 48);
    assert_eq!(config.root_pages(), Ok(2));
    assert!(Stage2::new(PhysAddr::new(0x2000), config, 1).is_ok());
    assert!(matches!(Stage2::new(PhysAddr::new(0x1000), config, 1), Err(TableError::BadConfiguration)));
    assert!(matches!(Stage2::new(PhysAddr::new(0x2000), config, 256), Err(TableError::BadConfiguration)));
    assert!(matches!(Stage2::new(PhysAddr::new(1 << 48), config, 1), Err(TableError::BadConfiguration)));
    assert!(matches!(Stage2::new(PhysAddr::new(!0x1fff), config, 1), Err(TableError::BadConfiguration)));
    assert!(Stage2::new(PhysAddr::new(0x2000), Stage2Config { vmid_16_bits: true, ..config }, 256).is_ok());
}

#[test]
fn a_root_may_end_where_physical_memory_does() {
    let config = Stage2Config::new(32, 36);
    let size = config.root_pages().unwrap() * PAGE;
    assert!(Stage2::new(PhysAddr::new((1 << 36) - size), config, 1).is_ok());
    assert_eq!(Stage2::new(PhysAddr::new(1 << 36), config, 1).err(), Some(TableError::BadConfiguration));
}
