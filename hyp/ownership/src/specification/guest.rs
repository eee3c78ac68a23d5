//! Transitions between the host and guests.

use super::{Access, Borrower, Guest, Next, Page, Specification};
use crate::state::{Component, VmSlot};
use abi::{Error, Gfn, Pfn};

impl Specification {
    /// A VM comes to be, with no memory.
    pub fn create(&self, slot: VmSlot, protected: bool, gfn_limit: u64) -> Self {
        let mut next = self.clone();
        next.guests.insert(slot, Guest { protected, dying: false, gfn_limit });
        next
    }

    /// A VM will not run again.
    pub fn start_teardown(&self, slot: VmSlot) -> Next {
        let guest = self.guest(slot)?;
        let mut next = self.clone();
        next.guests.insert(slot, Guest { dying: true, ..guest });
        Ok(next)
    }

    /// The host gives pages that it has to itself to a protected guest, at frames where the guest has nothing.
    pub fn host_donate_guest(&self, slot: VmSlot, first: Pfn, gfn: Gfn, count: u64) -> Next {
        let numbers = self.ram(first, count)?;
        self.frames(slot, gfn, count)?;
        if !self.living_guest(slot)?.protected {
            return Err(Error::WrongState);
        }
        let next = self.with_each(numbers, |pfn, page| {
            page.owned_by(Component::Host)?.alone()?;
            let at = Some(Gfn::new(gfn.raw() + (pfn.raw() - first.raw())));
            Ok(Page { at, ..Page::given_to(Component::Guest(slot), false) })
        })?;
        self.nothing_at(slot, gfn, count)?;
        Ok(next)
    }

    /// The host lets a non-protected guest use its pages, at frames where the guest has nothing. Others may borrow
    /// them too, save hyp.
    pub fn host_share_guest(&self, slot: VmSlot, first: Pfn, gfn: Gfn, count: u64, access: Access) -> Next {
        let numbers = self.ram(first, count)?;
        self.frames(slot, gfn, count)?;
        if self.living_guest(slot)?.protected {
            return Err(Error::WrongState);
        }
        let next = self.with_each(numbers, |pfn, page| {
            let mut page = page.owned_by(Component::Host)?;
            if page.pins != 0 {
                return Err(Error::Busy);
            }
            if page.borrowers.contains_key(&Borrower::Hyp) {
                return Err(Error::WrongState);
            }
            if page.borrowers.len() as u64 == self.most {
                return Err(Error::Limit);
            }
            let at = Gfn::new(gfn.raw() + (pfn.raw() - first.raw()));
            page.borrowers.insert(Borrower::Guest(slot, at), access);
            Ok(page)
        })?;
        self.nothing_at(slot, gfn, count)?;
        Ok(next)
    }

    /// The host takes pages out of a non-protected guest, dying or not. Every frame must have one.
    pub fn host_unshare_guest(&self, slot: VmSlot, gfn: Gfn, count: u64) -> Next {
        let frames = self.frames(slot, gfn, count)?;
        if self.guest(slot)?.protected {
            return Err(Error::WrongState);
        }
        let mut next = self.clone();
        for frame in frames {
            let frame = Gfn::new(frame);
            let page = self.at(slot, frame).and_then(|pfn| next.pages.get_mut(&pfn)).ok_or(Error::WrongState)?;
            page.borrowers.remove(&Borrower::Guest(slot, frame));
        }
        Ok(next)
    }

    /// A protected guest lets the host use a page that it has to itself.
    pub fn guest_share_host(&self, slot: VmSlot, gfn: Gfn) -> Next {
        self.with_guests_page(slot, gfn, |mut page| {
            if !page.borrowers.is_empty() {
                return Err(Error::WrongState);
            }
            page.borrowers.insert(Borrower::Host, Access::DATA);
            Ok(page)
        })
    }

    /// A protected guest takes a page back that the host borrows.
    pub fn guest_unshare_host(&self, slot: VmSlot, gfn: Gfn) -> Next {
        self.with_guests_page(slot, gfn, |mut page| {
            page.borrowers.remove(&Borrower::Host).ok_or(Error::WrongState)?;
            Ok(page)
        })
    }

    /// A protected guest gives a page that it has to itself to the host, wiped.
    pub fn guest_relinquish(&self, slot: VmSlot, gfn: Gfn) -> Next {
        self.with_guests_page(slot, gfn, |page| {
            page.alone()?;
            Ok(Page::given_to(Component::Host, true))
        })
    }

    /// The host takes pages of a dying guest, wiped, whether it borrows them or not.
    pub fn reclaim(&self, slot: VmSlot, first: Pfn, count: u64) -> Next {
        let numbers = self.ram(first, count)?;
        if !self.guest(slot)?.dying {
            return Err(Error::Busy);
        }
        self.with_each(numbers, |_, page| {
            page.owned_by(Component::Guest(slot))?;
            Ok(Page::given_to(Component::Host, true))
        })
    }

    /// Refuses where a guest has a page at one of the frames.
    fn nothing_at(&self, slot: VmSlot, gfn: Gfn, count: u64) -> Result<(), Error> {
        let here = |(guest, at): (VmSlot, Gfn)| guest == slot && at >= gfn && at.raw() - gfn.raw() < count;
        let taken = self.pages.values().any(|page| page.frames().any(here));
        if taken { Err(Error::WrongState) } else { Ok(()) }
    }

    /// What a living protected guest's own call makes of its page at a frame.
    fn with_guests_page(&self, slot: VmSlot, gfn: Gfn, change: impl FnOnce(Page) -> Result<Page, Error>) -> Next {
        self.frames(slot, gfn, 1)?;
        if !self.living_guest(slot)?.protected {
            return Err(Error::WrongState);
        }
        let pfn = self.at(slot, gfn).ok_or(Error::NotMemory)?;
        let mut next = self.clone();
        let page = self.pages.get(&pfn).cloned().ok_or(Error::NotMemory)?;
        next.pages.insert(pfn, change(page)?);
        Ok(next)
    }
}
