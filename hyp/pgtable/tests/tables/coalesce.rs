//! Full tables turned back into blocks.

use std::cell::Cell;

use abi::{Ipa, PhysAddr, VirtAddr};
use memsim::{Access, Cpu, Event, Machine, TreeKind};
use pgtable::{
    Annotation, DsbKind, El1Attributes, El1Config, El1Stage1, El2Attributes, El2Config, El2Stage1, MapOptions,
    Stage2Attributes, Stage2Config, Stage2Memory, TableError, TableFrames, Tlbi, TlbiFeatures, VirtualHalf,
};

use crate::bench::{Bench, GIB, MIB2, PAGE, VMID, pool, tlbis};
use crate::racing::Racing;

const RANGE: TlbiFeatures = TlbiFeatures { level_hint: true, range: true };

/// Attributes none of which is the usual one.
fn odd() -> Stage2Attributes {
    Stage2Attributes { write: false, access_flag: false, ..Stage2Attributes::memory().with_software(9) }
}

fn with_range() -> Bench {
    Bench::with(Stage2Config { tlbi: RANGE, ..Stage2Config::new(40, 48) })
}

impl Bench {
    fn coalesce(&mut self, ipa: u64, size: u64) -> Result<u64, TableError> {
        self.table.coalesce(&mut self.cpu, Ipa::new(ipa), size)
    }

    /// Notes `value` in each half of a range by itself, so that the halves have descriptors of their own.
    fn note_halves(&mut self, ipa: u64, size: u64, values: [u64; 2]) {
        for (half, value) in values.into_iter().enumerate() {
            let ipa = Ipa::new(ipa + half as u64 * (size / 2));
            self.table.annotate(&mut self.cpu, ipa, size / 2, Annotation::new(value)).unwrap();
        }
    }
}

#[test]
fn pages_become_a_block_and_blocks_a_larger_one_with_one_flush() {
    let mut bench = with_range();
    bench.lay(GIB, 3 * GIB, 100 * MIB2, odd(), false);
    bench.lay(GIB + 100 * MIB2, 3 * GIB + 100 * MIB2, 2 * MIB2, odd(), true);
    bench.lay(GIB + 102 * MIB2, 3 * GIB + 102 * MIB2, GIB - 102 * MIB2, odd(), false);
    assert_eq!(bench.machine.allocated_frames(), 3);
    bench.machine.fail_allocations_after(0);
    let (freed, events) = bench.events(|bench| bench.coalesce(GIB, GIB));
    assert_eq!(freed, Ok(3));
    let invalidations = tlbis(&events);
    let [Tlbi::Ripas2e1Is { ipa, pages, level }, Tlbi::Vmalle1Is] = invalidations[..] else {
        panic!("{invalidations:?}");
    };
    assert_eq!((ipa.raw(), pages.pages(), level), (GIB, GIB / PAGE, None), "tables go, without a hint");
    assert_eq!(events.last(), Some(&Event::Dsb(DsbKind::Ishst)), "the block is published");
    assert_eq!((bench.leaf_size(GIB), bench.machine.allocated_frames()), (GIB, 0));
    assert_eq!(bench.mapping(2 * GIB - PAGE), Some((4 * GIB - PAGE, odd())));
    let (freed, events) = bench.events(|bench| bench.coalesce(GIB, GIB));
    assert_eq!((freed, events), (Ok(0), vec![]), "nothing is left to do");
    bench.finish();
}

#[test]
fn a_gib_of_pages_becomes_one_block() {
    let mut bench = Bench::new();
    bench.lay(GIB, 3 * GIB, GIB, odd(), true);
    assert_eq!(bench.machine.allocated_frames(), 513);
    assert_eq!(bench.coalesce(0, 4 * GIB), Ok(513));
    bench.machine.assert_clean();
    assert_eq!((bench.leaf_size(GIB), bench.machine.allocated_frames()), (GIB, 0));
    assert_eq!(bench.mapping(2 * GIB - PAGE), Some((4 * GIB - PAGE, odd())));
    bench.finish();
}

#[test]
fn leaves_stay_where_the_output_fits_no_larger_one() {
    let mut bench = with_range();
    bench.lay(GIB, 3 * GIB + MIB2, 3 * MIB2, odd(), true);
    bench.lay(GIB + 3 * MIB2, 3 * GIB + 4 * MIB2, GIB - 3 * MIB2, odd(), false);
    let (freed, invalidations) = bench.tlbis(|bench| bench.coalesce(GIB, GIB));
    assert_eq!((freed, invalidations.len()), (Ok(3), 2));
    assert_eq!((bench.leaf_size(GIB), bench.machine.allocated_frames()), (MIB2, 1));
    assert_eq!(bench.mapping(2 * GIB - PAGE), Some((4 * GIB + MIB2 - PAGE, odd())));
    bench.lay(2 * GIB, PAGE, MIB2, odd(), true);
    let (freed, events) = bench.events(|bench| bench.coalesce(2 * GIB, MIB2));
    assert_eq!((freed, events), (Ok(0), vec![]), "the output fits no block at all");
    bench.finish();
}

#[test]
fn one_leaf_that_differs_keeps_its_table() {
    let uncached = Stage2Attributes { memory: Stage2Memory::NormalNonCacheable, ..odd() };
    for different in [
        Stage2Attributes { write: true, ..odd() },
        Stage2Attributes { access_flag: true, ..odd() },
        odd().with_software(8),
        uncached,
    ] {
        for page in [0, 1, 511] {
            let mut bench = Bench::new();
            bench.lay(GIB, GIB, 2 * MIB2, odd(), true);
            let ipa = Ipa::new(GIB + page * PAGE);
            bench.table.protect(&mut bench.cpu, ipa, PAGE, different).unwrap();
            assert_eq!(bench.coalesce(GIB, 2 * MIB2), Ok(1), "{different:?}");
            assert_eq!((bench.leaf_size(GIB), bench.leaf_size(GIB + MIB2)), (PAGE, MIB2));
            bench.finish();
        }
    }
    // Another output, a hole, an annotation.
    for page in [0, 1, 511] {
        let mut bench = Bench::new();
        bench.lay(GIB, GIB, MIB2, odd(), true);
        let ipa = Ipa::new(GIB + page * PAGE);
        let output = PhysAddr::new(7 * GIB);
        bench.table.remap(&mut bench.cpu, ipa, output, PAGE, odd(), MapOptions::default()).unwrap();
        assert_eq!(bench.coalesce(GIB, MIB2), Ok(0));
        bench.table.unmap(&mut bench.cpu, ipa, PAGE).unwrap();
        assert_eq!(bench.coalesce(GIB, MIB2), Ok(0));
        bench.table.annotate(&mut bench.cpu, ipa, PAGE, Annotation::new(1)).unwrap();
        let (freed, events) = bench.events(|bench| bench.coalesce(GIB, MIB2));
        assert_eq!((freed, events), (Ok(0), vec![]));
        bench.finish();
    }
}

#[test]
fn only_tables_that_lie_in_the_range_go() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, 4 * MIB2, odd(), true);
    bench.lay(GIB + 4 * MIB2, GIB + 4 * MIB2, GIB - 4 * MIB2, odd(), false);
    assert_eq!(bench.coalesce(GIB + PAGE, MIB2), Ok(0));
    assert_eq!(bench.coalesce(GIB + PAGE, 3 * MIB2 - 2 * PAGE), Ok(1));
    assert_eq!([0, 1, 2, 3].map(|block| bench.leaf_size(GIB + block * MIB2)), [PAGE, MIB2, PAGE, PAGE]);
    assert_eq!(bench.coalesce(GIB + MIB2, GIB - MIB2), Ok(2), "the larger table reaches out of the range");
    assert_eq!([0, 1, 3].map(|block| bench.leaf_size(GIB + block * MIB2)), [PAGE, MIB2, MIB2]);
    assert_eq!(bench.coalesce(0, 1 << 40), Ok(2));
    assert_eq!(bench.leaf_size(GIB), GIB);
    bench.finish();
}

#[test]
fn no_block_is_larger_than_1_gib() {
    let mut bench = Bench::with(Stage2Config::new(48, 48));
    bench.lay(512 * GIB, 0, 512 * GIB, odd(), false);
    assert_eq!(bench.machine.allocated_frames(), 1);
    assert_eq!(bench.coalesce(0, 1 << 48), Ok(0));
    bench.finish();
}

#[test]
fn equal_annotations_become_one() {
    let mut bench = Bench::with(Stage2Config::new(48, 48));
    for size in [MIB2, GIB, 512 * GIB] {
        bench.note_halves(512 * GIB, size, [7, 7]);
        let before = bench.machine.allocated_frames() as u64;
        let (freed, invalidations) = bench.tlbis(|bench| bench.coalesce(512 * GIB, size));
        assert_eq!(freed, Ok(before - bench.machine.allocated_frames() as u64));
        assert_eq!(invalidations.len(), 1);
        assert_eq!(bench.leaf_size(512 * GIB), size);
        assert_eq!(bench.leaf(512 * GIB).annotation(), Annotation::new(7));
        assert_eq!(bench.leaf(512 * GIB + size - 1).annotation(), Annotation::new(7));
        bench.note_halves(512 * GIB, size, [7, 8]);
        assert_eq!(bench.coalesce(0, 1 << 48), Ok(0));
    }
    bench.finish();
}

#[test]
fn a_table_that_holds_nothing_goes() {
    let mut bench = Bench::new();
    bench.table.annotate(&mut bench.cpu, Ipa::new(GIB), PAGE, Annotation::new(7)).unwrap();
    let root = bench.table.root().raw();
    let address = |slot: u64| bench.cpu.read(PhysAddr::new(slot)) & 0xffff_ffff_f000;
    let last = address(address(root + 8));
    bench.cpu.write(PhysAddr::new(last), 0);
    assert_eq!(bench.coalesce(0, 1 << 40), Ok(2));
    assert!(bench.leaf(GIB).is_vacant());
    assert_eq!((bench.leaf_size(GIB), bench.machine.allocated_frames()), (GIB, 0));
    bench.finish();
}

#[test]
fn the_ends_of_every_input_space_are_coalesced() {
    for bits in 32..=48 {
        let mut bench = Bench::with(Stage2Config::new(bits, 48));
        let last = (1u64 << bits) - GIB;
        bench.lay(last, GIB, GIB - MIB2, odd(), false);
        bench.lay(last + GIB - MIB2, 2 * GIB - MIB2, MIB2, odd(), true);
        bench.lay(0, 3 * GIB, MIB2, odd(), true);
        let (freed, invalidations) = bench.tlbis(|bench| bench.coalesce(0, 1 << bits));
        // The first table, the last, and the one above it if that is not the root.
        assert_eq!(freed, Ok(if bits < 35 { 2 } else { 3 }), "{bits} bits");
        assert_eq!(invalidations, [Tlbi::Vmalls12e1Is]);
        assert_eq!(bench.leaf_size(last), if bits < 35 { MIB2 } else { GIB });
        assert_eq!(bench.leaf_size(0), MIB2);
        assert_eq!(bench.mapping((1 << bits) - PAGE), Some((2 * GIB - PAGE, odd())));
        assert_eq!(bench.coalesce(1, PAGE), Err(TableError::Misaligned));
        assert_eq!(bench.coalesce(PAGE, 1 << bits), Err(TableError::BadRange));
        bench.finish();
    }
}

#[test]
fn an_access_that_the_hardware_notes_before_the_break_is_not_lost() {
    // In a GiB the table that is accessed is the first of which the larger one consists.
    for (size, page) in [(MIB2, 0), (MIB2, 1), (MIB2, 511), (GIB, 0), (GIB, 3)] {
        let mut bench = Bench::with(Stage2Config { hardware_access_flag: true, ..Stage2Config::new(40, 48) });
        bench.lay(GIB, GIB, MIB2, odd(), true);
        if size == GIB {
            bench.lay(GIB + MIB2, GIB + MIB2, GIB - MIB2, odd(), false);
        }
        let (other, kind) = (bench.machine.cpu(1), TreeKind::Stage2 { vmid: VMID });
        let unlinked = Cell::new(0);
        let before = |_: &Cpu, _, new: u64| {
            if new & 1 == 0 {
                unlinked.set(unlinked.get() + 1);
                if unlinked.get() == 1 {
                    other.access(kind, GIB + page * PAGE, Access::Read).unwrap();
                }
            }
        };
        let mut racing = Racing { cpu: bench.cpu.clone(), before };
        let freed = bench.table.coalesce(&mut racing, Ipa::new(GIB), size).unwrap();
        bench.machine.assert_clean();
        let is_young = bench.mapping(GIB + page * PAGE).unwrap().1.access_flag;
        assert!(is_young, "page {page} of {size:#x}");
        assert_eq!(freed, unlinked.get());
        // What the larger table says is known by the first of the smaller table's.
        assert_eq!(bench.leaf_size(GIB), if (size, page) == (GIB, 3) { GIB } else { MIB2 });
        bench.finish();
    }
}

#[test]
fn a_foreign_descriptor_ends_the_search_but_what_was_found_is_completed() {
    let mut bench = Bench::new();
    bench.lay(0, 0, MIB2, odd(), true);
    bench.lay(MIB2, MIB2, GIB - MIB2, odd(), false);
    let slot = PhysAddr::new(bench.table.root().raw() + 8);
    bench.cpu.write(slot, 0x1000_0002);
    let (result, _) = bench.events(|bench| bench.coalesce(0, 3 * GIB));
    assert_eq!(result, Err(TableError::Corrupt));
    assert_eq!(bench.leaf_size(0), GIB);
    assert_eq!(bench.cpu.read(slot), 0x1000_0002);
    bench.cpu.write(slot, 0);
    assert_eq!(bench.machine.allocated_frames(), 0);
    bench.finish();
}

#[test]
fn the_stage1_regimes_coalesce_too() {
    let machine = Machine::new(2, pool());
    let mut cpu = machine.cpu(0);
    let options = MapOptions { force_pages: true, ..MapOptions::default() };
    let root = machine.take_root(1);
    let config = El2Config { va_bits: 48, pa_bits: 48, hardware_access_flag: false, tlbi: RANGE };
    let mut el2 = El2Stage1::new(root, config).unwrap();
    machine.track_el2(&el2);
    let root = machine.take_root(1);
    let half = VirtualHalf::Upper;
    let config = El1Config {
        va_bits: 39,
        pa_bits: 48,
        half,
        asid: 9,
        hardware_access_flag: false,
        tlbi: TlbiFeatures::default(),
    };
    let mut el1 = El1Stage1::new(root, config).unwrap();
    machine.track_el1(&el1);
    let since = |before: usize| {
        let events: Vec<Event> = machine.events()[before..].iter().map(|(_, event)| *event).collect();
        tlbis(&events)
    };

    let address = VirtAddr::new(GIB);
    el2.map(&mut cpu, address, PhysAddr::new(GIB), MIB2, El2Attributes::code(), options).unwrap();
    let before = machine.events().len();
    assert_eq!(el2.coalesce(&mut cpu, address, MIB2), Ok(1));
    machine.assert_clean();
    let invalidations = since(before);
    let [Tlbi::Rvae2Is { address: at, pages, level: None }] = invalidations[..] else {
        panic!("{invalidations:?}");
    };
    assert_eq!((at, pages.pages()), (address, 512));
    let leaf = el2.lookup(&cpu, address).unwrap();
    assert_eq!((leaf.size, leaf.mapping()), (MIB2, Some((PhysAddr::new(GIB), El2Attributes::code()))));

    let block = VirtAddr::new(!0 - GIB + 1);
    let (last, code) = (VirtAddr::new(!0 - MIB2 + 1), El1Attributes::code());
    el1.map(&mut cpu, block, PhysAddr::new(2 * GIB), GIB - MIB2, code, MapOptions::default()).unwrap();
    el1.map(&mut cpu, last, PhysAddr::new(3 * GIB - MIB2), MIB2, code, options).unwrap();
    let before = machine.events().len();
    assert_eq!(el1.coalesce(&mut cpu, block, GIB), Ok(2));
    machine.assert_clean();
    assert_eq!(since(before), [Tlbi::Vmalle1Is]);
    let leaf = el1.lookup(&cpu, VirtAddr::new(!0)).unwrap();
    assert_eq!((leaf.size, leaf.mapping()), (GIB, Some((PhysAddr::new(2 * GIB), El1Attributes::code()))));
    for root in [el1.destroy(&mut cpu), el2.destroy(&mut cpu)] {
        machine.forget(root.start);
    }
    machine.assert_no_leak();
    machine.assert_clean();
}
