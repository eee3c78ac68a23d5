//! The specification: what the transitions mean, and nothing of how they are done.
//!
//! The whole state is a map from page to owner, borrowers and pins, and a map from VM to what it is. Each transition is
//! a function from one state to the next, or to the refusal that the caller gets. It is written from the rules, for
//! reading; it shares no code with the implementation, which is compared with it after every step. Lack of memory for
//! tables is not its subject: a call that the implementation refuses for that changes nothing.

mod guest;
mod host;
mod invariants;

use crate::state::{Component, VmSlot};
use abi::{Error, Gfn, Pfn};
use alloc::collections::{BTreeMap, BTreeSet};
use core::ops::Range;

pub use invariants::Breach;

/// What a borrower or owner may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Access {
    /// Load from it.
    pub read: bool,
    /// Store to it.
    pub write: bool,
    /// Fetch instructions from it.
    pub execute: bool,
}

impl Access {
    /// Everything: what an owner may do.
    pub const FULL: Self = Self { read: true, write: true, execute: true };
    /// Data, no code: what the host may do with a page that it borrows.
    pub const DATA: Self = Self { read: true, write: true, execute: false };
}

/// Somebody who uses a page that is not his.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Borrower {
    /// The host borrows a guest's page.
    Host,
    /// Hyp borrows a page of the host's.
    Hyp,
    /// A non-protected guest borrows a page of the host's, and has it at this frame.
    Guest(VmSlot, Gfn),
}

/// A page of RAM.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Page {
    /// Who owns it.
    pub owner: Component,
    /// Where the owning guest has it; `None` for other owners.
    pub at: Option<Gfn>,
    /// Who borrows it, with what rights.
    pub borrowers: BTreeMap<Borrower, Access>,
    /// How often hyp relies on it.
    pub pins: u64,
    /// The boot gave it to hyp: it never changes hands.
    pub placed: bool,
    /// It holds nothing of what its last owner wrote.
    pub wiped: bool,
}

/// A VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Guest {
    /// Its memory is donated, not shared.
    pub protected: bool,
    /// It does not run any more, and its pages are taken back.
    pub dying: bool,
    /// Frames below this one exist.
    pub gfn_limit: u64,
}

/// The state of all memory.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Specification {
    /// Every page of RAM.
    pub pages: BTreeMap<Pfn, Page>,
    /// Every VM.
    pub guests: BTreeMap<VmSlot, Guest>,
    /// Frames below this one exist.
    pub pfn_limit: u64,
    /// The most pages that a call takes.
    pub longest: u64,
    /// The largest count that can be kept.
    pub most: u64,
}

/// The state after a transition, or why there is none.
pub type Next = Result<Specification, Error>;

impl Specification {
    /// All of `ram` is the host's, save `placed`, which is hyp's.
    pub fn new(ram: &[Range<u64>], placed: &Range<u64>, pfn_limit: u64) -> Self {
        let page = |number: u64| {
            let placed = placed.contains(&number);
            let owner = if placed { Component::Hyp } else { Component::Host };
            let page = Page { owner, at: None, borrowers: BTreeMap::new(), pins: 0, placed, wiped: false };
            (Pfn::new(number), page)
        };
        Self {
            pages: ram.iter().cloned().flatten().map(page).collect(),
            guests: BTreeMap::new(),
            pfn_limit,
            longest: abi::host::MAX_PAGES_PER_CALL,
            most: u64::from(u16::MAX),
        }
    }

    /// What `component` may do with a page, and for a guest at which frames. Nothing for a page that is no RAM.
    pub fn access(&self, component: Component, page: Pfn) -> BTreeSet<(Option<Gfn>, Access)> {
        let Some(record) = self.pages.get(&page) else { return BTreeSet::new() };
        let own = (record.owner == component).then_some((record.at, Access::FULL));
        let borrowed = record.borrowers.iter().filter_map(|(borrower, access)| match (borrower, component) {
            (Borrower::Host, Component::Host) | (Borrower::Hyp, Component::Hyp) => Some((None, *access)),
            (Borrower::Guest(slot, gfn), Component::Guest(guest)) if *slot == guest => Some((Some(*gfn), *access)),
            _ => None,
        });
        own.into_iter().chain(borrowed).collect()
    }

    /// The page that a guest has at a frame.
    pub fn at(&self, slot: VmSlot, gfn: Gfn) -> Option<Pfn> {
        self.pages.iter().find(|(_, page)| page.frames().any(|frame| frame == (slot, gfn))).map(|(pfn, _)| *pfn)
    }

    /// A range of page numbers that may be named in a call.
    fn numbers(&self, first: u64, count: u64, limit: u64) -> Result<Range<u64>, Error> {
        let end = first.checked_add(count).ok_or(Error::BadRange)?;
        if count == 0 || count > self.longest || end > limit {
            return Err(Error::BadRange);
        }
        Ok(first..end)
    }

    /// A range of pages of RAM.
    fn ram(&self, first: Pfn, count: u64) -> Result<Range<u64>, Error> {
        let numbers = self.numbers(first.raw(), count, self.pfn_limit)?;
        let all_ram = numbers.clone().all(|number| self.pages.contains_key(&Pfn::new(number)));
        if all_ram { Ok(numbers) } else { Err(Error::NotMemory) }
    }

    /// A range of a guest's frames.
    fn frames(&self, slot: VmSlot, first: Gfn, count: u64) -> Result<Range<u64>, Error> {
        self.numbers(first.raw(), count, self.guest(slot)?.gfn_limit)
    }

    /// A VM that there is.
    fn guest(&self, slot: VmSlot) -> Result<Guest, Error> {
        self.guests.get(&slot).copied().ok_or(Error::VmGone)
    }

    /// A VM that is to live on.
    fn living_guest(&self, slot: VmSlot) -> Result<Guest, Error> {
        let guest = self.guest(slot)?;
        if guest.dying { Err(Error::VmGone) } else { Ok(guest) }
    }

    /// The state in which each page of a range is what `change` makes of it; all of them or none.
    fn with_each(&self, numbers: Range<u64>, mut change: impl FnMut(Pfn, Page) -> Result<Page, Error>) -> Next {
        let mut next = self.clone();
        for number in numbers {
            let pfn = Pfn::new(number);
            let page = self.pages.get(&pfn).cloned().ok_or(Error::NotMemory)?;
            next.pages.insert(pfn, change(pfn, page)?);
        }
        Ok(next)
    }
}

impl Page {
    /// The guests that have the page, and where.
    fn frames(&self) -> impl Iterator<Item = (VmSlot, Gfn)> + '_ {
        let own = match (self.owner, self.at) {
            (Component::Guest(slot), Some(gfn)) => Some((slot, gfn)),
            _ => None,
        };
        let borrowed = self.borrowers.keys().filter_map(|borrower| match borrower {
            Borrower::Guest(slot, gfn) => Some((*slot, *gfn)),
            Borrower::Host | Borrower::Hyp => None,
        });
        own.into_iter().chain(borrowed)
    }

    /// A page that has just come to `owner`, and that nobody else uses.
    fn given_to(owner: Component, wiped: bool) -> Self {
        Self { owner, at: None, borrowers: BTreeMap::new(), pins: 0, placed: false, wiped }
    }

    /// Refuses unless `component` owns the page.
    fn owned_by(self, component: Component) -> Result<Self, Error> {
        if self.owner == component && !self.placed { Ok(self) } else { Err(Error::NotYours) }
    }

    /// Refuses unless nobody but the owner uses the page.
    fn alone(self) -> Result<Self, Error> {
        if self.pins != 0 {
            Err(Error::Busy)
        } else if self.borrowers.is_empty() {
            Ok(self)
        } else {
            Err(Error::WrongState)
        }
    }
}
