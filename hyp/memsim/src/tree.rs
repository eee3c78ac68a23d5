//! Trees of tables that the machine watches.

use std::fmt;

use abi::PhysAddr;
use pgtable::Geometry;

use crate::locks::Lock;

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

impl TreeKind {
    pub(crate) const fn is_stage2(self) -> bool {
        matches!(self, Self::Stage2 { .. })
    }

    /// True where no software below the hypervisor may reach the tables. Those of EL1 are its own.
    pub(crate) const fn is_hypervisors(self) -> bool {
        matches!(self, Self::Stage2 { .. } | Self::El2)
    }
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
    /// Stage 2: FEAT_S2FWB is in use, which gives MemAttr its other meaning.
    pub(crate) forced_write_back: bool,
    /// The hardware sets the access flag.
    pub(crate) hardware_access_flag: bool,
    /// The lock that descriptors are written under, where one was declared.
    pub(crate) lock: Option<Lock>,
    /// Memory must be clean before it is mapped.
    pub(crate) guards_caches: bool,
}

impl Tree {
    pub(crate) const fn new(kind: TreeKind, root: PhysAddr, geometry: Geometry) -> Self {
        Self {
            kind,
            root,
            geometry,
            forced_write_back: false,
            hardware_access_flag: false,
            lock: None,
            guards_caches: false,
        }
    }
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
