//! What a guest has at a frame.

use crate::guest::Vm;
use crate::page::{Owner, Page};
use crate::state::{Next, Specification};
use abi::{Error, Gfn, Pfn};
use alloc::collections::BTreeMap;

/// What a guest has at a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Frame {
    /// Nothing.
    Vacant,
    /// Nothing: its page was taken by force, and nothing comes there any more.
    Poisoned,
    /// Nothing for as long as the host borrows the page, which the guest has lent.
    LentOut(Pfn),
    /// A page of RAM that the guest may use, its own or not.
    Memory(Pfn),
    /// A page of a device.
    Device(Pfn),
}

impl Specification {
    /// What a guest has at a frame; [`Frame::Vacant`] also where there is no such guest.
    pub fn frame(&self, vm: Vm, gfn: Gfn) -> Frame {
        let here = |frame: (Vm, Gfn)| frame == (vm, gfn);
        if self.guests.get(&vm).is_some_and(|guest| guest.poisoned.contains(&gfn)) {
            return Frame::Poisoned;
        }
        if let Some((pfn, page)) = self.pages.iter().find(|(_, page)| page.frames().any(here)) {
            let lent_out = page.owner == Owner::Guest(vm) && page.is_lent();
            return if lent_out { Frame::LentOut(*pfn) } else { Frame::Memory(*pfn) };
        }
        let device = self.devices.iter().find(|(_, device)| device.frame().is_some_and(here));
        device.map_or(Frame::Vacant, |(pfn, _)| Frame::Device(*pfn))
    }

    /// The pages of RAM that a guest may use, by frame.
    pub fn memory_of(&self, vm: Vm) -> BTreeMap<Gfn, Pfn> {
        let usable = self.pages.iter().filter(|(_, page)| page.owner != Owner::Guest(vm) || !page.is_lent());
        let frames = usable.flat_map(|(pfn, page)| page.frames().map(|frame| (frame, *pfn)));
        frames.filter(|((guest, _), _)| *guest == vm).map(|((_, gfn), pfn)| (gfn, pfn)).collect()
    }

    /// Refuses unless a guest has nothing at any of the frames, and may get something at all of them.
    pub(crate) fn vacant(&self, vm: Vm, first: Gfn, count: u64) -> Result<(), Error> {
        let here = |(guest, gfn): (Vm, Gfn)| guest == vm && gfn >= first && gfn.raw() - first.raw() < count;
        let poisoned = self.guest(vm)?.poisoned.iter().any(|gfn| here((vm, *gfn)));
        let memory = self.pages.values().any(|page| page.frames().any(here));
        let device = self.devices.values().any(|device| device.frame().is_some_and(here));
        if poisoned || memory || device { Err(Error::WrongState) } else { Ok(()) }
    }

    /// The page of RAM at a frame, as a living protected guest's own call finds it.
    pub(crate) fn memory_at(&self, vm: Vm, gfn: Gfn) -> Result<(Pfn, Page), Error> {
        self.frames(vm, gfn, 1)?;
        self.living_protected(vm)?;
        match self.frame(vm, gfn) {
            Frame::Poisoned | Frame::LentOut(_) => Err(Error::WrongState),
            Frame::Vacant | Frame::Device(_) => Err(Error::NotMemory),
            Frame::Memory(pfn) => Ok((pfn, self.page(pfn).ok_or(Error::NotMemory)?)),
        }
    }

    /// What a living protected guest's own call makes of a page that it owns.
    pub(crate) fn with_own_page(&self, vm: Vm, gfn: Gfn, change: impl FnOnce(Page) -> Result<Page, Error>) -> Next {
        let (pfn, page) = self.memory_at(vm, gfn)?;
        let page = change(page.owned_by(Owner::Guest(vm))?)?;
        let mut next = self.clone();
        next.set_page(pfn, page);
        Ok(next)
    }
}
