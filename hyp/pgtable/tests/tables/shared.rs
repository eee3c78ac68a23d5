//! The operations that several CPUs may run at once, one after the other: what each does, and its maintenance. What they
//! do to each other is tested in `interleave` and `parallel`.

use abi::{Ipa, PhysAddr};
use memsim::{Cpu, Event};
use pgtable::shared::Outcome;
use pgtable::{Annotation, MapOptions, Stage2Attributes, Stage2Memory, TableError, TableFrames, Tlbi};

use crate::bench::{Bench, GIB, MIB2, PAGE};

fn memory() -> Stage2Attributes {
    Stage2Attributes::memory()
}

fn read_only() -> Stage2Attributes {
    Stage2Attributes { write: false, ..memory() }
}

impl Bench {
    fn map_leaf_with(
        &self,
        cpu: &mut Cpu,
        ipa: u64,
        output: u64,
        size: u64,
        attributes: Stage2Attributes,
        replace: bool,
    ) -> Result<Outcome, TableError> {
        let options = MapOptions { replace_annotations: replace, ..MapOptions::default() };
        self.table.map_leaf(cpu, Ipa::new(ipa), PhysAddr::new(output), size, attributes, options, replace)
    }

    fn map_leaf(&self, ipa: u64, output: u64, size: u64) -> Result<Outcome, TableError> {
        self.map_leaf_with(&mut self.cpu.clone(), ipa, output, size, memory(), false)
    }

    fn replace_leaf(&self, ipa: u64, output: u64, size: u64) -> Result<Outcome, TableError> {
        self.map_leaf_with(&mut self.cpu.clone(), ipa, output, size, memory(), true)
    }

    fn protect_leaf(&self, ipa: u64, attributes: Stage2Attributes) -> Result<Outcome, TableError> {
        self.table.protect_leaf(&mut self.cpu.clone(), Ipa::new(ipa), attributes)
    }

    fn attributes(&self, ipa: u64) -> Option<Stage2Attributes> {
        Some(self.table.lookup(&self.cpu, Ipa::new(ipa)).unwrap().mapping()?.1)
    }

    fn invalidations(&self) -> Vec<Tlbi> {
        let events = self.machine.events();
        events
            .into_iter()
            .filter_map(|(_, event)| if let Event::Tlbi(tlbi) = event { Some(tlbi) } else { None })
            .collect()
    }
}

#[test]
fn one_leaf_of_each_size_is_mapped_with_the_tables_that_it_takes() {
    let bench = Bench::new();
    assert_eq!(bench.map_leaf(GIB, 5 * GIB, GIB), Ok(Outcome::Done));
    assert_eq!(bench.machine.allocated_frames(), 0);
    assert_eq!(bench.map_leaf(2 * GIB + MIB2, 7 * MIB2, MIB2), Ok(Outcome::Done));
    assert_eq!(bench.machine.allocated_frames(), 1);
    assert_eq!(bench.map_leaf(2 * GIB + PAGE, 9 * PAGE, PAGE), Ok(Outcome::Done));
    assert_eq!(bench.machine.allocated_frames(), 2);
    assert_eq!(bench.map_leaf(3 * GIB, 9 * PAGE, PAGE), Ok(Outcome::Done));
    assert_eq!(bench.machine.allocated_frames(), 4);
    for (ipa, output, size) in [
        (GIB, 5 * GIB, GIB),
        (2 * GIB + MIB2, 7 * MIB2, MIB2),
        (2 * GIB + PAGE, 9 * PAGE, PAGE),
        (3 * GIB, 9 * PAGE, PAGE),
    ] {
        assert_eq!(bench.leaf_size(ipa), size);
        assert_eq!(bench.translate(ipa + size - 8), Some(output + size - 8));
        assert_eq!(bench.map_leaf(ipa, output, size), Ok(Outcome::AlreadyDone));
    }
    assert_eq!(bench.translate(2 * GIB), None);
    assert_eq!(bench.invalidations(), []);
    bench.finish();
}

#[test]
fn what_stands_already_is_kept_and_anything_else_is_an_error() {
    let bench = Bench::new();
    assert_eq!(bench.map_leaf(GIB, 5 * GIB, GIB), Ok(Outcome::Done));
    assert_eq!(bench.map_leaf(GIB + 3 * MIB2, 5 * GIB + 3 * MIB2, MIB2), Ok(Outcome::AlreadyDone));
    assert_eq!(bench.map_leaf(GIB + PAGE, 5 * GIB + PAGE, PAGE), Ok(Outcome::AlreadyDone));
    assert_eq!(bench.map_leaf(GIB + PAGE, 5 * GIB, PAGE), Err(TableError::Exists));
    assert_eq!(bench.map_leaf(2 * GIB, GIB, PAGE), Ok(Outcome::Done));
    assert_eq!(bench.map_leaf(2 * GIB, GIB, MIB2), Err(TableError::Exists));
    assert_eq!(bench.replace_leaf(2 * GIB, GIB, MIB2), Err(TableError::Exists));
    assert_eq!(bench.translate(2 * GIB + PAGE), None);
    bench.finish();
}

#[test]
fn sizes_and_addresses_that_fit_no_leaf_are_refused() {
    let bench = Bench::new();
    for (ipa, output, size, error) in [
        (0, 0, 0, TableError::BadRange),
        (0, 0, 2 * PAGE, TableError::Misaligned),
        (0, 0, 512 * GIB, TableError::Misaligned),
        (PAGE, 0, MIB2, TableError::Misaligned),
        (0, PAGE, MIB2, TableError::Misaligned),
        (MIB2, 0, GIB, TableError::Misaligned),
        (8, 0, PAGE, TableError::Misaligned),
        (0, 8, PAGE, TableError::Misaligned),
        (1 << 40, 0, PAGE, TableError::BadRange),
        (0, 1 << 48, PAGE, TableError::BadRange),
    ] {
        assert_eq!(bench.map_leaf(ipa, output, size), Err(error), "{ipa:#x} {output:#x} {size:#x}");
    }
    assert_eq!(bench.map_leaf((1 << 40) - PAGE, (1 << 48) - PAGE, PAGE), Ok(Outcome::Done));
    bench.finish();
}

#[test]
fn an_annotation_is_kept_or_replaced_and_the_rest_of_it_stays() {
    let mut bench = Bench::new();
    let note = Annotation::new(7);
    bench.table.annotate(&mut bench.cpu, Ipa::new(GIB), GIB, note).unwrap();
    assert_eq!(bench.map_leaf(GIB + PAGE, 0, PAGE), Err(TableError::Annotated));
    assert_eq!(bench.replace_leaf(GIB + PAGE, 0, PAGE), Ok(Outcome::Done));
    assert_eq!(bench.translate(GIB + PAGE), Some(0));
    for ipa in [GIB, GIB + 2 * PAGE, GIB + MIB2, 2 * GIB - PAGE] {
        assert_eq!(bench.table.lookup(&bench.cpu, Ipa::new(ipa)).unwrap().annotation(), note);
    }
    bench.finish();
}

#[test]
fn a_page_out_of_a_block_keeps_the_rest_of_it() {
    let bench = Bench::new();
    assert_eq!(bench.map_leaf(GIB, 5 * GIB, GIB), Ok(Outcome::Done));
    assert_eq!(bench.replace_leaf(GIB + MIB2 + PAGE, 3 * GIB, PAGE), Ok(Outcome::Done));
    assert_eq!(bench.translate(GIB + MIB2 + PAGE), Some(3 * GIB));
    for offset in [0, MIB2, MIB2 + 2 * PAGE, 2 * MIB2, GIB - PAGE] {
        assert_eq!(bench.translate(GIB + offset), Some(5 * GIB + offset));
    }
    assert_eq!(bench.leaf_size(GIB), MIB2);
    assert_eq!(bench.machine.allocated_frames(), 2);
    bench.finish();
}

#[test]
fn a_leaf_is_replaced_by_break_before_make_or_in_place_as_the_change_asks() {
    let bench = Bench::new();
    assert_eq!(bench.map_leaf(GIB, 5 * GIB, MIB2), Ok(Outcome::Done));
    assert_eq!(bench.replace_leaf(GIB, 6 * GIB, MIB2), Ok(Outcome::Done));
    assert_eq!(bench.translate(GIB), Some(6 * GIB));
    let writes = |bench: &Bench| {
        let events = bench.machine.events();
        events.iter().filter(|(_, event)| matches!(event, Event::Write { .. })).count()
    };
    let before = writes(&bench);
    assert_eq!(bench.protect_leaf(GIB + PAGE, read_only()), Ok(Outcome::Done));
    assert_eq!(writes(&bench), before + 1);
    assert_eq!(bench.attributes(GIB), Some(read_only()));
    let device = Stage2Attributes { memory: Stage2Memory::DeviceNgnre, ..memory() };
    assert_eq!(bench.protect_leaf(GIB, device), Ok(Outcome::Done));
    assert_eq!(writes(&bench), before + 3);
    assert_eq!(bench.attributes(GIB + MIB2 - PAGE), Some(device));
    assert_eq!(bench.translate(GIB), Some(6 * GIB));
    bench.finish();
}

#[test]
fn a_right_that_stands_already_is_flushed_for_the_cpu_that_faulted() {
    let bench = Bench::new();
    assert_eq!(bench.protect_leaf(GIB, memory()), Err(TableError::NotMapped));
    assert_eq!(bench.map_leaf(GIB, 5 * GIB, PAGE), Ok(Outcome::Done));
    assert_eq!(bench.invalidations(), []);
    assert_eq!(bench.protect_leaf(GIB, memory()), Ok(Outcome::AlreadyDone));
    let expected = [Tlbi::Ipas2e1Is { ipa: Ipa::new(GIB), level: None }, Tlbi::Vmalle1Is];
    assert_eq!(bench.invalidations(), expected);
    bench.finish();
}

#[test]
fn without_frames_nothing_changes_and_nothing_is_lost() {
    let bench = Bench::new();
    assert_eq!(bench.map_leaf(2 * GIB, 5 * GIB, GIB), Ok(Outcome::Done));
    for (ipa, replace) in [(GIB, false), (2 * GIB + PAGE, true)] {
        for frames in 0..2 {
            bench.machine.fail_allocations_after(frames);
            let result = bench.map_leaf_with(&mut bench.cpu.clone(), ipa, 0, PAGE, memory(), replace);
            assert_eq!(result, Err(TableError::OutOfFrames));
            assert_eq!(bench.machine.allocated_frames(), 0);
        }
    }
    assert_eq!(bench.translate(2 * GIB + PAGE), Some(5 * GIB + PAGE));
    bench.machine.allow_allocations();
    bench.finish();
}

#[test]
fn a_locked_descriptor_is_left_to_the_cpu_that_locked_it() {
    let bench = Bench::new();
    let slot = PhysAddr::new(bench.table.root().raw() + 8);
    assert_eq!(bench.map_leaf(GIB, GIB, GIB), Ok(Outcome::Done));
    // What a CPU in the middle of a break-before-make leaves there.
    bench.cpu.write(slot, 0b110);
    for replace in [false, true] {
        for size in [GIB, PAGE] {
            let result = bench.map_leaf_with(&mut bench.machine.cpu(1), GIB, GIB, size, memory(), replace);
            assert_eq!(result, Ok(Outcome::Busy));
        }
    }
    assert_eq!(bench.table.protect_leaf(&mut bench.machine.cpu(1), Ipa::new(GIB), read_only()), Ok(Outcome::Busy));
    let leaf = bench.table.lookup(&bench.cpu, Ipa::new(GIB)).unwrap();
    assert!(!leaf.is_valid() && !leaf.is_vacant() && leaf.annotation().is_none());
    assert_eq!(bench.cpu.read(slot), 0b110);
}

#[test]
fn caches_are_made_ready_before_the_mapping_is_there() {
    let bench = Bench::new();
    let options = MapOptions { synchronise_caches: true, ..MapOptions::default() };
    let output = PhysAddr::new(5 * GIB);
    let done =
        bench.table.map_leaf(&mut bench.cpu.clone(), Ipa::new(GIB), output, GIB, memory(), options, false).unwrap();
    assert_eq!(done, Outcome::Done);
    let events = bench.machine.events();
    let position = |wanted: fn(&Event) -> bool| events.iter().position(|(_, event)| wanted(event)).unwrap();
    let cleaned = position(|event| matches!(event, Event::CleanInvalidate(range) if range.size() == GIB));
    let forgotten = position(|event| matches!(event, Event::InvalidateInstructionCache(range) if range.size() == GIB));
    let made = position(|event| matches!(event, Event::Write { new, .. } if new & 1 != 0));
    assert!(cleaned < forgotten && forgotten < made);
    bench.finish();
}

#[test]
fn caches_are_made_ready_between_the_break_and_the_make() {
    let bench = Bench::new();
    assert_eq!(bench.map_leaf(GIB, 5 * GIB, MIB2), Ok(Outcome::Done));
    let options = MapOptions { synchronise_caches: true, ..MapOptions::default() };
    for (size, output) in [(MIB2, 6 * GIB), (PAGE, 7 * GIB)] {
        let before = bench.machine.events().len();
        let output = PhysAddr::new(output);
        let result = bench.table.map_leaf(&mut bench.cpu.clone(), Ipa::new(GIB), output, size, memory(), options, true);
        assert_eq!(result, Ok(Outcome::Done));
        let events = bench.machine.events().split_off(before);
        let position = |wanted: fn(&Event) -> bool| events.iter().position(|(_, event)| wanted(event)).unwrap();
        let broken = position(|event| matches!(event, Event::Write { new: 0b110, .. }));
        let flushed = position(|event| matches!(event, Event::Tlbi(Tlbi::Vmalle1Is)));
        let cleaned = position(|event| matches!(event, Event::CleanInvalidate(_)));
        let made = position(|event| matches!(event, Event::Write { old: 0b110, .. }));
        assert!(broken < flushed && flushed < cleaned && cleaned < made, "{size:#x}");
    }
    bench.finish();
}
