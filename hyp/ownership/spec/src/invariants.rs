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
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::kind::Kind;
    use crate::offer::Offer;
    use crate::witness::{DEVICE_PAGE, DYING, FRAME, GFN_LIMIT, OFFER, OTHER, OWNER, PAGE, PLACED_PAGE, PLAIN, VACANT};
    use crate::witness::{Witness, name_of};
    use Kind::{GuestsAlone, HostAlone, Hyps, LentToGuest, LentToHost, Mapped, MappedRestricted, Offered, Pinned};
    use Kind::{SharedWithGuest, SharedWithHost, SharedWithHyp};

    /// What the first broken rule is once `change` was done to a witness.
    fn breach<R>(kind: Kind, change: impl FnOnce(&mut Specification) -> R) -> Option<Breach> {
        let mut state = Witness::of(kind).state().unwrap();
        assert_eq!(state.breach(), None, "{kind}");
        change(&mut state);
        state.breach()
    }

    /// The same for a change of the page alone.
    fn page_breach<R>(kind: Kind, change: impl FnOnce(&mut Page) -> R) -> Option<Breach> {
        breach(kind, |state| {
            let mut page = state.page(PAGE).unwrap();
            change(&mut page);
            state.pages.insert(PAGE, page);
        })
    }

    /// The same for a change of the guest that owns the page or has it on loan.
    fn guest_breach<R>(kind: Kind, change: impl FnOnce(&mut Guest) -> R) -> Option<Breach> {
        breach(kind, |state| change(state.guests.get_mut(&OWNER).unwrap()))
    }

    #[test]
    fn a_page_is_where_its_kind_can_be() {
        let hyps = Page::of(Owner::Hyp, None);
        assert_eq!(breach(HostAlone, |state| state.pages.insert(DEVICE_PAGE, hyps)), Some(Breach::Kind(DEVICE_PAGE)));
        let device = Device { owner: Owner::Hyp, at: None };
        assert_eq!(breach(HostAlone, |state| state.devices.insert(PAGE, device)), Some(Breach::Kind(PAGE)));
    }

    #[test]
    fn a_page_as_at_the_start_is_not_kept() {
        assert_eq!(page_breach(HostAlone, |_| ()), Some(Breach::Kept(PAGE)));
        let keep = |state: &mut Specification| state.pages.insert(PLACED_PAGE, Page::PLACED);
        assert_eq!(breach(HostAlone, keep), Some(Breach::Kept(PLACED_PAGE)));
        let keep = |state: &mut Specification| state.devices.insert(DEVICE_PAGE, Device::HOSTS);
        assert_eq!(breach(HostAlone, keep), Some(Breach::Kept(DEVICE_PAGE)));
    }

    #[test]
    fn the_owner_is_one_that_can_own() {
        for vm in [PLAIN, Vm(60)] {
            assert_eq!(page_breach(GuestsAlone, |page| page.owner = Owner::Guest(vm)), Some(Breach::Owner(PAGE)));
        }
        let lost = |state: &mut Specification| {
            state.devices.insert(DEVICE_PAGE, Device { owner: Owner::Guest(Vm(60)), at: Some(FRAME) });
        };
        assert_eq!(breach(HostAlone, lost), Some(Breach::Owner(DEVICE_PAGE)));
    }

    #[test]
    fn a_guests_page_has_a_frame_and_no_other_has_one() {
        assert_eq!(page_breach(GuestsAlone, |page| page.at = None), Some(Breach::Frame(PAGE)));
        assert_eq!(page_breach(Hyps, |page| page.at = Some(FRAME)), Some(Breach::Frame(PAGE)));
        for (owner, at) in [(Owner::Hyp, Some(FRAME)), (Owner::Guest(OWNER), None)] {
            let change = |state: &mut Specification| state.devices.insert(DEVICE_PAGE, Device { owner, at });
            assert_eq!(breach(HostAlone, change), Some(Breach::Frame(DEVICE_PAGE)));
        }
    }

    #[test]
    fn only_who_may_borrow_does() {
        let borrowed = |kind, borrower, rights| {
            page_breach(kind, |page| page.borrowers.insert(borrower, rights)) == Some(Breach::Borrower(PAGE))
        };
        let at = |vm| Borrower::Guest(vm, VACANT);
        // By itself, beside hyp, beside a guest.
        assert!(borrowed(HostAlone, Borrower::Host, Rights::DATA));
        assert!(borrowed(Hyps, Borrower::Hyp, Rights::DATA));
        assert!(borrowed(GuestsAlone, at(OWNER), Rights::FULL));
        assert!(borrowed(SharedWithHyp, at(PLAIN), Rights::FULL));
        assert!(borrowed(Mapped, Borrower::Hyp, Rights::DATA));
        assert!(borrowed(SharedWithHost, at(OTHER), Rights::FULL));
        assert!(borrowed(SharedWithGuest, Borrower::Host, Rights::DATA));
        assert!(borrowed(LentToGuest, at(OTHER), Rights::FULL));
        // Of hyp, of a guest by hyp, protected without a loan, not protected from a guest, by nobody.
        assert!(borrowed(Hyps, Borrower::Host, Rights::DATA));
        assert!(borrowed(GuestsAlone, Borrower::Hyp, Rights::DATA));
        assert!(borrowed(HostAlone, at(OTHER), Rights::FULL));
        assert!(borrowed(GuestsAlone, at(PLAIN), Rights::FULL));
        assert!(borrowed(HostAlone, at(Vm(60)), Rights::FULL));
        // More often than can be counted.
        let crowd = |state: &mut Specification| alloc::sync::Arc::make_mut(&mut state.machine).most = 0;
        assert_eq!(breach(Mapped, crowd), Some(Breach::Borrower(PAGE)));
    }

    #[test]
    fn the_owner_has_the_rights_that_fit_his_borrowers() {
        let owner_has = |kind, rights| page_breach(kind, |page| page.owner_rights = rights);
        let breach = Some(Breach::OwnerRights(PAGE));
        assert_eq!(owner_has(Mapped, Rights::READ), None);
        assert_eq!(owner_has(Mapped, Rights::DATA), breach);
        assert_eq!(owner_has(HostAlone, Rights::READ), breach);
        assert_eq!(owner_has(HostAlone, Rights::NONE), breach);
        assert_eq!(owner_has(SharedWithHost, Rights::READ), breach);
        assert_eq!(owner_has(SharedWithHyp, Rights::NONE), breach);
        assert_eq!(owner_has(MappedRestricted, Rights::NONE), breach);
        assert_eq!(owner_has(SharedWithGuest, Rights::NONE), breach);
        assert_eq!(owner_has(LentToGuest, Rights::FULL), Some(Breach::Borrower(PAGE)));
    }

    #[test]
    fn a_borrower_has_the_rights_of_a_loan_or_of_a_share() {
        let borrower_has = |kind, rights| {
            page_breach(kind, |page| page.borrowers.values_mut().for_each(|its| *its = rights))
                == Some(Breach::BorrowerRights(PAGE))
        };
        assert!(borrower_has(LentToGuest, Rights::DATA));
        assert!(borrower_has(LentToHost, Rights::DATA));
        assert!(borrower_has(SharedWithHost, Rights::FULL));
        assert!(borrower_has(SharedWithHyp, Rights::FULL));
        assert!(borrower_has(Mapped, Rights::NONE));
        assert!(!borrower_has(Mapped, Rights::READ));
    }

    #[test]
    fn only_what_hyp_borrows_is_pinned() {
        let pinned = |kind| page_breach(kind, |page| page.pins = 1);
        for kind in [HostAlone, Hyps, GuestsAlone, Mapped] {
            assert_eq!(pinned(kind), Some(Breach::Pinned(PAGE)), "{kind}");
        }
        assert_eq!(pinned(SharedWithHyp), None);
        assert_eq!(page_breach(Pinned, |page| page.pins = 0x1_0000), Some(Breach::Pinned(PAGE)));
    }

    #[test]
    fn what_the_boot_placed_stays_where_it_is() {
        assert_eq!(page_breach(Hyps, |page| page.placed = true), Some(Breach::Placed(PAGE)));
        let moved = |page: Page| move |state: &mut Specification| state.pages.insert(PLACED_PAGE, page);
        for page in [Page::HOST_ALONE, Page::of(Owner::Hyp, None), Page { wiped: true, ..Page::PLACED }] {
            assert_eq!(breach(HostAlone, moved(page)), Some(Breach::Placed(PLACED_PAGE)));
        }
    }

    #[test]
    fn a_page_is_offered_where_an_offer_waits() {
        assert_eq!(page_breach(GuestsAlone, |page| page.offer = true), Some(Breach::Offered(PAGE)));
        assert_eq!(page_breach(Hyps, |page| page.offer = true), Some(Breach::Offered(PAGE)));
        assert_eq!(page_breach(Offered, |page| page.offer = false), Some(Breach::Offered(PAGE)));
        let share = |page: &mut Page| page.borrowers.insert(Borrower::Host, Rights::DATA);
        assert_eq!(page_breach(Offered, share), Some(Breach::Offered(PAGE)));
        assert_eq!(page_breach(Offered, |page| page.owner_rights = Rights::READ), Some(Breach::Offered(PAGE)));
    }

    #[test]
    fn no_two_pages_are_at_one_frame() {
        let second = |at| {
            move |state: &mut Specification| {
                state.pages.insert(Pfn::new(0x50), Page::of(Owner::Guest(OWNER), Some(at)));
            }
        };
        assert_eq!(breach(GuestsAlone, second(VACANT)), None);
        assert_eq!(breach(GuestsAlone, second(FRAME)), Some(Breach::SameFrame(OWNER, FRAME)));
        assert_eq!(breach(LentToGuest, second(FRAME)), Some(Breach::SameFrame(OWNER, FRAME)));
        let device = |state: &mut Specification| {
            state.devices.insert(DEVICE_PAGE, Device { owner: Owner::Guest(OWNER), at: Some(FRAME) });
        };
        assert_eq!(breach(GuestsAlone, device), Some(Breach::SameFrame(OWNER, FRAME)));
    }

    #[test]
    fn a_page_is_at_a_frame_that_can_have_one() {
        let poison = |guest: &mut Guest| guest.poisoned.insert(FRAME);
        assert_eq!(guest_breach(GuestsAlone, poison), Some(Breach::NoFrame(OWNER, FRAME)));
        assert_eq!(guest_breach(LentToGuest, poison), Some(Breach::NoFrame(OWNER, FRAME)));
        let limit = Gfn::new(GFN_LIMIT);
        assert_eq!(page_breach(GuestsAlone, |page| page.at = Some(limit)), Some(Breach::NoFrame(OWNER, limit)));
    }

    #[test]
    fn vms_have_names_of_their_own() {
        assert_eq!(guest_breach(HostAlone, |guest| guest.name = name_of(DYING)), Some(Breach::SameName(OWNER, DYING)));
    }

    #[test]
    fn offers_are_few_and_have_had_their_numbers() {
        assert_eq!(guest_breach(Offered, |guest| guest.last_number = 0), Some(Breach::Numbers(OWNER)));
        let crowd = |state: &mut Specification| alloc::sync::Arc::make_mut(&mut state.machine).most_offers = 0;
        assert_eq!(breach(Offered, crowd), Some(Breach::Numbers(OWNER)));
    }

    #[test]
    fn offers_and_borrowers_fit_each_other() {
        let change = |change: fn(&mut Offer)| move |guest: &mut Guest| guest.offers.values_mut().for_each(change);
        let unfit = Some(Breach::Offer(OWNER, OFFER));
        assert_eq!(guest_breach(SharedWithGuest, change(|offer| offer.rights = Rights::DATA)), unfit);
        assert_eq!(guest_breach(SharedWithGuest, change(|offer| offer.accepted = Some((OTHER, VACANT)))), unfit);
        assert_eq!(guest_breach(SharedWithGuest, change(|offer| offer.gfn = VACANT)), unfit);
        assert_eq!(
            guest_breach(Offered, change(|offer| offer.accepted = Some((OTHER, FRAME)))),
            Some(Breach::Offered(PAGE))
        );
        assert_eq!(guest_breach(SharedWithGuest, |guest| guest.offers.clear()), Some(Breach::Offered(PAGE)));
        let waiting = Offer { gfn: VACANT, rights: Rights::FULL, receiver: name_of(OTHER), accepted: None };
        let add = |guest: &mut Guest| guest.offers.insert(OFFER, waiting);
        assert_eq!(guest_breach(SharedWithGuest, add), unfit);
    }
}
