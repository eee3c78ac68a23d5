//! Blocks split before it is necessary.

use std::cell::Cell;

use abi::{Ipa, PhysAddr, VirtAddr};
use memsim::{Access, Cpu, Event, Machine, TreeKind};
use pgtable::{
    Annotation, DsbKind, El1Attributes, El1Config, El1Stage1, El2Attributes, El2Config, El2Stage1, MapOptions,
    Stage2Attributes, Stage2Config, TableError, TableFrames, Tlbi, TlbiFeatures, VirtualHalf,
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
    fn split(&mut self, ipa: u64, size: u64, level: u8) -> Result<(), TableError> {
        self.table.split(&mut self.cpu, Ipa::new(ipa), size, level)
    }

    /// The sizes of the leaves in a range, each with how often it comes in a row.
    fn sizes(&self, ipa: u64, size: u64) -> Vec<(u64, u64)> {
        let mut sizes: Vec<(u64, u64)> = Vec::new();
        let _ = self.table.visit(&self.cpu, Ipa::new(ipa), size, |leaf| {
            match sizes.last_mut() {
                Some((size, count)) if *size == leaf.size => *count += 1,
                _ => sizes.push((leaf.size, 1)),
            }
            std::ops::ControlFlow::<()>::Continue(())
        });
        sizes
    }
}

/// Every write of a valid descriptor comes after the flush of all that were broken.
#[track_caller]
fn assert_broken_before_made(events: &[Event]) {
    let flush = events.iter().position(|event| matches!(event, Event::Tlbi(_))).expect("a flush");
    let is_write = |valid: u64| move |event: &Event| matches!(event, Event::Write { new, .. } if new & 1 == valid);
    let in_tables = |event: &&Event| matches!(event, Event::Write { old, .. } if *old & 1 != 0);
    assert!(events[..flush].iter().filter(in_tables).all(is_write(0)), "only breaks come before the flush");
    assert!(!events[flush..].iter().any(|event| in_tables(&event)), "nothing valid is written after it");
    assert!(events[flush..].iter().any(is_write(1)));
}

#[test]
fn many_blocks_are_split_with_one_flush() {
    let mut bench = with_range();
    let output = 4 * GIB + MIB2;
    bench.lay(GIB, output, 16 * MIB2, odd(), false);
    assert_eq!(bench.sizes(GIB, 16 * MIB2), [(MIB2, 16)]);
    let (result, events) = bench.events(|bench| bench.split(GIB, 16 * MIB2, 3));
    assert_eq!(result, Ok(()));
    assert_broken_before_made(&events);
    let invalidations = tlbis(&events);
    let [Tlbi::Ripas2e1Is { ipa, pages, level }, Tlbi::Vmalle1Is] = invalidations[..] else {
        panic!("{invalidations:?}");
    };
    assert_eq!((ipa.raw(), pages.pages(), level), (GIB, 16 * 512, Some(2)));
    assert_eq!(events.last(), Some(&Event::Dsb(DsbKind::Ishst)), "what was made is published");
    assert_eq!(bench.sizes(GIB, 16 * MIB2), [(PAGE, 16 * 512)]);
    assert_eq!(bench.machine.allocated_frames(), 17);
    for offset in [0, PAGE, MIB2 - PAGE, MIB2, 5 * MIB2 + 7 * PAGE, 16 * MIB2 - PAGE] {
        assert_eq!(bench.mapping(GIB + offset), Some((output + offset, odd())));
    }
    bench.finish();
}

#[test]
fn a_large_block_is_split_to_either_level() {
    let mut bench = with_range();
    bench.lay(GIB, 3 * GIB, 2 * GIB, odd(), false);
    let (result, events) = bench.events(|bench| bench.split(GIB, GIB, 2));
    assert_eq!(result, Ok(()));
    assert_broken_before_made(&events);
    assert_eq!(tlbis(&events), [Tlbi::Ipas2e1Is { ipa: Ipa::new(GIB), level: Some(1) }, Tlbi::Vmalle1Is]);
    assert_eq!(bench.sizes(GIB, GIB), [(MIB2, 512)]);
    assert_eq!(bench.machine.allocated_frames(), 1);
    assert_eq!(bench.split(2 * GIB, GIB, 3), Ok(()));
    assert_eq!(bench.sizes(2 * GIB, GIB), [(PAGE, 512 * 512)]);
    assert_eq!(bench.machine.allocated_frames(), 1 + 513);
    assert_eq!(bench.mapping(2 * GIB - PAGE), Some((4 * GIB - PAGE, odd())));
    assert_eq!(bench.mapping(3 * GIB - PAGE), Some((5 * GIB - PAGE, odd())));
    bench.finish();
}

#[test]
fn what_lies_outside_the_range_stays_as_large_as_it_can() {
    // From within the first block to within the second.
    let (start, end) = (2 * GIB - MIB2 - PAGE, 2 * GIB + MIB2 + PAGE);
    for (level, sizes) in [(2, &[(MIB2, 2 * 512)][..]), (3, &[(MIB2, 510), (PAGE, 4 * 512), (MIB2, 510)])] {
        let mut bench = with_range();
        bench.lay(GIB, GIB, 2 * GIB, odd(), false);
        let (result, events) = bench.events(|bench| bench.split(start, end - start, level));
        assert_eq!(result, Ok(()));
        assert_broken_before_made(&events);
        assert_eq!(tlbis(&events).len(), 2, "both blocks go by one range");
        assert_eq!(bench.sizes(GIB, 2 * GIB), sizes);
        assert_eq!(bench.mapping(start), Some((start, odd())));
        assert_eq!(bench.mapping(end), Some((end, odd())));
        // What is split to 2 MiB is split on to pages.
        assert_eq!(bench.split(start, end - start, 3), Ok(()));
        assert_eq!(bench.sizes(GIB, 2 * GIB), [(MIB2, 510), (PAGE, 4 * 512), (MIB2, 510)]);
        bench.finish();
    }
}

#[test]
fn a_page_in_a_large_block_takes_two_tables_and_one_flush() {
    let mut bench = with_range();
    bench.lay(GIB, GIB, GIB, odd(), false);
    let (result, invalidations) = bench.tlbis(|bench| bench.split(GIB + 7 * MIB2 + 3 * PAGE, PAGE, 3));
    assert_eq!((result, invalidations.len()), (Ok(()), 2));
    assert_eq!(bench.sizes(GIB, GIB), [(MIB2, 7), (PAGE, 512), (MIB2, 504)]);
    assert_eq!(bench.machine.allocated_frames(), 2);
    bench.finish();
}

#[test]
fn what_is_small_or_not_mapped_is_left_alone() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB + PAGE, 4 * PAGE, odd(), false);
    bench.lay(GIB + MIB2, GIB + MIB2, MIB2, odd(), false);
    let note = Annotation::new(77);
    bench.table.annotate(&mut bench.cpu, Ipa::new(2 * GIB), GIB, note).unwrap();
    let frames = bench.machine.allocated_frames();
    for (ipa, size, level) in
        [(0, 1 << 40, 2), (GIB, 4 * PAGE, 3), (2 * GIB + PAGE, PAGE, 3), (GIB + PAGE, MIB2 - PAGE, 3)]
    {
        let (result, events) = bench.events(|bench| bench.split(ipa, size, level));
        assert_eq!((result, events), (Ok(()), vec![]), "{ipa:#x}");
    }
    assert_eq!(bench.machine.allocated_frames(), frames);
    // A table of pages is not even looked into.
    let next = |table: u64| bench.cpu.read(PhysAddr::new(table)) & 0xffff_ffff_f000;
    let slot = PhysAddr::new(next(next(bench.table.root().raw() + 8)) + 100 * 8);
    bench.cpu.write(slot, 0x1000_0002);
    assert_eq!(bench.split(GIB, MIB2, 3), Ok(()));
    bench.cpu.write(slot, 0);
    assert_eq!(bench.split(0, 1 << 40, 3), Ok(()));
    assert_eq!(bench.machine.allocated_frames(), frames + 1, "the block of 2 MiB");
    assert_eq!(bench.leaf(2 * GIB).annotation(), note);
    assert_eq!(bench.leaf_size(2 * GIB), GIB);
    bench.finish();
}

#[test]
fn other_levels_and_bad_ranges_are_refused() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, GIB, odd(), false);
    for level in [0, 1, 4, u8::MAX] {
        assert_eq!(bench.split(GIB, GIB, level), Err(TableError::BadRange), "level {level}");
    }
    assert_eq!(bench.split(GIB + 1, GIB, 2), Err(TableError::Misaligned));
    assert_eq!(bench.split(GIB, 0, 2), Err(TableError::BadRange));
    assert_eq!(bench.split(1 << 40, PAGE, 2), Err(TableError::BadRange));
    assert_eq!(bench.leaf_size(GIB), GIB);
    bench.finish();
}

#[test]
fn without_frames_nothing_is_split() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, 2 * GIB, odd(), false);
    let split = |bench: &mut Bench| bench.split(2 * GIB - 2 * MIB2, 4 * MIB2, 3);
    for frames in 0..6 {
        bench.machine.fail_allocations_after(frames);
        assert_eq!(split(&mut bench), Err(TableError::OutOfFrames), "{frames} frames");
        bench.machine.assert_clean();
        assert_eq!(bench.machine.allocated_frames(), 0);
        assert_eq!(bench.sizes(GIB, 2 * GIB), [(GIB, 2)]);
    }
    bench.machine.fail_allocations_after(6);
    assert_eq!(split(&mut bench), Ok(()));
    assert_eq!(bench.sizes(GIB, 2 * GIB), [(MIB2, 510), (PAGE, 4 * 512), (MIB2, 510)]);
    bench.finish();
}

#[test]
fn the_ends_of_every_input_space_are_split() {
    for bits in 32..=48 {
        let mut bench = Bench::with(Stage2Config::new(bits, 48));
        let last = (1u64 << bits) - GIB;
        bench.lay(last, GIB, GIB, odd(), false);
        bench.lay(0, 3 * GIB, MIB2, odd(), false);
        // The range rounded up to blocks ends with the input space.
        assert_eq!(bench.split(last + GIB - PAGE, PAGE, 2), Ok(()), "{bits} bits");
        assert_eq!(bench.sizes(last, GIB), [(MIB2, 512)]);
        assert_eq!(bench.split(last + GIB - PAGE, PAGE, 3), Ok(()));
        assert_eq!(bench.sizes(last, GIB), [(MIB2, 511), (PAGE, 512)]);
        assert_eq!(bench.split(0, PAGE, 3), Ok(()));
        assert_eq!(bench.sizes(0, MIB2), [(PAGE, 512)]);
        assert_eq!(bench.split(0, 1 << bits, 2), Ok(()));
        assert_eq!(bench.mapping((1 << bits) - PAGE), Some((2 * GIB - PAGE, odd())));
        bench.finish();
    }
}

#[test]
fn a_range_over_two_roots_is_split_with_one_flush() {
    let mut bench = with_range();
    let middle = 512 * GIB;
    bench.lay(middle - GIB, GIB, 2 * GIB, odd(), false);
    let (result, invalidations) = bench.tlbis(|bench| bench.split(middle - GIB, 2 * GIB, 2));
    assert_eq!((result, invalidations.len()), (Ok(()), 2));
    assert_eq!(bench.sizes(middle - GIB, 2 * GIB), [(MIB2, 1024)]);
    bench.finish();
}

#[test]
fn an_access_that_the_hardware_notes_before_the_break_is_not_lost() {
    for (size, level) in [(MIB2, 3), (GIB, 3), (GIB, 2)] {
        let mut bench = Bench::with(Stage2Config { hardware_access_flag: true, ..Stage2Config::new(40, 48) });
        bench.lay(GIB, GIB, size, odd(), false);
        let once = Cell::new(true);
        let (other, kind) = (bench.machine.cpu(1), TreeKind::Stage2 { vmid: VMID });
        let before = |_: &Cpu, _, new: u64| {
            if new & 0b11 == 0b10 && once.replace(false) {
                other.access(kind, GIB + PAGE, Access::Read).unwrap();
            }
        };
        let mut racing = Racing { cpu: bench.cpu.clone(), before };
        bench.table.split(&mut racing, Ipa::new(GIB), size, level).unwrap();
        bench.machine.assert_clean();
        assert!(!once.get());
        let young = Stage2Attributes { access_flag: true, ..odd() };
        for ipa in [GIB, GIB + size / 2, GIB + size - PAGE] {
            assert_eq!(bench.mapping(ipa), Some((ipa, young)));
        }
        bench.finish();
    }
}

#[test]
fn a_foreign_descriptor_stops_a_split_before_it_begins() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, GIB, odd(), false);
    let slot = PhysAddr::new(bench.table.root().raw() + 2 * 8);
    // What stands for a table that is being taken down, and for one that is being made.
    for raw in [0x1000_0002, 0x1000_0002 | 1 << 62] {
        bench.cpu.write(slot, raw);
        let (result, events) = bench.events(|bench| bench.split(GIB, 2 * GIB, 2));
        assert_eq!((result, events), (Err(TableError::Corrupt), vec![]));
        assert_eq!(bench.cpu.read(slot), raw);
    }
    bench.cpu.write(slot, 0);
    bench.finish();
}

#[test]
fn the_stage1_regimes_split_too() {
    let machine = Machine::new(2, pool());
    let mut cpu = machine.cpu(0);
    let options = MapOptions::default();
    let root = machine.take_root(1);
    let config = El2Config { va_bits: 39, pa_bits: 48, hardware_access_flag: false, tlbi: RANGE };
    let mut el2 = El2Stage1::new(root, config).unwrap();
    machine.track_el2(&el2);
    let root = machine.take_root(1);
    let half = VirtualHalf::Upper;
    let config = El1Config {
        va_bits: 48,
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
        assert_broken_before_made(&events);
        tlbis(&events)
    };

    let address = VirtAddr::new(GIB);
    el2.map(&mut cpu, address, PhysAddr::new(GIB), 2 * GIB, El2Attributes::code(), options).unwrap();
    let before = machine.events().len();
    el2.split(&mut cpu, VirtAddr::new(GIB + PAGE), PAGE, 3).unwrap();
    machine.assert_clean();
    assert_eq!(since(before), [Tlbi::Vae2Is { address, level: Some(1) }]);
    assert_eq!(el2.lookup(&cpu, address).unwrap().size, PAGE);
    assert_eq!(el2.lookup(&cpu, VirtAddr::new(2 * GIB)).unwrap().size, GIB);

    let last = VirtAddr::new(!0 - PAGE + 1);
    let block = VirtAddr::new(!0 - 2 * GIB + 1);
    el1.map(&mut cpu, block, PhysAddr::new(2 * GIB), 2 * GIB, El1Attributes::code(), options).unwrap();
    let before = machine.events().len();
    el1.split(&mut cpu, block, 2 * GIB, 2).unwrap();
    machine.assert_clean();
    assert_eq!(since(before), [Tlbi::Vmalle1Is]);
    assert_eq!(el1.lookup(&cpu, last).unwrap().size, MIB2);
    el1.split(&mut cpu, last, PAGE, 3).unwrap();
    machine.assert_clean();
    let leaf = el1.lookup(&cpu, last).unwrap();
    assert_eq!(leaf.mapping(), Some((PhysAddr::new(4 * GIB - PAGE), El1Attributes::code())));
    for root in [el1.destroy(&mut cpu), el2.destroy(&mut cpu)] {
        machine.forget(root.start);
    }
    machine.assert_no_leak();
    machine.assert_clean();
}
