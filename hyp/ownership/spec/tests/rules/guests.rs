//! Between the host and guests.

use crate::common::{ALICE, BOB, CAROL, DAVE, borrowers, gfn, page, pfn, refusal, start};
use abi::Error;
use ownership_spec::witness::{GFN_LIMIT, machine, name_of};
use ownership_spec::{Borrower, Frame, Machine, Owner, Page, Rights, Specification, Vm};

fn donated() -> Specification {
    start().host_donate_guest(ALICE, pfn(1), gfn(5), 2).unwrap()
}

fn lent() -> Specification {
    start().host_lend_guest(ALICE, pfn(1), gfn(5), 2).unwrap()
}

fn dying(state: Specification, vm: Vm) -> Specification {
    state.start_teardown(vm).unwrap()
}

#[test]
fn a_donation_makes_the_guest_the_owner_frame_by_frame() {
    let state = donated();
    assert_eq!(page(&state, 1), Page::of(Owner::Guest(ALICE), Some(gfn(5))));
    assert_eq!(page(&state, 2), Page::of(Owner::Guest(ALICE), Some(gfn(6))));
    assert_eq!(state.frame(ALICE, gfn(6)), Frame::Memory(pfn(2)));
    assert_eq!(state.frame(BOB, gfn(6)), Frame::Vacant);
}

#[test]
fn a_frame_is_filled_once() {
    let state = donated();
    for at in [4, 5, 6] {
        assert_eq!(refusal(state.host_donate_guest(ALICE, pfn(3), gfn(at), 2)), Error::WrongState, "{at}");
        assert_eq!(refusal(state.host_lend_guest(ALICE, pfn(3), gfn(at), 2)), Error::WrongState, "{at}");
    }
    assert!(state.host_donate_guest(ALICE, pfn(3), gfn(7), 2).is_ok());
    assert!(state.host_donate_guest(ALICE, pfn(3), gfn(3), 2).is_ok());
    assert!(state.host_donate_guest(BOB, pfn(3), gfn(5), 2).is_ok());
}

#[test]
fn a_loan_leaves_the_host_the_title() {
    let state = lent();
    for number in [1, 2] {
        let borrower = Borrower::Guest(ALICE, gfn(4 + number));
        assert_eq!(borrowers(&state, number), [(borrower, Rights::FULL)]);
        assert_eq!((page(&state, number).owner, page(&state, number).owner_rights), (Owner::Host, Rights::NONE));
    }
    assert_eq!(state.guest_return(ALICE, gfn(6)).map(|state| page(&state, 2)), Ok(Page::WIPED));
    assert_eq!(refusal(state.guest_return(BOB, gfn(6))), Error::NotMemory);
}

#[test]
fn only_a_loan_is_given_back_by_a_guest() {
    assert_eq!(refusal(donated().guest_return(ALICE, gfn(5))), Error::WrongState);
    let (offered, number) = donated().guest_offer(ALICE, gfn(5), name_of(BOB), Rights::FULL).unwrap();
    let borrowed = offered.guest_accept(BOB, ALICE, number, gfn(9), Rights::FULL).unwrap();
    assert_eq!(refusal(borrowed.guest_return(BOB, gfn(9))), Error::WrongState);
}

#[test]
fn what_is_borrowed_is_not_the_guests_to_give() {
    for refused in [
        lent().guest_share_host(ALICE, gfn(5)),
        lent().guest_unshare_host(ALICE, gfn(5)),
        lent().guest_lend_host(ALICE, gfn(5)),
        lent().guest_relinquish(ALICE, gfn(5)),
        lent().guest_offer(ALICE, gfn(5), name_of(BOB), Rights::FULL).map(|(state, _)| state),
    ] {
        assert_eq!(refusal(refused), Error::NotYours);
    }
}

#[test]
fn guests_that_are_not_protected_share_pages() {
    let once = start().host_share_guest(CAROL, pfn(1), gfn(5), 2, Rights::DATA, false).unwrap();
    assert_eq!(borrowers(&once, 2), [(Borrower::Guest(CAROL, gfn(6)), Rights::DATA)]);
    assert_eq!(page(&once, 2).owner_rights, Rights::FULL);
    let thrice = once.host_share_guest(CAROL, pfn(1), gfn(9), 1, Rights::FULL, false).unwrap();
    let thrice = thrice.host_share_guest(DAVE, pfn(1), gfn(5), 1, Rights::READ, false).unwrap();
    assert_eq!(borrowers(&thrice, 1).len(), 3);
    assert_eq!(page(&thrice, 1).guest_borrowers().filter(|(vm, _)| *vm == DAVE).count(), 1);
    let twice = thrice.host_unshare_guest(CAROL, gfn(9), 1).unwrap();
    assert_eq!(twice.host_unshare_guest(DAVE, gfn(5), 1), Ok(once));
}

#[test]
fn the_first_share_says_whether_the_host_is_restricted_and_the_last_ends_it() {
    let share =
        |state: &Specification, vm, restricted| state.host_share_guest(vm, pfn(1), gfn(5), 1, Rights::FULL, restricted);
    let one = share(&start(), CAROL, true).unwrap();
    assert_eq!(page(&one, 1).owner_rights, Rights::READ);
    assert_eq!(refusal(share(&one, DAVE, false)), Error::WrongState);
    let two = share(&one, DAVE, true).unwrap();
    assert_eq!(two.host_unshare_guest(DAVE, gfn(5), 1), Ok(one.clone()));
    assert_eq!(one.host_unshare_guest(CAROL, gfn(5), 1), Ok(start()));
    let free = share(&start(), CAROL, false).unwrap();
    assert_eq!(refusal(share(&free, DAVE, true)), Error::WrongState);
    assert!(share(&start(), DAVE, false).is_ok());
}

#[test]
fn mappings_saturate_with_an_error() {
    let small = Specification::new(Machine { most: 2, ..machine() });
    let small = small.create(CAROL, name_of(CAROL), false, GFN_LIMIT).unwrap();
    let share = |state: &Specification, at| state.host_share_guest(CAROL, pfn(1), gfn(at), 1, Rights::FULL, false);
    let full = share(&share(&small, 1).unwrap(), 2).unwrap();
    assert_eq!(refusal(share(&full, 3)), Error::Limit);
    // A full count is seen before a taken frame.
    assert_eq!(refusal(share(&full, 2)), Error::Limit);
}

#[test]
fn an_unshare_takes_what_was_shared_and_nothing_else() {
    let shared = start().host_share_guest(CAROL, pfn(1), gfn(5), 2, Rights::FULL, false).unwrap();
    assert_eq!(refusal(shared.host_unshare_guest(CAROL, gfn(5), 3)), Error::WrongState);
    assert_eq!(refusal(shared.host_unshare_guest(DAVE, gfn(5), 1)), Error::WrongState);
    assert_eq!(refusal(donated().host_unshare_guest(ALICE, gfn(5), 1)), Error::WrongState);
    assert_eq!(shared.host_unshare_guest(CAROL, gfn(5), 2), Ok(start()));
    let ended = dying(shared, CAROL).host_unshare_guest(CAROL, gfn(5), 2);
    assert_eq!(ended, Ok(dying(start(), CAROL)));
}

#[test]
fn a_guest_shares_data_with_the_host_and_takes_it_back() {
    let shared = donated().guest_share_host(ALICE, gfn(5)).unwrap();
    assert_eq!(borrowers(&shared, 1), [(Borrower::Host, Rights::DATA)]);
    assert_eq!(page(&shared, 1).owner_rights, Rights::FULL);
    assert_eq!(refusal(shared.guest_share_host(ALICE, gfn(5))), Error::WrongState);
    assert_eq!(refusal(shared.guest_relinquish(ALICE, gfn(5))), Error::WrongState);
    assert_eq!(shared.guest_unshare_host(ALICE, gfn(5)), Ok(donated()));
}

#[test]
fn a_guest_lends_to_the_host_and_gets_it_back_at_its_frame() {
    let state = donated().guest_lend_host(ALICE, gfn(5)).unwrap().guest_lend_host(ALICE, gfn(6)).unwrap();
    assert_eq!(borrowers(&state, 1), [(Borrower::Host, Rights::FULL)]);
    assert_eq!(page(&state, 1).owner_rights, Rights::NONE);
    assert_eq!(state.frame(ALICE, gfn(5)), Frame::LentOut(pfn(1)));
    assert_eq!(refusal(state.guest_unshare_host(ALICE, gfn(5))), Error::WrongState);
    assert_eq!(refusal(state.host_donate_guest(ALICE, pfn(3), gfn(5), 1)), Error::WrongState);
    assert_eq!(refusal(state.host_return_guest(BOB, pfn(1), 2)), Error::NotYours);
    assert_eq!(refusal(dying(state.clone(), ALICE).host_return_guest(ALICE, pfn(1), 2)), Error::VmGone);
    assert_eq!(state.host_return_guest(ALICE, pfn(1), 2), Ok(donated()));
    assert_eq!(refusal(donated().host_return_guest(ALICE, pfn(1), 1)), Error::WrongState);
}

#[test]
fn what_a_guest_relinquishes_is_the_hosts_and_wiped() {
    let state = donated().guest_relinquish(ALICE, gfn(5)).unwrap();
    assert_eq!(page(&state, 1), Page::WIPED);
    assert_eq!(page(&state, 2), page(&donated(), 2));
    assert_eq!(refusal(state.guest_relinquish(ALICE, gfn(5))), Error::NotMemory);
}

#[test]
fn a_dying_guest_is_taken_apart_and_what_it_had_is_wiped() {
    let state = donated().host_lend_guest(ALICE, pfn(3), gfn(9), 1).unwrap();
    let state = state.guest_lend_host(ALICE, gfn(5)).unwrap().guest_share_host(ALICE, gfn(6)).unwrap();
    assert_eq!(refusal(state.reclaim(ALICE, pfn(1), 3)), Error::Busy);
    let gone = dying(state.clone(), ALICE);
    assert_eq!(refusal(gone.finalise(ALICE)), Error::Busy);
    assert_eq!(refusal(gone.reclaim(ALICE, pfn(1), 4)), Error::NotYours);
    assert_eq!(refusal(dying(state, BOB).reclaim(BOB, pfn(3), 1)), Error::NotYours);
    let clean = gone.reclaim(ALICE, pfn(1), 3).unwrap();
    assert!([1, 2, 3].iter().all(|number| page(&clean, *number) == Page::WIPED));
    assert!(clean.finalise(ALICE).is_ok());
}

#[test]
fn force_poisons_the_frames_for_good() {
    let state = donated().host_lend_guest(ALICE, pfn(3), gfn(7), 1).unwrap().guest_lend_host(ALICE, gfn(5)).unwrap();
    assert_eq!(refusal(state.force_reclaim(BOB, pfn(1), 3)), Error::NotYours);
    assert_eq!(refusal(state.force_reclaim(ALICE, pfn(1), 4)), Error::NotYours);
    let taken = state.force_reclaim(ALICE, pfn(1), 3).unwrap();
    for number in [1, 2, 3] {
        assert_eq!(page(&taken, number), Page::WIPED);
        assert_eq!(taken.frame(ALICE, gfn(4 + number)), Frame::Poisoned);
        assert_eq!(refusal(taken.guest_share_host(ALICE, gfn(4 + number))), Error::WrongState);
        assert_eq!(refusal(taken.host_donate_guest(ALICE, pfn(9), gfn(4 + number), 1)), Error::WrongState);
    }
    assert_eq!(taken.frame(ALICE, gfn(8)), Frame::Vacant);
    assert_eq!(refusal(taken.host_donate_guest(ALICE, pfn(9), gfn(3), 3)), Error::WrongState);
    assert!(taken.host_donate_guest(ALICE, pfn(9), gfn(8), 1).is_ok());
    assert!(dying(taken, ALICE).finalise(ALICE).is_ok());
}

#[test]
fn force_is_for_living_protected_guests() {
    assert_eq!(refusal(dying(donated(), ALICE).force_reclaim(ALICE, pfn(1), 1)), Error::VmGone);
    let shared = start().host_share_guest(CAROL, pfn(1), gfn(5), 1, Rights::FULL, false).unwrap();
    assert_eq!(refusal(shared.force_reclaim(CAROL, pfn(1), 1)), Error::WrongState);
}

#[test]
fn access_is_what_owner_and_borrowers_have() {
    let state = lent().guest_return(ALICE, gfn(6)).unwrap().host_donate_guest(BOB, pfn(3), gfn(5), 1).unwrap();
    let state = state.guest_share_host(BOB, gfn(5)).unwrap().host_share_hyp(pfn(4), 1, true).unwrap();
    let access = |component, number| state.access(component, pfn(number)).into_iter().collect::<Vec<_>>();
    assert_eq!(access(Owner::Host, 1), []);
    assert_eq!(access(Owner::Guest(ALICE), 1), [(Some(gfn(5)), Rights::FULL)]);
    assert_eq!(access(Owner::Guest(BOB), 1), []);
    assert_eq!(access(Owner::Host, 2), [(None, Rights::FULL)]);
    assert_eq!(access(Owner::Host, 3), [(None, Rights::DATA)]);
    assert_eq!(access(Owner::Guest(BOB), 3), [(Some(gfn(5)), Rights::FULL)]);
    assert_eq!(access(Owner::Host, 4), [(None, Rights::READ)]);
    assert_eq!(access(Owner::Hyp, 4), [(None, Rights::DATA)]);
    let memory = state.memory_of(ALICE).into_iter().collect::<Vec<_>>();
    assert_eq!(memory, [(gfn(5), pfn(1))]);
    let lent_out = state.guest_unshare_host(BOB, gfn(5)).unwrap().guest_lend_host(BOB, gfn(5)).unwrap();
    assert!(lent_out.memory_of(BOB).is_empty());
}
