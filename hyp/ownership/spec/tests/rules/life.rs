//! The life of a VM.

use crate::common::{ALICE, BOB, CAROL, gfn, pfn, refusal, start};
use abi::Error;
use abi::host::VmHandle;
use ownership_spec::witness::name_of;
use ownership_spec::{Rights, Vm};

#[test]
fn slots_and_names_are_given_once() {
    assert_eq!(refusal(start().create(ALICE, VmHandle(0x999), true, 16)), Error::WrongState);
    assert_eq!(refusal(start().create(Vm(9), name_of(ALICE), true, 16)), Error::WrongState);
    let made = start().create(Vm(9), VmHandle(0x999), false, 16).unwrap();
    let guest = made.guest(Vm(9)).unwrap();
    assert_eq!((guest.protected, guest.dying, guest.gfn_limit), (false, false, 16));
}

#[test]
fn a_vm_dies_once_and_is_gone_when_it_has_nothing() {
    assert_eq!(refusal(start().finalise(ALICE)), Error::WrongState);
    let dying = start().start_teardown(ALICE).unwrap();
    assert!(dying.guest(ALICE).unwrap().dying && !dying.guest(BOB).unwrap().dying);
    assert_eq!(refusal(dying.start_teardown(ALICE)), Error::WrongState);
    let gone = dying.finalise(ALICE).unwrap();
    assert_eq!(refusal(gone.finalise(ALICE)), Error::VmGone);
    assert_eq!(refusal(gone.start_teardown(ALICE)), Error::VmGone);
    assert_eq!(gone.guests().map(|(vm, _)| vm).collect::<Vec<_>>(), [Vm(1), Vm(2), Vm(3)]);
}

#[test]
fn a_vm_that_borrows_is_not_forgotten() {
    let shared = start().host_share_guest(CAROL, pfn(1), gfn(5), 1, Rights::FULL, false).unwrap();
    assert_eq!(refusal(shared.start_teardown(CAROL).unwrap().finalise(CAROL)), Error::Busy);
    assert!(shared.start_teardown(ALICE).unwrap().finalise(ALICE).is_ok());
}

#[test]
fn a_new_vm_in_an_old_slot_knows_nothing_of_the_old_one() {
    let donated = start().host_donate_guest(ALICE, pfn(1), gfn(5), 1).unwrap();
    let poisoned = donated.force_reclaim(ALICE, pfn(1), 1).unwrap();
    let gone = poisoned.start_teardown(ALICE).unwrap().finalise(ALICE).unwrap();
    let new = gone.create(ALICE, VmHandle(0x999), true, 16).unwrap();
    assert!(new.host_donate_guest(ALICE, pfn(1), gfn(5), 1).is_ok());
}
