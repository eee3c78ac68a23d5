//! Several CPUs at one stage-2 table, in orders that seeds decide on, over memsim: what comes of their operations must be
//! what comes of them one after the other, with all maintenance done and no frame lost.

mod operation;
mod oracle;
mod world;

use abi::{Ipa, PhysAddr};
use memsim::{Access, Cpu, Fault, Program};
use pgtable::shared::Outcome;
use pgtable::{Annotation, MapOptions, Stage2Attributes, Stage2Config, TableError, TableFrames};
use proptest::prelude::*;

use crate::operation::Operation;
use crate::oracle::{GIB, MIB2, PAGE};
use crate::world::World;

fn memory() -> Stage2Attributes {
    Stage2Attributes::memory()
}

fn read_only() -> Stage2Attributes {
    Stage2Attributes { write: false, ..memory() }
}

fn old() -> Stage2Attributes {
    Stage2Attributes { access_flag: false, ..memory() }
}

fn attributes() -> impl Strategy<Value = Stage2Attributes> {
    prop_oneof![
        3 => Just(memory()),
        2 => Just(read_only()),
        1 => Just(old()),
        1 => Just(memory().with_software(5)),
        1 => Just(Stage2Attributes::device()),
    ]
}

/// A page in one of two blocks.
fn page() -> impl Strategy<Value = u64> {
    (0..2u64, prop_oneof![3 => Just(0u64), 2 => Just(1), 1 => Just(511)])
        .prop_map(|(block, page)| GIB + block * MIB2 + page * PAGE)
}

fn map() -> impl Strategy<Value = Operation> {
    let delta = prop_oneof![2 => Just(0u64), 1 => Just(4 * GIB), 1 => Just(7 * GIB)];
    (page(), prop::bool::weighted(0.3), delta, attributes(), any::<bool>()).prop_map(
        |(page, is_block, delta, attributes, replace)| {
            let size = if is_block { MIB2 } else { PAGE };
            let ipa = page & !(size - 1);
            Operation::Map { ipa, output: ipa + delta, size, attributes, replace }
        },
    )
}

fn shared_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        5 => map(),
        2 => (page(), attributes()).prop_map(|(ipa, attributes)| Operation::Protect { ipa, attributes }),
        1 => page().prop_map(|ipa| Operation::MakeYoung { ipa }),
        1 => page().prop_map(|ipa| Operation::Lookup { ipa }),
    ]
}

fn exclusive_operation() -> impl Strategy<Value = Operation> {
    let size = prop_oneof![3 => Just(PAGE), 1 => Just(2 * PAGE), 2 => Just(MIB2), 1 => Just(2 * MIB2)];
    (page(), size, any::<bool>()).prop_map(|(ipa, size, unmaps)| {
        if unmaps { Operation::Unmap { ipa, size } } else { Operation::Age { ipa, size } }
    })
}

fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![4 => shared_operation(), 1 => exclusive_operation()]
}

/// What the table holds when they begin.
#[derive(Clone, Copy, Debug)]
enum Start {
    Empty,
    Blocks,
    Pages,
    Notes,
    LargeNote,
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        2 => Just(Start::Empty),
        1 => Just(Start::Blocks),
        1 => Just(Start::Pages),
        1 => Just(Start::Notes),
        1 => Just(Start::LargeNote),
    ]
}

fn world(cpus: usize, start: Start) -> World {
    let world = World::new(cpus, Stage2Config { xnx: true, ..Stage2Config::new(40, 48) });
    let at = Ipa::new(GIB);
    world.prepare(|table, cpu| {
        let mut map = |size, options| table.map(cpu, at, PhysAddr::new(GIB), size, memory(), options);
        match start {
            Start::Empty => Ok(()),
            Start::Blocks => map(2 * MIB2, MapOptions::default()),
            Start::Pages => map(3 * PAGE, MapOptions { force_pages: true, ..MapOptions::default() }),
            Start::Notes => table.annotate(cpu, at, 2 * PAGE, Annotation::new(7)),
            Start::LargeNote => table.annotate(cpu, at, GIB, Annotation::new(7)),
        }
        .unwrap();
    });
    world
}

/// A limit on the frames that may be allocated from the start on.
fn frames() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![3 => Just(None), 1 => (0..6usize).prop_map(Some)]
}

fn run(seed: u64, start: Start, frames: Option<usize>, lists: &[Vec<Operation>]) {
    let world = world(lists.len(), start);
    if let Some(frames) = frames {
        world.machine.fail_allocations_after(frames);
    }
    world.interleave(seed, lists);
    world.machine.allow_allocations();
    world.finish();
}

fn lists(
    cpus: usize,
    operation: impl Strategy<Value = Operation>,
    length: usize,
) -> impl Strategy<Value = Vec<Vec<Operation>>> {
    prop::collection::vec(prop::collection::vec(operation, 1..=length), cpus)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_cpus_come_to_what_some_order_comes_to(
        seed in any::<u64>(), start in start(), frames in frames(), lists in lists(2, shared_operation(), 4),
    ) {
        run(seed, start, frames, &lists);
    }

    #[test]
    fn four_cpus_come_to_what_some_order_comes_to(
        seed in any::<u64>(), start in start(), frames in frames(), lists in lists(4, shared_operation(), 3),
    ) {
        run(seed, start, frames, &lists);
    }

    #[test]
    fn exclusive_operations_come_between_shared_ones(
        seed in any::<u64>(), start in start(), frames in frames(), lists in lists(3, any_operation(), 4),
    ) {
        run(seed, start, frames, &lists);
    }

    #[test]
    fn equal_targets_are_mapped_once(seed in any::<u64>(), start in start(), operation in shared_operation()) {
        run(seed, start, None, &vec![vec![operation; 2]; 4]);
    }
}

/// Resolves faults until the access succeeds, as a hypervisor would; returns how often it faulted.
fn access(world: &World, cpu: &mut Cpu, ipa: u64, kind: Access) -> usize {
    let page = ipa & !(PAGE - 1);
    for faults in 0..200 {
        let result = cpu.access(World::kind(), ipa, kind);
        let outcome = world.shared(cpu, |table, cpu| match result {
            Ok(output) => {
                assert_eq!(output.raw(), ipa + 4 * GIB);
                None
            }
            Err(Fault::Translation { .. }) => {
                let output = PhysAddr::new(page + 4 * GIB);
                Some(table.map_leaf(cpu, Ipa::new(page), output, PAGE, old(), MapOptions::default(), false))
            }
            Err(Fault::AccessFlag { .. }) => Some(table.make_young(cpu, Ipa::new(page))),
            Err(other) => panic!("{other}"),
        });
        match outcome {
            None => return faults,
            Some(Ok(Outcome::Busy)) => cpu.relax(),
            // Another CPU may have unmapped it in between, or have mapped it and come as far as the access flag.
            Some(Ok(_) | Err(TableError::NotMapped | TableError::Exists)) => {}
            Some(Err(error)) => panic!("{error:?}"),
        }
    }
    panic!("{ipa:#x} faults for ever");
}

/// Four CPUs touch the same few pages, in different orders.
fn touch(seed: u64, unmaps: bool) -> usize {
    let world = world(4, Start::Empty);
    let programs = (0..4u64).map(|cpu| -> Program<'_, usize> {
        let world = &world;
        Box::new(move |handle| {
            let mut faults = 0;
            for step in 0..6 {
                let page = (step * (cpu + 1)) % 6;
                let block = page % 2;
                let ipa = GIB + block * MIB2 + page * PAGE;
                faults += access(world, handle, ipa + 8 * cpu, Access::Read);
                if unmaps && cpu == 3 && step % 3 == 2 {
                    world.exclusively(handle, |table, cpu| table.unmap(cpu, Ipa::new(GIB), MIB2).unwrap());
                }
            }
            faults
        })
    });
    let faults = world.machine.interleave(seed, programs.collect()).into_iter().sum();
    world.machine.assert_clean();
    if !unmaps {
        for page in 0..6 {
            let ipa = GIB + page % 2 * MIB2 + page * PAGE;
            assert!(world.machine.cpu(0).access(World::kind(), ipa, Access::Write).is_ok());
        }
    }
    world.finish();
    faults
}

#[test]
fn every_fault_is_resolved_whoever_else_resolves_it() {
    for seed in 0..150 {
        // One for the translation and one for the access flag of each page, and more where several are at it at once.
        let faults = touch(seed, false);
        assert!((12..=48).contains(&faults), "{faults} faults in seed {seed}");
    }
}

#[test]
fn every_fault_is_resolved_while_pages_are_unmapped() {
    for seed in 0..150 {
        touch(seed, true);
    }
}

/// A CPU whose compare-exchange is a load and a store.
struct Careless(Cpu);

impl TableFrames for Careless {
    fn allocate(&mut self) -> Option<PhysAddr> {
        self.0.allocate()
    }

    fn free(&mut self, frame: PhysAddr) {
        self.0.free(frame);
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.0.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.0.write(descriptor, value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.0.read(descriptor);
        if found != current {
            return Err(found);
        }
        // A store that no rule on who may store forbids.
        let _ = self.0.compare_exchange(descriptor, self.0.read(descriptor), new);
        Ok(found)
    }
}

memsim::forward_maintenance!([] Careless, 0);

#[test]
fn a_store_in_place_of_a_compare_exchange_is_caught() {
    let map = |ipa: u64, size: u64, replace: bool, delta: u64| {
        vec![Operation::Map { ipa, output: ipa + delta, size, attributes: memory(), replace }]
    };
    let cases = [
        // Both make the table.
        (Start::Empty, [map(GIB, PAGE, false, 0), map(GIB + PAGE, PAGE, false, 0)]),
        // Both make the page, to different ends.
        (Start::Pages, [map(GIB + 8 * PAGE, PAGE, false, 0), map(GIB + 8 * PAGE, PAGE, false, GIB)]),
        // Both break the block.
        (Start::Blocks, [map(GIB, PAGE, true, GIB), map(GIB + PAGE, PAGE, true, GIB)]),
        // Both break the page.
        (Start::Pages, [map(GIB, PAGE, true, GIB), map(GIB, PAGE, true, 2 * GIB)]),
    ];
    for (start, lists) in cases {
        let caught = (0..300).any(|seed| {
            run(seed, start, None, &lists);
            world(2, start).interleave_in(seed, &lists, Careless).is_err()
        });
        assert!(caught, "{start:?}: {lists:?}");
    }
}
