//! What a table holds, as the list of its leaves, and what each operation comes to when it runs alone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use abi::Ipa;
use pgtable::{Descriptor, Leaf, Stage2, Stage2Attributes, TableError, TableFrames};

use crate::operation::{Answer, Operation};

pub const PAGE: u64 = 4096;
pub const MIB2: u64 = 2 << 20;
pub const GIB: u64 = 1 << 30;

/// What a leaf holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    Nothing,
    Note(u64),
    /// Output address minus input address, modulo 2^64, and attributes.
    Mapping(u64, Stage2Attributes),
}

impl Held {
    /// What `leaf` holds; `None` while it is locked.
    pub fn of<R>(leaf: &Leaf<R>) -> Option<Self>
    where
        R: pgtable::Regime<Input = Ipa, Attributes = Stage2Attributes>,
    {
        Some(match leaf.descriptor {
            Descriptor::Invalid { annotation: None } => Self::Nothing,
            Descriptor::Invalid { annotation: Some(annotation) } => Self::Note(annotation.value()),
            Descriptor::Locked => return None,
            Descriptor::Table { .. } => panic!("a table is no leaf"),
            Descriptor::Block { output, attributes } | Descriptor::Page { output, attributes } => {
                Self::Mapping(output.raw().wrapping_sub(leaf.base.raw()), attributes)
            }
        })
    }
}

/// A leaf: its size, and what it holds.
pub type Part = (u64, Held);

/// Every leaf of a table, valid or not, by its first address. They leave no gap: where a leaf is smaller than an entry of
/// the level above, there is a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Oracle {
    parts: BTreeMap<u64, Part>,
}

impl Oracle {
    /// What `table` holds, which nobody changes.
    pub fn of<F: TableFrames>(table: &Stage2, frames: &F) -> Self {
        let mut parts = BTreeMap::new();
        let size = table.geometry().input_size();
        let mut next = 0;
        let flow = table.visit(frames, Ipa::new(0), size, |leaf| {
            assert_eq!(leaf.base.raw(), next, "leaves follow each other without gap or overlap");
            next += leaf.size;
            let held = Held::of(&leaf).expect("nothing stays locked");
            parts.insert(leaf.base.raw(), (leaf.size, held));
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(flow, Ok(ControlFlow::Continue(())));
        assert_eq!(next, size);
        Self { parts }
    }

    /// Every leaf that maps something, with its first address.
    pub fn mappings(&self) -> impl Iterator<Item = (u64, u64, u64, Stage2Attributes)> {
        self.parts.iter().filter_map(|(base, (size, held))| match held {
            Held::Mapping(delta, attributes) => Some((*base, *size, base.wrapping_add(*delta), *attributes)),
            Held::Nothing | Held::Note(_) => None,
        })
    }

    /// The leaf that decides for `address`, with its first address.
    fn at(&self, address: u64) -> (u64, Part) {
        let (base, part) = self.parts.range(..=address).next_back().expect("leaves leave no gap");
        (*base, *part)
    }

    /// Splits the leaf that decides for `address` until one of them is `size` bytes long and decides for it.
    fn split(&mut self, address: u64, size: u64) {
        loop {
            let (base, (large, held)) = self.at(address);
            if large <= size {
                return;
            }
            let small = large / 512;
            self.parts.extend((0..512).map(|index| (base + index * small, (small, held))));
        }
    }

    /// Lets leaves begin and end at the edges of a range, where something is held there.
    fn cut(&mut self, start: u64, end: u64) {
        for edge in [start, end] {
            while let (base, (size, held)) = self.at(edge)
                && base != edge
                && held != Held::Nothing
            {
                self.split(edge, size / 512);
            }
        }
    }

    fn in_range(&mut self, start: u64, end: u64) -> impl Iterator<Item = &mut Part> {
        let first = self.at(start).0;
        self.parts.range_mut(first..end).map(|(_, part)| part)
    }

    /// Lets tables go that hold nothing, where they meet the range.
    fn collapse(&mut self, start: u64, end: u64) {
        for size in [MIB2, GIB] {
            let mut region = start & !(size - 1);
            while region < end {
                let leaves = self.parts.range(region..region + size);
                let is_table = leaves.clone().count() > 1;
                if is_table && leaves.clone().all(|(_, (_, held))| *held == Held::Nothing) {
                    self.parts.retain(|base, _| !(region..region + size).contains(base));
                    self.parts.insert(region, (size, Held::Nothing));
                }
                region += size;
            }
        }
    }

    /// Runs an operation alone.
    pub fn apply(&mut self, operation: &Operation) -> Answer {
        match *operation {
            Operation::Map { ipa, output, size, attributes, replace } => {
                let new = Held::Mapping(output.wrapping_sub(ipa), attributes);
                let (base, (found, held)) = self.at(ipa);
                // A smaller leaf is one of a table that stands in the way.
                if found < size {
                    return Answer::Changed(Err(TableError::Exists));
                }
                match held {
                    _ if held == new => return Answer::Changed(Ok(false)),
                    Held::Mapping(..) if !replace => return Answer::Changed(Err(TableError::Exists)),
                    Held::Note(_) if !replace => return Answer::Changed(Err(TableError::Annotated)),
                    _ => {}
                }
                debug_assert!(base <= ipa);
                self.split(ipa, size);
                self.parts.insert(ipa, (size, new));
                Answer::Changed(Ok(true))
            }
            Operation::Protect { ipa, attributes } => self.change(ipa, |_| attributes),
            Operation::MakeYoung { ipa } => self.change(ipa, |found| Stage2Attributes { access_flag: true, ..found }),
            Operation::Lookup { ipa } => {
                let (base, part) = self.at(ipa);
                Answer::Found(base, part)
            }
            Operation::Unmap { ipa, size } => {
                self.cut(ipa, ipa + size);
                let end = ipa + size;
                for (_, held) in self.in_range(ipa, end) {
                    *held = Held::Nothing;
                }
                self.collapse(ipa, end);
                Answer::Changed(Ok(true))
            }
            Operation::Age { ipa, size } => {
                let mut was_young = false;
                for (_, held) in self.in_range(ipa, ipa + size) {
                    if let Held::Mapping(_, attributes) = held {
                        was_young |= attributes.access_flag;
                        attributes.access_flag = false;
                    }
                }
                Answer::Changed(Ok(was_young))
            }
        }
    }

    /// Changes the attributes of the leaf that decides for `ipa`.
    fn change(&mut self, ipa: u64, change: impl Fn(Stage2Attributes) -> Stage2Attributes) -> Answer {
        let (base, (size, held)) = self.at(ipa);
        let Held::Mapping(delta, found) = held else {
            return Answer::Changed(Err(TableError::NotMapped));
        };
        let new = change(found);
        self.parts.insert(base, (size, Held::Mapping(delta, new)));
        Answer::Changed(Ok(new != found))
    }
}
