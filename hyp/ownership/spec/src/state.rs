//! The state of all memory, and what every transition is made of.

use crate::device::Device;
use crate::guest::{Guest, Vm};
use crate::machine::Machine;
use crate::page::{Borrower, Owner, Page, Rights};
use abi::{Error, Gfn, Pfn};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// The state of all memory.
///
/// What is as it was at the start takes no room: the maps hold only pages that are in another state, so that a copy costs
/// little, and two states are equal where their maps are.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Specification {
    pub(crate) machine: Arc<Machine>,
    pub(crate) pages: BTreeMap<Pfn, Page>,
    pub(crate) devices: BTreeMap<Pfn, Device>,
    pub(crate) guests: BTreeMap<Vm, Guest>,
}

/// The state after a transition, or why there is none.
pub type Next = Result<Specification, Error>;

impl Specification {
    /// All RAM and all devices are the host's, save what the boot placed, which is hyp's. There is no VM.
    pub fn new(machine: Machine) -> Self {
        let (pages, devices, guests) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { machine: Arc::new(machine), pages, devices, guests }
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// A page of RAM; `None` where there is no RAM.
    pub fn page(&self, pfn: Pfn) -> Option<Page> {
        match self.pages.get(&pfn) {
            Some(page) => Some(page.clone()),
            None => self.page_at_start(pfn),
        }
    }

    /// The pages that are not as they were at the start.
    pub fn changed_pages(&self) -> impl Iterator<Item = (Pfn, &Page)> {
        self.pages.iter().map(|(pfn, page)| (*pfn, page))
    }

    /// Says how a page is: for building the state that an implementation is in.
    pub fn set_page(&mut self, pfn: Pfn, page: Page) {
        if self.page_at_start(pfn).as_ref() == Some(&page) {
            self.pages.remove(&pfn);
        } else {
            self.pages.insert(pfn, page);
        }
    }

    /// Every VM.
    pub fn guests(&self) -> impl Iterator<Item = (Vm, &Guest)> {
        self.guests.iter().map(|(vm, guest)| (*vm, guest))
    }

    /// A VM that there is.
    ///
    /// # Errors
    /// [`Error::VmGone`] where there is none in that slot.
    pub fn guest(&self, vm: Vm) -> Result<&Guest, Error> {
        self.guests.get(&vm).ok_or(Error::VmGone)
    }

    /// Says how a VM is: for building the state that an implementation is in.
    pub fn set_guest(&mut self, vm: Vm, guest: Guest) {
        self.guests.insert(vm, guest);
    }

    /// What `component` may do with a page, and for a guest at which frames. Nothing where it may do nothing.
    pub fn access(&self, component: Owner, pfn: Pfn) -> BTreeSet<(Option<Gfn>, Rights)> {
        let Some(page) = self.page(pfn) else {
            let device = self.device(pfn).filter(|device| device.owner == component);
            return device.map(|device| (device.at, Rights::DATA)).into_iter().collect();
        };
        let own = (page.owner == component).then_some((page.at, page.owner_rights));
        let borrowed = page.borrowers.iter().filter_map(|(borrower, rights)| match (borrower, component) {
            (Borrower::Host, Owner::Host) | (Borrower::Hyp, Owner::Hyp) => Some((None, *rights)),
            (Borrower::Guest(vm, gfn), Owner::Guest(guest)) if *vm == guest => Some((Some(*gfn), *rights)),
            _ => None,
        });
        own.into_iter().chain(borrowed).filter(|(_, rights)| *rights != Rights::NONE).collect()
    }

    /// Forgets which pages are wiped: from here on their owners may have written to them.
    pub fn forget_wipes(&mut self) {
        for page in self.pages.values_mut() {
            page.wiped = false;
        }
        self.pages.retain(|_, page| *page != Page::HOST_ALONE);
    }

    fn page_at_start(&self, pfn: Pfn) -> Option<Page> {
        match (self.machine.is_ram(pfn), self.machine.is_placed(pfn)) {
            (false, _) => None,
            (true, false) => Some(Page::HOST_ALONE),
            (true, true) => Some(Page::PLACED),
        }
    }

    /// A range of numbers that may be named in a call.
    fn numbers(&self, first: u64, count: u64, limit: u64) -> Result<Range<u64>, Error> {
        let end = first.checked_add(count).ok_or(Error::BadRange)?;
        if count == 0 || count > self.machine.longest || end > limit {
            return Err(Error::BadRange);
        }
        Ok(first..end)
    }

    /// A range of pages that there are, RAM or not.
    pub(crate) fn existing(&self, first: Pfn, count: u64) -> Result<Range<u64>, Error> {
        self.numbers(first.raw(), count, self.machine.pfn_limit)
    }

    /// A range of pages of RAM.
    pub(crate) fn ram(&self, first: Pfn, count: u64) -> Result<Range<u64>, Error> {
        let numbers = self.existing(first, count)?;
        let all_ram = numbers.clone().all(|number| self.machine.is_ram(Pfn::new(number)));
        if all_ram { Ok(numbers) } else { Err(Error::NotMemory) }
    }

    /// A range of a guest's frames.
    pub(crate) fn frames(&self, vm: Vm, first: Gfn, count: u64) -> Result<Range<u64>, Error> {
        self.numbers(first.raw(), count, self.guest(vm)?.gfn_limit)
    }

    /// A VM that is to live on.
    pub(crate) fn living(&self, vm: Vm) -> Result<&Guest, Error> {
        let guest = self.guest(vm)?;
        if guest.dying { Err(Error::VmGone) } else { Ok(guest) }
    }

    /// A VM that is to live on and is protected.
    pub(crate) fn living_protected(&self, vm: Vm) -> Result<&Guest, Error> {
        let guest = self.living(vm)?;
        if guest.protected { Ok(guest) } else { Err(Error::WrongState) }
    }

    /// A VM that will not run again.
    pub(crate) fn dying(&self, vm: Vm) -> Result<&Guest, Error> {
        let guest = self.guest(vm)?;
        if guest.dying { Ok(guest) } else { Err(Error::Busy) }
    }

    /// The state in which each page of a range of RAM is what `change` makes of it; all of them or none.
    pub(crate) fn with_each(
        &self,
        numbers: Range<u64>,
        mut change: impl FnMut(Pfn, Page) -> Result<Page, Error>,
    ) -> Next {
        let changed = numbers.map(Pfn::new).map(|pfn| {
            let page = self.page(pfn).ok_or(Error::NotMemory)?;
            Ok((pfn, change(pfn, page)?))
        });
        let changed = changed.collect::<Result<Vec<_>, Error>>()?;
        let mut next = self.clone();
        for (pfn, page) in changed {
            next.set_page(pfn, page);
        }
        Ok(next)
    }

    /// The state in which a VM is what `change` makes of it.
    pub(crate) fn with_guest(mut self, vm: Vm, change: impl FnOnce(&mut Guest)) -> Self {
        if let Some(guest) = self.guests.get_mut(&vm) {
            change(guest);
        }
        self
    }
}
