//! Data and instruction caches, line by line.

use crate::scene::{PAGE, Scene};
use abi::{Ipa, Pfn, PhysAddr, PhysRange};
use memsim::{Cpu, Machine};
use pgtable::{
    Maintenance, MapOptions, Stage2, Stage2Attributes, Stage2Config, Stage2Execute, Stage2Memory, TableFrames,
};

/// The memory that the tests map.
const MEMORY: u64 = 0x8000_0000;
const BLOCK_SIZE: u64 = 0x20_0000;

fn bytes(start: u64, size: u64) -> PhysRange {
    PhysRange::from_size(PhysAddr::new(start), size).unwrap()
}

/// A tree that asks for clean memory, and a CPU.
struct Guarded {
    machine: Machine,
    cpu: Cpu,
    table: Stage2,
}

impl Guarded {
    fn new(fwb: bool) -> Self {
        let machine = Machine::new(2, bytes(0x10_0000, 0x10_0000));
        let config = Stage2Config { fwb, ..Stage2Config::new(39, 48) };
        let table = Stage2::new(machine.take_root(1), config, 7).unwrap();
        machine.track_stage2(&table);
        machine.guard_caches(table.root());
        Self { cpu: machine.cpu(0), machine, table }
    }

    /// Maps the memory at [`MEMORY`] without any maintenance of caches; the first complaint, or an empty text.
    fn map(&mut self, size: u64, attributes: Stage2Attributes) -> String {
        self.map_with(size, attributes, MapOptions::default())
    }

    fn map_with(&mut self, size: u64, attributes: Stage2Attributes, options: MapOptions) -> String {
        let output = PhysAddr::new(MEMORY);
        self.table.map(&mut self.cpu, Ipa::new(0), output, size, attributes, options).unwrap();
        self.machine.violations().first().map_or(String::new(), |violation| violation.message.clone())
    }

    fn unmap(&mut self, size: u64) {
        self.table.unmap(&mut self.cpu, Ipa::new(0), size).unwrap();
    }
}

fn data() -> Stage2Attributes {
    Stage2Attributes { execute: Stage2Execute::None, ..Stage2Attributes::memory() }
}

fn write_back() -> Stage2Attributes {
    Stage2Attributes { memory: Stage2Memory::NormalWriteBack, ..data() }
}

#[test]
fn lines_are_cleaned_one_by_one() {
    let scene = Scene::new(2);
    let pfn = Pfn::new(MEMORY >> 12);
    scene.machine.write_word(0, PhysAddr::new(MEMORY + 0x48), 7);
    assert_eq!(scene.machine.read_word(PhysAddr::new(MEMORY + 0x48)), 7);
    scene.cpu.clean_invalidate_to_poc(bytes(MEMORY, 0x40));
    scene.cpu.clean_invalidate_to_poc(bytes(MEMORY + 0x80, 0xf80));
    assert!(scene.machine.is_dirty(pfn));
    scene.cpu.clean_invalidate_to_poc(bytes(MEMORY + 0x7f, 1));
    assert!(!scene.machine.is_dirty(pfn));

    scene.machine.fill_page(1, pfn, 1);
    scene.cpu.clean_invalidate_to_poc(bytes(MEMORY + 0x40, 0xfc0));
    assert!(scene.machine.is_dirty(pfn));
    scene.cpu.clean_invalidate_to_poc(bytes(MEMORY - 1, 2));
    assert!(!scene.machine.is_dirty(pfn));
    scene.machine.zero_page(1, pfn);
    scene.cpu.clean_to_pou(bytes(MEMORY, 0x1000));
    assert!(scene.machine.is_dirty(pfn), "the point of unification is not that of coherency");
    scene.cpu.invalidate_instruction_cache(bytes(MEMORY, 0x1000));
    assert!(scene.machine.is_dirty(pfn));
    scene.machine.assert_clean();
}

#[test]
fn instructions_are_fetched_anew_only_after_clean_and_invalidation() {
    let pfn = Pfn::new(MEMORY >> 12);
    let page = bytes(MEMORY, 0x1000);
    let scene = Scene::new(2);
    assert!(!scene.machine.may_fetch_stale(pfn));
    scene.machine.zero_page(0, pfn);
    scene.cpu.invalidate_instruction_cache(page);
    assert!(scene.machine.may_fetch_stale(pfn), "not cleaned before");
    scene.cpu.clean_to_pou(page);
    assert!(scene.machine.may_fetch_stale(pfn), "not invalidated after");
    scene.cpu.invalidate_instruction_cache(bytes(MEMORY, 0xfc0));
    assert!(scene.machine.may_fetch_stale(pfn), "one line is left");
    scene.cpu.invalidate_instruction_cache(page);
    assert!(!scene.machine.may_fetch_stale(pfn));
    scene.machine.write_word(0, PhysAddr::new(MEMORY), 1);
    scene.cpu.clean_invalidate_to_poc(page);
    assert!(scene.machine.may_fetch_stale(pfn));
    scene.cpu.invalidate_instruction_cache(page);
    assert!(!scene.machine.may_fetch_stale(pfn), "the point of coherency lies beyond that of unification");
}

#[test]
fn dirty_memory_is_not_mapped_past_the_caches() {
    let page = PhysAddr::new(MEMORY + 0x5_0040);
    for (attributes, fwb, caught) in [
        (data(), false, true),
        (data(), true, true),
        (write_back(), true, false),
        // Without FEAT_S2FWB there is no such thing.
        (write_back(), false, true),
        (Stage2Attributes { memory: Stage2Memory::NormalNonCacheable, ..data() }, true, true),
        (Stage2Attributes { memory: Stage2Memory::DeviceNgnre, ..data() }, true, true),
    ] {
        for size in [0x5_1000, BLOCK_SIZE] {
            let mut guarded = Guarded::new(fwb);
            guarded.machine.write_word(1, page, 7);
            let complaint = guarded.map(size, attributes);
            let expected = "of stage 2 of VMID 7 may bypass the caches, but the line at 0x80050040 is dirty";
            assert_eq!(complaint.contains(expected), caught, "{attributes:?} {fwb}: {complaint}");
            assert_eq!(complaint.is_empty(), !caught, "{complaint}");
        }
    }
}

#[test]
fn memory_is_cleaned_before_it_is_mapped() {
    let line = PhysAddr::new(MEMORY + 0x40);
    let mut guarded = Guarded::new(false);
    guarded.machine.write_word(0, line, 7);
    guarded.cpu.clean_invalidate_to_poc(bytes(MEMORY + 0x40, 8));
    assert_eq!(guarded.map(0x1000, data()), "");

    let mut guarded = Guarded::new(false);
    guarded.machine.write_word(0, line, 7);
    guarded.cpu.clean_to_pou(bytes(MEMORY, 0x1000));
    assert!(guarded.map(0x1000, data()).contains("is dirty"));

    let mut guarded = Guarded::new(false);
    guarded.machine.write_word(0, line, 7);
    assert!(guarded.map(0x1000, data()).contains("is dirty"));
    guarded.cpu.clean_invalidate_to_poc(bytes(MEMORY, 0x1000));
    assert_eq!(guarded.machine.violations().len(), 1, "too late");

    let mut guarded = Guarded::new(false);
    guarded.machine.write_word(0, PhysAddr::new(MEMORY + 0x1000), 7);
    assert_eq!(guarded.map(0x1000, data()), "", "the page beside is of no concern");
}

#[test]
fn instructions_are_invalidated_before_they_can_be_fetched() {
    let executable = Stage2Attributes { execute: Stage2Execute::All, ..write_back() };
    let page = bytes(MEMORY, 0x1000);
    let mut guarded = Guarded::new(true);
    guarded.machine.zero_page(0, Pfn::containing(page.start));
    let complaint = guarded.map(0x1000, executable);
    assert!(complaint.contains("is executable, but what was at 0x80000000 may still be fetched"), "{complaint}");

    let mut guarded = Guarded::new(true);
    guarded.machine.zero_page(0, Pfn::containing(page.start));
    guarded.cpu.invalidate_instruction_cache(page);
    guarded.cpu.clean_to_pou(page);
    assert!(guarded.map(0x1000, executable).contains("may still be fetched"));

    let mut guarded = Guarded::new(true);
    guarded.machine.zero_page(0, Pfn::containing(page.start));
    guarded.cpu.clean_to_pou(page);
    guarded.cpu.invalidate_instruction_cache(page);
    assert_eq!(guarded.map(0x1000, executable), "");

    let mut guarded = Guarded::new(true);
    guarded.machine.zero_page(0, Pfn::containing(page.start));
    assert_eq!(guarded.map(0x1000, write_back()), "", "nobody fetches here");
    // Not even a change in place lets them be fetched.
    guarded.table.protect(&mut guarded.cpu, Ipa::new(0), 0x1000, executable).unwrap();
    assert!(guarded.machine.violations()[0].message.contains("may still be fetched"));
}

#[test]
fn what_is_written_through_the_mapping_is_left_to_those_behind_it() {
    let mut guarded = Guarded::new(false);
    assert_eq!(guarded.map(BLOCK_SIZE, Stage2Attributes::memory()), "");
    guarded.machine.fill_page(1, Pfn::new(MEMORY >> 12), 0xa5);
    guarded.machine.fill_page(1, Pfn::new((MEMORY >> 12) + 7), 0xa5);
    // The block is split, and all but one page mapped again.
    guarded.unmap(0x1000);
    guarded.machine.assert_clean();
    // The guest's own lines, still as it left them; but the line that another writes is another's.
    assert_eq!(guarded.map(0x1000, Stage2Attributes::memory()), "");
    guarded.unmap(0x1000);
    guarded.machine.write_word(0, PhysAddr::new(MEMORY + 0x80), 7);
    let complaint = guarded.map(0x1000, Stage2Attributes::memory());
    assert!(complaint.contains("the line at 0x80000080 is dirty"), "{complaint}");
}

#[test]
fn what_was_dirty_before_the_guard_is_judged_by_what_was_mapped_then() {
    let page = bytes(MEMORY, 0x1000);
    let maintenance: [fn(&Cpu, PhysRange); 3] = [
        |_, _| (),
        // Only dirty is left, or only what may be fetched.
        |cpu, page| {
            cpu.clean_to_pou(page);
            cpu.invalidate_instruction_cache(page);
        },
        |cpu, page| cpu.clean_invalidate_to_poc(page),
    ];
    for maintain in maintenance {
        let mut guarded = Guarded::new(false);
        assert_eq!(guarded.map(BLOCK_SIZE, Stage2Attributes::memory()), "");
        guarded.machine.fill_page(0, Pfn::containing(page.start), 1);
        maintain(&guarded.cpu, page);
        guarded.machine.guard_caches(guarded.table.root());
        guarded.unmap(0x1000);
        assert_eq!(guarded.map(0x1000, Stage2Attributes::memory()), "");
    }
}

#[test]
fn maintenance_by_pgtable_satisfies_the_guard() {
    let synchronised = MapOptions { synchronise_caches: true, ..MapOptions::default() };
    let memory = Stage2Attributes::memory();
    let forced = Stage2Attributes { memory: Stage2Memory::NormalWriteBack, ..memory };
    for (attributes, fwb) in [(memory, false), (memory, true), (forced, true), (data(), false)] {
        let mut guarded = Guarded::new(fwb);
        guarded.machine.fill_page(0, Pfn::new(MEMORY >> 12), 0xa5);
        guarded.machine.write_word(1, PhysAddr::new(MEMORY + 0x7fc0), 1);
        assert_eq!(guarded.map_with(0x8000, attributes, synchronised), "", "{attributes:?} {fwb}");
        guarded.machine.assert_clean();
    }
}

#[test]
fn descriptors_dirty_lines_as_other_words_do() {
    let mut scene = Scene::new(2);
    let frame = scene.cpu.allocate().unwrap();
    scene.cpu.write(frame, 0x1234);
    scene.cpu.write(frame, 0);
    assert!(scene.machine.is_dirty(Pfn::containing(frame)));
    scene.machine.guard_caches(scene.root);
    let slot = scene.level3.checked_add(8).unwrap();
    scene.cpu.write(slot, frame.raw() | PAGE | 0b10 << 53);
    scene.expect_violation(&format!("the line at {frame} is dirty"));
}
