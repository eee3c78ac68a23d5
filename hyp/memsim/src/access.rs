//! Accesses by hardware: what the MMU makes of an address by the tables in memory, and the access flag that it sets.

use std::fmt;

use abi::PhysAddr;
use pgtable::geometry::entry_size;

use crate::checker::State;
use crate::event::Event;
use crate::rules::{ACCESS_FLAG, Meaning, Right, allows, meaning};
use crate::tree::TreeKind;

/// What a CPU does at an address. In the EL1&0 regime, it does it at EL1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// Why an access does not succeed (Arm ARM D8.15, "MMU faults"; of several, the first that the architecture reports).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Fault {
    /// A descriptor of this level is invalid or reserved, or (level 0) the address is out of bounds.
    Translation {
        /// The level.
        level: u8,
    },
    /// A descriptor of this level leads beyond the physical address size.
    AddressSize {
        /// The level.
        level: u8,
    },
    /// The leaf, of this level, has its access flag clear, and the hardware does not set it.
    AccessFlag {
        /// The level.
        level: u8,
    },
    /// The leaf, of this level, does not allow it.
    Permission {
        /// The level.
        level: u8,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, level) = match self {
            Self::Translation { level } => ("translation", level),
            Self::AddressSize { level } => ("address size", level),
            Self::AccessFlag { level } => ("access flag", level),
            Self::Permission { level } => ("permission", level),
        };
        write!(f, "{what} fault, level {level}")
    }
}

impl State {
    pub(crate) fn access(&mut self, cpu: usize, kind: TreeKind, input: u64, access: Access) -> Result<PhysAddr, Fault> {
        let found = self.trees.iter().flatten().find(|tree| tree.kind == kind);
        let tree = *found.unwrap_or_else(|| panic!("no tree is watched that is {kind}"));
        let offset = input.wrapping_sub(tree.geometry.input_base());
        if offset >= tree.geometry.input_size() {
            return Err(Fault::Translation { level: 0 });
        }
        let mut table = tree.root.raw();
        let mut base = 0;
        for level in tree.geometry.start_level()..=3 {
            let size = entry_size(level);
            let entry = (offset - base) / size;
            base += entry * size;
            let slot = PhysAddr::new(table + entry * 8);
            let descriptor = self.memory.read(slot);
            let target = match meaning(descriptor, level) {
                Meaning::Table(target) | Meaning::Leaf(target) => target,
                Meaning::Invalid | Meaning::Reserved => return Err(Fault::Translation { level }),
            };
            if target >> tree.geometry.output_bits() != 0 {
                return Err(Fault::AddressSize { level });
            }
            if let Meaning::Table(next) = meaning(descriptor, level) {
                table = next;
                continue;
            }
            let is_young = descriptor & ACCESS_FLAG != 0;
            if !is_young && !tree.hardware_access_flag {
                return Err(Fault::AccessFlag { level });
            }
            let right = match access {
                Access::Read => Right::Read,
                Access::Write => Right::Write,
                Access::Execute => Right::Execute,
            };
            if !allows(kind, descriptor, right) {
                return Err(Fault::Permission { level });
            }
            if !is_young {
                let new = descriptor | ACCESS_FLAG;
                self.record(cpu, Event::SetAccessFlag { address: slot, old: descriptor, new });
                self.memory.write(slot, new);
            }
            return Ok(PhysAddr::new(target + (offset - base)));
        }
        Err(Fault::Translation { level: 3 })
    }
}
