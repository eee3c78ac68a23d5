//! A page of EL2's address space whose mapping changes all the time: the hypervisor's window to memory that it does not
//! otherwise map.

use abi::{PhysAddr, VirtAddr};

use crate::bits;
use crate::descriptor::{self, Kind, kind};
use crate::el2::{El2Attributes, El2Stage1};
use crate::environment::{DsbKind, Environment, TableFrames};
use crate::error::TableError;
use crate::geometry::{ENTRIES, LAST_LEVEL, entry_size};
use crate::regime::Regime;
use crate::tlbi::Tlbi;

/// The last-level descriptor of one address, for a single CPU to map pages through. It stays good for as long as
/// something else is mapped in the same 2 MiB, so that its table is never freed.
#[derive(Debug)]
pub struct PageSlot {
    descriptor: PhysAddr,
    address: VirtAddr,
    attributes: u64,
}

impl El2Stage1 {
    /// The slot at `address`, which must be vacant and have a last-level table. Pages appear there with `attributes`.
    ///
    /// # Errors
    /// [`TableError::NotMapped`] where there is no last-level table, [`TableError::Exists`] where the page is not
    /// vacant; [`TableError::BadRange`], [`TableError::Misaligned`], [`TableError::BadAttributes`].
    pub fn page_slot<F: TableFrames + ?Sized>(
        &self,
        frames: &F,
        address: VirtAddr,
        attributes: El2Attributes,
    ) -> Result<PageSlot, TableError> {
        if !address.is_aligned(entry_size(LAST_LEVEL)) {
            return Err(TableError::Misaligned);
        }
        let offset = self.geometry().offset(address.raw()).ok_or(TableError::BadRange)?;
        let attributes = self.regime().encode(attributes)?;
        let mut table = self.root();
        for level in self.geometry().start_level()..=LAST_LEVEL {
            let index = offset / entry_size(level) % ENTRIES;
            let at = table.checked_add(index * 8).ok_or(TableError::Corrupt)?;
            let raw = frames.read(at);
            match kind(raw, level) {
                Kind::Table => table = descriptor::address(raw),
                Kind::Vacant if level == LAST_LEVEL => return Ok(PageSlot { descriptor: at, address, attributes }),
                Kind::Vacant => return Err(TableError::NotMapped),
                _ => return Err(TableError::Exists),
            }
        }
        Err(TableError::Corrupt)
    }
}

impl PageSlot {
    /// Where the page appears.
    pub const fn address(&self) -> VirtAddr {
        self.address
    }

    /// Maps `page`, 4 KiB aligned. The slot must be unmapped: it is invalid and flushed then, so that no break is due.
    pub fn map<E: Environment + ?Sized>(&self, environment: &mut E, page: PhysAddr) {
        environment.write(self.descriptor, descriptor::leaf(page.raw() & bits::ADDRESS, self.attributes, LAST_LEVEL));
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
