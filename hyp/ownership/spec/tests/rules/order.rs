//! In which order a call's mistakes are found.

use crate::common::{ALICE, CAROL, gfn, pfn, refusal, start};
use abi::{Error, Gfn, Pfn};
use ownership_spec::{Machine, Rights, Specification, Vm, witness};

const NO_VM: Vm = Vm(9);
const DEVICE: Pfn = Pfn::new(0x3f);
const NO_FRAME: Gfn = Gfn::new(witness::GFN_LIMIT);

/// A donation to a guest.
fn donate(state: &Specification, vm: Vm, first: Pfn, at: Gfn, count: u64) -> Error {
    refusal(state.host_donate_guest(vm, first, at, count))
}

#[test]
fn ranges_are_checked_without_overflow() {
    let small = Specification::new(Machine { longest: 4, ..witness::machine() });
    let share = |first, count| small.host_share_hyp(Pfn::new(first), count, false);
    assert_eq!(refusal(share(0x40, 0)), Error::BadRange);
    assert_eq!(refusal(share(0x40, 5)), Error::BadRange);
    assert!(share(0x40, 4).is_ok());
    assert_eq!(refusal(share(u64::MAX, 1)), Error::BadRange);
    assert_eq!(refusal(share(u64::MAX - 1, 2)), Error::BadRange);
    assert_eq!(refusal(share(0xff, 2)), Error::BadRange);
    assert_eq!(refusal(share(0xff, 1)), Error::NotMemory);
    assert_eq!(refusal(start().host_share_hyp(pfn(0), u64::MAX, false)), Error::BadRange);
    assert_eq!(refusal(start().guest_share_host(ALICE, gfn(u64::MAX))), Error::BadRange);
    assert_eq!(refusal(start().guest_share_host(ALICE, NO_FRAME)), Error::BadRange);
    assert_eq!(refusal(start().host_unshare_guest(CAROL, gfn(0x3f), 2)), Error::BadRange);
}

#[test]
fn pages_come_before_frames_before_vms_before_states_before_vacancy() {
    let dying = start().start_teardown(ALICE).unwrap();
    let owned = start().host_donate_hyp(pfn(2), 1).unwrap();
    assert_eq!(donate(&dying, ALICE, DEVICE, NO_FRAME, 0), Error::BadRange);
    assert_eq!(donate(&dying, ALICE, DEVICE, NO_FRAME, 1), Error::NotMemory);
    assert_eq!(donate(&dying, ALICE, pfn(1), NO_FRAME, 1), Error::BadRange);
    assert_eq!(donate(&dying, ALICE, pfn(1), gfn(1), 1), Error::VmGone);
    assert_eq!(donate(&owned, NO_VM, pfn(2), gfn(1), 1), Error::VmGone);
    assert_eq!(donate(&owned, CAROL, pfn(2), gfn(1), 1), Error::WrongState);
    assert_eq!(donate(&owned, ALICE, pfn(2), gfn(1), 1), Error::NotYours);
    let taken = owned.host_donate_guest(ALICE, pfn(3), gfn(1), 1).unwrap();
    assert_eq!(donate(&taken, ALICE, pfn(2), gfn(1), 1), Error::NotYours);
    assert_eq!(donate(&taken, ALICE, pfn(1), gfn(1), 1), Error::WrongState);
}

#[test]
fn of_several_pages_the_first_that_is_refused_counts() {
    let state = start().host_donate_hyp(pfn(2), 1).unwrap().host_share_hyp(pfn(3), 1, false).unwrap();
    let state = state.hyp_pin(pfn(3)).unwrap().host_share_hyp(pfn(4), 1, false).unwrap();
    assert_eq!(donate(&state, ALICE, pfn(2), gfn(1), 3), Error::NotYours);
    assert_eq!(donate(&state, ALICE, pfn(3), gfn(1), 2), Error::Busy);
    assert_eq!(donate(&state, ALICE, pfn(4), gfn(1), 1), Error::WrongState);
}

#[test]
fn rights_without_reading_come_first_of_all() {
    let nowhere = Pfn::new(u64::MAX);
    let share = start().host_share_guest(NO_VM, nowhere, gfn(1), 0, Rights::NONE, false);
    assert_eq!(refusal(share), Error::InvalidParameter);
    assert_eq!(refusal(start().guest_accept(NO_VM, NO_VM, 1, NO_FRAME, Rights::NONE)), Error::InvalidParameter);
    let write_only = Rights { read: false, write: true, execute: true };
    assert_eq!(refusal(start().host_share_guest(CAROL, pfn(1), gfn(1), 1, write_only, false)), Error::InvalidParameter);
}

#[test]
fn a_guests_frame_is_looked_at_before_the_page() {
    let lent_out = start().host_donate_guest(ALICE, pfn(1), gfn(1), 1).unwrap().guest_lend_host(ALICE, gfn(1)).unwrap();
    assert_eq!(refusal(lent_out.guest_return(ALICE, gfn(1))), Error::WrongState);
    assert_eq!(refusal(lent_out.guest_return(ALICE, gfn(2))), Error::NotMemory);
    assert_eq!(refusal(lent_out.guest_return(CAROL, gfn(2))), Error::WrongState);
    assert_eq!(refusal(lent_out.start_teardown(ALICE).unwrap().guest_return(ALICE, gfn(2))), Error::VmGone);
}
