//! The states of a page by name, as people and tables speak of them.

use crate::guest::Vm;
use crate::page::{Borrower, Owner, Page, Rights};
use crate::state::Specification;
use abi::Pfn;
use core::fmt;

macro_rules! kinds {
    ($($(#[$meta:meta])* $name:ident = $words:literal,)*) => {
        /// What kind of state a page is in. Its short name is what it prints.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        pub enum Kind {
            $($(#[$meta])* $name,)*
        }

        impl Kind {
            /// Every kind, in the order in which tables list them.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The short name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Kind::$name => $words,)*
                }
            }
        }
    };
}

kinds! {
    /// The host owns it and nobody else uses it.
    HostAlone = "host alone",
    /// Hyp borrows it from the host.
    SharedWithHyp = "shared with hyp",
    /// Hyp borrows it, and the host only reads it.
    SharedWithHypRestricted = "shared with hyp, restricted",
    /// Hyp borrows it and relies on it.
    Pinned = "pinned",
    /// Non-protected guests borrow it from the host.
    Mapped = "mapped by guests",
    /// Non-protected guests borrow it, and the host only reads it.
    MappedRestricted = "mapped by guests, restricted",
    /// The host has lent it to a protected guest.
    LentToGuest = "lent to a guest",
    /// The host has lent it to a protected guest, which is dying.
    LentToDyingGuest = "lent to a dying guest",
    /// Hyp owns it.
    Hyps = "hyp's",
    /// Hyp owns it since the boot and for good.
    Placed = "placed",
    /// A protected guest owns it and nobody else uses it.
    GuestsAlone = "guest alone",
    /// A protected guest owns it and has offered it to another.
    Offered = "offered",
    /// The host borrows it from a guest.
    SharedWithHost = "shared with the host",
    /// A guest has lent it to the host.
    LentToHost = "lent to the host",
    /// A guest borrows it from another.
    SharedWithGuest = "shared with a guest",
    /// A guest that is dying borrows it from another.
    SharedWithDyingGuest = "shared with a dying guest",
    /// As [`Kind::GuestsAlone`], and the guest is dying.
    DyingAlone = "dying guest alone",
    /// As [`Kind::Offered`], and the owner is dying.
    DyingOffered = "dying, offered",
    /// As [`Kind::SharedWithHost`], and the owner is dying.
    DyingSharedWithHost = "dying, shared with the host",
    /// As [`Kind::LentToHost`], and the owner is dying.
    DyingLentToHost = "dying, lent to the host",
    /// As [`Kind::SharedWithGuest`], and the owner is dying; the borrower may be too.
    DyingSharedWithGuest = "dying, shared with a guest",
    /// A page of a device, which the host has.
    DeviceHosts = "device, host's",
    /// A page of a device, which a guest has.
    DeviceGuests = "device, guest's",
    /// A page of a device, which a dying guest has.
    DeviceDyingGuests = "device, dying guest's",
    /// A page of a device, which hyp has.
    DeviceHyps = "device, hyp's",
}

impl Specification {
    /// What kind of state a page is in; `None` where there is no such page.
    pub fn kind(&self, pfn: Pfn) -> Option<Kind> {
        if let Some(page) = self.page(pfn) {
            return Some(self.memory_kind(&page));
        }
        self.device(pfn).map(|device| match device.owner {
            Owner::Host => Kind::DeviceHosts,
            Owner::Hyp => Kind::DeviceHyps,
            Owner::Guest(vm) if self.is_dying(vm) => Kind::DeviceDyingGuests,
            Owner::Guest(_) => Kind::DeviceGuests,
        })
    }

    fn memory_kind(&self, page: &Page) -> Kind {
        match page.owner {
            Owner::Hyp if page.placed => Kind::Placed,
            Owner::Hyp => Kind::Hyps,
            Owner::Guest(vm) => self.guests_kind(page, self.is_dying(vm)),
            Owner::Host => self.hosts_kind(page),
        }
    }

    fn hosts_kind(&self, page: &Page) -> Kind {
        let restricted = page.owner_rights == Rights::READ;
        match page.borrowers.keys().next() {
            None | Some(Borrower::Host) => Kind::HostAlone,
            Some(Borrower::Hyp) if page.pins != 0 => Kind::Pinned,
            Some(Borrower::Hyp) if restricted => Kind::SharedWithHypRestricted,
            Some(Borrower::Hyp) => Kind::SharedWithHyp,
            Some(Borrower::Guest(vm, _)) if page.is_lent() && self.is_dying(*vm) => Kind::LentToDyingGuest,
            Some(Borrower::Guest(..)) if page.is_lent() => Kind::LentToGuest,
            Some(Borrower::Guest(..)) if restricted => Kind::MappedRestricted,
            Some(Borrower::Guest(..)) => Kind::Mapped,
        }
    }

    fn guests_kind(&self, page: &Page, dying: bool) -> Kind {
        let (living_kind, dying_kind) = match page.borrowers.keys().next() {
            None | Some(Borrower::Hyp) if page.offer => (Kind::Offered, Kind::DyingOffered),
            None | Some(Borrower::Hyp) => (Kind::GuestsAlone, Kind::DyingAlone),
            Some(Borrower::Host) if page.is_lent() => (Kind::LentToHost, Kind::DyingLentToHost),
            Some(Borrower::Host) => (Kind::SharedWithHost, Kind::DyingSharedWithHost),
            Some(Borrower::Guest(vm, _)) if self.is_dying(*vm) => {
                (Kind::SharedWithDyingGuest, Kind::DyingSharedWithGuest)
            }
            Some(Borrower::Guest(..)) => (Kind::SharedWithGuest, Kind::DyingSharedWithGuest),
        };
        if dying { dying_kind } else { living_kind }
    }

    fn is_dying(&self, vm: Vm) -> bool {
        self.guest(vm).is_ok_and(|guest| guest.dying)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
