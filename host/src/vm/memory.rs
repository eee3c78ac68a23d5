//! A guest's memory and devices: how they are put there, and what its accesses come to.

use super::error::VmError;
use super::stage2::{ALL_RIGHTS, Fault};
use super::{OnDemand, Vm};
use crate::frames::Pages;
use abi::host::RIGHT_WRITE;
use abi::{Gfn, Ipa, PAGE_SIZE};
use alloc::boxed::Box;
use alloc::vec::Vec;
use vmm::dirty::DirtyBitmap;
use vmm::layout::RAM_BASE;
use vmm::loans::Loan;
use vmm::mmio::{DeviceId, MmioDevice, Unclaimed};
use vmm::region::{BackingId, RegionError, RegionId, RegionTree};

impl Vm {
    /// Puts `content` at `start`, with zeroes up to `size` bytes: into the host's own pages first, which are then
    /// given.
    pub(super) fn load(&mut self, start: Ipa, content: &[u8], size: u64) -> Result<(), VmError> {
        let offset = start.page_offset() as usize;
        let mut pages = Pages::zeroed((offset as u64 + size).div_ceil(PAGE_SIZE)).ok_or(VmError::OutOfMemory)?;
        pages.bytes()[offset..offset + content.len()].copy_from_slice(content);
        self.give(pages, Gfn::containing(start))
    }

    /// Gives `pages` to the guest from guest frame `first` on: donates them to a protected one, shares them with another
    /// that may do everything with them.
    ///
    /// # Errors
    /// [`VmError`]; the pages are the host's alone still.
    pub fn give(&mut self, pages: Pages, first: Gfn) -> Result<(), VmError> {
        if self.memory().is_protected() {
            self.memory().donate(0, pages, first)
        } else {
            self.share(pages, first, ALL_RIGHTS)
        }
    }

    /// Shares `pages` with a guest that is not protected, from guest frame `first` on, with `rights` of `abi::host`. A
    /// right to write that is not among them the guest does not get later.
    ///
    /// # Errors
    /// [`VmError`]; the pages are the host's alone still.
    pub fn share(&mut self, pages: Pages, first: Gfn, rights: u64) -> Result<(), VmError> {
        let (slot, memory) = self.space.slots_mut().find_with_driver(first).ok_or(VmError::Taken)?;
        let (backing, page) = (slot.settings().backing, slot.backing_page(first));
        let is_writable = rights & RIGHT_WRITE != 0;
        let loan = Loan { first, page: pages.pfn(), count: pages.count(), is_writable, awaits_write: false };
        memory.keep(backing, page, pages)?;
        memory.lend_with(0, loan, rights).inspect_err(|_| drop(memory.release(backing, page)))
    }

    /// Takes back what was shared from guest frame `first` on.
    ///
    /// # Errors
    /// [`VmError`]; the guest has them still.
    pub fn unshare(&mut self, first: Gfn) -> Result<Pages, VmError> {
        let (slot, memory) = self.space.slots_mut().find_with_driver(first).ok_or(VmError::Taken)?;
        let (backing, page) = (slot.settings().backing, slot.backing_page(first));
        memory.take_back(0, first, memory.kept_count(backing, page))?;
        memory.release(backing, page).ok_or(VmError::Taken)
    }

    /// Keeps `pages` for a guest that is not protected: they are `backing`, from its page `page` on.
    ///
    /// # Errors
    /// [`VmError::Taken`].
    pub fn keep(&mut self, backing: BackingId, page: u64, pages: Pages) -> Result<(), VmError> {
        self.memory().keep(backing, page, pages)
    }

    /// Arranges the guest's address space anew: `change` gets the tree of its regions and the root.
    ///
    /// # Errors
    /// [`VmError`]; nothing is changed where it is [`VmError::Space`].
    pub fn change<T>(
        &mut self,
        change: impl FnOnce(&mut RegionTree, RegionId) -> Result<T, RegionError>,
    ) -> Result<T, VmError> {
        let result = self.space.change(change)?;
        self.follow_change()?;
        Ok(result)
    }

    /// Declares RAM: `size` bytes from `start`, with `backing` behind it.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub fn add_ram(&mut self, name: &str, start: Ipa, size: u64, backing: BackingId) -> Result<RegionId, VmError> {
        let region = self.space.add_ram(name, start, size, backing)?;
        self.follow_change()?;
        Ok(region)
    }

    /// Declares ROM: `size` bytes from `start`, with `backing` behind it.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub fn add_rom(&mut self, name: &str, start: Ipa, size: u64, backing: BackingId) -> Result<RegionId, VmError> {
        let region = self.space.add_rom(name, start, size, backing)?;
        self.follow_change()?;
        Ok(region)
    }

    /// Declares a device with `size` bytes of registers from `start`.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub fn add_device(
        &mut self,
        name: &str,
        start: Ipa,
        size: u64,
        device: Box<dyn MmioDevice + Send>,
    ) -> Result<RegionId, VmError> {
        let region = self.space.add_device(name, start, size, device)?;
        self.follow_change()?;
        Ok(region)
    }

    /// A device that is nowhere yet: [`change`](Self::change) puts it somewhere.
    pub fn new_device(&mut self, device: Box<dyn MmioDevice + Send>) -> DeviceId {
        self.space.bus().add(device)
    }

    /// Which pages of the slot around `frame` were written since this was last asked; `None` where nobody notes it.
    pub fn take_written(&mut self, frame: Gfn) -> Option<DirtyBitmap> {
        let slots = self.space.slots_mut();
        let id = slots.find(frame).map(|(slot, _)| slot.id())?;
        slots.take_dirty(id).ok()?
    }

    /// Does what the guest's memory asks for after its address space has changed.
    pub(super) fn follow_change(&mut self) -> Result<(), VmError> {
        self.memory().take_failure().map_or(Ok(()), Err)?;
        self.give_low_memory()
    }

    /// Gives the guest all of its memory below [`RAM_BASE`], for which it cannot ask: an access there is one to a device.
    fn give_low_memory(&mut self) -> Result<(), VmError> {
        let low = |first: &Gfn| *first < Gfn::containing(RAM_BASE);
        let slots: Vec<(Gfn, u64)> = self
            .space
            .slots()
            .iter()
            .map(|slot| (slot.first(), slot.pages()))
            .filter(|(first, _)| low(first))
            .collect();
        for frame in slots.into_iter().flat_map(|(first, pages)| (0..pages).map(move |page| first.raw() + page)) {
            let fault = Fault { frame: Gfn::new(frame), is_write: false, vcpu: 0, with_blocks: true };
            if let Some((slot, memory)) = self.space.slots_mut().find_with_driver(fault.frame) {
                memory.serve(slot, fault)?;
            }
        }
        Ok(())
    }

    /// Serves a fault of vCPU `vcpu` at `address`. False where there is to be no memory, or none to be written.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn serve_fault(&mut self, address: Ipa, is_write: bool, vcpu: usize) -> Result<bool, VmError> {
        let frame = Gfn::containing(address);
        let fault = Fault { frame, is_write, vcpu, with_blocks: self.on_demand == OnDemand::Block };
        if self.on_demand == OnDemand::Nothing {
            return Ok(false);
        }
        let Some((slot, memory)) = self.space.slots_mut().find_with_driver(frame) else { return Ok(false) };
        let is_served = memory.serve(slot, fault)?;
        if is_served && is_write {
            self.space.slots_mut().mark_dirty(frame);
        }
        Ok(is_served)
    }

    /// Serves a load from a device.
    ///
    /// # Errors
    /// [`Unclaimed`].
    pub fn read_device(&mut self, address: Ipa, width: u64) -> Result<u64, Unclaimed> {
        self.space.bus().read(address, width)
    }

    /// Serves a store to a device. One to ROM is lost.
    ///
    /// # Errors
    /// [`Unclaimed`].
    pub fn write_device(&mut self, address: Ipa, width: u64, value: u64) -> Result<(), Unclaimed> {
        let result = self.space.bus().write(address, width, value);
        if result.is_err() && self.space.slots().find(Gfn::containing(address)).is_some() { Ok(()) } else { result }
    }
}
