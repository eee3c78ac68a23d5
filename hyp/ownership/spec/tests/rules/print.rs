//! What is printed for people.

use crate::common::{ALICE, BOB, gfn, pfn, start};
use abi::host::VmHandle;
use ownership_spec::witness::{Witness, name_of};
use ownership_spec::{Breach, Call, Device, Guest, Kind, Owner, Page, Rights, Specification, Substitute, witness};

#[test]
fn a_call_is_a_line_of_a_script() {
    let (first, count) = (pfn(1), 2);
    let line = |call: Call| call.to_string();
    assert_eq!(
        line(Call::HostShareHyp { first, count, restricted: true }),
        "host_share_hyp page 0x41 count 2 restricted"
    );
    assert_eq!(line(Call::HostShareHyp { first, count, restricted: false }), "host_share_hyp page 0x41 count 2");
    assert_eq!(
        line(Call::GuestAccept { vm: BOB, owner: ALICE, number: 3, gfn: gfn(9), rights: Rights::DATA }),
        "guest_accept vm 1 owner 0 number 3 frame 0x9 rights rw-"
    );
    assert_eq!(
        line(Call::GuestOffer { vm: ALICE, gfn: gfn(9), receiver: VmHandle(0x101), rights: Rights::FULL }),
        "guest_offer vm 0 frame 0x9 receiver 0x101 rights rwx"
    );
    assert_eq!(line(Call::HypPin { page: first }), "hyp_pin page 0x41");
    assert_eq!(
        line(Call::Create { vm: ALICE, name: VmHandle(1), protected: true, gfn_limit: 16 }),
        "create vm 0 name 0x1 protected gfn_limit 16"
    );
}

#[test]
fn a_call_does_what_the_transition_of_its_name_does() {
    let call = Call::HostLendGuest { vm: ALICE, first: pfn(1), gfn: gfn(5), count: 2 };
    let (state, output) = start().apply(&call).unwrap();
    assert_eq!(Ok(state), start().host_lend_guest(ALICE, pfn(1), gfn(5), 2));
    assert_eq!(output, ownership_spec::Output::None);
    let donated = start().host_donate_guest(ALICE, pfn(1), gfn(5), 1).unwrap();
    let offer = Call::GuestOffer { vm: ALICE, gfn: gfn(5), receiver: name_of(BOB), rights: Rights::FULL };
    assert_eq!(donated.apply(&offer).unwrap().1, ownership_spec::Output::Offer(1));
}

#[test]
fn what_no_operand_takes_the_place_of_stays_as_it_is() {
    struct Nothing;
    impl Substitute for Nothing {}
    let (first, count, number, rights) = (pfn(1), 7, 9, Rights::DATA);
    for restricted in [false, true] {
        let call = Call::HostShareGuest { vm: BOB, first, gfn: gfn(5), count, rights, restricted };
        assert_eq!(call.substitute(&Nothing), call);
    }
    let call = Call::GuestAccept { vm: BOB, owner: ALICE, number, gfn: gfn(5), rights };
    assert_eq!(call.substitute(&Nothing), call);
    let call = Call::Create { vm: BOB, name: VmHandle(7), protected: true, gfn_limit: 3 };
    assert_eq!(call.substitute(&Nothing), call);
}

/// The first difference of a state from the start.
#[track_caller]
fn difference(change: impl FnOnce(&mut Specification)) -> String {
    let mut state = start();
    change(&mut state);
    state.difference(&start()).unwrap().to_string()
}

#[test]
fn the_first_difference_is_printed_page_by_page() {
    assert_eq!(start().difference(&start()), None);
    let shared = start().host_share_hyp(pfn(2), 1, true).unwrap().host_donate_hyp(pfn(1), 1).unwrap();
    let words = "page 0x41: owner hyp rwx | expected owner host rwx";
    assert_eq!(shared.difference(&start()).unwrap().to_string(), words);
    let words = "page 0x42: owner host r--, borrower hyp rw- | expected owner host rwx";
    assert_eq!(difference(|state| *state = state.host_share_hyp(pfn(2), 1, true).unwrap()), words);
    let words = "page 0x42: owner host rwx | expected owner host r--, borrower hyp rw-, pins 1";
    let expected = start().host_share_hyp(pfn(2), 1, true).unwrap().hyp_pin(pfn(2)).unwrap();
    assert_eq!(start().difference(&expected).unwrap().to_string(), words);
    let words = "page 0x41: owner guest 0 at frame 0x5 ---, borrower host rwx | expected owner host rwx";
    let lent = start().host_donate_guest(ALICE, pfn(1), gfn(5), 1).unwrap().guest_lend_host(ALICE, gfn(5)).unwrap();
    assert_eq!(lent.difference(&start()).unwrap().to_string(), words);
    let words = "page 0x41: owner host ---, borrower guest 0 at frame 0x5 rwx | expected owner host rwx";
    let lent = start().host_lend_guest(ALICE, pfn(1), gfn(5), 1).unwrap();
    assert_eq!(lent.difference(&start()).unwrap().to_string(), words);
}

#[test]
fn devices_and_guests_differ_too() {
    let hyps = Device { owner: Owner::Hyp, at: None };
    let words = "device page 0x9: owner hyp | expected owner host";
    assert_eq!(difference(|state| state.set_device(witness::DEVICE_PAGE, hyps)), words);
    let words = "device page 0x9: owner guest 0 at frame 0x5 | expected owner host";
    let granted = Device { owner: Owner::Guest(ALICE), at: Some(gfn(5)) };
    assert_eq!(difference(|state| state.set_device(witness::DEVICE_PAGE, granted)), words);
    let name = "name 0x100, protected";
    let rest = "frames below 0x40, last offer 0";
    let words = format!("guest 0: {name}, dying, {rest} | expected {name}, {rest}");
    assert_eq!(difference(|state| *state = state.start_teardown(ALICE).unwrap()), words);
    let gone = start().start_teardown(ALICE).unwrap().finalise(ALICE).unwrap();
    assert_eq!(gone.difference(&start()).unwrap().to_string(), format!("guest 0: none | expected {name}, {rest}"));
    let guest = |state: &Specification| state.guest(ALICE).unwrap().to_string();
    let donated = start().host_donate_guest(ALICE, pfn(1), gfn(5), 2).unwrap();
    let offered = donated.guest_offer(ALICE, gfn(5), name_of(BOB), Rights::DATA).unwrap().0;
    let offer = "offer 1: frame 0x5 rw- to VM 0x101";
    assert_eq!(guest(&offered), format!("{name}, frames below 0x40, last offer 1, {offer}"));
    let accepted = offered.guest_accept(BOB, ALICE, 1, gfn(9), Rights::DATA).unwrap();
    let accepted = accepted.force_reclaim(ALICE, pfn(2), 1).unwrap();
    let words = format!(
        "{name}, frames below 0x40, last offer 1, frame 0x6 poisoned, {offer}, accepted by guest 1 at frame 0x9"
    );
    assert_eq!(guest(&accepted), words);
    let plain = Guest::new(VmHandle(7), false, 16);
    assert_eq!(plain.to_string(), "name 0x7, not protected, frames below 0x10, last offer 0");
    let other = Specification::new(ownership_spec::Machine { longest: 1, ..witness::machine() });
    assert_eq!(other.difference(&start()).unwrap().to_string(), "another machine");
}

#[test]
fn that_a_page_is_wiped_is_no_difference() {
    let back = start().host_donate_hyp(pfn(1), 1).unwrap().hyp_donate_host(pfn(1), 1).unwrap();
    assert_ne!(back, start());
    assert_eq!(back.difference(&start()), None);
    let page = Page { offer: true, ..Page::WIPED };
    assert_eq!(page.to_string(), "owner host rwx, offered, wiped");
    assert_eq!(Page::PLACED.to_string(), "owner hyp rwx, placed");
}

#[test]
fn breaches_and_kinds_say_what_they_are() {
    assert_eq!(Breach::Pinned(pfn(1)).to_string(), "page 0x41 is pinned, and hyp does not borrow it");
    assert_eq!(Kind::LentToDyingGuest.to_string(), "lent to a dying guest");
}

#[test]
fn a_page_is_of_the_kind_that_it_is_the_witness_of() {
    assert_eq!(Kind::ALL.len(), 25);
    for kind in Kind::ALL {
        let witness = Witness::of(*kind);
        assert_eq!(witness.state().unwrap().kind(witness.page), Some(*kind));
    }
    // A share with a guest that is dying is still one of a dying owner, where he is.
    let witness = Witness::of(Kind::SharedWithDyingGuest);
    let both = witness.state().unwrap().start_teardown(ALICE).unwrap();
    assert_eq!(both.kind(witness.page), Some(Kind::DyingSharedWithGuest));
    assert_eq!(both.kind(abi::Pfn::new(0x100)), None);
}
