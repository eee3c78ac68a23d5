//! Target `tables`: sequences of operations on one table, from several CPUs in turn. `memsim` judges the maintenance, and
//! after each operation the tables in memory must say what a flat map says, with every frame accounted for.

use std::ops::ControlFlow;

use abi::{Pfn, PhysAddr, PhysRange};
use arbitrary::{Arbitrary, Result, Unstructured};
use memsim::{Cpu, Machine};
use pgtable::el1::El1Regime;
use pgtable::el2::El2Regime;
use pgtable::regime::InputAddress;
use pgtable::shared::Outcome;
use pgtable::stage2::Stage2Regime;
use pgtable::{Annotation, Leaf, PageTable, TableError};

use crate::flat::Flat;
use crate::operation::{Answer, Operation, Site, Step, steps};
use crate::oracle::{Expected, check_dump, check_shape, expected};
use crate::place::{MIB2, PAGE, Range};
use crate::regime::{Configuration, OTHER_ROOTS, Subject, VMID, Which, load_another_vmid};
use crate::walk::{Held, Picture, Run, Shape, Words, size_of};

/// CPUs of the machine.
const CPUS: usize = 4;
/// Frames for tables, the root aside: few, so that they run out, and enough for some tables of each level.
const FRAMES: u64 = 24;
/// Steps of a sequence.
const STEPS: usize = 24;

/// One input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// The table.
    pub configuration: Configuration,
    /// What is done to it.
    pub steps: Vec<Step>,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let configuration = u.arbitrary()?;
        Ok(Self { configuration, steps: steps(u, &configuration, STEPS)? })
    }
}

/// Runs `case`.
///
/// # Panics
/// Where anything is not as it must be.
pub fn run(case: &Case) {
    match case.configuration.which {
        Which::Stage2 => Bench::<Stage2Regime>::new(&case.configuration).run(&case.steps),
        Which::El2 => Bench::<El2Regime>::new(&case.configuration).run(&case.steps),
        Which::El1Lower | Which::El1Upper => Bench::<El1Regime>::new(&case.configuration).run(&case.steps),
    }
}

impl Words for Machine {
    fn words(&self, address: u64) -> [u64; 512] {
        let bytes = self.read_page(Pfn::containing(PhysAddr::new(address)));
        let mut words = [0; 512];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().expect("8 bytes"));
        }
        words
    }
}

/// A table, its machine and what it is to hold.
struct Bench<R: Subject> {
    configuration: Configuration,
    shape: Shape,
    pool: PhysRange,
    machine: Machine,
    table: PageTable<R>,
    flat: Flat,
    /// What the tables in memory say.
    picture: Picture,
    earlier: Vec<Range>,
}

impl<R: Subject> Bench<R> {
    fn new(configuration: &Configuration) -> Self {
        let shape = configuration.shape();
        // Where few mappings of a test lead.
        let first = PhysAddr::new((3 << configuration.output_bits) / 4 + MIB2);
        let pool = PhysRange::from_size(first, (shape.root_tables + FRAMES) * PAGE).expect("a pool in memory");
        let machine = Machine::new(CPUS, pool);
        let root = machine.take_root(shape.root_tables);
        let table = R::table(root, configuration).expect("a configuration that is allowed");
        R::track(&machine, &table);
        let flat = Flat::new(1 << shape.input_bits);
        let mut bench = Self {
            configuration: *configuration,
            shape,
            pool,
            machine,
            table,
            flat,
            picture: Picture::default(),
            earlier: Vec::new(),
        };
        bench.picture = bench.look();
        bench
    }

    /// What the tables in memory say now, once all is known to be in order.
    fn look(&self) -> Picture {
        self.machine.assert_clean();
        let root = self.table.root().raw();
        let picture = Picture::take(&self.machine, root, self.shape, 0, 1 << self.shape.input_bits, FRAMES as usize);
        let picture = picture.expect("no more tables than there are frames");
        assert_eq!(
            picture.tables.len(),
            self.machine.allocated_frames(),
            "the frames are the tables, and those are all"
        );
        assert_eq!(picture.empty, [], "no table holds nothing");
        let foreign = picture.runs.iter().find(|run| matches!(run.held, Held::Foreign(_)));
        assert_eq!(foreign, None, "no descriptor of an operation under way is left");
        picture
    }

    fn run(mut self, steps: &[Step]) {
        for step in steps {
            let site = step.site(&self.configuration, &self.earlier);
            let cpu = self.machine.cpu(usize::from(step.cpu) % CPUS);
            if self.reaches_tables(step.operation, site) {
                // That would be the caller's mistake, and the machine would say so.
                continue;
            }
            if step.operation.is_reading() {
                self.read(step.operation, site, &cpu);
            } else {
                self.change(step, site, cpu);
            }
            if site.range_errors(&self.configuration).is_empty() {
                self.earlier.push(Range { start: site.start, end: site.end() });
            }
        }
        self.finish();
    }

    /// True where stage 2 is to map memory of its own tables.
    fn reaches_tables(&self, operation: Operation, site: Site) -> bool {
        let outputs = PhysRange::from_size(PhysAddr::new(site.output), site.size);
        self.configuration.which == Which::Stage2
            && matches!(operation, Operation::Map(_) | Operation::MapLeaf(..))
            && outputs.is_some_and(|outputs| outputs.overlaps(&self.pool))
    }

    fn input(&self, offset: u64) -> R::Input {
        R::Input::from_raw(self.configuration.input_base().wrapping_add(offset))
    }

    /// Does what a step asks for, and compares.
    fn change(&mut self, step: &Step, site: Site, mut cpu: Cpu) {
        let expected = expected::<R>(step.operation, &self.configuration, site, &self.flat, &self.picture);
        load_another_vmid(&cpu, if step.cpu & 1 == 0 { VMID - 1 } else { 0 });
        let vttbr = cpu.vttbr();
        let written = self.write_outputs(step.operation, site, &cpu);
        let free = FRAMES as usize - self.machine.allocated_frames();
        let mut result = Err(TableError::OutOfFrames);
        let mut most = free;
        for limit in step.frames.map(usize::from).into_iter().chain([usize::MAX]) {
            most = free.min(limit);
            if limit == usize::MAX {
                self.machine.allow_allocations();
            } else {
                self.machine.fail_allocations_after(limit);
            }
            let before = self.machine.allocations();
            result = step.operation.attempt(&mut self.table, &mut cpu, &self.configuration, site);
            let taken = self.machine.allocations() - before;
            assert_eq!(cpu.vttbr(), vttbr, "the caller's VMID is loaded again");
            if result != Err(TableError::OutOfFrames) {
                assert!(taken <= most);
                break;
            }
            assert_eq!(taken, most, "there were frames left");
            assert_eq!(self.look(), self.picture, "an operation without frames has changed something");
        }
        self.machine.allow_allocations();
        match (expected, result) {
            (Expected::Done(flat, mut answer), Ok(found)) => {
                let picture = self.look();
                if let Answer::Freed(tables) = &mut answer {
                    *tables = (self.picture.tables.len() - picture.tables.len()) as u64;
                }
                assert_eq!(found, answer, "{step:x?}");
                assert_eq!(Flat::of_runs(&picture.runs), flat, "{step:x?}");
                check_shape(step.operation, self.shape.start_level, site, &self.picture, &picture);
                self.flat = flat;
                self.picture = picture;
                // What is mapped already can be reached already.
                if found != Answer::Outcome(Outcome::AlreadyDone) {
                    self.check_caches(step.operation, &written);
                }
            }
            (Expected::Done(..), Err(TableError::OutOfFrames)) if most == free => {}
            (Expected::Done(..), Err(error)) => panic!("{step:x?} failed: {error}"),
            (Expected::Errors(errors), result) => {
                let is_expected = result.is_err_and(|error| errors.contains(&error));
                assert!(is_expected, "{step:x?} came to {result:?}, not to one of {errors:?}");
                assert_eq!(self.look(), self.picture, "a refused operation has changed something");
            }
        }
    }

    /// Writes to the first and the last page that are about to be mapped, where the caches are to be synchronised.
    fn write_outputs(&self, operation: Operation, site: Site, cpu: &Cpu) -> Vec<Pfn> {
        let (Operation::Map(mapping) | Operation::MapLeaf(mapping, _)) = operation else { return Vec::new() };
        if !mapping.options.synchronise_caches || !site.range_errors(&self.configuration).is_empty() {
            return Vec::new();
        }
        let pages = [site.output, site.output.wrapping_add(site.size - PAGE)].map(PhysAddr::new);
        let is_table = |page: &PhysAddr| self.pool.contains(*page) || OTHER_ROOTS.contains(*page);
        let is_memory = |page: &PhysAddr| page.raw() < 1 << 48 && page.is_aligned(PAGE) && !is_table(page);
        let pages: Vec<Pfn> = pages.into_iter().filter(is_memory).map(Pfn::containing).collect();
        for page in &pages {
            self.machine.fill_page(cpu.index(), *page, 0x55);
        }
        pages
    }

    /// Checks that pages that were written before they were mapped can be seen through the new mapping.
    fn check_caches(&self, operation: Operation, written: &[Pfn]) {
        let (Operation::Map(mapping) | Operation::MapLeaf(mapping, _)) = operation else { return };
        let attributes = R::attributes(mapping.attributes);
        for page in written {
            if R::may_bypass_caches(&self.configuration, attributes) {
                assert!(!self.machine.is_dirty(*page), "{page:?} was not cleaned");
            }
            if R::may_be_fetched(attributes) {
                assert!(!self.machine.may_fetch_stale(*page), "{page:?} may be fetched as it was");
            }
        }
    }

    /// Does what a step asks for that changes nothing, and compares.
    fn read(&self, operation: Operation, site: Site, cpu: &Cpu) {
        match operation {
            Operation::Dump => {
                let mut text = String::new();
                self.table.dump(cpu, &mut text).expect("a string takes all");
                check_dump::<R>(&self.configuration, &self.picture, &text);
            }
            Operation::Visit(most) => self.visit(site, most.into(), cpu),
            _ => match self.table.lookup(cpu, self.input(site.start)) {
                Ok(leaf) => self.check_leaf(&leaf, site.start),
                Err(error) => assert!(error == TableError::BadRange && site.start >= 1 << self.shape.input_bits),
            },
        }
    }

    fn visit(&self, site: Site, most: usize, cpu: &Cpu) {
        let mut seen = Vec::new();
        let result = self.table.visit(cpu, self.input(site.start), site.size, |leaf| {
            seen.push(leaf);
            if seen.len() == most { ControlFlow::Break(most) } else { ControlFlow::Continue(()) }
        });
        let errors = site.range_errors(&self.configuration);
        if !errors.is_empty() {
            assert!(result.is_err_and(|error| errors.contains(&error)), "{result:?}");
            return;
        }
        let broke = most == seen.len() && most != 0;
        assert_eq!(result, Ok(if broke { ControlFlow::Break(most) } else { ControlFlow::Continue(()) }));
        let mut next = self.picture.run_at(site.start).base_of(site.start);
        for leaf in seen {
            self.check_leaf(&leaf, next);
            next += leaf.size;
        }
        assert!(broke || next >= site.end());
    }

    /// Compares a leaf with what memory holds at `offset`.
    fn check_leaf(&self, leaf: &Leaf<R>, offset: u64) {
        let run: &Run = self.picture.run_at(offset);
        assert_eq!((leaf.level, leaf.size), (run.level, size_of(run.level)));
        assert_eq!(leaf.base, self.input(run.base_of(offset)));
        match run.held {
            Held::Nothing => assert!(leaf.is_vacant() && !leaf.is_valid()),
            Held::Note(note) => assert_eq!(leaf.annotation().map(Annotation::value), Some(note)),
            Held::Mapping { delta, bits } => {
                let (output, attributes) = leaf.mapping().expect("a mapping");
                assert_eq!(output.raw(), run.base_of(offset).wrapping_add(delta));
                assert_eq!(R::bits(&self.configuration, attributes), Some(bits));
                let expected = PhysAddr::new(offset.wrapping_add(delta));
                assert_eq!(leaf.output_of(self.input(offset)), Some(expected));
            }
            Held::Foreign(raw) => panic!("{raw:#x} is no leaf"),
        }
    }

    /// Takes the table down.
    fn finish(self) {
        let Self { machine, table, shape, .. } = self;
        let mut cpu = machine.cpu(CPUS - 1);
        let first = table.root();
        let root = table.destroy(&mut cpu);
        machine.assert_clean();
        machine.assert_no_leak();
        assert_eq!((root.start, root.size()), (first, shape.root_tables * PAGE));
        for page in 0..shape.root_tables {
            assert_eq!(machine.words(first.raw() + page * PAGE), [0; 512], "the root is empty");
        }
        machine.forget(root.start);
        machine.return_root(root);
        machine.assert_clean();
    }
}
