//! Transitions between the host and hyp.

use crate::page::{Borrower, Owner, Page, Rights};
use crate::state::{Next, Specification};
use abi::{Error, Pfn};

impl Specification {
    /// The host lets hyp use pages that it has to itself. `restricted`: meanwhile the host itself only reads them.
    pub fn host_share_hyp(&self, first: Pfn, count: u64, restricted: bool) -> Next {
        self.with_each(self.ram(first, count)?, |_, page| {
            let page = page.owned_by(Owner::Host)?.alone()?.shared_with(Borrower::Hyp, Rights::DATA);
            Ok(Page { owner_rights: if restricted { Rights::READ } else { Rights::FULL }, ..page })
        })
    }

    /// The host takes pages back that hyp borrows and does not rely on.
    pub fn host_unshare_hyp(&self, first: Pfn, count: u64) -> Next {
        self.with_each(self.ram(first, count)?, |_, page| {
            let page = page.owned_by(Owner::Host)?.not_pinned()?;
            if page.borrowers.contains_key(&Borrower::Hyp) { Ok(page.taken_back()) } else { Err(Error::WrongState) }
        })
    }

    /// The host gives pages to hyp that it has to itself.
    pub fn host_donate_hyp(&self, first: Pfn, count: u64) -> Next {
        self.with_each(self.ram(first, count)?, |_, page| {
            page.owned_by(Owner::Host)?.alone()?;
            Ok(Page::of(Owner::Hyp, None))
        })
    }

    /// Hyp gives pages to the host, wiped; never those that the boot placed.
    pub fn hyp_donate_host(&self, first: Pfn, count: u64) -> Next {
        self.with_each(self.ram(first, count)?, |_, page| {
            page.owned_by(Owner::Hyp)?;
            Ok(Page::WIPED)
        })
    }

    /// Hyp relies on a page that it borrows.
    pub fn hyp_pin(&self, page: Pfn) -> Next {
        self.with_each(self.ram(page, 1)?, |_, page| {
            let page = page.owned_by(Owner::Host)?;
            if !page.borrowers.contains_key(&Borrower::Hyp) {
                return Err(Error::WrongState);
            }
            if page.pins >= self.machine.most {
                return Err(Error::Limit);
            }
            Ok(Page { pins: page.pins + 1, ..page })
        })
    }

    /// Hyp relies on a page once less.
    pub fn hyp_unpin(&self, page: Pfn) -> Next {
        self.with_each(self.ram(page, 1)?, |_, page| {
            let page = page.owned_by(Owner::Host)?;
            let pins = page.pins.checked_sub(1).ok_or(Error::WrongState)?;
            Ok(Page { pins, ..page })
        })
    }
}
