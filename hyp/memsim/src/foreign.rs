//! Writes to tables by somebody whom the rules do not bind: a device, a stray pointer. The machine remembers what it
//! takes the descriptor to hold, and says so when the next access finds something else.

use abi::{Pfn, PhysAddr};

use crate::checker::State;
use crate::event::Event;
use crate::memory::WORDS;

/// A descriptor whose value in memory is not what was written there by the rules.
#[derive(Clone, Copy)]
pub(crate) struct Foreign {
    /// What was written there by the rules.
    expected: u64,
    /// It was reported.
    is_known: bool,
}

impl State {
    /// Stores `value` at `address`, which nobody accounts for.
    pub(crate) fn corrupt(&mut self, address: PhysAddr, value: u64) {
        let old = self.memory.read(address);
        self.record(0, Event::Corrupt { address, old, new: value });
        if self.live.contains_key(&Pfn::containing(address).raw()) {
            self.foreign.entry(address.raw()).or_insert(Foreign { expected: old, is_known: false });
        }
        self.memory.write(address, value);
    }

    /// The contents of a page that is a table are about to be overwritten, which was reported.
    pub(crate) fn page_lost(&mut self, pfn: Pfn) {
        for index in 0..WORDS as u64 {
            let address = PhysAddr::new((pfn.raw() << 12) + index * 8);
            let expected = self.expected(address);
            self.foreign.insert(address.raw(), Foreign { expected, is_known: true });
        }
    }

    /// What the descriptor at `address` is taken to hold.
    pub(crate) fn expected(&self, address: PhysAddr) -> u64 {
        match self.foreign.get(&address.raw()) {
            Some(foreign) => foreign.expected,
            None => self.memory.read(address),
        }
    }

    /// The descriptor at `address` is accessed: it must hold what is expected.
    pub(crate) fn check_expected(&mut self, cpu: usize, address: PhysAddr) {
        let found = self.memory.read(address);
        let Some(foreign) = self.foreign.get_mut(&address.raw()) else {
            return;
        };
        let expected = foreign.expected;
        if found == expected {
            self.foreign.remove(&address.raw());
        } else if !std::mem::replace(&mut foreign.is_known, true) {
            self.violate(
                cpu,
                format!("{address} holds {found:#x}, but {expected:#x} was written: another wrote to it"),
            );
        }
    }

    /// The page at `frame` is no table any more: what was never noticed is reported now.
    pub(crate) fn end_expectations(&mut self, cpu: usize, frame: PhysAddr) {
        let slots: Vec<u64> = self.foreign.keys().copied().filter(|slot| slot & !0xfff == frame.raw()).collect();
        for slot in slots {
            self.check_expected(cpu, PhysAddr::new(slot));
            self.foreign.remove(&slot);
        }
    }

    /// Descriptors that were changed and not reported.
    pub(crate) fn unnoticed(&self) -> impl Iterator<Item = (PhysAddr, u64)> {
        let unnoticed = self
            .foreign
            .iter()
            .filter(|(slot, foreign)| !foreign.is_known && self.memory.read(PhysAddr::new(**slot)) != foreign.expected);
        unnoticed.map(|(slot, foreign)| (PhysAddr::new(*slot), foreign.expected))
    }
}
