//! A guest's memory from the host's side: what its slots come to in hypercalls.
//!
//! A protected guest is given pages for good. The host never sees them again while the guest lives, so that they cannot
//! move with a slot, be taken away with one, or be write-protected: where a slot goes, its frames get no more memory,
//! and what they have comes back when the guest has ended. A guest that is not protected is lent pages of the host's
//! own, which can be taken out of it and lent anew, with other rights or at another frame.

use super::error::{VmError, refused};
use crate::frames::{Given, Pages};
use crate::hypercall;
use abi::host::{RIGHT_EXECUTE, RIGHT_READ, RIGHT_WRITE, VmHandle};
use abi::{Error, Gfn, Pfn};
use alloc::vec::Vec;
use vmm::backing::{Backings, Stretch};
use vmm::dirty::DirtyBitmap;
use vmm::layout::RAM_BASE;
use vmm::loans::{Loan, Loans};
use vmm::memory::PageMap;
use vmm::region::BackingId;
use vmm::slots::{BLOCK_PAGES, Slot, SlotDriver, SlotFlags, SlotSettings};

/// Pages that a vCPU's cache of table pages gets at a time.
const CACHE_PAGES: u64 = 8;
/// All that a guest may do with its memory.
pub const ALL_RIGHTS: u64 = RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE;

/// An access for which a guest has no memory, or which the memory does not take.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Where.
    pub frame: Gfn,
    /// Whether the guest is to write there.
    pub is_write: bool,
    /// Which vCPU it is: where hyp needs pages for tables, they are given through it.
    pub vcpu: usize,
    /// Whether a whole block may be given for it.
    pub with_blocks: bool,
}

impl Stretch for Pages {
    fn first(&self) -> Pfn {
        self.pfn()
    }
    fn count(&self) -> u64 {
        self.count()
    }
}

/// A guest's memory.
pub struct Stage2 {
    handle: VmHandle,
    is_protected: bool,
    /// What went into the vCPUs' caches.
    caches: Vec<Given>,
    /// What a protected guest was given, whether or not it has it still.
    given: Vec<Given>,
    /// What it has of that.
    map: PageMap,
    /// Pages among them that it gave back, which hyp has wiped: it gets them again before others.
    given_back: Vec<Pfn>,
    /// The memory of a guest that is not protected.
    backings: Backings<Pages>,
    /// What it has of that, and of others.
    loans: Loans,
    /// The first call that hyp refused while slots were changed.
    failure: Option<VmError>,
}

impl Stage2 {
    /// The memory of a guest that has none yet.
    pub fn new(handle: VmHandle, is_protected: bool) -> Self {
        Self {
            handle,
            is_protected,
            caches: Vec::new(),
            given: Vec::new(),
            map: PageMap::new(),
            given_back: Vec::new(),
            backings: Backings::default(),
            loans: Loans::new(),
            failure: None,
        }
    }

    /// Whether the guest is protected.
    pub fn is_protected(&self) -> bool {
        self.is_protected
    }

    /// Gives vCPU `index` pages for tables.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn top_up(&mut self, index: usize) -> Result<(), VmError> {
        let pages = Pages::allocate(CACHE_PAGES).ok_or(VmError::OutOfMemory)?;
        hypercall::vcpu_top_up(self.handle, index as u64, pages.pfn(), CACHE_PAGES).map_err(refused("VCPU_TOP_UP"))?;
        self.caches.push(pages.given());
        Ok(())
    }

    /// Makes a call that draws on the guest's cache of table pages, which is topped up through vCPU `index` where it is too
    /// small.
    ///
    /// # Errors
    /// The call's own.
    pub fn with_tables(&mut self, index: usize, call: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        match call() {
            Err(Error::OutOfMemory) => {
                self.top_up(index).map_err(|_| Error::OutOfMemory)?;
                call()
            }
            result => result,
        }
    }

    /// Donates `pages` to a protected guest, from frame `first` on.
    ///
    /// # Errors
    /// [`VmError`]; the pages are the host's still.
    pub fn donate(&mut self, index: usize, pages: Pages, first: Gfn) -> Result<(), VmError> {
        let handle = self.handle;
        self.with_tables(index, || hypercall::vm_donate(handle, index as u64, pages.pfn(), first, pages.count()))
            .map_err(refused("VM_DONATE"))?;
        self.donated(pages, first);
        Ok(())
    }

    /// Takes note that `pages` are a protected guest's, from frame `first` on.
    pub fn donated(&mut self, pages: Pages, first: Gfn) {
        let entered = self.map.insert(first, pages.pfn(), pages.count());
        entered.expect("hyp takes a page, and gives a frame one, only once");
        self.given.push(pages.given());
    }

    /// Puts `pages` behind the pages from `page` on of `backing`. The guest has nothing of them yet.
    ///
    /// # Errors
    /// [`VmError::Taken`] where there is something already.
    pub fn keep(&mut self, backing: BackingId, page: u64, pages: Pages) -> Result<(), VmError> {
        self.backings.insert(backing, page, pages).map_err(|_| VmError::Taken)
    }

    /// How many pages are kept from there on.
    pub fn kept_count(&self, backing: BackingId, page: u64) -> u64 {
        self.backings.find(backing, page).map_or(0, |(_, count)| count)
    }

    /// Gives back what was kept.
    pub fn release(&mut self, backing: BackingId, page: u64) -> Option<Pages> {
        self.backings.remove(backing, page)
    }

    /// Lends pages that are kept.
    fn lend(&mut self, index: usize, loan: Loan) -> Result<(), VmError> {
        let rights = if loan.is_writable { ALL_RIGHTS } else { ALL_RIGHTS & !RIGHT_WRITE };
        self.lend_with(index, loan, rights)
    }

    /// The same with any `rights`.
    ///
    /// # Errors
    /// [`VmError`]; the guest has nothing of the pages.
    pub fn lend_with(&mut self, index: usize, loan: Loan, rights: u64) -> Result<(), VmError> {
        let handle = self.handle;
        let share = || hypercall::vm_share(handle, index as u64, loan.page, loan.first, loan.count, rights);
        self.with_tables(index, share).map_err(refused("VM_SHARE"))?;
        assert!(self.loans.insert(loan), "hyp gives a frame a page only once");
        Ok(())
    }

    /// Takes back what was lent at `count` frames from `first` on, which is all of it. Pages for tables that it takes are
    /// given through vCPU `index`.
    ///
    /// # Errors
    /// [`VmError`]; the guest has it still.
    pub fn take_back(&mut self, index: usize, first: Gfn, count: u64) -> Result<(), VmError> {
        let handle = self.handle;
        self.with_tables(index, || hypercall::vm_unshare(handle, first, count)).map_err(refused("VM_UNSHARE"))?;
        self.loans.remove(first, count);
        Ok(())
    }

    /// Takes back what was lent at `count` frames from `first` on, or of that what the guest may write.
    fn take_back_some(&mut self, first: Gfn, count: u64, only_writable: bool) {
        let within = self.loans.within(first, count);
        let loans: Vec<Loan> = within.filter(|loan| loan.is_writable || !only_writable).collect();
        for loan in loans {
            if let Err(error) = self.take_back(0, loan.first, loan.count) {
                self.failure.get_or_insert(error);
            }
        }
    }

    /// What went wrong while slots were changed, since this was last asked.
    pub fn take_failure(&mut self) -> Option<VmError> {
        self.failure.take()
    }

    /// Serves a fault in `slot`. False where the guest is to have no memory there, or not to write it.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn serve(&mut self, slot: &Slot, fault: Fault) -> Result<bool, VmError> {
        if !self.is_protected {
            return self.serve_loan(slot, fault);
        }
        if self.map.page_of(fault.frame).is_some() {
            // Another vCPU has met the same fault first.
            return Ok(true);
        }
        let block =
            slot.block_around(fault.frame).filter(|block| fault.with_blocks && self.is_free(*block, BLOCK_PAGES));
        if let Some(block) = block
            && let Some(pages) = Pages::zeroed(BLOCK_PAGES)
        {
            match self.donate(fault.vcpu, pages, block) {
                // The guest has a frame there that another guest lets it use, or has lost one.
                Err(VmError::Refused(_, Error::WrongState)) => {}
                result => return result.map(|()| true),
            }
        }
        let result = match self.given_back.pop() {
            Some(page) => self.donate_again(fault.vcpu, page, fault.frame),
            None => self.donate(fault.vcpu, Pages::zeroed(1).ok_or(VmError::OutOfMemory)?, fault.frame),
        };
        match result {
            // So has it at the very frame by now, and makes its access again.
            Err(VmError::Refused(_, Error::WrongState)) => Ok(true),
            result => result.map(|()| true),
        }
    }

    /// Donates a page anew that the guest gave back.
    fn donate_again(&mut self, index: usize, page: Pfn, frame: Gfn) -> Result<(), VmError> {
        let handle = self.handle;
        let donated = self.with_tables(index, || hypercall::vm_donate(handle, index as u64, page, frame, 1));
        if let Err(error) = donated {
            self.given_back.push(page);
            return Err(refused("VM_DONATE")(error));
        }
        let entered = self.map.insert(frame, page, 1);
        entered.expect("hyp takes a page, and gives a frame one, only once");
        Ok(())
    }

    fn serve_loan(&mut self, slot: &Slot, fault: Fault) -> Result<bool, VmError> {
        let SlotFlags { read_only, dirty_logging } = slot.settings().flags;
        if fault.is_write && read_only {
            return Ok(false);
        }
        match self.loans.find(fault.frame).copied() {
            Some(loan) if !fault.is_write || loan.is_writable => return Ok(true),
            Some(loan) if loan.awaits_write => self.take_back(fault.vcpu, fault.frame, 1)?,
            Some(_) => return Ok(false),
            None => {}
        }
        let is_writable = !read_only && (fault.is_write || !dirty_logging);
        let block = slot
            .block_around(fault.frame)
            .filter(|block| fault.with_blocks && !dirty_logging && self.is_free(*block, BLOCK_PAGES));
        let (first, page, count) = self.memory_at(slot, block, fault.frame)?;
        self.lend(fault.vcpu, Loan { first, page, count, is_writable, awaits_write: !is_writable })?;
        Ok(true)
    }

    /// The memory behind `block`, or, where that is not to be or is not in one piece, behind `frame`: the first frame,
    /// the page behind it, and how many. Where nothing is behind them, zeroes are put there.
    fn memory_at(&mut self, slot: &Slot, block: Option<Gfn>, frame: Gfn) -> Result<(Gfn, Pfn, u64), VmError> {
        let backing = slot.settings().backing;
        let behind = |stage2: &Self, first| stage2.backings.find(backing, slot.backing_page(first));
        if let Some((first, (page, _))) = block
            .and_then(|block| behind(self, block).filter(|(_, rest)| *rest >= BLOCK_PAGES).map(|found| (block, found)))
        {
            return Ok((first, page, BLOCK_PAGES));
        }
        if let Some((page, _)) = behind(self, frame) {
            return Ok((frame, page, 1));
        }
        let block = block.filter(|block| self.backings.is_free(backing, slot.backing_page(*block), BLOCK_PAGES));
        let (pages, first) = zeroed(block, frame)?;
        let place = (first, pages.pfn(), pages.count());
        self.keep(backing, slot.backing_page(first), pages)?;
        Ok(place)
    }

    /// True where the guest has nothing at `count` frames from `first` on.
    fn is_free(&self, first: Gfn, count: u64) -> bool {
        !self.map.has_any(first, count) && !self.loans.has_any(first, count)
    }

    /// The page that the guest has at `frame`.
    pub fn page_of(&self, frame: Gfn) -> Option<Pfn> {
        self.map.page_of(frame).or_else(|| self.loans.page_of(frame))
    }

    /// Which pages a protected guest has been given.
    pub fn map(&self) -> &PageMap {
        &self.map
    }

    /// What went into the vCPUs' caches of table pages.
    pub fn caches(&self) -> &[Given] {
        &self.caches
    }

    /// The memory of a guest that is not protected.
    pub fn kept(&mut self) -> impl Iterator<Item = &mut Pages> {
        self.backings.iter_mut()
    }

    /// Takes note that the guest gave the page at `frame` back: it is the host's again.
    pub fn take_relinquished(&mut self, frame: Gfn) {
        if let Some(page) = self.map.page_of(frame) {
            self.map.remove_page(page);
            self.given_back.push(page);
        }
    }

    /// Takes back all that the guest has, which is dying.
    ///
    /// # Errors
    /// The call that hyp refused; it may be made again.
    pub fn take_all_back(&mut self) -> Result<(), VmError> {
        while let Some(loan) = self.loans.lowest() {
            self.take_back(0, loan.first, loan.count)?;
        }
        while let Some((first, count)) = self.first_run() {
            let done = hypercall::vm_reclaim(self.handle, first, count).map_err(refused("VM_RECLAIM"))?;
            if done == 0 {
                return Err(VmError::Refused("VM_RECLAIM", Error::WrongState));
            }
            for index in 0..done {
                self.map.remove_page(Pfn::new(first.raw() + index));
            }
        }
        Ok(())
    }

    /// The first pages of a protected guest which lie one after the other.
    fn first_run(&self) -> Option<(Pfn, u64)> {
        self.map.runs().next()
    }

    /// What was given to the guest, and what went into its vCPUs' caches.
    pub fn take_given(&mut self) -> (Vec<Given>, Vec<Given>) {
        (core::mem::take(&mut self.given), core::mem::take(&mut self.caches))
    }
}

/// Zeroes for all of `block`, where it is to be given and the host has as much, or for `frame`; and where they begin.
fn zeroed(block: Option<Gfn>, frame: Gfn) -> Result<(Pages, Gfn), VmError> {
    if let Some(block) = block
        && let Some(pages) = Pages::zeroed(BLOCK_PAGES)
    {
        return Ok((pages, block));
    }
    Ok((Pages::zeroed(1).ok_or(VmError::OutOfMemory)?, frame))
}

impl SlotDriver for Stage2 {
    /// A protected guest has plain RAM only. Memory below [`RAM_BASE`], where accesses without memory are a device's,
    /// is there from the beginning, and not to be written: only then does none fault that the CPU has not decoded.
    fn accepts(&self, settings: &SlotSettings) -> bool {
        let SlotFlags { read_only, dirty_logging } = settings.flags;
        let is_low = settings.start < RAM_BASE;
        if self.is_protected { !read_only && !dirty_logging && !is_low } else { read_only || !is_low }
    }

    fn unmapped(&mut self, slot: &Slot) {
        self.take_back_some(slot.first(), slot.pages(), false);
    }

    fn flags_changed(&mut self, slot: &Slot, _before: SlotFlags) {
        let SlotFlags { read_only, dirty_logging } = slot.settings().flags;
        if read_only || dirty_logging {
            self.take_back_some(slot.first(), slot.pages(), true);
        }
    }

    fn protect(&mut self, slot: &Slot, pages: &DirtyBitmap) {
        for page in pages.iter() {
            self.take_back_some(Gfn::new(slot.first().raw() + page), 1, true);
        }
    }
}

impl Drop for Stage2 {
    /// What the guest has not given back is lost to the host.
    fn drop(&mut self) {
        if !self.loans.is_empty() {
            self.backings.take_all().for_each(core::mem::forget);
        }
    }
}
