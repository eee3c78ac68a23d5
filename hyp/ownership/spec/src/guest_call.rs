//! What a protected guest does, by a call of its own, with a page and the host.

use crate::guest::Vm;
use crate::page::{Borrower, Page, Rights};
use crate::state::{Next, Specification};
use abi::{Error, Gfn};

impl Specification {
    /// A guest gives a page back that the host lent it, wiped.
    pub fn guest_return(&self, vm: Vm, gfn: Gfn) -> Next {
        let (pfn, page) = self.memory_at(vm, gfn)?;
        if !page.is_lent_by_host_to(vm) {
            return Err(Error::WrongState);
        }
        let mut next = self.clone();
        next.set_page(pfn, Page::WIPED);
        Ok(next)
    }

    /// A guest lets the host use a page that it has to itself.
    pub fn guest_share_host(&self, vm: Vm, gfn: Gfn) -> Next {
        self.with_own_page(vm, gfn, |page| Ok(page.alone()?.shared_with(Borrower::Host, Rights::DATA)))
    }

    /// A guest takes a page back that it shares with the host.
    pub fn guest_unshare_host(&self, vm: Vm, gfn: Gfn) -> Next {
        self.with_own_page(vm, gfn, |page| {
            if page.borrowers.contains_key(&Borrower::Host) { Ok(page.taken_back()) } else { Err(Error::WrongState) }
        })
    }

    /// A guest lets the host have a page that it has to itself, and keeps nothing but the title.
    pub fn guest_lend_host(&self, vm: Vm, gfn: Gfn) -> Next {
        self.with_own_page(vm, gfn, |page| Ok(page.alone()?.lent_to(Borrower::Host)))
    }

    /// A guest gives a page that it has to itself to the host, wiped.
    pub fn guest_relinquish(&self, vm: Vm, gfn: Gfn) -> Next {
        self.with_own_page(vm, gfn, |page| {
            page.alone()?;
            Ok(Page::WIPED)
        })
    }
}
