//! Target `contents`: operations on tables that hold anything. What only reads must see what a plain walk sees; what
//! changes must end, in success or in an error.

use std::ops::ControlFlow;

use abi::{PhysAddr, PhysRange};
use arbitrary::{Arbitrary, Result, Unstructured};
use pgtable::el1::El1Regime;
use pgtable::el2::El2Regime;
use pgtable::regime::InputAddress;
use pgtable::stage2::Stage2Regime;
use pgtable::{Annotation, Descriptor, Leaf, PageTable, TableError, TableFrames};

use crate::memory::Memory;
use crate::operation::{Operation, Site, Step, steps};
use crate::oracle::check_dump;
use crate::place::{PAGE, Range};
use crate::regime::{AttributeCode, Configuration, Subject, Which};
use crate::walk::{Held, Picture, Run, size_of};

/// Frames that tables may refer to: at most 16 of the root, and some more.
const TABLES: u64 = 24;
/// Frames to allocate.
const FRAMES: u64 = 8;
/// Tables that a walk may go through: tables that refer to each other in circles are walked again and again, never deeper
/// than the levels, but as often as there are descriptors.
const WALK: usize = 48;
/// Bytes that are changed at a time: a change of a table that refers to itself changes what it comes to next.
const CHANGED: u64 = 1 << 30;
/// Words that are written.
const WORDS: usize = 64;
/// Steps of a sequence.
const STEPS: usize = 6;

/// A descriptor, as the input has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// A table descriptor of one of the frames, by number.
    Table(u8),
    /// The same, unlinked.
    Unlinked(u8),
    /// A leaf, with attributes as they should be and some bits turned: at level 3 where the flag is set.
    Leaf(AttributeCode, u64, bool),
    /// An annotation.
    Note(u64),
    /// Anything.
    Any(u64),
}

impl<'a> Arbitrary<'a> for Word {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=15)? {
            0..=7 => Self::Table(u.int_in_range(0..=TABLES as u8 - 1)?),
            8 => Self::Unlinked(u.int_in_range(0..=TABLES as u8 - 1)?),
            9 => Self::Note(u.arbitrary()?),
            10..=12 => {
                let gib: u8 = u.arbitrary()?;
                let turned = if u.arbitrary()? { 1 << u.int_in_range(0..=63)? } else { 0 };
                Self::Leaf(u.arbitrary()?, u64::from(gib) << 30 ^ turned, u.arbitrary()?)
            }
            _ => Self::Any(u.arbitrary()?),
        })
    }
}

/// One input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// The table.
    pub configuration: Configuration,
    /// What memory holds where nothing was written.
    pub elsewhere: u64,
    /// Words of the frames, by frame and index.
    pub words: Vec<(u8, u16, Word)>,
    /// What is done.
    pub steps: Vec<Step>,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let configuration: Configuration = u.arbitrary()?;
        let elsewhere = if u.int_in_range(0..=3)? == 3 { u.arbitrary()? } else { 0 };
        let mut words = Vec::new();
        while words.len() < WORDS && !u.is_empty() && u.int_in_range(0..=7)? != 7 {
            let frame = u.int_in_range(0..=TABLES as u8 - 1)?;
            let index = *u.choose(&[0, 0, 1, 2, 511, 510, 256])?;
            let index = if u.int_in_range(0..=7)? == 7 { u.int_in_range(0..=511)? } else { index };
            words.push((frame, index, u.arbitrary()?));
        }
        Ok(Self { configuration, elsewhere, words, steps: steps(u, &configuration, STEPS)? })
    }
}

/// Runs `case`.
///
/// # Panics
/// Where anything is not as it must be.
pub fn run(case: &Case) {
    match case.configuration.which {
        Which::Stage2 => Bench::<Stage2Regime>::new(case).run(&case.steps),
        Which::El2 => Bench::<El2Regime>::new(case).run(&case.steps),
        Which::El1Lower | Which::El1Upper => Bench::<El1Regime>::new(case).run(&case.steps),
    }
}

struct Bench<R: Subject> {
    configuration: Configuration,
    memory: Memory,
    table: PageTable<R>,
    earlier: Vec<Range>,
}

impl<R: Subject> Bench<R> {
    fn new(case: &Case) -> Self {
        let configuration = case.configuration;
        let all = PhysRange { start: PhysAddr::new(0), end: PhysAddr::new((TABLES + FRAMES) * PAGE) };
        let memory = Memory::new(case.elsewhere, all, PhysAddr::new(TABLES * PAGE));
        let frame = |number: u8| u64::from(number) * PAGE;
        for (number, index, word) in &case.words {
            let raw = match *word {
                Word::Table(to) => frame(to) | 3,
                Word::Unlinked(to) => frame(to) | 2,
                Word::Leaf(code, rest, is_page) => {
                    let bits = R::bits(&configuration, R::attributes(code)).unwrap_or(0);
                    bits ^ rest ^ if is_page { 3 } else { 1 }
                }
                Word::Note(note) => note << 2,
                Word::Any(raw) => raw,
            };
            memory.write(PhysAddr::new(frame(*number) + u64::from(*index) * 8), raw);
        }
        let table = R::table(PhysAddr::new(0), &configuration).expect("a configuration that is allowed");
        Self { configuration, memory, table, earlier: Vec::new() }
    }

    fn run(mut self, steps: &[Step]) {
        if let Some(picture) = self.look(0, 1 << self.configuration.input_bits) {
            self.visit_tables(&picture);
            self.dump(&picture);
        }
        for step in steps {
            let site = step.site(&self.configuration, &self.earlier);
            let is_range = site.range_errors(&self.configuration).is_empty();
            let picture = if is_range { self.look(site.start, site.end()) } else { Some(Picture::default()) };
            let Some(picture) = picture else {
                // It would take too long.
                continue;
            };
            match step.operation {
                Operation::LookUp => self.look_up(site.start),
                Operation::Visit(most) if is_range => self.visit(site, most.into(), &picture),
                Operation::Dump | Operation::Visit(_) => {}
                _ if site.size > CHANGED => {}
                operation => self.change(operation, site, is_range),
            }
            if is_range {
                self.earlier.push(Range { start: site.start, end: site.end() });
            }
        }
        if self.look(0, 1 << self.configuration.input_bits).is_some() {
            let _ = self.table.destroy(&mut self.memory);
        }
    }

    /// What a plain walk sees; `None` where it goes through too many tables.
    fn look(&self, start: u64, end: u64) -> Option<Picture> {
        Picture::take(&self.memory, self.table.root().raw(), self.configuration.shape(), start, end, WALK)
    }

    fn input(&self, offset: u64) -> R::Input {
        R::Input::from_raw(self.configuration.input_base().wrapping_add(offset))
    }

    fn visit_tables(&self, picture: &Picture) {
        let mut seen = Vec::new();
        let result = self.table.visit_tables(&self.memory, |table| seen.push(table.raw()));
        let is_reserved = |run: &Run| matches!(run.held, Held::Foreign(raw) if raw & 1 != 0);
        if picture.runs.iter().any(is_reserved) {
            assert_eq!(result, Err(TableError::Corrupt));
            assert!(picture.tables.starts_with(&seen));
        } else {
            assert_eq!(result, Ok(()));
            assert_eq!(seen, picture.tables);
        }
    }

    /// What the descriptor of `run` that decides for `offset` is to be seen as; `None` where it cannot be.
    fn expected(&self, run: &Run, offset: u64) -> Option<Descriptor<u64>> {
        Some(match run.held {
            Held::Nothing => Descriptor::Invalid { annotation: None },
            Held::Note(note) => Descriptor::Invalid { annotation: Annotation::new(note) },
            Held::Foreign(0b110) => Descriptor::Locked,
            Held::Foreign(_) => return None,
            Held::Mapping { .. } => {
                let raw = run.descriptor(offset)?;
                let output = PhysAddr::new(raw & 0x0000_ffff_ffff_f000);
                if !R::is_defined(&self.configuration, raw) || !output.is_aligned(size_of(run.level)) {
                    return None;
                }
                let attributes = raw & R::FIELDS;
                if run.level == 3 {
                    Descriptor::Page { output, attributes }
                } else {
                    Descriptor::Block { output, attributes }
                }
            }
        })
    }

    /// What the library saw, in the same words.
    fn seen(&self, leaf: &Leaf<R>) -> Descriptor<u64> {
        let bits = |attributes| R::bits(&self.configuration, attributes).expect("attributes as decoded") & R::FIELDS;
        match leaf.descriptor {
            Descriptor::Invalid { annotation } => Descriptor::Invalid { annotation },
            Descriptor::Locked => Descriptor::Locked,
            Descriptor::Table { next } => Descriptor::Table { next },
            Descriptor::Block { output, attributes } => Descriptor::Block { output, attributes: bits(attributes) },
            Descriptor::Page { output, attributes } => Descriptor::Page { output, attributes: bits(attributes) },
        }
    }

    fn check_leaf(&self, leaf: &Leaf<R>, run: &Run, offset: u64) {
        assert_eq!((leaf.level, leaf.size), (run.level, size_of(run.level)));
        assert_eq!(leaf.base, self.input(run.base_of(offset)));
        assert_eq!(Some(self.seen(leaf)), self.expected(run, offset), "{run:x?}");
        if let Some((output, _)) = leaf.mapping() {
            assert_eq!(leaf.output_of(self.input(offset)), output.checked_add(offset - run.base_of(offset)));
        }
    }

    fn look_up(&self, offset: u64) {
        let result = self.table.lookup(&self.memory, self.input(offset));
        if offset >= 1 << self.configuration.input_bits {
            assert_eq!(result, Err(TableError::BadRange));
            return;
        }
        let page = offset & !(PAGE - 1);
        let picture = self.look(page, page + PAGE).expect("a page takes a table a level");
        let run = picture.run_at(offset);
        self.look_for_slot(page, run);
        match result {
            Ok(leaf) => self.check_leaf(&leaf, run, offset),
            Err(error) => {
                assert_eq!(error, TableError::Corrupt);
                assert_eq!(self.expected(run, offset), None);
            }
        }
    }

    fn look_for_slot(&self, page: u64, run: &Run) {
        let expected = match run.held {
            Held::Nothing if run.level == 3 => Ok(()),
            Held::Nothing => Err(TableError::NotMapped),
            _ => Err(TableError::Exists),
        };
        if let Some(result) = R::page_slot(&self.table, &self.memory, self.input(page)) {
            assert_eq!(result, expected, "{run:x?}");
        }
    }

    fn visit(&self, site: Site, most: usize, picture: &Picture) {
        let mut seen = Vec::new();
        let result = self.table.visit(&self.memory, self.input(site.start), site.size, |leaf| {
            seen.push(leaf);
            if seen.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let mut next = picture.run_at(site.start).base_of(site.start);
        for leaf in &seen {
            self.check_leaf(leaf, picture.run_at(next), next);
            next += leaf.size;
        }
        match result {
            Ok(ControlFlow::Break(())) => assert_eq!(seen.len(), most),
            Ok(ControlFlow::Continue(())) => assert!(next >= site.end()),
            Err(error) => {
                assert_eq!(error, TableError::Corrupt);
                assert_eq!(self.expected(picture.run_at(next), next), None);
            }
        }
    }

    fn dump(&self, picture: &Picture) {
        let mut text = String::new();
        self.table.dump(&self.memory, &mut text).expect("a string takes all");
        check_dump::<R>(&self.configuration, picture, &text);
    }

    fn change(&mut self, operation: Operation, site: Site, is_range: bool) {
        let all = 1 << self.configuration.input_bits;
        let before = self.look(0, all).filter(|picture| self.is_tree(picture));
        let result = operation.attempt(&mut self.table, &mut self.memory, &self.configuration, site);
        match (result, before) {
            (Ok(_), _) => {
                assert!(is_range || operation == Operation::MakeYoung, "a range that is none was accepted");
            }
            // These go on up to a foreign descriptor, and say so.
            (Err(TableError::Corrupt), _)
                if matches!(operation, Operation::TestAndClearYoung | Operation::Coalesce) => {}
            (Err(error), Some(before)) => {
                assert_eq!(self.look(0, all), Some(before), "a refused operation has changed something: {error}");
            }
            (Err(_), None) => {}
        }
    }

    /// True where each table is referred to once, and none is a frame that may be allocated.
    fn is_tree(&self, picture: &Picture) -> bool {
        let root = self.table.root().raw()..self.configuration.shape().root_tables * PAGE;
        let frames = TABLES * PAGE..(TABLES + FRAMES) * PAGE;
        let mut tables = picture.tables.clone();
        tables.sort_unstable();
        tables.windows(2).all(|pair| pair[0] != pair[1])
            && !tables.iter().any(|table| root.contains(table) || frames.contains(table))
    }
}
