//! What a leaf of stage 2 lets somebody do.

use core::fmt;
use ownership::Software;
use ownership_spec::Rights;
use pgtable::{Shareability, Stage2Attributes, Stage2Execute, Stage2Memory};

/// What is mapped, by what attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mapped {
    /// Memory, with these rights. `borrowed`: it is marked as somebody else's.
    Memory { rights: Rights, borrowed: bool },
    /// A device. `granted`: it is marked as one that a guest has.
    Device { granted: bool },
    /// Something with attributes that no transition makes.
    Strange(Stage2Attributes),
}

impl Mapped {
    pub(crate) fn of(attributes: Stage2Attributes) -> Self {
        let strange = Mapped::Strange(attributes);
        let is_device = attributes.with_software(0) == Stage2Attributes::device();
        if is_device {
            return match attributes.software {
                0 => Mapped::Device { granted: false },
                _ if Software::Device.marks(&attributes) => Mapped::Device { granted: true },
                _ => strange,
            };
        }
        let Stage2Attributes { memory, shareability, read, write, execute, access_flag, software: _ } = attributes;
        let execute = match execute {
            Stage2Execute::All => true,
            Stage2Execute::None => false,
            Stage2Execute::El0Only | Stage2Execute::El1Only => return strange,
        };
        let borrowed = Software::Borrowed.marks(&attributes);
        let is_memory = matches!(memory, Stage2Memory::Normal | Stage2Memory::NormalWriteBack);
        let plain = is_memory && shareability == Shareability::Inner && access_flag && read;
        if plain && (borrowed || Software::Owned.marks(&attributes)) {
            Mapped::Memory { rights: Rights { read, write, execute }, borrowed }
        } else {
            strange
        }
    }
}

impl fmt::Display for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mapped::Memory { rights, borrowed: false } => write!(f, "maps it {rights}"),
            Mapped::Memory { rights, borrowed: true } => write!(f, "maps it {rights}, as borrowed"),
            Mapped::Device { granted: false } => f.write_str("maps it as a device"),
            Mapped::Device { granted: true } => f.write_str("maps it as a device that was granted"),
            Mapped::Strange(attributes) => write!(f, "maps it with {attributes}"),
        }
    }
}
