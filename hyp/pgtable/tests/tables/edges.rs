//! The crate's edges: what it says where it refuses, and where ranges and tables end.

use std::collections::HashSet;

use abi::{Ipa, PhysAddr, VirtAddr};
use memsim::Machine;
use pgtable::{
    Annotation, Blame, El2Config, El2Stage1, MapOptions, Stage2Attributes, Stage2Config, TableError, TableFrames,
    TlbiFeatures,
};

use crate::bench::{Bench, GIB, MIB2, PAGE, pool};

const ERRORS: [(TableError, Blame); 9] = [
    (TableError::BadConfiguration, Blame::Caller),
    (TableError::Misaligned, Blame::Caller),
    (TableError::BadRange, Blame::Caller),
    (TableError::BadAttributes, Blame::Caller),
    (TableError::Exists, Blame::Caller),
    (TableError::Annotated, Blame::Caller),
    (TableError::NotMapped, Blame::Caller),
    (TableError::OutOfFrames, Blame::Resources),
    (TableError::Corrupt, Blame::Hypervisor),
];

#[test]
fn each_error_says_what_is_wrong_and_who_has_to_act() {
    let mut texts = HashSet::new();
    for (error, blame) in ERRORS {
        assert_eq!(error.blame(), blame, "{error:?}");
        let text = error.to_string();
        assert!(text.contains(' '), "{error:?}: {text}");
        assert!(texts.insert(text), "the text of {error:?} is another's");
    }
}

#[test]
fn a_leaf_prints_all_that_it_says() {
    let bench = Bench::with(Stage2Config::new(40, 48));
    let leaf = bench.table.lookup(&bench.cpu, Ipa::new(GIB + PAGE)).unwrap();
    let text = format!("{leaf:?}");
    let parts = ["Invalid { annotation: None }", "level: 1", "size: 1073741824"];
    assert!(parts.iter().all(|part| text.contains(part)) && text.contains(&format!("{:?}", leaf.base)), "{text}");
    bench.finish();
}

#[test]
fn write_protection_touches_neither_annotations_nor_what_is_vacant() {
    let mut bench = Bench::new();
    let annotation = Annotation::new(Annotation::MAX);
    let ipa = Ipa::new(GIB);
    bench.table.annotate(&mut bench.cpu, ipa, PAGE, annotation).unwrap();
    let (result, events) = bench.events(|bench| bench.table.write_protect(&mut bench.cpu, ipa, 2 * PAGE));
    assert_eq!((result, events), (Ok(()), vec![]));
    assert_eq!(bench.leaf(GIB).annotation(), annotation);
    bench.finish();

    // Stage 1 sets a bit to take the right, and must not do so in an invalid descriptor. A page of a vacant GiB takes no
    // table either.
    let machine = Machine::new(1, pool());
    let config = El2Config { va_bits: 48, pa_bits: 48, hardware_access_flag: false, tlbi: TlbiFeatures::default() };
    let mut table = El2Stage1::new(machine.take_root(1), config).unwrap();
    machine.track_el2(&table);
    table.write_protect(&mut machine.cpu(0), VirtAddr::new(GIB), PAGE).unwrap();
    assert_eq!(machine.events(), []);
    machine.assert_clean();
}

#[test]
fn a_range_may_cross_from_one_table_to_the_next_at_any_level() {
    let attributes = Stage2Attributes::memory();
    let read_only = Stage2Attributes { write: false, ..attributes };
    for border in [MIB2, GIB, GIB + MIB2, 512 * GIB, 512 * GIB + GIB] {
        let mut bench = Bench::with(Stage2Config::new(48, 48));
        let start = border - 2 * PAGE;
        bench.lay(start, PAGE, 4 * PAGE, attributes, true);
        bench.table.protect(&mut bench.cpu, Ipa::new(start), 4 * PAGE, read_only).unwrap();
        bench.table.unmap(&mut bench.cpu, Ipa::new(border - PAGE), 2 * PAGE).unwrap();
        bench.machine.assert_clean();
        let mappings = [0, 1, 2, 3].map(|page| bench.mapping(start + page * PAGE));
        assert_eq!(mappings, [Some((PAGE, read_only)), None, None, Some((4 * PAGE, read_only))], "{border:#x}");
        bench.finish();
    }
}

#[test]
fn a_foreign_descriptor_is_found_before_anything_is_changed() {
    type Operation = fn(&mut Bench, Ipa, u64) -> Result<(), TableError>;
    let operations: [Operation; 6] = [
        |bench, ipa, size| bench.table.unmap(&mut bench.cpu, ipa, size),
        |bench, ipa, size| bench.table.annotate(&mut bench.cpu, ipa, size, Annotation::new(1)),
        |bench, ipa, size| bench.table.protect(&mut bench.cpu, ipa, size, Stage2Attributes::device()),
        |bench, ipa, size| bench.table.write_protect(&mut bench.cpu, ipa, size),
        |bench, ipa, size| {
            let (output, options) = (PhysAddr::new(0), MapOptions::default());
            bench.table.remap(&mut bench.cpu, ipa, output, size, Stage2Attributes::device(), options)
        },
        |bench, ipa, size| bench.table.split(&mut bench.cpu, ipa, size, 3),
    ];
    // The third page of the second table is foreign. A table that is unmapped as a whole is freed without a look at it,
    // and a table of pages is not looked at for blocks.
    let some_pages = (GIB + MIB2, 3 * PAGE);
    let both_tables = (GIB, 2 * MIB2);
    for (number, operation) in operations.into_iter().enumerate() {
        for (start, size) in if matches!(number, 2..=4) { vec![some_pages, both_tables] } else { vec![some_pages] } {
            let mut bench = Bench::new();
            bench.lay(GIB, GIB, MIB2 + 2 * PAGE, Stage2Attributes::memory(), true);
            bench.lay(GIB + MIB2 + 3 * PAGE, GIB, PAGE, Stage2Attributes::memory(), true);
            let mut tables = Vec::new();
            bench.table.visit_tables(&bench.cpu, |table| tables.push(table)).unwrap();
            let slot = tables[1].checked_add(2 * 8).unwrap();
            bench.cpu.write(slot, 0x1000_0002);
            let (result, events) = bench.events(|bench| operation(bench, Ipa::new(start), size));
            assert_eq!((result, events), (Err(TableError::Corrupt), vec![]), "operation {number}, {size:#x}");
            bench.cpu.write(slot, 0);
            bench.finish();
        }
    }
}

#[test]
fn a_note_for_all_that_a_table_decides_for_takes_its_place() {
    for (size, frames) in [(MIB2, 1), (GIB, 0)] {
        let mut bench = Bench::new();
        bench.lay(GIB, GIB, PAGE, Stage2Attributes::memory(), true);
        bench.table.annotate(&mut bench.cpu, Ipa::new(GIB), size, Annotation::new(5)).unwrap();
        bench.machine.assert_clean();
        assert_eq!((bench.leaf_size(GIB), bench.machine.allocated_frames()), (size, frames));
        assert_eq!(bench.leaf(GIB).annotation(), Annotation::new(5));
        bench.finish();
    }
}

#[test]
fn a_table_is_freed_by_a_range_that_ends_in_a_hole_beside_what_it_held() {
    let attributes = Stage2Attributes::memory();
    for (page, start, end) in [(GIB, GIB, GIB + MIB2 + PAGE), (GIB + MIB2, GIB + MIB2 - PAGE, GIB + MIB2 + PAGE)] {
        let mut bench = Bench::new();
        bench.lay(page, GIB, PAGE, attributes, true);
        bench.table.unmap(&mut bench.cpu, Ipa::new(start), end - start).unwrap();
        bench.machine.assert_clean();
        assert_eq!(bench.machine.allocated_frames(), 0, "{start:#x} to {end:#x}");
        bench.finish();
    }
}
