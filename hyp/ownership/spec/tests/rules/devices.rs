//! Devices.

use crate::common::{ALICE, BOB, CAROL, gfn, pfn, refusal, start};
use abi::{Error, Pfn};
use ownership_spec::{Device, Frame, Owner, Rights};

/// Pages of devices.
const UART: Pfn = Pfn::new(0x9);
const LAST: Pfn = Pfn::new(0x3f);

#[test]
fn a_device_is_granted_frame_by_frame_to_either_kind_of_guest() {
    for vm in [ALICE, CAROL] {
        let state = start().host_grant_device(vm, UART, gfn(5), 2).unwrap();
        let second = Pfn::new(UART.raw() + 1);
        assert_eq!(state.device(second), Some(Device { owner: Owner::Guest(vm), at: Some(gfn(6)) }));
        assert_eq!(state.frame(vm, gfn(6)), Frame::Device(second));
        let access = state.access(Owner::Guest(vm), second).into_iter().collect::<Vec<_>>();
        assert_eq!(access, [(Some(gfn(6)), Rights::DATA)]);
        assert!(state.access(Owner::Host, second).is_empty());
        assert_eq!(refusal(state.host_grant_device(BOB, UART, gfn(1), 1)), Error::NotYours);
        assert_eq!(refusal(state.host_donate_device_hyp(UART, 1)), Error::NotYours);
        assert_eq!(refusal(state.host_grant_device(vm, Pfn::new(1), gfn(4), 2)), Error::WrongState);
        let dying = state.start_teardown(vm).unwrap();
        assert_eq!(refusal(dying.finalise(vm)), Error::Busy);
        assert_eq!(refusal(dying.reclaim_device(vm, UART, 3)), Error::NotYours);
        let back = dying.reclaim_device(vm, UART, 2).unwrap();
        assert_eq!(back, start().start_teardown(vm).unwrap());
    }
}

#[test]
fn a_device_is_no_memory_of_its_guest() {
    let state = start().host_grant_device(ALICE, UART, gfn(5), 1).unwrap();
    assert_eq!(refusal(state.guest_share_host(ALICE, gfn(5))), Error::NotMemory);
    assert_eq!(refusal(state.guest_return(ALICE, gfn(5))), Error::NotMemory);
    assert_eq!(refusal(state.host_donate_guest(ALICE, pfn(1), gfn(5), 1)), Error::WrongState);
}

#[test]
fn hyp_takes_a_device_and_gives_it_back() {
    let taken = start().host_donate_device_hyp(UART, 2).unwrap();
    assert_eq!(taken.device(UART), Some(Device { owner: Owner::Hyp, at: None }));
    assert_eq!(refusal(taken.host_grant_device(ALICE, UART, gfn(5), 1)), Error::NotYours);
    assert_eq!(refusal(taken.hyp_donate_device_host(UART, 3)), Error::NotYours);
    assert_eq!(taken.hyp_donate_device_host(UART, 2), Ok(start()));
}

#[test]
fn memory_is_no_device_and_devices_are_no_memory() {
    assert_eq!(refusal(start().host_donate_device_hyp(LAST, 2)), Error::BadRange);
    assert_eq!(refusal(start().host_donate_hyp(LAST, 2)), Error::NotMemory);
    assert_eq!(start().device(pfn(1)), None);
    assert_eq!(start().page(LAST), None);
    assert_eq!(start().device(Pfn::new(0x100)), None);
    assert_eq!(start().device(LAST), Some(Device::HOSTS));
    assert!(start().host_donate_device_hyp(LAST, 1).is_ok());
}
