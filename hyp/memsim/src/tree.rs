//! Trees of tables that the machine watches.

use std::fmt;

use abi::PhysAddr;
use pgtable::Geometry;

/// Whose translations a tree holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum TreeKind {
    /// Stage 2 of the VMID.
    Stage2 {
        /// The VMID.
        vmid: u16,
    },
    /// Stage 1 of EL2.
    El2,
    /// Stage 1 of EL1&0 for the ASID, without a hypervisor's hand in it.
    El1 {
        /// The ASID.
        asid: u16,
    },
}

impl fmt::Display for TreeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage2 { vmid } => write!(f, "stage 2 of VMID {vmid}"),
            Self::El2 => write!(f, "EL2 stage 1"),
            Self::El1 { asid } => write!(f, "EL1 stage 1 of ASID {asid}"),
        }
    }
}

/// One tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    pub(crate) kind: TreeKind,
    pub(crate) root: PhysAddr,
    pub(crate) geometry: Geometry,
}

/// Where a table page stands in a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TablePage {
    /// Index of the tree.
    pub(crate) tree: usize,
    /// Level of the descriptors in it.
    pub(crate) level: u8,
    /// Offset in the input space that its first descriptor translates.
    pub(crate) offset: u64,
}
