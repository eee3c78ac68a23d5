//! A VM, as far as memory is concerned.

use crate::offer::Offer;
use abi::Gfn;
use abi::host::VmHandle;
use alloc::collections::{BTreeMap, BTreeSet};
use core::fmt;

/// A VM's slot: its place in hyp's table of VMs, 0 to 63. Another VM may have it once this one is gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Vm(pub u8);

/// A VM.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Guest {
    /// The handle by which host and guests name it. It is not given out again while it may be remembered.
    pub name: VmHandle,
    /// Its memory is donated or lent, not shared.
    pub protected: bool,
    /// It does not run any more, and its pages are taken back.
    pub dying: bool,
    /// Frames below this one exist.
    pub gfn_limit: u64,
    /// Frames whose page was taken by force. Nothing comes there any more.
    pub poisoned: BTreeSet<Gfn>,
    /// What it offers to other guests, by number: waiting or accepted, and not ended.
    pub offers: BTreeMap<u64, Offer>,
    /// The number of its newest offer; 0 before the first.
    pub last_number: u64,
}

impl Guest {
    /// A VM that has no memory yet.
    pub const fn new(name: VmHandle, protected: bool, gfn_limit: u64) -> Self {
        Self {
            name,
            protected,
            dying: false,
            gfn_limit,
            poisoned: BTreeSet::new(),
            offers: BTreeMap::new(),
            last_number: 0,
        }
    }
}

impl fmt::Display for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name {:#x}, ", self.name.0)?;
        f.write_str(if self.protected { "protected" } else { "not protected" })?;
        if self.dying {
            f.write_str(", dying")?;
        }
        write!(f, ", frames below {:#x}, last offer {}", self.gfn_limit, self.last_number)?;
        for gfn in &self.poisoned {
            write!(f, ", frame {gfn} poisoned")?;
        }
        for (number, offer) in &self.offers {
            write!(f, ", offer {number}: {offer}")?;
        }
        Ok(())
    }
}
