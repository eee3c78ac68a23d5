//! Freehold's tables as a subject. They are always taken to be in use: every operation orders, breaks and flushes.

use abi::{Ipa, PAGE_SIZE, PhysAddr};
use pgtable::geometry::LAST_LEVEL;
use pgtable::shared::Outcome;
use pgtable::{Descriptor, MapOptions, Stage2, Stage2Attributes, Stage2Config};

use crate::memory::Memory;
use crate::subject::{Mapping, Subject};

/// A [`Stage2`] over [`Memory`].
#[derive(Debug)]
pub struct Freehold {
    memory: Memory,
    table: Stage2,
}

impl Subject for Freehold {
    fn new(frames: usize) -> Self {
        let mut memory = Memory::new(frames);
        let root = memory.take().expect("a frame for the root");
        let table = Stage2::new(root, Stage2Config::new(39, 48), 1).expect("a root of one page");
        Self { memory, table }
    }

    fn map(&mut self, ipa: u64, output: u64, size: u64, pages_only: bool) {
        let options = MapOptions { force_pages: pages_only, ..MapOptions::default() };
        let output = PhysAddr::new(output);
        self.table
            .map(&mut self.memory, Ipa::new(ipa), output, size, Stage2Attributes::memory(), options)
            .expect("the range is vacant");
    }

    fn fault_in(&mut self, ipa: u64, output: u64) {
        let (output, attributes, options) = (PhysAddr::new(output), Stage2Attributes::memory(), MapOptions::default());
        let outcome =
            self.table.map_leaf(&mut self.memory, Ipa::new(ipa), output, PAGE_SIZE, attributes, options, false);
        assert_eq!(outcome, Ok(Outcome::Done));
    }

    fn protect(&mut self, ipa: u64, size: u64) {
        let attributes = Stage2Attributes { write: false, ..Stage2Attributes::memory() };
        self.table.protect(&mut self.memory, Ipa::new(ipa), size, attributes).expect("the range is mapped");
    }

    fn split(&mut self, ipa: u64, size: u64) {
        self.table.split(&mut self.memory, Ipa::new(ipa), size, LAST_LEVEL).expect("there are frames");
    }

    fn unmap(&mut self, ipa: u64, size: u64) {
        self.table.unmap(&mut self.memory, Ipa::new(ipa), size).expect("the range is in bounds");
    }

    fn look_up(&self, ipa: u64) -> Option<Mapping> {
        let leaf = self.table.lookup(&self.memory, Ipa::new(ipa)).expect("the address is in bounds");
        match leaf.descriptor {
            Descriptor::Block { attributes, .. } | Descriptor::Page { attributes, .. } => Some(Mapping {
                output: leaf.output_of(Ipa::new(ipa))?.raw(),
                writable: attributes.write,
                level: leaf.level,
            }),
            Descriptor::Invalid { .. } | Descriptor::Locked | Descriptor::Table { .. } => None,
        }
    }

    fn tables(&self) -> usize {
        self.memory.in_use()
    }
}
