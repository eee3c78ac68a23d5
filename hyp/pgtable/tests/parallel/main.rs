//! The operations that several CPUs may run at once, in every interleaving of their memory accesses that loom finds. Each
//! test says what may come of two CPUs at one table; afterwards the table holds what the winner made, and no frame is
//! lost.

mod world;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use abi::{Ipa, PhysAddr};
use loom::sync::atomic::Ordering;
use loom::thread;
use pgtable::shared::Outcome;
use pgtable::{Descriptor, MapOptions, Stage2, Stage2Attributes, TableError, TableFrames};

use world::{CONTRACT, Cpu, Orderings, World};

const PAGE: u64 = 4096;
const MIB2: u64 = 2 << 20;

type Mapped = Result<Outcome, TableError>;

fn memory() -> Stage2Attributes {
    Stage2Attributes::memory()
}

fn read_only() -> Stage2Attributes {
    Stage2Attributes { write: false, ..memory() }
}

/// Runs `test` in every interleaving with at most this many switches that no CPU waits for. There are at least so many:
/// fewer would mean that no search takes place.
fn explore(preemptions: usize, at_least: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 100_000;
    let executions = Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    model.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        test();
    });
    let executions = executions.load(Ordering::Relaxed);
    assert!(executions >= at_least, "{executions} interleavings");
}

/// A table over a world, before it has to be shared.
struct Scene {
    world: Arc<World>,
    table: Stage2,
}

impl Scene {
    /// An empty table, of which no more than the first two descriptors come into play.
    fn new(frames: u64) -> Self {
        Self::over(World::new(frames, 2, CONTRACT))
    }

    /// A table that maps 2 MiB from [`MIB2`] on at 0 by one block.
    fn of_block(frames: u64, orderings: Orderings) -> Self {
        let mut scene = Self::over(World::new(frames, 512, orderings));
        let mut cpu = Cpu(scene.world.clone());
        let (start, output) = (Ipa::new(0), PhysAddr::new(MIB2));
        scene.table.map(&mut cpu, start, output, MIB2, memory(), MapOptions::default()).unwrap();
        scene
    }

    fn over(world: Arc<World>) -> Self {
        let table = world.table();
        Self { world, table }
    }

    /// Runs two CPUs side by side, and returns what came of each, with the table.
    fn run<A: Send + 'static, B: Send + 'static>(
        self,
        first: impl FnOnce(&Stage2, &mut Cpu) -> A + Send + 'static,
        second: impl FnOnce(&Stage2, &mut Cpu) -> B + Send + 'static,
    ) -> (A, B, After) {
        let table = Arc::new(self.table);
        let other = thread::spawn({
            let (table, mut cpu) = (table.clone(), Cpu(self.world.clone()));
            move || first(&table, &mut cpu)
        });
        let mut cpu = Cpu(self.world.clone());
        let b = second(&table, &mut cpu);
        let a = other.join().unwrap();
        (a, b, After { table, cpu })
    }
}

/// What is left when both CPUs are done.
struct After {
    table: Arc<Stage2>,
    cpu: Cpu,
}

impl After {
    fn translate(&self, ipa: u64) -> Option<u64> {
        let leaf = self.table.lookup(&self.cpu, Ipa::new(ipa)).unwrap();
        leaf.output_of(Ipa::new(ipa)).map(PhysAddr::raw)
    }

    /// Every frame that is taken is part of the tree.
    fn nothing_is_lost(&self) {
        let descends = is_table(self.cpu.read(self.table.root()));
        assert_eq!(self.cpu.0.frames_taken(), usize::from(descends));
    }
}

/// True for the descriptor of a table at a level above the last.
fn is_table(descriptor: u64) -> bool {
    descriptor & 0b11 == 0b11
}

fn map(table: &Stage2, cpu: &mut Cpu, ipa: u64, output: u64, size: u64, replace: bool) -> Mapped {
    let (input, output) = (Ipa::new(ipa), PhysAddr::new(output));
    table.map_leaf(cpu, input, output, size, memory(), MapOptions::default(), replace)
}

#[test]
fn two_pages_of_one_table_are_both_mapped() {
    explore(4, 60, || {
        let scene = Scene::new(3);
        let (a, b, after) = scene.run(
            |table, cpu| map(table, cpu, 0, 0x1000, PAGE, false),
            |table, cpu| map(table, cpu, PAGE, 0x7000, PAGE, false),
        );
        assert_eq!((a, b), (Ok(Outcome::Done), Ok(Outcome::Done)));
        assert_eq!((after.translate(0), after.translate(PAGE)), (Some(0x1000), Some(0x7000)));
        assert_eq!(after.cpu.0.frames_taken(), 1);
        after.nothing_is_lost();
    });
}

#[test]
fn one_page_is_mapped_once_though_two_cpus_want_it() {
    explore(4, 60, || {
        let scene = Scene::new(3);
        let want = |table: &Stage2, cpu: &mut Cpu| map(table, cpu, 0, 0x1000, PAGE, false).unwrap();
        let (a, b, after) = scene.run(want, want);
        assert!([(Outcome::Done, Outcome::AlreadyDone), (Outcome::AlreadyDone, Outcome::Done)].contains(&(a, b)));
        assert_eq!(after.translate(0), Some(0x1000));
        after.nothing_is_lost();
    });
}

#[test]
fn of_two_mappings_of_one_page_the_second_is_refused() {
    explore(4, 60, || {
        let scene = Scene::new(3);
        let (a, b, after) = scene.run(
            |table, cpu| map(table, cpu, 0, 0x1000, PAGE, false),
            |table, cpu| map(table, cpu, 0, 0x7000, PAGE, false),
        );
        let winner = match (a, b) {
            (Ok(Outcome::Done), Err(TableError::Exists)) => 0x1000,
            (Err(TableError::Exists), Ok(Outcome::Done)) => 0x7000,
            other => panic!("{other:?}"),
        };
        assert_eq!(after.translate(0), Some(winner));
        after.nothing_is_lost();
    });
}

#[test]
fn a_block_and_a_page_of_it_do_not_both_win() {
    explore(4, 60, || {
        let scene = Scene::new(3);
        let (a, b, after) = scene.run(
            |table, cpu| map(table, cpu, 0, MIB2, MIB2, false),
            |table, cpu| map(table, cpu, PAGE, 0x7000, PAGE, false),
        );
        match (a, b) {
            (Ok(Outcome::Done), Err(TableError::Exists)) => assert_eq!(after.translate(PAGE), Some(MIB2 + PAGE)),
            (Err(TableError::Exists), Ok(Outcome::Done)) => assert_eq!(after.translate(PAGE), Some(0x7000)),
            other => panic!("{other:?}"),
        }
        after.nothing_is_lost();
    });
}

#[test]
fn a_cpu_without_frames_takes_none_from_another() {
    explore(4, 40, || {
        let scene = Scene::new(1);
        let (a, b, after) = scene.run(
            |table, cpu| map(table, cpu, 0, 0x1000, PAGE, false),
            |table, cpu| map(table, cpu, PAGE, 0x7000, PAGE, false),
        );
        for (result, ipa) in [(a, 0), (b, PAGE)] {
            match result {
                Ok(outcome) => assert!(outcome == Outcome::Done && after.translate(ipa).is_some()),
                Err(error) => assert!(error == TableError::OutOfFrames && after.translate(ipa).is_none()),
            }
        }
        assert!(a.is_ok() || b.is_ok());
        after.nothing_is_lost();
    });
}

fn a_reader_beside_a_split(orderings: Orderings) {
    explore(2, 12, move || {
        let scene = Scene::of_block(2, orderings);
        let (done, found, after) = scene.run(
            |table, cpu| map(table, cpu, PAGE, 0x7000, PAGE, true),
            |table, cpu| table.lookup(cpu, Ipa::new(2 * PAGE)).unwrap(),
        );
        assert_eq!(done, Ok(Outcome::Done));
        let kept = Some(PhysAddr::new(MIB2 + 2 * PAGE));
        assert!(found.descriptor == Descriptor::Locked || found.output_of(Ipa::new(2 * PAGE)) == kept, "{found:?}");
        assert_eq!((after.translate(PAGE), after.translate(2 * PAGE)), (Some(0x7000), Some(MIB2 + 2 * PAGE)));
        after.nothing_is_lost();
    });
}

#[test]
fn a_reader_beside_a_split_finds_the_block_the_lock_or_the_pages() {
    a_reader_beside_a_split(CONTRACT);
}

/// What that takes: without release, the table is found before what is in it.
#[test]
#[should_panic(expected = "Invalid { annotation: None }")]
fn without_release_a_table_is_found_before_its_contents() {
    a_reader_beside_a_split(Orderings { exchange: Ordering::Relaxed, write: Ordering::Relaxed, ..CONTRACT });
}

#[test]
fn two_pages_out_of_one_block_are_both_replaced_or_one_has_to_come_back() {
    explore(2, 60, || {
        let scene = Scene::of_block(3, CONTRACT);
        let (a, b, after) = scene.run(
            |table, cpu| map(table, cpu, 0, 0x7000, PAGE, true),
            |table, cpu| map(table, cpu, PAGE, 0x9000, PAGE, true),
        );
        for (outcome, ipa, output) in [(a.unwrap(), 0, 0x7000), (b.unwrap(), PAGE, 0x9000)] {
            let expected = match outcome {
                Outcome::Done => output,
                Outcome::Busy => MIB2 + ipa,
                Outcome::AlreadyDone => panic!("nobody else wanted it"),
            };
            assert_eq!(after.translate(ipa), Some(expected));
        }
        assert!(a == Ok(Outcome::Done) || b == Ok(Outcome::Done));
        assert_eq!(after.translate(MIB2 - PAGE), Some(2 * MIB2 - PAGE));
        after.nothing_is_lost();
    });
}

#[test]
fn rights_and_output_of_one_page_change_one_after_the_other() {
    explore(4, 400, || {
        let mut scene = Scene::new(1);
        let mut cpu = Cpu(scene.world.clone());
        let (start, output) = (Ipa::new(0), PhysAddr::new(0x1000));
        scene.table.map(&mut cpu, start, output, PAGE, memory(), MapOptions::default()).unwrap();
        let (a, b, after) = scene.run(
            |table, cpu| table.protect_leaf(cpu, Ipa::new(0), read_only()).unwrap(),
            |table, cpu| map(table, cpu, 0, 0x7000, PAGE, true).unwrap(),
        );
        let (output, attributes) = after.table.lookup(&after.cpu, Ipa::new(0)).unwrap().mapping().unwrap();
        match (a, b) {
            (Outcome::Done, Outcome::Done) => assert_eq!(output.raw(), 0x7000),
            (Outcome::Busy, Outcome::Done) => assert_eq!((output.raw(), attributes), (0x7000, memory())),
            (Outcome::Done, Outcome::Busy) => assert_eq!((output.raw(), attributes), (0x1000, read_only())),
            other => panic!("{other:?}"),
        }
        after.nothing_is_lost();
    });
}

#[test]
fn a_page_that_is_used_and_one_that_is_replaced_lose_neither() {
    explore(4, 200, || {
        let mut scene = Scene::new(1);
        let mut cpu = Cpu(scene.world.clone());
        let old = Stage2Attributes { access_flag: false, ..memory() };
        let (start, output) = (Ipa::new(0), PhysAddr::new(0x1000));
        scene.table.map(&mut cpu, start, output, PAGE, old, MapOptions::default()).unwrap();
        let (a, b, after) = scene.run(
            |table, cpu| table.make_young(cpu, Ipa::new(0)).unwrap(),
            |table, cpu| table.protect_leaf(cpu, Ipa::new(0), Stage2Attributes { access_flag: false, ..read_only() }),
        );
        let (_, attributes) = after.table.lookup(&after.cpu, Ipa::new(0)).unwrap().mapping().unwrap();
        assert_eq!((a, b), (Outcome::Done, Ok(Outcome::Done)));
        // Either may be last, and then says what the flag is; the right is gone in any case.
        assert!(!attributes.write);
        after.nothing_is_lost();
    });
}
