//! Between host and hyp.

use crate::common::{ALICE, borrowers, gfn, page, pfn, refusal, start};
use abi::Error;
use ownership_spec::{Borrower, Machine, Owner, Page, Rights, Specification, witness};

#[test]
fn a_share_gives_hyp_data_and_the_host_what_it_keeps() {
    let shared = start().host_share_hyp(pfn(1), 2, false).unwrap();
    for number in [1, 2] {
        assert_eq!(borrowers(&shared, number), [(Borrower::Hyp, Rights::DATA)]);
        assert_eq!(page(&shared, number).owner_rights, Rights::FULL);
        assert_eq!(page(&shared, number).owner, Owner::Host);
    }
    assert_eq!(page(&shared, 0), Page::HOST_ALONE);
    assert_eq!(page(&shared, 3), Page::HOST_ALONE);
    let restricted = start().host_share_hyp(pfn(1), 1, true).unwrap();
    assert_eq!(page(&restricted, 1).owner_rights, Rights::READ);
    assert_eq!(borrowers(&restricted, 1), [(Borrower::Hyp, Rights::DATA)]);
}

#[test]
fn an_unshare_gives_all_of_it_back() {
    for restricted in [false, true] {
        let shared = start().host_share_hyp(pfn(1), 2, restricted).unwrap();
        assert_eq!(shared.host_unshare_hyp(pfn(1), 2), Ok(start()));
    }
}

#[test]
fn a_range_is_done_whole_or_not_at_all_and_the_first_refusal_counts() {
    let state = start().host_share_hyp(pfn(2), 1, false).unwrap().host_donate_hyp(pfn(3), 1).unwrap();
    assert_eq!(refusal(state.host_share_hyp(pfn(1), 3, false)), Error::WrongState);
    assert_eq!(refusal(state.host_donate_hyp(pfn(3), 2)), Error::NotYours);
    assert_eq!(refusal(state.host_unshare_hyp(pfn(1), 2)), Error::WrongState);
}

#[test]
fn pins_are_counted_and_hold_the_share() {
    let shared = start().host_share_hyp(pfn(1), 1, false).unwrap();
    let once = shared.hyp_pin(pfn(1)).unwrap();
    let twice = once.hyp_pin(pfn(1)).unwrap();
    assert_eq!(page(&twice, 1).pins, 2);
    assert_eq!(twice.hyp_unpin(pfn(1)), Ok(once.clone()));
    for refused in [once.host_unshare_hyp(pfn(1), 1), once.host_donate_hyp(pfn(1), 1)] {
        assert_eq!(refusal(refused), Error::Busy);
    }
    assert_eq!(refusal(once.host_donate_guest(ALICE, pfn(1), gfn(1), 1)), Error::Busy);
    assert_eq!(once.hyp_unpin(pfn(1)), Ok(shared.clone()));
    assert_eq!(refusal(shared.hyp_unpin(pfn(1))), Error::WrongState);
    assert_eq!(refusal(start().hyp_pin(pfn(1))), Error::WrongState);
}

#[test]
fn pins_saturate_with_an_error() {
    let small = Specification::new(Machine { most: 2, ..witness::machine() });
    let shared = small.host_share_hyp(pfn(1), 1, false).unwrap();
    let full = shared.hyp_pin(pfn(1)).unwrap().hyp_pin(pfn(1)).unwrap();
    assert_eq!(refusal(full.hyp_pin(pfn(1))), Error::Limit);
}

#[test]
fn donations_change_the_owner_and_come_back_wiped() {
    let given = start().host_donate_hyp(pfn(1), 2).unwrap();
    assert_eq!(page(&given, 2), Page::of(Owner::Hyp, None));
    let back = given.hyp_donate_host(pfn(1), 2).unwrap();
    assert_eq!(page(&back, 1), Page::WIPED);
    assert!(!page(&back.host_donate_hyp(pfn(1), 1).unwrap(), 1).wiped);
}

#[test]
fn what_the_boot_placed_never_moves() {
    let placed = witness::PLACED_PAGE;
    assert_eq!(start().page(placed), Some(Page::PLACED));
    assert_eq!(refusal(start().hyp_donate_host(placed, 1)), Error::NotYours);
    assert_eq!(refusal(start().host_share_hyp(placed, 1, false)), Error::NotYours);
}

#[test]
fn wipes_are_forgotten_on_demand() {
    let mut state = start().host_donate_hyp(pfn(1), 1).unwrap().hyp_donate_host(pfn(1), 1).unwrap();
    state = state.host_donate_hyp(pfn(3), 1).unwrap();
    let shared = state.host_share_hyp(pfn(1), 1, false).unwrap();
    assert!(page(&shared, 1).wiped, "a share changes no owner");
    state.forget_wipes();
    assert_eq!(state, start().host_donate_hyp(pfn(3), 1).unwrap());
}
