//! Changes of attributes: the write right taken for dirty logging, and what takes a break done in one batch; and other
//! changes whose range cuts through blocks at both ends.

use std::cell::Cell;

use abi::{Ipa, PhysAddr, VirtAddr};
use memsim::{Access, Cpu, Event, Fault, Machine, TreeKind};
use pgtable::{
    Annotation, DsbKind, El1Attributes, El1Config, El1Stage1, El2Attributes, El2Config, El2Stage1, MapOptions,
    MemoryType, Stage2Attributes, Stage2Config, Stage2Memory, TableError, TableFrames, Tlbi, TlbiFeatures, VirtualHalf,
};

use crate::bench::{Bench, GIB, MIB2, PAGE, VMID, pool, tlbis};
use crate::racing::Racing;

const KIND: TreeKind = TreeKind::Stage2 { vmid: VMID };
const RANGE: TlbiFeatures = TlbiFeatures { level_hint: true, range: true };

fn odd() -> Stage2Attributes {
    Stage2Attributes::memory().with_software(9)
}

fn read_only() -> Stage2Attributes {
    Stage2Attributes { write: false, ..odd() }
}

fn uncached() -> Stage2Attributes {
    Stage2Attributes { memory: Stage2Memory::NormalNonCacheable, ..Stage2Attributes::memory() }
}

fn with_range() -> Bench {
    Bench::with(Stage2Config { tlbi: RANGE, ..Stage2Config::new(40, 48) })
}

impl Bench {
    fn write_protect(&mut self, ipa: u64, size: u64) -> Result<(), TableError> {
        self.table.write_protect(&mut self.cpu, Ipa::new(ipa), size)
    }

    fn protect(&mut self, ipa: u64, size: u64, attributes: Stage2Attributes) -> Result<(), TableError> {
        self.table.protect(&mut self.cpu, Ipa::new(ipa), size, attributes)
    }
}

/// Descriptors that were valid are written before the first invalidation only, and those that become valid after the
/// last.
#[track_caller]
fn assert_one_batch(events: &[Event]) {
    let first = events.iter().position(|event| matches!(event, Event::Tlbi(_))).expect("a flush");
    let last = events.iter().rposition(|event| matches!(event, Event::Tlbi(_))).expect("a flush");
    for (position, event) in events.iter().enumerate() {
        if let Event::Write { old, new, .. } = event {
            assert!(old & 1 == 0 || position < first, "{event} comes too late");
            assert!(new & 1 == 0 || old & 0b11 != 0b10 || position > last, "{event} comes too early");
        }
    }
}

#[test]
fn the_write_right_goes_and_all_else_stays() {
    let mut bench = with_range();
    let no_access = Stage2Attributes { read: false, access_flag: false, ..odd() };
    bench.lay(GIB, 5 * GIB, 4 * PAGE, odd(), true);
    bench.lay(GIB + 4 * PAGE, 5 * GIB, PAGE, read_only(), true);
    bench.lay(GIB + 6 * PAGE, 7 * GIB, PAGE, no_access, true);
    bench.lay(GIB + 8 * PAGE, 8 * GIB, PAGE, Stage2Attributes::device(), true);
    bench.table.annotate(&mut bench.cpu, Ipa::new(GIB + 7 * PAGE), PAGE, Annotation::new(3)).unwrap();
    assert_eq!(bench.cpu.access(KIND, GIB, Access::Write), Ok(PhysAddr::new(5 * GIB)));
    let (result, events) = bench.events(|bench| bench.write_protect(GIB, 9 * PAGE));
    assert_eq!(result, Ok(()));
    let invalidations = tlbis(&events);
    assert!(matches!(invalidations[0], Tlbi::Ripas2e1Is { level: Some(3), .. }), "{invalidations:?}");
    assert_eq!(invalidations.last(), Some(&Tlbi::Vmalle1Is));
    let changed = events.iter().filter(|event| matches!(event, Event::Write { .. })).count();
    assert_eq!(changed, 6, "each once, in place, and only those that could be written");
    for page in 0..4 {
        assert_eq!(bench.mapping(GIB + page * PAGE), Some((5 * GIB + page * PAGE, read_only())));
    }
    assert_eq!(bench.mapping(GIB + 4 * PAGE), Some((5 * GIB, read_only())));
    assert!(bench.leaf(GIB + 5 * PAGE).is_vacant());
    assert_eq!(bench.mapping(GIB + 6 * PAGE), Some((7 * GIB, Stage2Attributes { write: false, ..no_access })));
    assert_eq!(bench.leaf(GIB + 7 * PAGE).annotation(), Annotation::new(3));
    let device = Stage2Attributes { write: false, ..Stage2Attributes::device() };
    assert_eq!(bench.mapping(GIB + 8 * PAGE), Some((8 * GIB, device)));
    assert_eq!(bench.cpu.access(KIND, GIB, Access::Write), Err(Fault::Permission { level: 3 }));
    assert_eq!(bench.cpu.access(KIND, GIB, Access::Read), Ok(PhysAddr::new(5 * GIB)));
    let (result, events) = bench.events(|bench| bench.write_protect(0, 1 << 40));
    assert_eq!((result, events), (Ok(()), vec![]), "nothing is left to do");
    bench.finish();
}

#[test]
fn a_block_is_write_protected_where_it_lies_in_the_range() {
    let mut bench = with_range();
    bench.lay(GIB, 2 * GIB, 2 * GIB, odd(), false);
    let (start, end) = (2 * GIB - MIB2 - PAGE, 2 * GIB + PAGE);
    let (result, events) = bench.events(|bench| bench.write_protect(start, end - start));
    assert_eq!(result, Ok(()));
    assert_one_batch(&events);
    assert_eq!(tlbis(&events).len(), 2, "both blocks go by one range");
    assert_eq!(bench.machine.allocated_frames(), 4);
    for (ipa, size, write) in [
        (GIB, MIB2, true),
        (start - PAGE, PAGE, true),
        (start, PAGE, false),
        (start + PAGE, MIB2, false),
        (2 * GIB, PAGE, false),
        (end, PAGE, true),
        (2 * GIB + MIB2, MIB2, true),
    ] {
        assert_eq!(bench.leaf_size(ipa), size, "{ipa:#x}");
        assert_eq!(bench.mapping(ipa), Some((ipa + GIB, Stage2Attributes { write, ..odd() })));
    }
    // A block that nobody can write to is not split.
    bench.lay(4 * GIB, 4 * GIB, GIB, read_only(), false);
    let (result, events) = bench.events(|bench| bench.write_protect(4 * GIB + PAGE, PAGE));
    assert_eq!((result, events), (Ok(()), vec![]));
    assert_eq!(bench.leaf_size(4 * GIB), GIB);
    bench.finish();
}

#[test]
fn without_frames_nothing_is_write_protected() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, 2 * GIB, odd(), false);
    for frames in 0..4 {
        bench.machine.fail_allocations_after(frames);
        assert_eq!(bench.write_protect(2 * GIB - PAGE, 2 * PAGE), Err(TableError::OutOfFrames));
        bench.machine.assert_clean();
        assert_eq!(bench.machine.allocated_frames(), 0);
        for ipa in [GIB, 2 * GIB] {
            assert_eq!((bench.leaf_size(ipa), bench.mapping(ipa)), (GIB, Some((ipa, odd()))));
        }
    }
    bench.machine.fail_allocations_after(4);
    assert_eq!(bench.write_protect(2 * GIB - PAGE, 2 * PAGE), Ok(()));
    bench.finish();
}

#[test]
fn the_ends_of_every_input_space_are_write_protected() {
    for bits in 32..=48 {
        let mut bench = Bench::with(Stage2Config::new(bits, 48));
        let last = (1u64 << bits) - MIB2;
        bench.lay(last, GIB, MIB2, odd(), false);
        bench.lay(0, 0, PAGE, odd(), true);
        assert_eq!(bench.write_protect(last + MIB2 - PAGE, PAGE), Ok(()), "{bits} bits");
        assert_eq!(bench.mapping(last + MIB2 - PAGE), Some((GIB + MIB2 - PAGE, read_only())));
        assert_eq!(bench.mapping(last), Some((GIB, odd())));
        assert_eq!(bench.write_protect(0, 1 << bits), Ok(()));
        for (ipa, output) in [(0, 0), (last, GIB), (last + MIB2 - PAGE, GIB + MIB2 - PAGE)] {
            assert_eq!(bench.mapping(ipa), Some((output, read_only())));
        }
        assert_eq!(bench.write_protect(0, (1 << bits) + PAGE), Err(TableError::BadRange));
        assert_eq!(bench.write_protect(0, 1), Err(TableError::Misaligned));
        bench.finish();
    }
}

#[test]
fn hardware_that_manages_dirty_state_cannot_give_the_right_back() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, PAGE, odd(), true);
    let slot = bench.table.root().raw();
    let next = |slot: u64| bench.cpu.read(PhysAddr::new(slot)) & 0xffff_ffff_f000;
    let slot = PhysAddr::new(next(next(slot + 8)));
    let dirty_bit_modifier = 1 << 51;
    bench.cpu.write(slot, bench.cpu.read(slot) | dirty_bit_modifier);
    pgtable::Maintenance::dsb(&bench.cpu, DsbKind::Ishst);
    bench.write_protect(GIB, PAGE).unwrap();
    assert_eq!(bench.cpu.read(slot) & (dirty_bit_modifier | 1 << 7), 0);
    bench.finish();
}

#[test]
fn an_access_that_the_hardware_notes_meanwhile_is_not_lost() {
    let old = Stage2Attributes { access_flag: false, ..odd() };
    for (size, part) in [(PAGE, PAGE), (MIB2, MIB2), (MIB2, PAGE), (GIB, PAGE)] {
        let mut bench = Bench::with(Stage2Config { hardware_access_flag: true, ..Stage2Config::new(40, 48) });
        bench.lay(GIB, GIB, size, old, false);
        let once = Cell::new(true);
        let other = bench.machine.cpu(1);
        let before = |cpu: &Cpu, slot: PhysAddr, _| {
            // The first write to a leaf that is in use.
            if cpu.read(slot) & 1 << 10 == 0 && cpu.read(slot) >> 55 == 9 && once.get() {
                let young = |cpu: &Cpu| cpu.access(KIND, GIB, Access::Write).is_ok();
                once.set(!young(&other));
            }
        };
        let mut racing = Racing { cpu: bench.cpu.clone(), before };
        bench.table.write_protect(&mut racing, Ipa::new(GIB), part).unwrap();
        bench.machine.assert_clean();
        assert!(!once.get());
        assert_eq!(bench.mapping(GIB), Some((GIB, read_only())), "{part:#x} of {size:#x}");
        if part < size {
            assert_eq!(bench.mapping(GIB + size - PAGE), Some((GIB + size - PAGE, odd())));
        }
        bench.finish();
    }
}

#[test]
fn another_memory_type_takes_one_flush_for_all_pages() {
    let mut bench = with_range();
    bench.lay(GIB, 5 * GIB, 64 * PAGE, odd(), true);
    let (result, events) = bench.events(|bench| bench.protect(GIB, 64 * PAGE, uncached()));
    assert_eq!(result, Ok(()));
    assert_one_batch(&events);
    let invalidations = tlbis(&events);
    let [Tlbi::Ripas2e1Is { ipa, pages, level }, Tlbi::Vmalle1Is] = invalidations[..] else {
        panic!("{invalidations:?}");
    };
    assert_eq!((ipa.raw(), pages.pages(), level), (GIB, 64, Some(3)));
    assert_eq!(events.last(), Some(&Event::Dsb(DsbKind::Ishst)), "what was made is published");
    for page in 0..64 {
        assert_eq!(bench.mapping(GIB + page * PAGE), Some((5 * GIB + page * PAGE, uncached())));
    }
    bench.finish();
}

#[test]
fn blocks_pages_and_cut_blocks_change_their_memory_type_together() {
    let mut bench = with_range();
    bench.lay(GIB, 3 * GIB, GIB, odd(), false);
    bench.lay(2 * GIB, 4 * GIB, GIB - MIB2, odd(), false);
    bench.lay(3 * GIB - MIB2, 5 * GIB - MIB2, MIB2, odd(), true);
    bench.lay(3 * GIB, 5 * GIB, GIB, odd(), false);
    // What has to change in place only, and what not at all.
    bench.protect(2 * GIB + 3 * MIB2, MIB2, Stage2Attributes { write: false, ..uncached() }).unwrap();
    bench.protect(2 * GIB + 4 * MIB2, MIB2, uncached()).unwrap();
    let (start, end) = (2 * GIB - MIB2 - PAGE, 3 * GIB + MIB2 + PAGE);
    let (result, events) = bench.events(|bench| bench.protect(start, end - start, uncached()));
    assert_eq!(result, Ok(()));
    assert_one_batch(&events);
    assert_eq!(tlbis(&events).len(), 2);
    for (ipa, size, attributes) in [
        (GIB, MIB2, odd()),
        (start - PAGE, PAGE, odd()),
        (start, PAGE, uncached()),
        (2 * GIB - MIB2, MIB2, uncached()),
        (2 * GIB, MIB2, uncached()),
        (2 * GIB + 3 * MIB2, MIB2, uncached()),
        (2 * GIB + 4 * MIB2, MIB2, uncached()),
        (3 * GIB - MIB2, PAGE, uncached()),
        (3 * GIB - PAGE, PAGE, uncached()),
        (3 * GIB, MIB2, uncached()),
        (end - PAGE, PAGE, uncached()),
        (end, PAGE, odd()),
        (3 * GIB + 2 * MIB2, MIB2, odd()),
    ] {
        assert_eq!(bench.leaf_size(ipa), size, "{ipa:#x}");
        assert_eq!(bench.mapping(ipa), Some((ipa + 2 * GIB, attributes)), "{ipa:#x}");
    }
    bench.finish();
}

#[test]
fn without_frames_no_memory_type_changes() {
    let mut bench = Bench::new();
    bench.lay(GIB, GIB, 2 * GIB, odd(), false);
    for frames in 0..4 {
        bench.machine.fail_allocations_after(frames);
        assert_eq!(bench.protect(2 * GIB - PAGE, 2 * PAGE, uncached()), Err(TableError::OutOfFrames));
        bench.machine.assert_clean();
        assert_eq!(bench.machine.allocated_frames(), 0);
        assert_eq!(bench.mapping(2 * GIB - PAGE), Some((2 * GIB - PAGE, odd())));
    }
    bench.machine.fail_allocations_after(4);
    assert_eq!(bench.protect(2 * GIB - PAGE, 2 * PAGE, uncached()), Ok(()));
    bench.finish();
}

#[test]
fn one_page_changes_its_memory_type_by_the_book() {
    let mut bench = with_range();
    bench.lay(GIB, GIB, PAGE, odd(), true);
    let (result, events) = bench.events(|bench| bench.protect(GIB, PAGE, uncached()));
    assert_eq!(result, Ok(()));
    let root = bench.table.vttbr_el2();
    let expected = [
        Event::Dsb(DsbKind::Ish),
        Event::LoadVttbr(root),
        Event::Isb,
        Event::Tlbi(Tlbi::Ipas2e1Is { ipa: Ipa::new(GIB), level: Some(3) }),
        Event::Dsb(DsbKind::Ish),
        Event::Tlbi(Tlbi::Vmalle1Is),
        Event::Dsb(DsbKind::Ish),
        Event::LoadVttbr(0),
        Event::Isb,
    ];
    let [Event::Write { new: broken, .. }, between @ .., Event::Write { new: made, .. }, Event::Dsb(DsbKind::Ishst)] =
        &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((broken & 1, made & 1), (0, 1));
    assert_eq!(between, expected);
    bench.finish();
}

#[test]
fn a_range_that_cuts_two_blocks_is_unmapped_and_noted_with_one_flush() {
    for note in [None, Annotation::new(0x55)] {
        let mut bench = with_range();
        bench.lay(GIB, GIB, 3 * GIB, odd(), false);
        let (start, end) = (2 * GIB - MIB2 - PAGE, 3 * GIB + MIB2 + PAGE);
        let (result, events) =
            bench.events(|bench| bench.table.annotate(&mut bench.cpu, Ipa::new(start), end - start, note));
        assert_eq!(result, Ok(()));
        assert_one_batch(&events);
        assert_eq!(tlbis(&events).len(), 2);
        for (ipa, expected) in
            [(start - PAGE, true), (start, false), (2 * GIB, false), (end - PAGE, false), (end, true)]
        {
            assert_eq!(bench.mapping(ipa), expected.then_some((ipa, odd())), "{ipa:#x}");
            assert_eq!(bench.leaf(ipa).annotation(), note.filter(|_| !expected));
        }
        assert_eq!((bench.leaf_size(GIB), bench.leaf_size(4 * GIB - 1)), (MIB2, MIB2));
        bench.finish();
    }
}

#[test]
fn tables_go_and_a_block_is_cut_with_one_flush() {
    let mut bench = with_range();
    bench.lay(GIB, GIB, 3 * PAGE, odd(), false);
    bench.lay(2 * GIB, 2 * GIB, GIB, odd(), false);
    let (result, events) = bench.events(|bench| bench.table.unmap(&mut bench.cpu, Ipa::new(GIB), GIB + PAGE));
    assert_eq!(result, Ok(()));
    assert_one_batch(&events);
    assert_eq!(tlbis(&events).len(), 2);
    assert_eq!((bench.leaf_size(GIB), bench.leaf_size(2 * GIB)), (GIB, PAGE));
    assert_eq!((bench.mapping(2 * GIB), bench.mapping(2 * GIB + PAGE)), (None, Some((2 * GIB + PAGE, odd()))));
    assert_eq!(bench.machine.allocated_frames(), 2);
    bench.finish();
}

#[test]
fn a_range_that_cuts_two_blocks_is_remapped_with_one_flush() {
    let mut bench = with_range();
    bench.lay(GIB, GIB, 3 * GIB, odd(), false);
    let (start, end) = (2 * GIB - MIB2 - PAGE, 3 * GIB + MIB2 + PAGE);
    let to = PhysAddr::new(start + 8 * GIB);
    let (result, events) = bench.events(|bench| {
        bench.table.remap(&mut bench.cpu, Ipa::new(start), to, end - start, uncached(), MapOptions::default())
    });
    assert_eq!(result, Ok(()));
    assert_one_batch(&events);
    assert_eq!(tlbis(&events).len(), 2);
    let publishes = events.iter().filter(|event| matches!(event, Event::Dsb(DsbKind::Ishst))).count();
    assert_eq!(publishes, 1, "what was broken is made on the way, without a walk of its own");
    for ipa in [start - PAGE, end] {
        assert_eq!(bench.mapping(ipa), Some((ipa, odd())), "{ipa:#x}");
    }
    for (ipa, size) in [(start, PAGE), (start + PAGE, MIB2), (2 * GIB, GIB), (3 * GIB, MIB2), (end - PAGE, PAGE)] {
        assert_eq!(bench.mapping(ipa), Some((ipa + 8 * GIB, uncached())), "{ipa:#x}");
        assert_eq!(bench.leaf_size(ipa), size, "{ipa:#x}");
    }
    bench.finish();
}

#[test]
fn the_stage1_regimes_write_protect_and_change_the_memory_type() {
    let machine = Machine::new(2, pool());
    let mut cpu = machine.cpu(0);
    let options = MapOptions::default();
    let root = machine.take_root(1);
    let config = El2Config { va_bits: 48, pa_bits: 48, hardware_access_flag: false, tlbi: RANGE };
    let mut el2 = El2Stage1::new(root, config).unwrap();
    machine.track_el2(&el2);
    let root = machine.take_root(1);
    let half = VirtualHalf::Upper;
    let config = El1Config { va_bits: 48, pa_bits: 48, half, asid: 9, hardware_access_flag: false, tlbi: RANGE };
    let mut el1 = El1Stage1::new(root, config).unwrap();
    machine.track_el1(&el1);
    let since = |before: usize| {
        machine.assert_clean();
        let events: Vec<Event> = machine.events()[before..].iter().map(|(_, event)| *event).collect();
        assert_one_batch(&events);
        tlbis(&events)
    };

    let address = VirtAddr::new(GIB);
    el2.map(&mut cpu, address, PhysAddr::new(GIB), 2 * MIB2, El2Attributes::data(), options).unwrap();
    let before = machine.events().len();
    el2.write_protect(&mut cpu, VirtAddr::new(GIB + PAGE), MIB2 - PAGE).unwrap();
    assert_eq!(since(before), [Tlbi::Vae2Is { address, level: Some(2) }]);
    for (page, attributes) in
        [(0, El2Attributes::data()), (1, El2Attributes::read_only()), (512, El2Attributes::data())]
    {
        let leaf = el2.lookup(&cpu, VirtAddr::new(GIB + page * PAGE)).unwrap();
        assert_eq!(leaf.mapping(), Some((PhysAddr::new(GIB + page * PAGE), attributes)));
    }
    let before = machine.events().len();
    el2.protect(&mut cpu, address, 2 * MIB2, El2Attributes::device()).unwrap();
    let invalidations = since(before);
    assert!(matches!(invalidations[..], [Tlbi::Rvae2Is { level: None, .. }]), "{invalidations:?}");
    assert_eq!(el2.lookup(&cpu, address).unwrap().mapping(), Some((PhysAddr::new(GIB), El2Attributes::device())));

    let last = VirtAddr::new(!0 - PAGE + 1);
    let user = El1Attributes { user: true, user_execute: true, global: false, ..El1Attributes::data() };
    let outputs = PhysAddr::new(GIB);
    el1.map(&mut cpu, VirtAddr::new(!0 - 2 * PAGE + 1), outputs, 2 * PAGE, user, options).unwrap();
    let before = machine.events().len();
    el1.write_protect(&mut cpu, last, PAGE).unwrap();
    assert_eq!(since(before), [Tlbi::Vale1Is { address: last, asid: 9, level: Some(3) }]);
    let leaf = el1.lookup(&cpu, last).unwrap();
    let expected = El1Attributes { write: false, ..user };
    assert_eq!(leaf.mapping(), Some((PhysAddr::new(GIB + PAGE), expected)));
    let device = El1Attributes { memory: MemoryType::DeviceNgnrne, ..user };
    let before = machine.events().len();
    el1.protect(&mut cpu, last, PAGE, device).unwrap();
    assert_eq!(since(before), [Tlbi::Vale1Is { address: last, asid: 9, level: Some(3) }]);
    assert_eq!(el1.lookup(&cpu, last).unwrap().mapping(), Some((PhysAddr::new(GIB + PAGE), device)));
    for root in [el1.destroy(&mut cpu), el2.destroy(&mut cpu)] {
        machine.forget(root.start);
    }
    machine.assert_no_leak();
    machine.assert_clean();
}
