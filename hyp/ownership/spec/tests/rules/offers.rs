//! Between guests.

use crate::common::{ALICE, BOB, CAROL, borrowers, gfn, page, pfn, refusal, start};
use abi::Error;
use abi::host::VmHandle;
use ownership_spec::witness::name_of;
use ownership_spec::{Borrower, Frame, Page, Rights, Specification, Vm};

/// Alice has two pages; the first is offered to Bob.
fn offered() -> Specification {
    let donated = start().host_donate_guest(ALICE, pfn(1), gfn(5), 2).unwrap();
    let (offered, number) = donated.guest_offer(ALICE, gfn(5), name_of(BOB), Rights::DATA).unwrap();
    assert_eq!(number, 1);
    offered
}

fn accepted() -> Specification {
    offered().guest_accept(BOB, ALICE, 1, gfn(9), Rights::DATA).unwrap()
}

/// The same state without any offer, but with the number that has been given out.
fn alone(state: &Specification) -> Specification {
    let mut alone = state.clone();
    let mut guest = state.guest(ALICE).unwrap().clone();
    guest.offers.clear();
    alone.set_guest(ALICE, guest);
    alone.set_page(pfn(1), Page { offer: false, borrowers: [].into(), ..page(state, 1) });
    alone
}

/// The same, and the frame poisoned at which Bob borrowed.
fn lost(state: &Specification) -> Specification {
    let mut lost = alone(state);
    let mut borrower = state.guest(BOB).unwrap().clone();
    borrower.poisoned.insert(gfn(9));
    lost.set_guest(BOB, borrower);
    lost
}

#[test]
fn an_offer_changes_nobodys_access() {
    assert!(page(&offered(), 1).offer);
    assert!(page(&offered(), 1).borrowers.is_empty());
    assert_eq!(offered().frame(BOB, gfn(9)), Frame::Vacant);
    for refused in [
        offered().guest_share_host(ALICE, gfn(5)),
        offered().guest_lend_host(ALICE, gfn(5)),
        offered().guest_relinquish(ALICE, gfn(5)),
        offered().guest_offer(ALICE, gfn(5), name_of(CAROL), Rights::DATA).map(|(state, _)| state),
    ] {
        assert_eq!(refusal(refused), Error::WrongState);
    }
}

#[test]
fn numbers_go_up_and_never_come_back() {
    let (_, second) = offered().guest_offer(ALICE, gfn(6), name_of(BOB), Rights::FULL).unwrap();
    assert_eq!(second, 2);
    let withdrawn = offered().guest_withdraw(ALICE, 1).unwrap();
    let (_, next) = withdrawn.guest_offer(ALICE, gfn(5), name_of(BOB), Rights::FULL).unwrap();
    assert_eq!(next, 2);
    let mut last = alone(&offered());
    last.set_guest(ALICE, ownership_spec::Guest { last_number: u64::MAX, ..last.guest(ALICE).unwrap().clone() });
    assert_eq!(refusal(last.guest_offer(ALICE, gfn(5), name_of(BOB), Rights::FULL)), Error::Limit);
}

#[test]
fn sixteen_offers_are_open_at_most_accepted_or_not() {
    let donated = start().host_donate_guest(ALICE, pfn(1), gfn(5), 17).unwrap();
    let offer = |state: &Specification, at| state.guest_offer(ALICE, gfn(at), name_of(BOB), Rights::FULL);
    let full = (5..21).fold(donated, |state, at| offer(&state, at).unwrap().0);
    let full = full.guest_accept(BOB, ALICE, 1, gfn(9), Rights::FULL).unwrap();
    assert_eq!(refusal(offer(&full, 21)), Error::Limit);
    // The page is looked at first.
    assert_eq!(refusal(offer(&full, 5)), Error::WrongState);
    assert!(offer(&full.guest_withdraw(ALICE, 7).unwrap(), 21).is_ok());
}

#[test]
fn a_share_with_oneself_makes_no_sense() {
    let nowhere = gfn(u64::MAX);
    assert_eq!(refusal(start().guest_accept(ALICE, ALICE, 1, nowhere, Rights::FULL)), Error::InvalidParameter);
    assert_eq!(refusal(accepted().guest_drop(ALICE, ALICE, 1)), Error::InvalidParameter);
    assert_eq!(refusal(accepted().host_end_share(ALICE, ALICE, 1)), Error::InvalidParameter);
    assert_eq!(refusal(start().guest_offer(ALICE, nowhere, name_of(ALICE), Rights::FULL)), Error::InvalidParameter);
    assert_eq!(refusal(start().guest_offer(ALICE, nowhere, name_of(BOB), Rights::NONE)), Error::InvalidParameter);
    assert_eq!(refusal(start().guest_offer(ALICE, nowhere, name_of(BOB), Rights::FULL)), Error::BadRange);
}

#[test]
fn the_receiver_need_not_exist_yet() {
    let donated = start().host_donate_guest(ALICE, pfn(1), gfn(5), 1).unwrap();
    let (state, number) = donated.guest_offer(ALICE, gfn(5), VmHandle(0x777), Rights::FULL).unwrap();
    let late = Vm(9);
    let state = state.create(late, VmHandle(0x777), true, 16).unwrap();
    assert!(state.guest_accept(late, ALICE, number, gfn(9), Rights::FULL).is_ok());
}

#[test]
fn an_accepted_offer_gives_the_receiver_just_those_rights() {
    assert_eq!(borrowers(&accepted(), 1), [(Borrower::Guest(BOB, gfn(9)), Rights::DATA)]);
    assert_eq!(page(&accepted(), 1).owner_rights, Rights::FULL);
    assert!(!page(&accepted(), 1).offer);
    assert_eq!(accepted().guest(ALICE).unwrap().offers[&1].accepted, Some((BOB, gfn(9))));
}

#[test]
fn the_host_can_neither_forge_nor_widen_nor_replay() {
    let accept =
        |state: &Specification, vm, owner, number, rights| state.guest_accept(vm, owner, number, gfn(9), rights);
    // Another number, other rights, another receiver, another owner.
    assert_eq!(refusal(accept(&offered(), BOB, ALICE, 2, Rights::DATA)), Error::WrongState);
    assert_eq!(refusal(accept(&offered(), BOB, ALICE, 1, Rights::FULL)), Error::WrongState);
    assert_eq!(refusal(accept(&offered(), BOB, ALICE, 1, Rights::READ)), Error::WrongState);
    let third = offered().create(Vm(9), VmHandle(0x777), true, 16).unwrap();
    assert_eq!(refusal(accept(&third, Vm(9), ALICE, 1, Rights::DATA)), Error::WrongState);
    assert_eq!(refusal(accept(&third, BOB, Vm(9), 1, Rights::DATA)), Error::WrongState);
    // Again, at another frame, and after the end.
    assert_eq!(refusal(accepted().guest_accept(BOB, ALICE, 1, gfn(10), Rights::DATA)), Error::WrongState);
    let ended = accepted().guest_withdraw(ALICE, 1).unwrap();
    assert_eq!(refusal(accept(&ended, BOB, ALICE, 1, Rights::DATA)), Error::WrongState);
    // A VM that has the slot of the receiver, but not its name.
    let gone = offered().start_teardown(BOB).unwrap().finalise(BOB).unwrap();
    let another = gone.create(BOB, VmHandle(0x777), true, 16).unwrap();
    assert_eq!(refusal(accept(&another, BOB, ALICE, 1, Rights::DATA)), Error::WrongState);
}

#[test]
fn what_is_accepted_needs_a_vacant_frame() {
    let taken = offered().host_donate_guest(BOB, pfn(8), gfn(9), 1).unwrap();
    assert_eq!(refusal(taken.guest_accept(BOB, ALICE, 1, gfn(9), Rights::DATA)), Error::WrongState);
    let poisoned = taken.force_reclaim(BOB, pfn(8), 1).unwrap();
    assert_eq!(refusal(poisoned.guest_accept(BOB, ALICE, 1, gfn(9), Rights::DATA)), Error::WrongState);
    assert_eq!(refusal(offered().guest_accept(BOB, ALICE, 1, gfn(64), Rights::DATA)), Error::BadRange);
    assert!(poisoned.guest_accept(BOB, ALICE, 1, gfn(10), Rights::DATA).is_ok());
}

#[test]
fn both_guests_live_and_are_protected() {
    let dying = |vm| offered().start_teardown(vm).unwrap();
    let accept = |state: &Specification, vm, owner| state.guest_accept(vm, owner, 1, gfn(9), Rights::DATA);
    assert_eq!(refusal(accept(&dying(ALICE), BOB, ALICE)), Error::VmGone);
    assert_eq!(refusal(accept(&dying(BOB), BOB, ALICE)), Error::VmGone);
    assert_eq!(refusal(accept(&offered(), CAROL, ALICE)), Error::WrongState);
    assert_eq!(refusal(accept(&offered(), BOB, CAROL)), Error::WrongState);
    assert_eq!(refusal(accept(&offered(), BOB, Vm(9))), Error::VmGone);
    // That one is gone is said before that the other is of the wrong kind.
    assert_eq!(refusal(accept(&dying(ALICE), CAROL, ALICE)), Error::VmGone);
}

#[test]
fn the_owner_ends_an_offer_accepted_or_not() {
    assert_eq!(offered().guest_withdraw(ALICE, 1), Ok(alone(&offered())));
    assert_eq!(accepted().guest_withdraw(ALICE, 1), Ok(lost(&accepted())));
    let dying = accepted().start_teardown(BOB).unwrap();
    assert_eq!(dying.guest_withdraw(ALICE, 1), Ok(alone(&dying)));
    assert_eq!(refusal(accepted().guest_withdraw(ALICE, 2)), Error::WrongState);
    assert_eq!(refusal(accepted().guest_withdraw(BOB, 1)), Error::WrongState);
    assert_eq!(refusal(accepted().start_teardown(ALICE).unwrap().guest_withdraw(ALICE, 1)), Error::VmGone);
    assert_eq!(refusal(accepted().guest_withdraw(CAROL, 1)), Error::WrongState);
}

#[test]
fn the_borrower_drops_what_it_accepted() {
    assert_eq!(accepted().guest_drop(BOB, ALICE, 1), Ok(alone(&accepted())));
    assert_eq!(refusal(offered().guest_drop(BOB, ALICE, 1)), Error::WrongState);
    assert_eq!(refusal(accepted().guest_drop(BOB, ALICE, 2)), Error::WrongState);
    assert_eq!(refusal(accepted().guest_drop(BOB, Vm(9), 1)), Error::VmGone);
    assert_eq!(refusal(accepted().guest_drop(CAROL, ALICE, 1)), Error::WrongState);
    assert_eq!(refusal(accepted().start_teardown(BOB).unwrap().guest_drop(BOB, ALICE, 1)), Error::VmGone);
    let dying = accepted().start_teardown(ALICE).unwrap();
    assert_eq!(dying.guest_drop(BOB, ALICE, 1), Ok(alone(&dying)));
}

#[test]
fn the_host_ends_a_share_once_one_of_the_two_dies() {
    assert_eq!(refusal(accepted().host_end_share(ALICE, BOB, 1)), Error::Busy);
    for (vm, expected) in [(ALICE, lost as fn(&_) -> _), (BOB, alone)] {
        let dying = accepted().start_teardown(vm).unwrap();
        assert_eq!(dying.host_end_share(ALICE, BOB, 1), Ok(expected(&dying)));
        assert_eq!(refusal(dying.host_end_share(ALICE, BOB, 2)), Error::WrongState);
        assert_eq!(refusal(dying.host_end_share(ALICE, Vm(9), 1)), Error::VmGone);
        assert_eq!(refusal(dying.host_end_share(Vm(9), BOB, 1)), Error::VmGone);
        assert_eq!(refusal(dying.host_end_share(BOB, ALICE, 1)), Error::WrongState);
    }
    let waiting = offered().start_teardown(BOB).unwrap();
    assert_eq!(refusal(waiting.host_end_share(ALICE, BOB, 1)), Error::WrongState);
    // Not that of another borrower.
    let other = accepted().start_teardown(ALICE).unwrap();
    assert_eq!(refusal(other.host_end_share(ALICE, CAROL, 1)), Error::WrongState);
}

#[test]
fn the_host_puts_nothing_where_a_share_ended_that_the_borrower_kept() {
    let withdrawn = accepted().guest_withdraw(ALICE, 1).unwrap();
    let dying = accepted().start_teardown(ALICE).unwrap();
    for ended in [withdrawn, dying.host_end_share(ALICE, BOB, 1).unwrap()] {
        assert_eq!(refusal(ended.host_donate_guest(BOB, pfn(8), gfn(9), 1)), Error::WrongState);
        assert_eq!(refusal(ended.host_lend_guest(BOB, pfn(8), gfn(9), 1)), Error::WrongState);
    }
    let dropped = accepted().guest_drop(BOB, ALICE, 1).unwrap();
    assert!(dropped.host_donate_guest(BOB, pfn(8), gfn(9), 1).is_ok());
}

#[test]
fn a_page_that_another_guest_borrows_is_not_taken() {
    assert_eq!(refusal(accepted().force_reclaim(ALICE, pfn(1), 1)), Error::Busy);
    let dying = accepted().start_teardown(ALICE).unwrap();
    assert_eq!(refusal(dying.reclaim(ALICE, pfn(1), 2)), Error::Busy);
    let ended = dying.host_end_share(ALICE, BOB, 1).unwrap();
    assert!(ended.reclaim(ALICE, pfn(1), 2).is_ok());
    // The borrower's end does not give the host the owner's page.
    let dying = accepted().start_teardown(BOB).unwrap();
    assert_eq!(refusal(dying.reclaim(BOB, pfn(1), 1)), Error::NotYours);
    assert_eq!(refusal(dying.finalise(BOB)), Error::Busy);
}

#[test]
fn the_offer_of_a_page_goes_with_the_page() {
    let (both, second) = offered().guest_offer(ALICE, gfn(6), name_of(BOB), Rights::FULL).unwrap();
    let taken = both.force_reclaim(ALICE, pfn(1), 1).unwrap();
    assert_eq!(taken.guest(ALICE).unwrap().offers.keys().copied().collect::<Vec<_>>(), [second]);
    let dying = both.start_teardown(ALICE).unwrap().reclaim(ALICE, pfn(1), 2).unwrap();
    assert!(dying.guest(ALICE).unwrap().offers.is_empty());
}
