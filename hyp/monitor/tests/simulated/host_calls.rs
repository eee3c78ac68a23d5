//! The host's calls: what they answer, and what they refuse.

use crate::world::{CARVE_OUT, CARVE_OUT_PAGES, DEVICE, GUEST_ENTRY, GUEST_RAM, IPA_BITS, RAM, World, hvc};
use abi::host::{FREEHOLD_UUID, HostCall, MAX_PAGES_PER_CALL, MAX_VCPUS, MAX_VMS, VM_PROTECTED};
use abi::{Error, smccc};
use ownership::PageState;
use std::collections::HashSet;

#[test]
fn the_interface_can_be_discovered() {
    let mut world = World::new();
    let uid = world.smccc(hvc(0), u64::from(smccc::VENDOR_HYP_CALL_UID), &[]);
    assert_eq!(uid, smccc::uuid_words(FREEHOLD_UUID).map(u64::from));
    let revision = world.smccc(hvc(0), u64::from(smccc::VENDOR_HYP_REVISION), &[]);
    assert_eq!(revision, [1, 3, 0, 0]);
    let count = world.smccc(hvc(0), u64::from(smccc::VENDOR_HYP_CALL_COUNT), &[]);
    assert_eq!(count[0], HostCall::ALL.len() as u64);
    let [version, bitmap, _] = world.call(HostCall::Version, &[]).unwrap();
    assert_eq!(version, 1 << 16 | 3);
    assert_eq!(bitmap, 0x1f_ffff_0000 | 0b1_1111);
}

#[test]
fn memory_info_names_the_carve_out() {
    let mut world = World::new();
    assert_eq!(world.call(HostCall::MemoryInfo, &[]), Ok([CARVE_OUT << 12, CARVE_OUT_PAGES << 12, 77]));
}

#[test]
fn pages_are_shared_with_hyp_and_taken_back() {
    let mut world = World::new();
    assert_eq!(world.call(HostCall::HypShare, &[RAM + 3, 2]), Ok([0; 3]));
    assert_eq!(world.call(HostCall::HypShare, &[RAM + 4, 1]), Err(Error::WrongState));
    assert_eq!(world.call(HostCall::HypUnshare, &[RAM + 3, 2]), Ok([0; 3]));
    assert_eq!(world.call(HostCall::HypUnshare, &[RAM + 3, 2]), Err(Error::WrongState));
    world.assert_all_back();
    world.machine.assert_clean();
}

#[test]
fn ranges_are_checked_before_anything_else() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let handle = u64::from(vm.handle.0);
    for (first, count, error) in [
        (RAM, 0, Error::BadRange),
        (RAM, MAX_PAGES_PER_CALL + 1, Error::BadRange),
        (RAM, u64::MAX, Error::BadRange),
        (u64::MAX, 1, Error::BadRange),
        (u64::MAX, 2, Error::BadRange),
        (1 << 52, 1, Error::BadRange),
        (0x9000, 1, Error::NotMemory),
        (RAM - 1, 2, Error::NotMemory),
        (CARVE_OUT, 1, Error::NotYours),
    ] {
        assert_eq!(world.call(HostCall::HypShare, &[first, count]), Err(error), "{first:#x} {count}");
        assert_eq!(world.call(HostCall::VcpuTopUp, &[handle, 0, first, count]), Err(error), "{first:#x} {count}");
        let donate = [handle, 0, first, 0x5_0000, count];
        assert_eq!(world.call(HostCall::VmDonate, &donate), Err(error), "{first:#x} {count}");
    }
    let share = |rights| [handle, 0, RAM + 100, 0x5_0000, 1, rights];
    for rights in [0, 2, 8, 1 << 63 | 1] {
        assert_eq!(world.call(HostCall::VmShare, &share(rights)), Err(Error::InvalidParameter));
    }
    world.end(vm);
    world.assert_all_back();
}

#[test]
fn sizes_out_of_range_are_refused() {
    let mut world = World::new();
    let [pages, alignment, vcpu_pages] = world.call(HostCall::VmSizes, &[IPA_BITS, 1]).unwrap();
    assert_eq!((pages, alignment, vcpu_pages), (2, 1, 1));
    assert_eq!(world.call(HostCall::VmSizes, &[40, MAX_VCPUS]), Ok([3, 2, 1]), "two root tables side by side");
    for (ipa_bits, vcpus) in [(31, 1), (41, 1), (0, 1), (1 << 32 | 36, 1), (36, 0), (36, MAX_VCPUS + 1), (36, u64::MAX)]
    {
        assert_eq!(world.call(HostCall::VmSizes, &[ipa_bits, vcpus]), Err(Error::InvalidParameter));
    }
}

#[test]
fn a_vm_is_initialised_only_from_what_it_needs() {
    let mut world = World::new();
    let [handle, ..] = world.call(HostCall::VmReserve, &[]).unwrap();
    let good = [handle, VM_PROTECTED, 40 | 2 << 32, RAM, 3, GUEST_ENTRY, 0];
    let changed = |index: usize, value: u64| {
        let mut arguments = good;
        arguments[index] = value;
        arguments
    };
    for (arguments, error) in [
        (changed(0, handle + 1), Error::VmGone),
        (changed(0, handle | 1 << 32), Error::VmGone),
        (changed(1, 2), Error::InvalidParameter),
        (changed(1, 1 << 63 | 1), Error::InvalidParameter),
        (changed(2, 40), Error::InvalidParameter),
        (changed(2, 31 | 2 << 32), Error::InvalidParameter),
        (changed(2, 40 | (MAX_VCPUS + 1) << 32), Error::InvalidParameter),
        (changed(3, RAM + 1), Error::InvalidParameter),
        (changed(3, CARVE_OUT), Error::NotYours),
        (changed(3, CARVE_OUT - 2), Error::NotYours),
        (changed(3, 0x9000), Error::NotMemory),
        (changed(3, u64::MAX - 1), Error::BadRange),
        (changed(4, 2), Error::InvalidParameter),
        (changed(4, 4), Error::InvalidParameter),
        (changed(5, GUEST_ENTRY + 2), Error::InvalidParameter),
        (changed(5, 1 << 40), Error::InvalidParameter),
    ] {
        assert_eq!(world.call(HostCall::VmInit, &arguments), Err(error), "{arguments:x?}");
        world.assert_all_back();
    }
    world.call(HostCall::VmInit, &good).unwrap();
    assert_eq!(world.call(HostCall::VmInit, &good), Err(Error::WrongState), "twice");
    assert_eq!(world.state(RAM), PageState::Hyp);
    world.machine.assert_clean();
}

#[test]
fn vcpus_come_in_order_and_give_back_what_a_refusal_leaves() {
    let mut world = World::new();
    let vm = world.vm(RAM, true, 1);
    let handle = u64::from(vm.handle.0);
    assert_eq!(world.call(HostCall::VcpuInit, &[handle, 1, RAM + 20, 1, RAM + 21]), Err(Error::Limit));

    let [other, ..] = world.call(HostCall::VmReserve, &[]).unwrap();
    let early = world.call(HostCall::VcpuInit, &[other, 0, RAM + 20, 1, RAM + 21]);
    assert_eq!(early, Err(Error::WrongState), "before VM_INIT");
    let init = [other, 0, IPA_BITS | 3 << 32, RAM + 32, 2, GUEST_ENTRY, 0];
    world.call(HostCall::VmInit, &init).unwrap();
    world.track(abi::host::VmHandle(other as u32));
    for (arguments, error) in [
        ([other, 1, RAM + 20, 1, RAM + 21], Error::InvalidParameter),
        ([other, u64::MAX, RAM + 20, 1, RAM + 21], Error::Limit),
        ([other, 0, RAM + 20, 2, RAM + 22], Error::InvalidParameter),
        ([other, 0, RAM + 20, 1, RAM + 20], Error::Busy),
        ([other, 0, RAM + 20, 1, CARVE_OUT], Error::NotYours),
        ([other, 0, CARVE_OUT, 1, RAM + 20], Error::NotYours),
        ([other, 0, RAM + 20, 1, vm.run_page], Error::Busy),
        ([other, 0, RAM + 20, 1, 0x9000], Error::NotMemory),
    ] {
        assert_eq!(world.call(HostCall::VcpuInit, &arguments), Err(error), "{arguments:x?}");
        for page in RAM + 20..RAM + 23 {
            assert_eq!(world.state(page), PageState::HOST_ALONE, "{arguments:x?}");
        }
    }
    world.call(HostCall::VcpuInit, &[other, 0, RAM + 20, 1, RAM + 21]).unwrap();
    assert_eq!(world.call(HostCall::HypUnshare, &[RAM + 21, 1]), Err(Error::Busy), "a run page is pinned");
    let again = world.call(HostCall::VcpuInit, &[other, 0, RAM + 22, 1, RAM + 23]);
    assert_eq!(again, Err(Error::InvalidParameter), "twice");
}

#[test]
fn another_vms_vcpu_does_not_come_with_a_handle() {
    let mut world = World::new();
    let one = world.vm(RAM, true, 1);
    let two = world.vm(RAM + 32, true, 2);
    let handle = u64::from(one.handle.0);
    assert_eq!(world.run(one, 1), Err(Error::VmGone));
    assert_eq!(world.call(HostCall::VcpuTopUp, &[handle, 1, RAM + 100, 1]), Err(Error::VmGone));
    assert_eq!(world.call(HostCall::VmDonate, &[handle, 1, RAM + 100, 0x4_0000, 1]), Err(Error::VmGone));
    world.end(one);
    world.end(two);
    world.assert_all_back();
}

#[test]
fn handles_run_out_and_are_not_soon_used_again() {
    let mut world = World::new();
    let mut seen = HashSet::new();
    let mut handles = Vec::new();
    for _ in 0..MAX_VMS {
        let [handle, ..] = world.call(HostCall::VmReserve, &[]).unwrap();
        assert!(seen.insert(handle));
        handles.push(handle);
    }
    assert_eq!(world.call(HostCall::VmReserve, &[]), Err(Error::Limit));
    for _ in 0..200 {
        let handle = handles.pop().unwrap();
        world.call(HostCall::VmTeardown, &[handle]).unwrap();
        world.call(HostCall::VmFinalise, &[handle]).unwrap();
        assert_eq!(world.call(HostCall::VmFinalise, &[handle]), Err(Error::VmGone));
        let [handle, ..] = world.call(HostCall::VmReserve, &[]).unwrap();
        assert!(seen.insert(handle), "{handle} came back");
        handles.push(handle);
    }
}

#[test]
fn the_kind_of_vm_decides_how_it_gets_memory() {
    let mut world = World::new();
    let protected = world.vm(RAM, true, 1);
    let other = world.vm(RAM + 32, false, 1);
    let gfn = GUEST_RAM.raw() >> 12;
    let (protected_handle, other_handle) = (u64::from(protected.handle.0), u64::from(other.handle.0));
    assert_eq!(world.call(HostCall::VmShare, &[protected_handle, 0, RAM + 64, gfn, 1, 7]), Err(Error::WrongState));
    assert_eq!(world.call(HostCall::VmDonate, &[other_handle, 0, RAM + 64, gfn, 1]), Err(Error::WrongState));
    world.call(HostCall::VmShare, &[other_handle, 0, RAM + 64, gfn, 2, 3]).unwrap();
    assert_eq!(world.call(HostCall::VmUnshare, &[other_handle, gfn, 3]), Err(Error::WrongState));
    world.call(HostCall::VmUnshare, &[other_handle, gfn, 2]).unwrap();
    world.end(protected);
    world.end(other);
    world.assert_all_back();
}

/// A store of its secrets there would go to the host's device.
#[test]
fn a_protected_guest_finds_no_device_where_memory_is_to_be() {
    let mut world = World::new();
    let protected = world.vm(RAM, true, 1);
    let other = world.vm(RAM + 32, false, 1);
    let handle = u64::from(protected.handle.0);
    let limit = (1 << 30) >> 12;
    let ends = [limit + 1, limit + 2, limit + 4, limit + 0x1_0000, 1 << (IPA_BITS - 12), 1 << 52, u64::MAX];
    for (end, count) in ends.iter().flat_map(|end| [1, 2, 4].map(|count| (*end, count))) {
        let grant = [handle, 0, DEVICE, end - count, count];
        assert_eq!(world.call(HostCall::VmGrantDevice, &grant), Err(Error::BadRange), "{grant:x?}");
    }
    for (gfn, count) in [(u64::MAX, 1), (u64::MAX, 2), (u64::MAX - 1, 4), (limit - 1, u64::MAX), (limit - 1, 0)] {
        let grant = [handle, 0, DEVICE, gfn, count];
        assert_eq!(world.call(HostCall::VmGrantDevice, &grant), Err(Error::BadRange), "{grant:x?}");
    }
    // Who there is comes first, what the device is comes last.
    assert_eq!(world.call(HostCall::VmGrantDevice, &[0, 0, DEVICE, limit, 1]), Err(Error::VmGone));
    assert_eq!(world.call(HostCall::VmGrantDevice, &[handle, 1, DEVICE, limit, 1]), Err(Error::VmGone));

    let other_handle = u64::from(other.handle.0);
    assert_eq!(world.call(HostCall::VmGrantDevice, &[handle, 0, DEVICE, limit - 2, 2]), Ok([0; 3]));
    assert_eq!(world.call(HostCall::VmGrantDevice, &[handle, 0, DEVICE + 2, 0, 1]), Ok([0; 3]));
    assert_eq!(world.call(HostCall::VmGrantDevice, &[handle, 0, DEVICE, limit, 1]), Err(Error::BadRange));
    assert_eq!(world.call(HostCall::VmGrantDevice, &[handle, 0, DEVICE, 1, 1]), Err(Error::NotYours));
    assert_eq!(world.call(HostCall::VmGrantDevice, &[other_handle, 0, DEVICE + 3, limit - 1, 2]), Ok([0; 3]));
    assert_eq!(world.call(HostCall::VmGrantDevice, &[other_handle, 0, DEVICE + 5, 1 << 20, 1]), Ok([0; 3]));

    for (handle, pages) in [(handle, DEVICE..DEVICE + 3), (other_handle, DEVICE + 3..DEVICE + 6)] {
        world.call(HostCall::VmTeardown, &[handle]).unwrap();
        let count = pages.end - pages.start;
        assert_eq!(world.call(HostCall::VmReclaimDevice, &[handle, pages.start, count]), Ok([0; 3]));
        world.call(HostCall::VmFinalise, &[handle]).unwrap();
    }
    world.assert_all_back();
    world.machine.assert_clean();
}
