//! A machine whose CPUs change one stage-2 table at once, in an order that a seed decides on, and the check that what
//! came of it could have come of the same operations one after the other.

use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::{Ipa, PhysAddr, PhysRange};
use memsim::{Cpu, Event, Hold, Lock, Machine, Program, TreeKind};
use pgtable::{Environment, Maintenance, Stage2, Stage2Config, TableError, TableFrames};

use crate::operation::{Answer, Operation};
use crate::oracle::{Oracle, PAGE};

const VMID: u16 = 3;
/// Tries after which an operation is taken never to succeed.
const TRIES: usize = 2000;
/// Steps of the search for an order.
const SEARCH: usize = 1_000_000;

/// An operation that is over.
#[derive(Clone, Copy, Debug)]
struct Done {
    operation: Operation,
    answer: Answer,
    /// Moments, of which no two are equal.
    start: u64,
    end: u64,
}

pub struct World {
    pub machine: Machine,
    pub table: RwLock<Stage2>,
    lock: Lock,
    moments: AtomicU64,
}

impl World {
    pub fn new(cpus: usize, config: Stage2Config) -> Self {
        let machine = Machine::new(cpus, PhysRange::from_size(PhysAddr::new(0x10_0000), 0x1000_0000).unwrap());
        let table = Stage2::new(machine.take_root(config.root_pages().unwrap()), config, VMID).unwrap();
        machine.track_stage2(&table);
        let lock = machine.declare_lock("table", 0);
        machine.guard_tree(table.root(), lock);
        for cpu in 0..cpus {
            // All but the first run in the guest whose table it is.
            machine.cpu(cpu).load_vttbr(if cpu == 0 { 0 } else { table.vttbr_el2() });
            machine.cpu(cpu).isb();
        }
        Self { machine, table: RwLock::new(table), lock, moments: AtomicU64::new(0) }
    }

    /// Changes the table before anybody else does.
    pub fn prepare(&self, change: impl FnOnce(&mut Stage2, &mut Cpu)) {
        let mut cpu = self.machine.cpu(0);
        self.exclusively(&mut cpu, change);
        self.machine.assert_clean();
    }

    fn now(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// Runs `change` while nobody else is at the table.
    pub fn exclusively<T>(&self, cpu: &mut Cpu, change: impl FnOnce(&mut Stage2, &mut Cpu) -> T) -> T {
        loop {
            if let Ok(mut table) = self.table.try_write() {
                cpu.acquire(self.lock, Hold::Exclusive);
                let result = change(&mut table, cpu);
                cpu.release(self.lock);
                return result;
            }
            cpu.relax();
        }
    }

    /// Runs `change` while others may be at the table that do the same.
    pub fn shared<T>(&self, cpu: &mut Cpu, change: impl FnOnce(&Stage2, &mut Cpu) -> T) -> T {
        loop {
            if let Ok(table) = self.table.try_read() {
                cpu.acquire(self.lock, Hold::Shared);
                let result = change(&table, cpu);
                cpu.release(self.lock);
                return result;
            }
            cpu.relax();
        }
    }

    fn run<E: Environment>(&self, operation: Operation, cpu: &mut Cpu, wrap: fn(Cpu) -> E) -> Done {
        let start = self.now();
        let answer = if operation.is_exclusive() {
            self.exclusively(cpu, |table, cpu| operation.exclude(table, cpu))
        } else {
            let mut tries = 0..TRIES;
            loop {
                assert!(tries.next().is_some(), "{operation:?} is never done");
                let answer = self.shared(cpu, |table, cpu| operation.share(table, &mut wrap(cpu.clone())));
                if let Some(answer) = answer {
                    break answer;
                }
                cpu.relax();
            }
        };
        Done { operation, answer, start, end: self.now() }
    }

    /// Runs each CPU's operations, all CPUs at once, in an environment that `wrap` makes of a CPU. Afterwards the table
    /// must be as if they had run one after the other, and nothing may be lost or left to be done.
    pub fn interleave_in<E: Environment>(
        &self,
        seed: u64,
        lists: &[Vec<Operation>],
        wrap: fn(Cpu) -> E,
    ) -> Result<(), String> {
        let before = Oracle::of(&self.table.read().unwrap(), &self.machine.cpu(0));
        let programs = lists.iter().map(|list| -> Program<'_, Vec<Done>> {
            Box::new(move |cpu| list.iter().map(|operation| self.run(*operation, cpu, wrap)).collect())
        });
        let done = self.machine.interleave(seed, programs.collect()).concat();
        let complaints: Vec<String> = self.machine.violations().iter().map(ToString::to_string).collect();
        let complaints = [complaints, self.machine.unfinished()].concat();
        if !complaints.is_empty() {
            return Err(complaints.join("\n"));
        }
        let table = self.table.read().unwrap();
        let after = Oracle::of(&table, &self.machine.cpu(0));
        let ran_out = self.machine.events().iter().any(|(_, event)| *event == Event::Allocate(None));
        let mut search = Search { done: &done, after: &after, ran_out, left: SEARCH };
        if !search.order(&before, &mut vec![false; done.len()]) {
            return Err(format!("no order explains what came of {done:#?}"));
        }
        self.check_frames(&table)?;
        self.check_translations(&after)
    }

    #[track_caller]
    pub fn interleave(&self, seed: u64, lists: &[Vec<Operation>]) {
        if let Err(complaint) = self.interleave_in(seed, lists, |cpu| cpu) {
            panic!("seed {seed:#x}: {complaint}");
        }
    }

    /// No table is empty, and the tables are all the frames there are.
    fn check_frames(&self, table: &Stage2) -> Result<(), String> {
        let cpu = self.machine.cpu(0);
        let mut tables = Vec::new();
        table.visit_tables(&cpu, |table| tables.push(table)).unwrap();
        let allocated = self.machine.allocated_frames();
        if tables.len() != allocated {
            return Err(format!("{allocated} frames are allocated for {} tables", tables.len()));
        }
        let is_empty = |table: &&PhysAddr| (0..512).all(|index| cpu.read(table.checked_add(index * 8).unwrap()) == 0);
        match tables.iter().find(is_empty) {
            Some(table) => Err(format!("the table at {table} is empty")),
            None => Ok(()),
        }
    }

    /// The hardware finds what the table says, and no TLB anything else.
    fn check_translations(&self, after: &Oracle) -> Result<(), String> {
        for (base, size, output, _) in after.mappings() {
            let last = size - PAGE;
            for offset in [0, last] {
                let found = self.machine.reachable(VMID, Ipa::new(base + offset));
                if found != [PhysAddr::new(output + offset)] {
                    return Err(format!("{:#x} translates to {found:?}", base + offset));
                }
            }
        }
        Ok(())
    }

    /// Takes the table down.
    #[track_caller]
    pub fn finish(self) {
        let Self { machine, table, lock, .. } = self;
        let mut cpu = machine.cpu(0);
        cpu.acquire(lock, Hold::Exclusive);
        table.into_inner().unwrap().destroy(&mut cpu);
        cpu.release(lock);
        machine.assert_clean();
        machine.assert_no_leak();
    }

    pub const fn kind() -> TreeKind {
        TreeKind::Stage2 { vmid: VMID }
    }
}

/// Looks for an order in which the operations, one after the other, come to what they came to.
struct Search<'a> {
    done: &'a [Done],
    after: &'a Oracle,
    /// There was no frame at some moment.
    ran_out: bool,
    /// Steps that are left.
    left: usize,
}

impl Search<'_> {
    /// True where those that are not `taken` can follow a table that holds `before`.
    fn order(&mut self, before: &Oracle, taken: &mut [bool]) -> bool {
        let open = || self.done.iter().enumerate().filter(|(index, _)| !taken[*index]);
        let Some(first_end) = open().map(|(_, done)| done.end).min() else {
            return before == self.after;
        };
        // One that began when another was over comes after it.
        let next: Vec<usize> = open().filter(|(_, done)| done.start < first_end).map(|(index, _)| index).collect();
        for index in next {
            self.left = self.left.checked_sub(1).expect("the search for an order comes to an end");
            let Done { operation, answer, .. } = self.done[index];
            let mut oracle = before.clone();
            let explained = match answer {
                // Nothing has changed then.
                Answer::Changed(Err(TableError::OutOfFrames)) => self.ran_out,
                Answer::FoundLocked => true,
                answer => oracle.apply(&operation) == answer,
            };
            if explained {
                taken[index] = true;
                if self.order(&oracle, taken) {
                    return true;
                }
                taken[index] = false;
            }
        }
        false
    }
}
