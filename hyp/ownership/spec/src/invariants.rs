//! What must hold of every state.

use crate::guest::{Guest, Vm};
use crate::page::{Borrower, Owner, Page, Rights};
use crate::state::Specification;
use abi::{Gfn, Pfn};
use alloc::collections::BTreeMap;
use core::fmt;

/// A rule that a state breaks, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breach {
    /// A page is where there is no RAM, or a device where there is some.
    Kind(Pfn),
    /// A page is kept that is as it was at the start.
    Kept(Pfn),
    /// The owner is a guest that cannot own it.
    Owner(Pfn),
    /// A page of a guest has no frame, or a page of somebody else has one.
    Frame(Pfn),
    /// Somebody borrows who may not borrow from this owner, or not beside the others.
    Borrower(Pfn),
    /// The owner has rights that no owner has, or too many beside the borrowers' or too few.
    OwnerRights(Pfn),
    /// A borrower has more rights than the owner can give, or none.
    BorrowerRights(Pfn),
    /// A page is pinned that hyp does not borrow, or more often than can be counted.
    Pinned(Pfn),
    /// A page that the boot placed is not hyp's alone, or another says that it was placed.
    Placed(Pfn),
    /// A page is offered that its owner does not have to itself, or that no offer names, or not so though one does.
    Offered(Pfn),
    /// Two pages are at one frame of a guest.
    SameFrame(Vm, Gfn),
    /// A page is at a frame that does not exist, or is poisoned.
    NoFrame(Vm, Gfn),
    /// Two VMs have one name.
    SameName(Vm, Vm),
    /// A guest has too many offers, or one with a number that is still to come.
    Numbers(Vm),
    /// An offer names no page of its guest's, or its borrower is not the page's.
    Offer(Vm, u64),
}

impl Specification {
    /// The first rule that the state breaks; `None` where it breaks none.
    pub fn breach(&self) -> Option<Breach> {
        let pages = self.pages.iter().find_map(|(pfn, page)| self.page_breach(*pfn, page));
        pages.or_else(|| self.device_breach()).or_else(|| self.frame_breach()).or_else(|| self.guest_breach())
    }

    /// The first rule that a page breaks by itself.
    fn page_breach(&self, pfn: Pfn, page: &Page) -> Option<Breach> {
        let start = match (self.machine.is_ram(pfn), self.machine.is_placed(pfn)) {
            (false, _) => return Some(Breach::Kind(pfn)),
            (true, true) => Page::PLACED,
            (true, false) => Page::HOST_ALONE,
        };
        if *page == start {
            return Some(Breach::Kept(pfn));
        }
        if page.placed || start.placed {
            return Some(Breach::Placed(pfn));
        }
        let owning_guest = match page.owner {
            Owner::Guest(vm) => match self.guests.get(&vm) {
                Some(guest) if guest.protected => Some(guest),
                _ => return Some(Breach::Owner(pfn)),
            },
            Owner::Host | Owner::Hyp => None,
        };
        if page.at.is_some() != owning_guest.is_some() {
            return Some(Breach::Frame(pfn));
        }
        let alone = page.borrowers.is_empty() && page.owner_rights == Rights::FULL;
        let offered = owning_guest.is_some_and(|guest| page.at.is_some_and(|gfn| waits(guest, gfn)));
        if page.offer != offered || page.offer && !alone {
            return Some(Breach::Offered(pfn));
        }
        let hyp_borrows = page.borrowers.contains_key(&Borrower::Hyp);
        if page.pins != 0 && !hyp_borrows || page.pins > self.machine.most {
            return Some(Breach::Pinned(pfn));
        }
        self.sharing_breach(pfn, page)
    }

    /// The first rule about who uses a page beside its owner that a page breaks.
    fn sharing_breach(&self, pfn: Pfn, page: &Page) -> Option<Breach> {
        let only = page.borrowers.len() == 1;
        let count = page.borrowers.len() as u64;
        for borrower in page.borrowers.keys() {
            let protected = |vm: &Vm| self.guests.get(vm).map(|guest| guest.protected);
            let may_borrow = match (page.owner, borrower) {
                (Owner::Host, Borrower::Hyp) | (Owner::Guest(_), Borrower::Host) => only,
                (Owner::Host, Borrower::Guest(vm, _)) => match protected(vm) {
                    Some(true) => only && page.is_lent(),
                    Some(false) => count <= self.machine.most,
                    None => false,
                },
                (Owner::Guest(owner), Borrower::Guest(vm, _)) => only && *vm != owner && protected(vm) == Some(true),
                _ => false,
            };
            if !may_borrow {
                return Some(Breach::Borrower(pfn));
            }
        }
        let borrowed = !page.borrowers.is_empty();
        let owner_rights_fit = match page.owner_rights {
            Rights::FULL => true,
            Rights::READ => page.owner == Owner::Host && borrowed,
            Rights::NONE => only && self.may_lend(page),
            _ => false,
        };
        if !owner_rights_fit {
            return Some(Breach::OwnerRights(pfn));
        }
        let rights_fit = |(borrower, rights): (&Borrower, &Rights)| match borrower {
            _ if page.is_lent() => *rights == Rights::FULL,
            Borrower::Host | Borrower::Hyp => *rights == Rights::DATA,
            Borrower::Guest(..) => rights.read,
        };
        if page.borrowers.iter().all(rights_fit) { None } else { Some(Breach::BorrowerRights(pfn)) }
    }

    /// True where the page's only borrower is one to whom its owner may lend.
    fn may_lend(&self, page: &Page) -> bool {
        page.borrowers.keys().all(|borrower| match (page.owner, borrower) {
            (Owner::Host, Borrower::Guest(vm, _)) => self.guests.get(vm).is_some_and(|guest| guest.protected),
            (Owner::Guest(_), Borrower::Host) => true,
            _ => false,
        })
    }

    /// The first rule that the page of a device breaks by itself.
    fn device_breach(&self) -> Option<Breach> {
        self.devices.iter().find_map(|(pfn, device)| {
            let owning_guest = match device.owner {
                Owner::Guest(vm) if !self.guests.contains_key(&vm) => return Some(Breach::Owner(*pfn)),
                Owner::Guest(_) => true,
                Owner::Host | Owner::Hyp => false,
            };
            if self.machine.is_ram(*pfn) {
                Some(Breach::Kind(*pfn))
            } else if device.owner == Owner::Host {
                Some(Breach::Kept(*pfn))
            } else {
                (device.at.is_some() != owning_guest).then_some(Breach::Frame(*pfn))
            }
        })
    }

    /// The first frame with two pages, or with a page that it cannot have.
    fn frame_breach(&self) -> Option<Breach> {
        let memory = self.pages.iter().flat_map(|(pfn, page)| page.frames().map(|frame| (frame, *pfn)));
        let devices = self.devices.iter().filter_map(|(pfn, device)| Some((device.frame()?, *pfn)));
        let mut taken = BTreeMap::new();
        for ((vm, gfn), pfn) in memory.chain(devices) {
            if taken.insert((vm, gfn), pfn).is_some() {
                return Some(Breach::SameFrame(vm, gfn));
            }
            let exists = |guest: &Guest| gfn.raw() < guest.gfn_limit && !guest.poisoned.contains(&gfn);
            if !self.guests.get(&vm).is_some_and(exists) {
                return Some(Breach::NoFrame(vm, gfn));
            }
        }
        None
    }

    /// The first rule about VMs and their offers that is broken.
    fn guest_breach(&self) -> Option<Breach> {
        let mut names = BTreeMap::new();
        for (vm, guest) in &self.guests {
            if let Some(other) = names.insert(guest.name, *vm) {
                return Some(Breach::SameName(other, *vm));
            }
            let numbers_fit = guest.offers.keys().all(|number| *number <= guest.last_number);
            if guest.offers.len() > self.machine.most_offers || !numbers_fit {
                return Some(Breach::Numbers(*vm));
            }
            for (number, offer) in &guest.offers {
                let its = |page: &&Page| page.owner == Owner::Guest(*vm) && page.at == Some(offer.gfn);
                let page = self.pages.values().find(its);
                let fits = |page: &Page| match offer.accepted {
                    None => page.offer,
                    Some((borrower, gfn)) => page.borrowers.get(&Borrower::Guest(borrower, gfn)) == Some(&offer.rights),
                };
                if !page.is_some_and(fits) {
                    return Some(Breach::Offer(*vm, *number));
                }
            }
        }
        self.unoffered_share().map(Breach::Offered)
    }

    /// The first page that one guest borrows from another by no offer.
    fn unoffered_share(&self) -> Option<Pfn> {
        let shared = self.pages.iter().find(|(_, page)| {
            let Owner::Guest(owner) = page.owner else { return false };
            let offers = self.guests.get(&owner).into_iter().flat_map(|guest| guest.offers.values());
            let accepted = |frame| offers.clone().any(|offer| offer.accepted == Some(frame));
            !page.guest_borrowers().all(accepted)
        });
        shared.map(|(pfn, _)| *pfn)
    }
}

/// True where an offer of the page at that frame waits to be accepted.
fn waits(guest: &Guest, gfn: Gfn) -> bool {
    guest.offers.values().any(|offer| offer.gfn == gfn && offer.accepted.is_none())
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Breach::Kind(pfn) => write!(f, "page {pfn} is RAM and a device at once"),
            Breach::Kept(pfn) => write!(f, "page {pfn} is kept though it is as at the start"),
            Breach::Owner(pfn) => write!(f, "page {pfn} is owned by a guest that cannot own it"),
            Breach::Frame(pfn) => write!(f, "page {pfn} has a frame and no guest for it, or the reverse"),
            Breach::Borrower(pfn) => write!(f, "page {pfn} is borrowed by somebody who may not"),
            Breach::OwnerRights(pfn) => write!(f, "the owner of page {pfn} has rights that do not fit"),
            Breach::BorrowerRights(pfn) => write!(f, "a borrower of page {pfn} has rights that do not fit"),
            Breach::Pinned(pfn) => write!(f, "page {pfn} is pinned, and hyp does not borrow it"),
            Breach::Placed(pfn) => write!(f, "page {pfn} was placed and moved, or the reverse"),
            Breach::Offered(pfn) => write!(f, "page {pfn} is offered without an offer, or the reverse"),
            Breach::SameFrame(vm, gfn) => write!(f, "guest {vm} has two pages at frame {gfn}"),
            Breach::NoFrame(vm, gfn) => write!(f, "guest {vm} has a page at frame {gfn}, where it can have none"),
            Breach::SameName(one, other) => write!(f, "guests {one} and {other} have one name"),
            Breach::Numbers(vm) => write!(f, "guest {vm} has too many offers, or one from the future"),
            Breach::Offer(vm, number) => write!(f, "offer {number} of guest {vm} does not fit its page"),
        }
    }
}

#[cfg(test)]
mod tests;
