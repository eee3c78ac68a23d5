//! What the host does with its memory and a guest.

use crate::guest::Vm;
use crate::page::{Borrower, Owner, Page, Rights};
use crate::state::{Next, Specification};
use abi::{Error, Gfn, Pfn};

/// Where the guest has the page `pfn` of a range that starts with `first`, which is at `gfn`. The frames of the range
/// were found to exist.
pub(crate) fn frame_of(pfn: Pfn, first: Pfn, gfn: Gfn) -> Gfn {
    Gfn::new(gfn.raw() + (pfn.raw() - first.raw()))
}

impl Specification {
    /// The host gives pages that it has to itself to a protected guest, at frames that are vacant.
    pub fn host_donate_guest(&self, vm: Vm, first: Pfn, gfn: Gfn, count: u64) -> Next {
        self.hand_over(vm, first, gfn, count, |_, at| Page::of(Owner::Guest(vm), Some(at)))
    }

    /// The host lets a protected guest have pages that it has to itself, at frames that are vacant, and keeps nothing
    /// but the title.
    pub fn host_lend_guest(&self, vm: Vm, first: Pfn, gfn: Gfn, count: u64) -> Next {
        self.hand_over(vm, first, gfn, count, |page, at| page.lent_to(Borrower::Guest(vm, at)))
    }

    /// The host lets a non-protected guest use its pages, at frames that are vacant. Others may borrow them too, save hyp.
    /// `restricted`: meanwhile the host itself only reads them; so it is for all guests that borrow a page, or for none.
    pub fn host_share_guest(&self, vm: Vm, first: Pfn, gfn: Gfn, count: u64, rights: Rights, restricted: bool) -> Next {
        rights.valid()?;
        let numbers = self.ram(first, count)?;
        self.frames(vm, gfn, count)?;
        if self.living(vm)?.protected {
            return Err(Error::WrongState);
        }
        let owner_rights = if restricted { Rights::READ } else { Rights::FULL };
        let next = self.with_each(numbers, |pfn, page| {
            let page = page.owned_by(Owner::Host)?.not_pinned()?;
            let as_before = page.borrowers.is_empty() || page.owner_rights == owner_rights;
            if page.borrowers.contains_key(&Borrower::Hyp) || page.is_lent() || !as_before {
                return Err(Error::WrongState);
            }
            if page.borrowers.len() as u64 >= self.machine.most {
                return Err(Error::Limit);
            }
            let borrower = Borrower::Guest(vm, frame_of(pfn, first, gfn));
            Ok(Page { owner_rights, ..page.shared_with(borrower, rights) })
        })?;
        self.vacant(vm, gfn, count)?;
        Ok(next)
    }

    /// The host takes pages out of a non-protected guest, dying or not. Every frame must have one.
    pub fn host_unshare_guest(&self, vm: Vm, gfn: Gfn, count: u64) -> Next {
        let frames = self.frames(vm, gfn, count)?;
        if self.guest(vm)?.protected {
            return Err(Error::WrongState);
        }
        let memory = self.memory_of(vm);
        let mut next = self.clone();
        for at in frames.map(Gfn::new) {
            let pfn = *memory.get(&at).ok_or(Error::WrongState)?;
            let mut page = next.page(pfn).ok_or(Error::WrongState)?;
            page.borrowers.remove(&Borrower::Guest(vm, at)).ok_or(Error::WrongState)?;
            next.set_page(pfn, if page.borrowers.is_empty() { page.taken_back() } else { page });
        }
        Ok(next)
    }

    /// The host gives pages back to the guest that lent them to it.
    pub fn host_return_guest(&self, vm: Vm, first: Pfn, count: u64) -> Next {
        let numbers = self.ram(first, count)?;
        self.living(vm)?;
        self.with_each(numbers, |_, page| {
            let page = page.owned_by(Owner::Guest(vm))?;
            if page.is_lent() { Ok(page.taken_back()) } else { Err(Error::WrongState) }
        })
    }

    /// Puts pages that the host has to itself at vacant frames of a living protected guest.
    fn hand_over(&self, vm: Vm, first: Pfn, gfn: Gfn, count: u64, change: impl Fn(Page, Gfn) -> Page) -> Next {
        let numbers = self.ram(first, count)?;
        self.frames(vm, gfn, count)?;
        self.living_protected(vm)?;
        let next = self.with_each(numbers, |pfn, page| {
            let page = page.owned_by(Owner::Host)?.alone()?;
            Ok(change(page, frame_of(pfn, first, gfn)))
        })?;
        self.vacant(vm, gfn, count)?;
        Ok(next)
    }
}
