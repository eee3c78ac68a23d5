//! The crate's edges: what it says where it refuses, and where ranges and tables end.

use std::cell::Cell;
use std::collections::HashSet;

use abi::{Ipa, PhysAddr, PhysRange, VirtAddr};
use memsim::{Access, Cpu, Machine, TreeKind};
use pgtable::shared::Outcome;
use pgtable::{
    Annotation, Blame, El2Attributes, El2Config, El2Stage1, Environment, MapOptions, Stage2, Stage2Attributes,
    Stage2Config, TableError, TableFrames, TlbiFeatures,
};

use crate::bench::{Bench, GIB, MIB2, PAGE, VMID, pool};
use crate::racing::Racing;

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

#[test]
fn one_leaf_takes_no_more_frames_than_its_tables() {
    for (ipa_bits, ipa, tables) in [(36, GIB, 2), (48, GIB, 3), (48, 600 * GIB + MIB2, 3)] {
        for budget in 0..=tables {
            let bench = Bench::with(Stage2Config::new(ipa_bits, 48));
            bench.machine.fail_allocations_after(budget);
            let (mut cpu, output, attributes) = (bench.cpu.clone(), PhysAddr::new(0), Stage2Attributes::memory());
            let options = MapOptions::default();
            let result = bench.table.map_leaf(&mut cpu, Ipa::new(ipa), output, PAGE, attributes, options, false);
            let expected = if budget < tables { Err(TableError::OutOfFrames) } else { Ok(Outcome::Done) };
            assert_eq!(result, expected, "{ipa_bits} bits, {budget} frames");
            assert_eq!(bench.machine.allocated_frames(), if budget < tables { 0 } else { tables });
            bench.machine.allow_allocations();
            bench.finish();
        }
    }
}

#[test]
fn tables_that_another_cpu_has_linked_first_are_freed_again() {
    for ipa_bits in [36, 48] {
        let bench = Bench::with(Stage2Config::new(ipa_bits, 48));
        let map = |environment: &mut dyn Environment, page: u64| {
            let (ipa, output) = (Ipa::new(GIB + page * PAGE), PhysAddr::new(GIB + page * PAGE));
            let (attributes, options) = (Stage2Attributes::memory(), MapOptions::default());
            bench.table.map_leaf(environment, ipa, output, PAGE, attributes, options, false).unwrap()
        };
        let (root, once) = (bench.table.root().raw(), Cell::new(true));
        let before = |_: &Cpu, slot: PhysAddr, _| {
            if slot.raw() & !0xfff == root && once.replace(false) {
                assert_eq!(map(&mut bench.machine.cpu(1), 1), Outcome::Done);
            }
        };
        let mut racing = Racing { cpu: bench.cpu.clone(), before };
        assert_eq!(map(&mut racing, 2), Outcome::Done);
        assert!(!once.get());
        bench.machine.assert_clean();
        let mut tables = 0;
        bench.table.visit_tables(&bench.cpu, |_| tables += 1).unwrap();
        assert_eq!(bench.machine.allocated_frames(), tables);
        assert_eq!([1, 2].map(|page| bench.translate(GIB + page * PAGE)), [1, 2].map(|page| Some(GIB + page * PAGE)));
        bench.finish();
    }
}

#[test]
fn stage1_takes_the_write_right_only_where_there_is_one() {
    const AP_2: u64 = 1 << 7;
    const DBM: u64 = 1 << 51;
    let machine = Machine::new(1, pool());
    let config = El2Config { va_bits: 39, pa_bits: 48, hardware_access_flag: false, tlbi: TlbiFeatures::default() };
    let mut table = El2Stage1::new(machine.take_root(1), config).unwrap();
    machine.track_el2(&table);
    let mut cpu = machine.cpu(0);
    for access_flag in [true, false] {
        let attributes = El2Attributes { access_flag, ..El2Attributes::read_only() };
        let (address, options) = (VirtAddr::new(GIB), MapOptions::default());
        table.map(&mut cpu, address, PhysAddr::new(GIB), GIB, attributes, options).unwrap();
        let before = machine.events().len();
        table.write_protect(&mut cpu, VirtAddr::new(GIB + PAGE), PAGE).unwrap();
        table.write_protect(&mut cpu, address, GIB).unwrap();
        assert_eq!(machine.events()[before..], [], "it is read-only already, and stays a block");
        // Writable, but clean: the hardware would clear AP[2] at the first write.
        let slot = table.root().checked_add(8).unwrap();
        let raw = cpu.read(slot);
        cpu.write(slot, raw | DBM);
        table.write_protect(&mut cpu, address, GIB).unwrap();
        machine.assert_clean();
        assert_eq!((cpu.read(slot), raw & AP_2), (raw, AP_2));
        // And of a part of it, which splits the block.
        cpu.write(slot, raw | DBM);
        table.write_protect(&mut cpu, address, PAGE).unwrap();
        machine.assert_clean();
        let leaf = table.lookup(&cpu, address).unwrap();
        assert_eq!((leaf.size, leaf.mapping()), (PAGE, Some((PhysAddr::new(GIB), attributes))));
        table.unmap(&mut cpu, address, GIB).unwrap();
    }
}

#[test]
fn an_access_that_the_hardware_notes_takes_the_flag_from_no_other_part() {
    let mut bench = Bench::with(Stage2Config { hardware_access_flag: true, ..Stage2Config::new(40, 48) });
    let old = Stage2Attributes { access_flag: false, ..Stage2Attributes::memory() };
    let young = Stage2Attributes::memory();
    bench.lay(GIB, GIB, MIB2, old, false);
    let (once, other) = (Cell::new(true), bench.machine.cpu(1));
    let before = |_: &Cpu, _: PhysAddr, new: u64| {
        if new & 0b11 == 0b10 && once.replace(false) {
            other.access(TreeKind::Stage2 { vmid: VMID }, GIB, Access::Read).unwrap();
        }
    };
    let mut racing = Racing { cpu: bench.cpu.clone(), before };
    bench.table.protect(&mut racing, Ipa::new(GIB + PAGE), PAGE, young).unwrap();
    bench.machine.assert_clean();
    assert!(!once.get());
    for page in [0, 1, 2, 511] {
        assert_eq!(bench.mapping(GIB + page * PAGE), Some((GIB + page * PAGE, young)), "page {page}");
    }
    bench.finish();
}

#[test]
fn a_root_may_end_where_physical_memory_does_and_is_given_back_whole() {
    for (ipa_bits, pages) in [(40, 2), (43, 16), (36, 1)] {
        let root = PhysAddr::new((1 << 48) - pages * PAGE);
        let config = Stage2Config::new(ipa_bits, 48);
        assert_eq!(Stage2::new(root, config, 1).map(|table| table.root()), Ok(root));
        let bench = Bench::with(config);
        let root = bench.table.root();
        let Bench { mut cpu, table, .. } = bench;
        assert_eq!(Some(table.destroy(&mut cpu)), PhysRange::from_size(root, pages * PAGE));
    }
}

#[test]
fn an_address_and_a_size_that_are_misaligned_alike_are_refused() {
    let mut bench = Bench::new();
    for offset in [1, 0x800, PAGE - 1] {
        let ipa = Ipa::new(GIB + offset);
        assert_eq!(bench.table.unmap(&mut bench.cpu, ipa, PAGE + offset), Err(TableError::Misaligned));
    }
    bench.finish();
}

/// Which other page of a table is in use is remembered from one change to the next; it may be gone then, or the
/// question be about another table.
#[test]
fn a_table_goes_with_its_last_page_in_whatever_order_they_go() {
    let pages = [0, 1, 300, 511];
    let orders = [[0, 1, 2, 3], [3, 2, 0, 1], [1, 3, 0, 2], [2, 0, 3, 1]];
    for order in orders {
        let mut bench = Bench::new();
        let before = bench.machine.allocated_frames();
        let blocks = [GIB, GIB + MIB2, 5 * GIB];
        for block in blocks {
            for page in pages {
                bench.lay(block + page * PAGE, PAGE, PAGE, Stage2Attributes::memory(), false);
            }
        }
        // Tables in turn, then one to its end while another stays.
        let turns = order[..1].iter().flat_map(|index| blocks.map(|block| (block, pages[*index])));
        let ends = blocks.into_iter().flat_map(|block| order[1..].iter().map(move |index| (block, pages[*index])));
        for (block, page) in turns.chain(ends) {
            let ipa = block + page * PAGE;
            bench.table.unmap(&mut bench.cpu, Ipa::new(ipa), PAGE).unwrap();
            assert_eq!(bench.mapping(ipa), None);
        }
        assert_eq!(bench.machine.allocated_frames(), before, "a table stayed, {order:?}");
        bench.finish();
    }
}
