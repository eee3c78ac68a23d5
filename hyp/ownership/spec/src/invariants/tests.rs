//! Each rule, broken once.

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
