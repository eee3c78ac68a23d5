//! What one protected guest lets another use, by consent of both.

use crate::common::calls::*;
use crate::common::step::host_fault;
use crate::common::*;
use abi::guest::MAX_OFFERS;
use abi::{Error, Gfn};
use ownership::Access;
use ownership_spec::{Call, Output, Rights};

/// Three protected guests, of which the first has pages at frames 0x200 to 0x207.
fn world() -> World {
    let mut world = World::with_guests(&[true, true, true], 12);
    world.done(host_donate_guest(FIRST, LOW, 0x200, 8));
    world
}

/// A world in which [`SECOND`] has accepted an offer, number 1, of the page at 0x200 of [`FIRST`], at 0x300.
fn world_with_share() -> World {
    let mut world = world();
    world.done(guest_offer(FIRST, 0x200, SECOND, Rights::DATA));
    world.done(guest_accept(SECOND, FIRST, 1, 0x300, Rights::DATA));
    world
}

#[test]
fn a_guest_borrows_what_it_is_offered_and_accepts() {
    let mut world = world();
    world.done(guest_offer(FIRST, 0x200, SECOND, Rights::READ));
    assert!(world.reached_by(SECOND, 0x300).is_empty(), "an offer alone gives nothing");
    world.done(guest_accept(SECOND, FIRST, 1, 0x300, Rights::READ));
    assert_eq!(world.reached_by(SECOND, 0x300), [LOW]);
    assert_eq!(world.reached_by(FIRST, 0x200), [LOW]);
    assert!(world.reached_by_host(LOW).is_empty());
    world.refused(host_fault(LOW, Access::Read), Error::NotYours);
    world.tear_down();
}

#[test]
fn offers_are_numbered_and_no_number_comes_again() {
    let mut world = world();
    let offer = |gfn| guest_offer(FIRST, gfn, SECOND, Rights::FULL);
    assert_eq!(world.make(&offer(0x200)), Ok(Output::Offer(1)));
    world.specification = world.specification.apply(&offer(0x200)).unwrap().0;
    world.done(offer(0x201));
    world.done(guest_withdraw(FIRST, 2));
    world.done(offer(0x201));
    assert_eq!(world.specification.guest(FIRST).unwrap().last_number, 3);
    world.refused(guest_withdraw(FIRST, 2), Error::WrongState);
    world.refused(guest_accept(SECOND, FIRST, 2, 0x300, Rights::FULL), Error::WrongState);
    world.tear_down();
}

/// The host carries the number, and that is all that it can change.
#[test]
fn an_offer_is_not_forged_widened_or_replayed() {
    let mut world = world();
    let full = Rights::FULL;
    world.refused(guest_accept(SECOND, FIRST, 1, 0x300, full), Error::WrongState);
    world.done(guest_offer(FIRST, 0x200, SECOND, Rights::READ));
    for rights in [full, Rights::DATA, Rights { execute: true, ..Rights::READ }] {
        world.refused(guest_accept(SECOND, FIRST, 1, 0x300, rights), Error::WrongState);
    }
    for number in [0, 2, u64::MAX] {
        world.refused(guest_accept(SECOND, FIRST, number, 0x300, Rights::READ), Error::WrongState);
    }
    world.refused(guest_accept(THIRD, FIRST, 1, 0x300, Rights::READ), Error::WrongState);
    world.refused(guest_accept(SECOND, THIRD, 1, 0x300, Rights::READ), Error::WrongState);
    world.done(guest_accept(SECOND, FIRST, 1, 0x300, Rights::READ));
    world.refused(guest_accept(SECOND, FIRST, 1, 0x301, Rights::READ), Error::WrongState);
    world.done(guest_drop(SECOND, FIRST, 1));
    world.refused(guest_accept(SECOND, FIRST, 1, 0x300, Rights::READ), Error::WrongState);
    world.tear_down();
}

#[test]
fn a_guest_shares_nothing_with_itself() {
    let mut world = world();
    let full = Rights::FULL;
    world.refused(guest_offer(FIRST, 0x200, FIRST, full), Error::InvalidParameter);
    world.refused(guest_offer(FIRST, GFN_LIMIT, FIRST, full), Error::InvalidParameter);
    world.refused(guest_accept(FIRST, FIRST, 1, 0x300, full), Error::InvalidParameter);
    world.refused(guest_drop(FIRST, FIRST, 1), Error::InvalidParameter);
    world.refused(host_end_share(FIRST, FIRST, 1), Error::InvalidParameter);
    world.tear_down();
}

#[test]
fn an_offer_may_be_for_a_guest_that_does_not_exist() {
    let mut world = world();
    world.done(guest_offer(FIRST, 0x200, FOURTH, Rights::FULL));
    world.refused(guest_accept(SECOND, FIRST, 1, 0x300, Rights::FULL), Error::WrongState);
    world.done(guest_withdraw(FIRST, 1));
    world.tear_down();
}

#[test]
fn what_is_offered_or_borrowed_is_not_alone() {
    for accepted in [false, true] {
        let mut world = world();
        world.done(guest_offer(FIRST, 0x200, SECOND, Rights::FULL));
        if accepted {
            world.done(guest_accept(SECOND, FIRST, 1, 0x300, Rights::FULL));
        }
        for call in [
            guest_offer(FIRST, 0x200, THIRD, Rights::FULL),
            guest_share_host(FIRST, 0x200),
            guest_unshare_host(FIRST, 0x200),
            guest_lend_host(FIRST, 0x200),
            guest_return(FIRST, 0x200),
            guest_relinquish(FIRST, 0x200),
            host_return_guest(FIRST, LOW, 1),
        ] {
            world.refused(call, Error::WrongState);
        }
        for call in calls_for_pages_of_the_hosts(LOW, 1).into_iter().take(3) {
            world.refused(call, Error::NotYours);
        }
        world.tear_down();
    }
}

#[test]
fn who_borrows_a_page_does_not_pass_it_on() {
    // Also where it has the page at the same frame as the owner.
    for gfn in [0x300, 0x200] {
        let mut world = world();
        world.done(guest_offer(FIRST, 0x200, SECOND, Rights::DATA));
        world.done(guest_accept(SECOND, FIRST, 1, gfn, Rights::DATA));
        for call in [
            guest_offer(SECOND, gfn, THIRD, Rights::READ),
            guest_share_host(SECOND, gfn),
            guest_unshare_host(SECOND, gfn),
            guest_lend_host(SECOND, gfn),
            guest_relinquish(SECOND, gfn),
        ] {
            world.refused(call, Error::NotYours);
        }
        world.refused(host_donate_guest(SECOND, LOW + 16, gfn, 1), Error::WrongState);
        world.refused(reclaim(SECOND, LOW, 1), Error::Busy);
        world.refused(force_reclaim(SECOND, LOW, 1), Error::NotYours);
        world.tear_down();
    }
}

#[test]
fn only_what_a_guest_has_to_itself_is_offered() {
    let mut world = world();
    world.done(guest_share_host(FIRST, 0x200));
    world.done(guest_lend_host(FIRST, 0x201));
    world.done(host_lend_guest(FIRST, LOW + 16, 0x210, 1));
    let offer = |gfn| guest_offer(FIRST, gfn, SECOND, Rights::FULL);
    world.refused(offer(0x200), Error::WrongState);
    world.refused(offer(0x201), Error::WrongState);
    world.refused(offer(0x210), Error::NotYours);
    world.refused(offer(0x220), Error::NotMemory);
    world.tear_down();
}

#[test]
fn the_frame_at_which_an_offer_is_accepted_is_vacant() {
    let mut world = world();
    world.done(host_donate_guest(SECOND, LOW + 16, 0x300, 2));
    world.done(guest_lend_host(SECOND, 0x301));
    world.done(host_grant_device(SECOND, DEVICE, 0x302, 1));
    world.done(host_donate_guest(SECOND, LOW + 18, 0x303, 1));
    world.done(force_reclaim(SECOND, LOW + 18, 1));
    world.done(guest_offer(FIRST, 0x200, SECOND, Rights::FULL));
    for gfn in 0x300..0x304 {
        world.refused(guest_accept(SECOND, FIRST, 1, gfn, Rights::FULL), Error::WrongState);
    }
    world.refused(guest_accept(SECOND, FIRST, 1, GFN_LIMIT, Rights::FULL), Error::BadRange);
    world.done(guest_accept(SECOND, FIRST, 1, 0x304, Rights::FULL));
    world.tear_down();
}

#[test]
fn an_offer_is_not_accepted_without_a_page_for_the_table() {
    let mut world = World::with_guests(&[true, true], 0);
    let spare = HIGH;
    world.done(crate::common::step::Step::TopUp { vm: FIRST, first: spare, count: 4 });
    world.done(host_donate_guest(FIRST, LOW, 0x200, 1));
    world.done(guest_offer(FIRST, 0x200, SECOND, Rights::FULL));
    world.refused(guest_accept(SECOND, FIRST, 1, 0x300, Rights::FULL), Error::OutOfMemory);
    world.done(crate::common::step::Step::TopUp { vm: SECOND, first: spare + 4, count: 2 });
    world.done(guest_accept(SECOND, FIRST, 1, 0x300, Rights::FULL));
    world.tear_down();
}

#[test]
fn either_side_ends_a_share() {
    for call in [guest_withdraw(FIRST, 1), guest_drop(SECOND, FIRST, 1)] {
        let mut world = world_with_share();
        world.refused(guest_drop(THIRD, FIRST, 1), Error::WrongState);
        world.refused(guest_drop(FIRST, SECOND, 1), Error::WrongState);
        world.refused(guest_withdraw(SECOND, 1), Error::WrongState);
        world.done(call.clone());
        assert!(world.reached_by(SECOND, 0x300).is_empty());
        assert_eq!(world.reached_by(FIRST, 0x200), [LOW]);
        world.refused(call, Error::WrongState);
        world.done(guest_share_host(FIRST, 0x200));
        world.tear_down();
    }
}

#[test]
fn an_offer_that_nobody_accepted_is_not_dropped() {
    let mut world = world();
    world.done(guest_offer(FIRST, 0x200, SECOND, Rights::FULL));
    world.refused(guest_drop(SECOND, FIRST, 1), Error::WrongState);
    world.done(start_teardown(SECOND));
    world.refused(host_end_share(FIRST, SECOND, 1), Error::WrongState);
    world.done(guest_withdraw(FIRST, 1));
    world.tear_down();
}

#[test]
fn the_host_ends_a_share_only_where_a_guest_dies() {
    for dies in [FIRST, SECOND] {
        let mut world = world_with_share();
        world.refused(host_end_share(FIRST, SECOND, 1), Error::Busy);
        world.done(start_teardown(dies));
        world.refused(host_end_share(SECOND, FIRST, 1), Error::WrongState);
        world.refused(host_end_share(FIRST, SECOND, 2), Error::WrongState);
        let third = if dies == FIRST { Error::WrongState } else { Error::Busy };
        world.refused(host_end_share(FIRST, THIRD, 1), third);
        world.done(host_end_share(FIRST, SECOND, 1));
        assert!(world.reached_by(SECOND, 0x300).is_empty());
        world.refused(host_end_share(FIRST, SECOND, 1), Error::WrongState);
        world.tear_down();
    }
}

#[test]
fn a_guest_drops_what_it_borrows_of_a_dying_one() {
    let mut world = world_with_share();
    world.done(start_teardown(FIRST));
    world.refused(guest_withdraw(FIRST, 1), Error::VmGone);
    world.refused(reclaim(FIRST, LOW, 8), Error::Busy);
    world.done(reclaim(FIRST, LOW + 1, 7));
    world.done(guest_drop(SECOND, FIRST, 1));
    world.done(reclaim(FIRST, LOW, 1));
    world.tear_down();
}

#[test]
fn a_dying_guest_offers_and_accepts_nothing() {
    let mut world = world();
    world.done(guest_offer(FIRST, 0x200, SECOND, Rights::FULL));
    world.done(host_donate_guest(SECOND, LOW + 16, 0x300, 1));
    world.done(guest_offer(SECOND, 0x300, FIRST, Rights::FULL));
    world.done(start_teardown(SECOND));
    world.refused(guest_accept(SECOND, FIRST, 1, 0x301, Rights::FULL), Error::VmGone);
    world.refused(guest_accept(FIRST, SECOND, 1, 0x301, Rights::FULL), Error::VmGone);
    world.refused(guest_offer(SECOND, 0x300, FIRST, Rights::FULL), Error::VmGone);
    world.done(reclaim(SECOND, LOW + 16, 1));
    assert!(world.specification.guest(SECOND).unwrap().offers.is_empty(), "the offer goes with the page");
    world.refused(guest_accept(FIRST, SECOND, 1, 0x301, Rights::FULL), Error::VmGone);
    world.tear_down();
}

#[test]
fn a_guest_has_so_many_offers_at_a_time() {
    let mut world = World::with_guests(&[true, true], 12);
    world.done(host_donate_guest(FIRST, LOW, 0x200, 32));
    let offer = |index: u64| guest_offer(FIRST, 0x200 + index, SECOND, Rights::FULL);
    for index in 0..MAX_OFFERS as u64 {
        world.done(offer(index));
    }
    world.done(guest_accept(SECOND, FIRST, 1, 0x300, Rights::FULL));
    world.refused(offer(16), Error::Limit);
    world.refused(offer(0), Error::WrongState);
    world.done(guest_withdraw(FIRST, 9));
    world.done(offer(16));
    world.refused(offer(17), Error::Limit);
    world.done(guest_drop(SECOND, FIRST, 1));
    world.done(offer(17));
    world.tear_down();
}

/// Who looks for the borrower, and finds him gone or another one come by the time that he has the locks, tries again.
#[test]
fn a_withdrawal_that_names_the_wrong_borrower_is_put_off() {
    let mut world = world_with_share();
    world.done(guest_offer(FIRST, 0x201, SECOND, Rights::FULL));
    let mut cpu = world.cpu.clone();
    let [first, second, third] = [FIRST, SECOND, THIRD].map(|vm| world.memory(vm));
    let real = &world.ownership;
    assert_eq!(real.guest_withdraw(&mut cpu, first, None, 1), Err(Error::Busy));
    assert_eq!(real.guest_withdraw(&mut cpu, first, Some(third), 1), Err(Error::Busy));
    assert_eq!(real.guest_withdraw(&mut cpu, first, Some(second), 2), Err(Error::Busy));
    assert_eq!(real.guest_withdraw(&mut cpu, first, Some(second), 3), Err(Error::WrongState));
    assert_eq!(real.guest_withdraw(&mut cpu, first, Some(first), 1), Err(Error::InvalidParameter));
    world.compare("after withdrawals that were put off");
    world.done(guest_withdraw(FIRST, 1));
    world.done(guest_withdraw(FIRST, 2));
    world.tear_down();
}

#[test]
fn borrowed_pages_lie_in_both_orders_of_the_locks() {
    // The locks of two guests are taken by their addresses, so each of the two comes first once.
    for (owner, borrower) in [(FIRST, SECOND), (SECOND, FIRST)] {
        let mut world = World::with_guests(&[true, true], 12);
        world.done(host_donate_guest(owner, LOW, 0x200, 1));
        world.done(guest_offer(owner, 0x200, borrower, Rights::FULL));
        let (gfn, rights) = (Gfn::new(0x200), Rights::FULL);
        world.done(Call::GuestAccept { vm: borrower, owner, number: 1, gfn, rights });
        assert_eq!(world.reached_by(borrower, 0x200), [LOW]);
        world.done(guest_drop(borrower, owner, 1));
        world.tear_down();
    }
}
