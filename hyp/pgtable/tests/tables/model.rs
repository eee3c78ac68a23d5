//! Random operations against a flat map of the input space, over memsim: after each operation the table must say what
//! the map says, every frame must be accounted for, and no maintenance may be missing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use abi::{Ipa, PhysAddr};
use pgtable::geometry::entry_size;
use pgtable::shared::Outcome;
use pgtable::{
    Annotation, Descriptor, MapOptions, Stage2Attributes, Stage2Config, Stage2Memory, TableError, TableFrames,
    TlbiFeatures,
};
use proptest::prelude::*;

use crate::bench::{Bench, GIB, MIB2, PAGE};

/// What a part of the input space holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    Nothing,
    Note(u64),
    /// Output address minus input address, modulo 2^64, and attributes.
    Mapping(u64, Stage2Attributes),
}

/// The flat map: what is held from each key up to the next.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Oracle {
    parts: BTreeMap<u64, Held>,
    size: u64,
}

impl Oracle {
    fn new(size: u64) -> Self {
        Self { parts: BTreeMap::from([(0, Held::Nothing)]), size }
    }

    fn at(&self, address: u64) -> Held {
        *self.parts.range(..=address).next_back().unwrap().1
    }

    fn set(&mut self, start: u64, end: u64, held: impl Fn(Held) -> Held) {
        for cut in [start, end] {
            if cut < self.size {
                let held = self.at(cut);
                self.parts.insert(cut, held);
            }
        }
        for (_, part) in self.parts.range_mut(start..end) {
            *part = held(*part);
        }
        let mut last = None;
        self.parts.retain(|_, held| {
            let keep = last != Some(*held);
            last = Some(*held);
            keep
        });
    }

    fn parts_of(&self, start: u64, end: u64) -> Vec<Held> {
        let mut parts = vec![self.at(start)];
        parts.extend(self.parts.range(start + 1..end).map(|(_, held)| *held));
        parts
    }
}

/// The flat map that the table describes.
fn picture(bench: &Bench) -> Oracle {
    let size = bench.table.geometry().input_size();
    let mut oracle = Oracle { parts: BTreeMap::new(), size };
    let mut last = None;
    let mut next = 0;
    let flow = bench.table.visit(&bench.cpu, Ipa::new(0), size, |leaf| {
        assert_eq!(leaf.base.raw(), next, "leaves follow each other without gap or overlap");
        next += leaf.size;
        let held = match leaf.descriptor {
            Descriptor::Invalid { annotation: None } => Held::Nothing,
            Descriptor::Invalid { annotation: Some(annotation) } => Held::Note(annotation.value()),
            Descriptor::Block { output, attributes } | Descriptor::Page { output, attributes } => {
                Held::Mapping(output.raw().wrapping_sub(leaf.base.raw()), attributes)
            }
            Descriptor::Table { .. } | Descriptor::Locked => panic!("a table is no leaf, and nobody else is here"),
        };
        if last != Some(held) {
            oracle.parts.insert(leaf.base.raw(), held);
            last = Some(held);
        }
        ControlFlow::<()>::Continue(())
    });
    assert_eq!(flow, Ok(ControlFlow::Continue(())));
    assert_eq!(next, size);
    oracle
}

/// No table is empty, and the tables are all the frames there are.
fn check_frames(bench: &Bench) {
    let mut tables = Vec::new();
    bench.table.visit_tables(&bench.cpu, |table| tables.push(table)).unwrap();
    assert_eq!(tables.len(), bench.machine.allocated_frames());
    for table in tables {
        let holds = (0..512).any(|index| bench.cpu.read(table.checked_add(index * 8).unwrap()) != 0);
        assert!(holds, "the table at {table} is empty");
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Map { output: u64, attributes: Stage2Attributes, options: MapOptions },
    Remap { output: u64, attributes: Stage2Attributes, options: MapOptions },
    Unmap,
    Annotate(Option<u64>),
    Protect(Stage2Attributes),
    WriteProtect,
    TestAndClearYoung,
    MakeYoung,
    Split(u8),
    Coalesce,
}

/// What an operation answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Nothing,
    WasYoung(bool),
    Young(Outcome),
}

#[derive(Clone, Copy, Debug)]
struct Step {
    start: u64,
    size: u64,
    operation: Operation,
    /// Allocations that succeed before one fails.
    frames: usize,
    /// Take the range of the step before instead.
    again: bool,
}

impl Step {
    /// A GiB of pages shows nothing that a few MiB of them do not, and takes long: large mappings are of blocks.
    fn without_many_pages(mut self) -> Self {
        if let Operation::Map { output, options, .. } | Operation::Remap { output, options, .. } = &mut self.operation
            && self.size > 8 * MIB2
        {
            *output = *output & !(MIB2 - 1) | self.start & (MIB2 - 1);
            options.force_pages = false;
        }
        if let Operation::Split(level) = &mut self.operation
            && self.size > 8 * MIB2
        {
            *level = 2;
        }
        self
    }

    /// What of `bench` this asks for: leaves that it cuts through are aged as a whole.
    fn aged(&self, bench: &Bench) -> (u64, u64) {
        let last = if matches!(self.operation, Operation::MakeYoung) { self.start } else { self.start + self.size - 1 };
        let (first, last) = (bench.leaf(self.start), bench.leaf(last));
        (first.base.raw(), last.base.raw() + last.size)
    }

    /// What the map says that this must come to; changes the map where it succeeds. `aged` is [`Step::aged`].
    fn apply(&self, oracle: &mut Oracle, aged: (u64, u64)) -> Result<Answer, TableError> {
        let (start, end) = (self.start, self.start + self.size);
        let with_flag = |access_flag: bool| {
            move |held| match held {
                Held::Mapping(delta, attributes) => {
                    Held::Mapping(delta, Stage2Attributes { access_flag, ..attributes })
                }
                other => other,
            }
        };
        let is_young = |held: &Held| matches!(held, Held::Mapping(_, attributes) if attributes.access_flag);
        let parts = oracle.parts_of(start, end);
        match self.operation {
            Operation::Map { output, attributes, options } | Operation::Remap { output, attributes, options } => {
                let replaces = matches!(self.operation, Operation::Remap { .. });
                let new = Held::Mapping(output.wrapping_sub(start), attributes);
                for part in parts {
                    match part {
                        Held::Mapping(..) if part != new && !replaces => return Err(TableError::Exists),
                        Held::Note(_) if !options.replace_annotations => return Err(TableError::Annotated),
                        _ => {}
                    }
                }
                oracle.set(start, end, |_| new);
            }
            Operation::Unmap => oracle.set(start, end, |_| Held::Nothing),
            Operation::Annotate(note) => oracle.set(start, end, |_| note.map_or(Held::Nothing, Held::Note)),
            Operation::Protect(attributes) => {
                if !parts.iter().all(|part| matches!(part, Held::Mapping(..))) {
                    return Err(TableError::NotMapped);
                }
                oracle.set(start, end, |held| match held {
                    Held::Mapping(delta, _) => Held::Mapping(delta, attributes),
                    other => other,
                });
            }
            Operation::WriteProtect => oracle.set(start, end, |held| match held {
                Held::Mapping(delta, attributes) => {
                    Held::Mapping(delta, Stage2Attributes { write: false, ..attributes })
                }
                other => other,
            }),
            Operation::TestAndClearYoung => {
                let was_young = oracle.parts_of(aged.0, aged.1).iter().any(is_young);
                oracle.set(aged.0, aged.1, with_flag(false));
                return Ok(Answer::WasYoung(was_young));
            }
            Operation::MakeYoung => {
                let held = oracle.at(start);
                if !matches!(held, Held::Mapping(..)) {
                    return Err(TableError::NotMapped);
                }
                oracle.set(aged.0, aged.1, with_flag(true));
                return Ok(Answer::Young(if is_young(&held) { Outcome::AlreadyDone } else { Outcome::Done }));
            }
            Operation::Split(_) | Operation::Coalesce => {}
        }
        Ok(Answer::Nothing)
    }

    fn run(&self, bench: &mut Bench) -> Result<Answer, TableError> {
        let frames = bench.machine.allocated_frames() as u64;
        let Bench { cpu, table, .. } = bench;
        let ipa = Ipa::new(self.start);
        let result = match self.operation {
            Operation::Map { output, attributes, options } => {
                table.map(cpu, ipa, PhysAddr::new(output), self.size, attributes, options)
            }
            Operation::Remap { output, attributes, options } => {
                table.remap(cpu, ipa, PhysAddr::new(output), self.size, attributes, options)
            }
            Operation::Unmap => table.unmap(cpu, ipa, self.size),
            Operation::Annotate(note) => table.annotate(cpu, ipa, self.size, note.and_then(Annotation::new)),
            Operation::Protect(attributes) => table.protect(cpu, ipa, self.size, attributes),
            Operation::WriteProtect => table.write_protect(cpu, ipa, self.size),
            Operation::TestAndClearYoung => {
                return table.test_and_clear_young(cpu, ipa, self.size).map(Answer::WasYoung);
            }
            Operation::MakeYoung => return table.make_young(cpu, ipa).map(Answer::Young),
            Operation::Split(level) => table.split(cpu, ipa, self.size, level),
            Operation::Coalesce => table.coalesce(cpu, ipa, self.size).map(|freed| {
                assert_eq!(freed, frames - bench.machine.allocated_frames() as u64);
            }),
        };
        if let (Operation::Split(level), Ok(())) = (self.operation, result) {
            self.check_split(bench, level);
        }
        if let (Operation::Coalesce, Ok(())) = (self.operation, result) {
            self.check_coalesced(bench);
        }
        result.map(|()| Answer::Nothing)
    }

    /// No leaf in the range is larger than asked for.
    fn check_split(&self, bench: &Bench, level: u8) {
        let most = entry_size(level);
        let flow = bench.table.visit(&bench.cpu, Ipa::new(self.start), self.size, |leaf| {
            if leaf.is_valid() && leaf.size > most { ControlFlow::Break(leaf) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(flow, Ok(ControlFlow::Continue(())));
    }

    /// No table in the range could be one descriptor: no 512 entries in a row, from where a table begins, say the same.
    fn check_coalesced(&self, bench: &Bench) {
        let end = self.start + self.size;
        let mut row = (None, 0);
        let flow = bench.table.visit(&bench.cpu, Ipa::new(self.start), self.size, |leaf| {
            let base = leaf.base.raw();
            let mapping = leaf.mapping().map(|(output, attributes)| (output.raw().wrapping_sub(base), attributes));
            let says = (leaf.level, mapping, leaf.annotation());
            let above = 512 * leaf.size;
            let fits = match mapping {
                Some((delta, _)) => leaf.level > 1 && base.wrapping_add(delta).is_multiple_of(above),
                None => true,
            };
            let begins = base.is_multiple_of(above) && base >= self.start && base + above <= end;
            row = match row {
                _ if begins && fits && leaf.level > bench.table.geometry().start_level() => (Some(says), 1),
                (first, count) if first == Some(says) => (first, count + 1),
                _ => (None, 0),
            };
            if row.1 == 512 { ControlFlow::Break(leaf) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(flow, Ok(ControlFlow::Continue(())));
    }
}

fn attributes() -> impl Strategy<Value = Stage2Attributes> {
    prop_oneof![
        4 => Just(Stage2Attributes::memory()),
        2 => Just(Stage2Attributes { write: false, ..Stage2Attributes::memory() }),
        1 => Just(Stage2Attributes::memory().with_software(5)),
        1 => Just(Stage2Attributes { access_flag: false, ..Stage2Attributes::memory() }),
        1 => Just(Stage2Attributes::device()),
        1 => Just(Stage2Attributes { memory: Stage2Memory::NormalNonCacheable, ..Stage2Attributes::memory() }),
    ]
}

fn options() -> impl Strategy<Value = MapOptions> {
    (prop::bool::weighted(0.15), any::<bool>(), any::<bool>()).prop_map(
        |(force_pages, replace_annotations, synchronise_caches)| MapOptions {
            force_pages,
            replace_annotations,
            synchronise_caches,
        },
    )
}

/// A place near the edges of blocks, most often in the second GiB so that operations meet.
fn place() -> impl Strategy<Value = u64> {
    (
        prop_oneof![4 => Just(1u64), 1 => 0..4u64],
        prop_oneof![3 => Just(0u64), 1 => Just(1), 1 => Just(511)],
        prop_oneof![3 => Just(0u64), 2 => 0..3u64, 1 => 509..512u64],
    )
        .prop_map(|(gib, block, page)| gib * GIB + block * MIB2 + page * PAGE)
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => (1..5u64).prop_map(|pages| pages * PAGE),
        1 => (15..19u64).prop_map(|pages| pages * PAGE),
        2 => (1..3u64).prop_map(|blocks| blocks * MIB2),
        1 => (510..515u64).prop_map(|pages| pages * PAGE),
        1 => Just(GIB),
        1 => (0..3u64, 0..3u64).prop_map(|(blocks, pages)| GIB + blocks * MIB2 + pages * PAGE),
    ]
}

fn operation() -> impl Strategy<Value = (Operation, Option<u64>)> {
    // The output is the input (identity), or a place of its own.
    let output = prop_oneof![2 => Just(None), 1 => place().prop_map(Some)];
    let mapping = || (output.clone(), attributes(), options());
    prop_oneof![
        4 => mapping().prop_map(|(to, attributes, options)| (Operation::Map { output: 0, attributes, options }, to)),
        2 => mapping().prop_map(|(to, attributes, options)| (Operation::Remap { output: 0, attributes, options }, to)),
        3 => Just((Operation::Unmap, None)),
        2 => prop::option::weighted(0.8, 1..4u64).prop_map(|note| (Operation::Annotate(note), None)),
        2 => attributes().prop_map(|attributes| (Operation::Protect(attributes), None)),
        1 => Just((Operation::WriteProtect, None)),
        1 => Just((Operation::TestAndClearYoung, None)),
        1 => Just((Operation::MakeYoung, None)),
        1 => (2..=3u8).prop_map(|level| (Operation::Split(level), None)),
        2 => Just((Operation::Coalesce, None)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let again = prop::bool::weighted(0.4);
    (place(), length(), operation(), 0..6usize, again).prop_map(|(start, size, (operation, to), frames, again)| {
        let to = to.unwrap_or(start);
        let operation = match operation {
            Operation::Map { attributes, options, .. } => Operation::Map { output: to, attributes, options },
            Operation::Remap { attributes, options, .. } => Operation::Remap { output: to, attributes, options },
            other => other,
        };
        Step { start, size, operation, frames, again }
    })
}

fn config() -> impl Strategy<Value = Stage2Config> {
    (prop_oneof![Just(33u32), Just(36), Just(40), Just(44)], any::<[bool; 4]>()).prop_map(
        |(ipa_bits, [fwb, xnx, level_hint, range])| Stage2Config {
            fwb,
            xnx,
            tlbi: TlbiFeatures { level_hint, range },
            ..Stage2Config::new(ipa_bits, 48)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_and_a_flat_map_never_disagree(config in config(), steps in prop::collection::vec(step(), 1..20)) {
        let mut bench = Bench::with(config);
        let mut oracle = Oracle::new(1 << config.ipa_bits);
        let mut last: Option<Step> = None;
        for mut step in steps {
            if let Some(last) = last.filter(|_| step.again) {
                (step.start, step.size) = (last.start, last.size);
            }
            let step = step.without_many_pages();
            last = Some(step);
            let before = oracle.clone();
            let expected = step.apply(&mut oracle, step.aged(&bench));
            bench.machine.fail_allocations_after(step.frames);
            let mut result = step.run(&mut bench);
            bench.machine.allow_allocations();
            bench.machine.assert_clean();
            if result == Err(TableError::OutOfFrames) {
                prop_assert_eq!(&picture(&bench), &before, "a failed operation changed something");
                check_frames(&bench);
                result = step.run(&mut bench);
                bench.machine.assert_clean();
            }
            prop_assert_eq!(result, expected, "{:?}", step);
            prop_assert_eq!(&picture(&bench), &oracle, "{:?}", step);
            check_frames(&bench);
        }
        bench.finish();
    }
}
