//! What the host takes back without asking: from a dying guest, and by force from a living one.

use crate::guest::Vm;
use crate::page::{Owner, Page};
use crate::state::{Next, Specification};
use abi::{Error, Pfn};
use alloc::vec::Vec;
use core::ops::Range;

impl Specification {
    /// The host takes pages of a dying guest, or ones that it lent to it, wiped, whether it borrows them or not.
    pub fn reclaim(&self, vm: Vm, first: Pfn, count: u64) -> Next {
        let numbers = self.ram(first, count)?;
        self.dying(vm)?;
        self.take(vm, numbers)
    }

    /// The host takes pages of a living protected guest, or ones that it lent to it, wiped. Their frames are poisoned for
    /// good.
    pub fn force_reclaim(&self, vm: Vm, first: Pfn, count: u64) -> Next {
        let numbers = self.ram(first, count)?;
        self.living_protected(vm)?;
        let pages = numbers.clone().filter_map(|number| self.page(Pfn::new(number)));
        let frames = pages.flat_map(|page| page.frames().collect::<Vec<_>>());
        let frames: Vec<_> = frames.filter(|(guest, _)| *guest == vm).map(|(_, gfn)| gfn).collect();
        let next = self.take(vm, numbers)?;
        Ok(next.with_guest(vm, |guest| guest.poisoned.extend(frames)))
    }

    /// The state in which the host has pages that are a guest's, or lent to it, to itself, wiped. What the guest offers of
    /// them is no longer offered.
    fn take(&self, vm: Vm, numbers: Range<u64>) -> Next {
        let mut taken = Vec::new();
        let next = self.with_each(numbers, |_, page| {
            if page.is_lent_by_host_to(vm) {
                return Ok(Page::WIPED);
            }
            let page = page.owned_by(Owner::Guest(vm))?;
            if page.guest_borrowers().next().is_some() {
                return Err(Error::Busy);
            }
            taken.extend(page.at);
            Ok(Page::WIPED)
        })?;
        Ok(next.with_guest(vm, |guest| guest.offers.retain(|_, offer| !taken.contains(&offer.gfn))))
    }
}
