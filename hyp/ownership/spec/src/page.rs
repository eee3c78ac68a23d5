//! A page of RAM, and who may do what with it.

use crate::guest::Vm;
use abi::{Error, Gfn};
use alloc::collections::BTreeMap;
use core::fmt;

/// What somebody may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Rights {
    /// Load from it.
    pub read: bool,
    /// Store to it.
    pub write: bool,
    /// Fetch instructions from it.
    pub execute: bool,
}

impl Rights {
    /// Everything: what an owner may do, and to whom a page is lent.
    pub const FULL: Self = Self { read: true, write: true, execute: true };
    /// Data, no code: hyp with a page that it borrows, the host with a page that a guest shares, anyone with a device.
    pub const DATA: Self = Self { read: true, write: true, execute: false };
    /// An owner who has restricted himself.
    pub const READ: Self = Self { read: true, write: false, execute: false };
    /// An owner who has lent the page.
    pub const NONE: Self = Self { read: false, write: false, execute: false };

    /// Refuses rights that a borrower cannot have: whoever may do anything may read.
    pub(crate) fn valid(self) -> Result<(), Error> {
        if self.read { Ok(()) } else { Err(Error::InvalidParameter) }
    }
}

/// Who may own a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Owner {
    /// The kernel at EL1 that the machine belongs to.
    Host,
    /// The EL2 image.
    Hyp,
    /// A virtual machine.
    Guest(Vm),
}

/// Somebody who uses a page that is not his.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Borrower {
    /// The host borrows a guest's page.
    Host,
    /// Hyp borrows a page of the host's.
    Hyp,
    /// A guest borrows a page of the host's or of another guest's, and has it at this frame.
    Guest(Vm, Gfn),
}

/// A page of RAM.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Page {
    /// Who owns it.
    pub owner: Owner,
    /// Where the owning guest has it, or gets it back; `None` for other owners.
    pub at: Option<Gfn>,
    /// What the owner may do with it: all, only read while it is shared, or nothing while it is lent.
    pub owner_rights: Rights,
    /// Who borrows it, with what rights.
    pub borrowers: BTreeMap<Borrower, Rights>,
    /// Its owner, a guest, has offered it to another guest, which has not accepted yet.
    pub offer: bool,
    /// How often hyp relies on it.
    pub pins: u64,
    /// The boot gave it to hyp: it never changes hands.
    pub placed: bool,
    /// It holds nothing of what an earlier owner wrote.
    pub wiped: bool,
}

impl Page {
    /// The state in which a page starts: the host's, which shares it with nobody.
    pub const HOST_ALONE: Self = Self::unshared(Owner::Host, None, false, false);
    /// A page that the boot gave to hyp.
    pub const PLACED: Self = Self::unshared(Owner::Hyp, None, true, false);
    /// A page that has come back to the host, wiped.
    pub const WIPED: Self = Self::unshared(Owner::Host, None, false, true);

    /// A page that `owner` has just got from somebody else, and has to itself.
    pub const fn of(owner: Owner, at: Option<Gfn>) -> Self {
        Self::unshared(owner, at, false, false)
    }

    const fn unshared(owner: Owner, at: Option<Gfn>, placed: bool, wiped: bool) -> Self {
        let (owner_rights, offer, pins) = (Rights::FULL, false, 0);
        Self { owner, at, owner_rights, borrowers: BTreeMap::new(), offer, pins, placed, wiped }
    }

    /// The guests that have the page, and where, the owner first. A guest that has lent it is among them.
    pub fn frames(&self) -> impl Iterator<Item = (Vm, Gfn)> + '_ {
        let own = match (self.owner, self.at) {
            (Owner::Guest(vm), Some(gfn)) => Some((vm, gfn)),
            _ => None,
        };
        own.into_iter().chain(self.guest_borrowers())
    }

    /// The guests that borrow the page, and where.
    pub fn guest_borrowers(&self) -> impl Iterator<Item = (Vm, Gfn)> + '_ {
        self.borrowers.keys().filter_map(|borrower| match borrower {
            Borrower::Guest(vm, gfn) => Some((*vm, *gfn)),
            Borrower::Host | Borrower::Hyp => None,
        })
    }

    /// True where the owner has lent the page.
    pub fn is_lent(&self) -> bool {
        self.owner_rights == Rights::NONE
    }

    /// True where the host has lent the page to this guest.
    pub(crate) fn is_lent_by_host_to(&self, vm: Vm) -> bool {
        self.owner == Owner::Host && self.is_lent() && self.guest_borrowers().any(|(borrower, _)| borrower == vm)
    }

    /// Refuses unless `owner` owns the page and may give it away.
    pub(crate) fn owned_by(self, owner: Owner) -> Result<Self, Error> {
        if self.owner == owner && !self.placed { Ok(self) } else { Err(Error::NotYours) }
    }

    /// Refuses where hyp relies on the page.
    pub(crate) fn not_pinned(self) -> Result<Self, Error> {
        if self.pins == 0 { Ok(self) } else { Err(Error::Busy) }
    }

    /// Refuses unless nobody but the owner has a right to the page, or the promise of one.
    pub(crate) fn alone(self) -> Result<Self, Error> {
        let page = self.not_pinned()?;
        let alone = page.owner_rights == Rights::FULL && page.borrowers.is_empty() && !page.offer;
        if alone { Ok(page) } else { Err(Error::WrongState) }
    }

    /// Adds a borrower to a page of which the owner keeps what he has.
    pub(crate) fn shared_with(mut self, borrower: Borrower, rights: Rights) -> Self {
        self.borrowers.insert(borrower, rights);
        self
    }

    /// Gives the borrower all rights, and the owner none.
    pub(crate) fn lent_to(self, borrower: Borrower) -> Self {
        Self { owner_rights: Rights::NONE, ..self.shared_with(borrower, Rights::FULL) }
    }

    /// The same page with its owner as the only one who uses it.
    pub(crate) fn taken_back(self) -> Self {
        Self { owner_rights: Rights::FULL, borrowers: BTreeMap::new(), offer: false, ..self }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (has, letter) in [(self.read, "r"), (self.write, "w"), (self.execute, "x")] {
            f.write_str(if has { letter } else { "-" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Host => f.write_str("host"),
            Owner::Hyp => f.write_str("hyp"),
            Owner::Guest(vm) => write!(f, "guest {vm}"),
        }
    }
}

impl fmt::Display for Borrower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Borrower::Host => f.write_str("host"),
            Borrower::Hyp => f.write_str("hyp"),
            Borrower::Guest(vm, gfn) => write!(f, "guest {vm} at frame {gfn}"),
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owner {}", self.owner)?;
        if let Some(gfn) = self.at {
            write!(f, " at frame {gfn}")?;
        }
        write!(f, " {}", self.owner_rights)?;
        for (borrower, rights) in &self.borrowers {
            write!(f, ", borrower {borrower} {rights}")?;
        }
        if self.pins != 0 {
            write!(f, ", pins {}", self.pins)?;
        }
        for (set, word) in [(self.offer, "offered"), (self.placed, "placed"), (self.wiped, "wiped")] {
            if set {
                write!(f, ", {word}")?;
            }
        }
        Ok(())
    }
}
