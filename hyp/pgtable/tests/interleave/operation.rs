//! What CPUs do to the table, and what comes of it.

use abi::{Ipa, PhysAddr};
use memsim::Cpu;
use pgtable::shared::Outcome;
use pgtable::{Environment, MapOptions, Stage2, Stage2Attributes, TableError};

use crate::oracle::{Held, Part};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Of one leaf.
    Map {
        ipa: u64,
        output: u64,
        size: u64,
        attributes: Stage2Attributes,
        replace: bool,
    },
    Protect {
        ipa: u64,
        attributes: Stage2Attributes,
    },
    MakeYoung {
        ipa: u64,
    },
    Lookup {
        ipa: u64,
    },
    /// Exclusive.
    Unmap {
        ipa: u64,
        size: u64,
    },
    /// Exclusive.
    Age {
        ipa: u64,
        size: u64,
    },
}

/// What comes of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Whether anything changed (of [`Operation::Age`]: whether anything was young).
    Changed(Result<bool, TableError>),
    /// The leaf, with its first address.
    Found(u64, Part),
    /// The leaf was being changed at that moment.
    FoundLocked,
}

impl Operation {
    pub fn is_exclusive(&self) -> bool {
        matches!(self, Self::Unmap { .. } | Self::Age { .. })
    }

    /// Runs an operation that others may run beside; `None` where another CPU was changing the same descriptor.
    pub fn share<E: Environment>(&self, table: &Stage2, environment: &mut E) -> Option<Answer> {
        let outcome = match *self {
            Self::Map { ipa, output, size, attributes, replace } => {
                let options = MapOptions { replace_annotations: replace, ..MapOptions::default() };
                let output = PhysAddr::new(output);
                table.map_leaf(environment, Ipa::new(ipa), output, size, attributes, options, replace)
            }
            Self::Protect { ipa, attributes } => table.protect_leaf(environment, Ipa::new(ipa), attributes),
            Self::MakeYoung { ipa } => table.make_young(environment, Ipa::new(ipa)),
            Self::Lookup { ipa } => {
                let leaf = table.lookup(environment, Ipa::new(ipa)).expect("no descriptor is foreign");
                let found = Held::of(&leaf).map(|held| Answer::Found(leaf.base.raw(), (leaf.size, held)));
                return Some(found.unwrap_or(Answer::FoundLocked));
            }
            Self::Unmap { .. } | Self::Age { .. } => panic!("{self:?} is exclusive"),
        };
        match outcome {
            Ok(Outcome::Busy) => None,
            Ok(Outcome::Done) => Some(Answer::Changed(Ok(true))),
            Ok(Outcome::AlreadyDone) => Some(Answer::Changed(Ok(false))),
            Err(error) => Some(Answer::Changed(Err(error))),
        }
    }

    /// Runs an operation that no other may run beside.
    pub fn exclude(&self, table: &mut Stage2, cpu: &mut Cpu) -> Answer {
        Answer::Changed(match *self {
            Self::Unmap { ipa, size } => table.unmap(cpu, Ipa::new(ipa), size).map(|()| true),
            Self::Age { ipa, size } => table.test_and_clear_young(cpu, Ipa::new(ipa), size),
            _ => panic!("{self:?} is shared"),
        })
    }
}
