//! A page, or a 2 MiB block, of EL2's address space whose mapping changes all the time: the hypervisor's window to memory
//! that it does not otherwise map.

use abi::{PhysAddr, VirtAddr};

use crate::descriptor::{self, Kind, kind};
use crate::el2::{El2Attributes, El2Stage1};
use crate::environment::{DsbKind, Environment, TableFrames};
use crate::error::TableError;
use crate::geometry::{ENTRIES, LAST_LEVEL, entry_size};
use crate::regime::Regime;
use crate::tlbi::Tlbi;

/// The level of 2 MiB blocks.
const BLOCK_LEVEL: u8 = LAST_LEVEL - 1;

/// The descriptor of one address, for a single CPU to map pages, or blocks, through. It stays good for as long as
/// something else is mapped through the same table, which is never freed then: in the same 2 MiB for a page, in the same
/// GiB for a block.
#[derive(Debug)]
pub struct LeafSlot {
    descriptor: PhysAddr,
    address: VirtAddr,
    attributes: u64,
    level: u8,
}

impl El2Stage1 {
    /// The slot for pages at `address`, which must be vacant and have a last-level table. Pages appear there with
    /// `attributes`.
    ///
    /// # Errors
    /// [`TableError::NotMapped`] where there is no last-level table, [`TableError::Exists`] where the page is not
    /// vacant; [`TableError::BadRange`], [`TableError::Misaligned`], [`TableError::BadAttributes`].
    pub fn page_slot<F: TableFrames + ?Sized>(
        &self,
        frames: &F,
        address: VirtAddr,
        attributes: El2Attributes,
    ) -> Result<LeafSlot, TableError> {
        self.slot(frames, address, attributes, LAST_LEVEL)
    }

    /// The slot for 2 MiB blocks at `address`, which must be vacant and have a table of level 2. Blocks appear there with
    /// `attributes`.
    ///
    /// # Errors
    /// As [`page_slot`](Self::page_slot), for that level.
    pub fn block_slot<F: TableFrames + ?Sized>(
        &self,
        frames: &F,
        address: VirtAddr,
        attributes: El2Attributes,
    ) -> Result<LeafSlot, TableError> {
        self.slot(frames, address, attributes, BLOCK_LEVEL)
    }

    fn slot<F: TableFrames + ?Sized>(
        &self,
        frames: &F,
        address: VirtAddr,
        attributes: El2Attributes,
        leaf_level: u8,
    ) -> Result<LeafSlot, TableError> {
        if !address.is_aligned(entry_size(leaf_level)) {
            return Err(TableError::Misaligned);
        }
        let offset = self.geometry().offset(address.raw()).ok_or(TableError::BadRange)?;
        let attributes = self.regime().encode(attributes)?;
        let mut table = self.root();
        for level in self.geometry().start_level()..=leaf_level {
            let index = offset / entry_size(level) % ENTRIES;
            let at = table.checked_add(index * 8).ok_or(TableError::Corrupt)?;
            let raw = frames.read(at);
            match kind(raw, level) {
                Kind::Table if level != leaf_level => table = descriptor::address(raw),
                Kind::Vacant if level == leaf_level => {
                    return Ok(LeafSlot { descriptor: at, address, attributes, level });
                }
                Kind::Vacant => return Err(TableError::NotMapped),
                _ => return Err(TableError::Exists),
            }
        }
        Err(TableError::Corrupt)
    }
}

impl LeafSlot {
    /// Where the page or the block appears.
    pub const fn address(&self) -> VirtAddr {
        self.address
    }

    /// Bytes of it, which what is mapped must be aligned to.
    pub const fn size(&self) -> u64 {
        entry_size(self.level)
    }

    /// Maps the page or the block at `output`. The slot must be unmapped: it is invalid and flushed then, so that no break
    /// is due.
    pub fn map<E: Environment + ?Sized>(&self, environment: &mut E, output: PhysAddr) {
        let output = output.align_down(self.size()).raw();
        environment.write(self.descriptor, descriptor::leaf(output, self.attributes, self.level));
        environment.dsb(DsbKind::Ishst);
        environment.isb();
    }

    /// Unmaps the slot on all CPUs: its address is this CPU's alone, but the table is everyone's to walk.
    pub fn unmap<E: Environment + ?Sized>(&self, environment: &mut E) {
        environment.write(self.descriptor, 0);
        environment.dsb(DsbKind::Ishst);
        environment.tlbi(Tlbi::Vale2Is { address: self.address, level: None });
        environment.dsb(DsbKind::Ish);
        environment.isb();
    }
}
