//! Transitions between the host and hyp.

use super::{Access, Borrower, Next, Page, Specification};
use crate::state::Component;
use abi::{Error, Pfn};

impl Specification {
    /// The host lets hyp use pages that it has to itself.
    pub fn host_share_hyp(&self, first: Pfn, count: u64) -> Next {
        self.with_each(self.ram(first, count)?, |_, page| {
            let mut page = page.owned_by(Component::Host)?.alone()?;
            page.borrowers.insert(Borrower::Hyp, Access::DATA);
            Ok(page)
        })
    }

    /// The host takes pages back that hyp borrows and does not rely on.
    pub fn host_unshare_hyp(&self, first: Pfn, count: u64) -> Next {
        self.with_each(self.ram(first, count)?, |_, page| {
            let mut page = page.owned_by(Component::Host)?;
            if page.pins != 0 {
                return Err(Error::Busy);
            }
            page.borrowers.remove(&Borrower::Hyp).ok_or(Error::WrongState)?;
            Ok(page)
        })
    }

    /// The host gives pages to hyp that it has to itself.
    pub fn host_donate_hyp(&self, first: Pfn, count: u64) -> Next {
        self.with_each(self.ram(first, count)?, |_, page| {
            page.owned_by(Component::Host)?.alone()?;
            Ok(Page::given_to(Component::Hyp, false))
        })
    }

    /// Hyp gives pages to the host, wiped; never those that the boot placed.
    pub fn hyp_donate_host(&self, first: Pfn, count: u64) -> Next {
        self.with_each(self.ram(first, count)?, |_, page| {
            page.owned_by(Component::Hyp)?;
            Ok(Page::given_to(Component::Host, true))
        })
    }

    /// Hyp relies on a page that it borrows.
    pub fn hyp_pin(&self, page: Pfn) -> Next {
        self.with_each(self.ram(page, 1)?, |_, page| {
            let mut page = page.owned_by(Component::Host)?;
            if !page.borrowers.contains_key(&Borrower::Hyp) {
                return Err(Error::WrongState);
            }
            if page.pins == self.most {
                return Err(Error::Limit);
            }
            page.pins += 1;
            Ok(page)
        })
    }

    /// Hyp relies on a page once less.
    pub fn hyp_unpin(&self, page: Pfn) -> Next {
        self.with_each(self.ram(page, 1)?, |_, page| {
            let mut page = page.owned_by(Component::Host)?;
            page.pins = page.pins.checked_sub(1).ok_or(Error::WrongState)?;
            Ok(page)
        })
    }
}
