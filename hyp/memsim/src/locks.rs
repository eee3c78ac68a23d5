//! The locks that guard trees: who holds them, in which order they may be taken, and what may be written without.

use std::fmt;

use abi::PhysAddr;

use crate::checker::State;
use crate::event::Event;
use crate::tree::TablePage;

/// A lock that the machine watches, declared by [`Machine::declare_lock`](crate::Machine::declare_lock).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Lock {
    index: usize,
    name: &'static str,
    rank: u32,
}

impl Lock {
    /// Its number, in the order of declaration.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its place in the order: a CPU takes it only while all that it holds have lower ranks.
    pub const fn rank(&self) -> u32 {
        self.rank
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Hold {
    /// By one CPU and no other.
    Exclusive,
    /// By any number of CPUs, none of which holds it exclusively.
    Shared,
}

/// By which instruction a word is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Store {
    Plain,
    Exchange,
}

/// Who holds each lock, by its number.
#[derive(Default)]
pub(crate) struct Locks {
    all: Vec<(Lock, Vec<(usize, Hold)>)>,
}

impl Locks {
    pub(crate) fn declare(&mut self, name: &'static str, rank: u32) -> Lock {
        let lock = Lock { index: self.all.len(), name, rank };
        self.all.push((lock, Vec::new()));
        lock
    }

    /// How `cpu` holds `lock`, if it does.
    fn held(&self, cpu: usize, lock: Lock) -> Option<Hold> {
        self.all[lock.index].1.iter().find(|(holder, _)| *holder == cpu).map(|(_, hold)| *hold)
    }

    /// Every lock that is held, with the CPU.
    pub(crate) fn all_held(&self) -> impl Iterator<Item = (usize, Lock)> {
        self.all.iter().flat_map(|(lock, holders)| holders.iter().map(|(cpu, _)| (*cpu, *lock)))
    }
}

impl State {
    pub(crate) fn acquire(&mut self, cpu: usize, lock: Lock, hold: Hold) {
        self.record(cpu, Event::Acquire { lock, hold });
        if self.locks.held(cpu, lock).is_some() {
            self.violate(cpu, format!("{lock} is taken by CPU {cpu}, which holds it already"));
            return;
        }
        let later = self.locks.all_held().find(|(holder, held)| *holder == cpu && held.rank >= lock.rank);
        if let Some((_, held)) = later {
            self.violate(cpu, format!("{lock} is taken out of order, while {held} is held"));
        }
        let excludes = |other: &&(usize, Hold)| hold == Hold::Exclusive || other.1 == Hold::Exclusive;
        if let Some((other, _)) = self.locks.all[lock.index].1.iter().find(excludes).copied() {
            self.violate(cpu, format!("{lock} is taken ({hold:?}) while CPU {other} holds it"));
        }
        self.locks.all[lock.index].1.push((cpu, hold));
    }

    pub(crate) fn release(&mut self, cpu: usize, lock: Lock) {
        self.record(cpu, Event::Release(lock));
        if self.locks.held(cpu, lock).is_none() {
            self.violate(cpu, format!("{lock} is released by CPU {cpu}, which does not hold it"));
        }
        self.locks.all[lock.index].1.retain(|(holder, _)| *holder != cpu);
    }

    pub(crate) fn guard_tree(&mut self, root: PhysAddr, lock: Lock) {
        self.tree_at(root).1.lock = Some(lock);
        if let Some(trace) = &mut self.trace {
            trace.guard(root, lock);
        }
    }

    /// A descriptor of a tree is written, by which its lock must allow.
    ///
    /// An invalid descriptor whose bit 1 is set is pgtable's mark of a descriptor that is being changed. Nobody replaces
    /// it but the CPU that put it there, which may therefore do so by a plain store.
    pub(crate) fn check_lock(&mut self, cpu: usize, page: TablePage, slot: PhysAddr, new: u64, store: Store) {
        let tree = *self.tree(page.tree);
        let Some(lock) = tree.lock else {
            return;
        };
        let owner = self.marked.remove(&slot.raw());
        if store == Store::Exchange && new & 0b11 == 0b10 {
            self.marked.insert(slot.raw(), cpu);
        }
        let held = self.locks.held(cpu, lock);
        if let Some(owner) = owner.filter(|owner| *owner != cpu && held == Some(Hold::Shared)) {
            self.violate(cpu, format!("{slot} of {} is replaced, which CPU {owner} has marked for itself", tree.kind));
        }
        let missing = match (held, store) {
            (Some(Hold::Exclusive), _) | (Some(Hold::Shared), Store::Exchange) => return,
            (Some(Hold::Shared), Store::Plain) if owner == Some(cpu) => return,
            (Some(Hold::Shared), Store::Plain) => "exclusively",
            (None, _) => "at all",
        };
        self.violate(cpu, format!("{slot} of {} is written while {lock} is not held {missing}", tree.kind));
    }
}
