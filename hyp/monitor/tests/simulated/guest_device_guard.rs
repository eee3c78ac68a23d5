//! The MMIO guard: which accesses of an enrolled guest the host learns of.

use crate::guest_calls::{INVALID, NOT_SUPPORTED, exit, exits, result};
use crate::world::{DEVICE, GUEST_RAM, IPA_BITS, RAM, TestVm, World, abort, trap};
use abi::guest::{MMIO_GUARD_ENROLL, MMIO_GUARD_INFO, MMIO_GUARD_MAP, MMIO_GUARD_UNMAP};
use abi::host::HostCall;
use abi::run::ExitReason;
use monitor::platform::{GuestTrap, RunExit};
use monitor::syndrome::exception_class as class;

const UART: u64 = 0x0900_0000;
/// A byte's load to x3 that the CPU has decoded; a translation fault.
const LOAD: u64 = 1 << 24 | 3 << 16 | 0x07;
/// The same as a store.
const STORE: u64 = LOAD | 1 << 6;
/// PC of the handler for synchronous exceptions of EL1 with its own stack, where VBAR_EL1 is 0.
const HANDLER: u64 = 0x200;

/// Makes an access, and says whether the host learns of it; otherwise the guest takes an external abort.
#[track_caller]
fn reaches_the_host(world: &mut World, vm: TestVm, ipa: u64, iss: u64) -> bool {
    world.cpu0.guest_does(move |context| {
        context.general.pstate = 0x3c5;
        context.general.x[3] = 0x5e;
        trap(abort(class::DATA_ABORT_LOWER, iss, ipa))
    });
    world.cpu0.guest_does(move |context| {
        assert_eq!((context.general.pc, context.el1.esr_el1 & 0x3f), (HANDLER, 0x10), "an external abort");
        GuestTrap::Interrupt
    });
    match world.run(vm, 0).unwrap() {
        ExitReason::Interrupt => {
            assert_eq!(world.run_page(vm.run_page), exit(ExitReason::Interrupt));
            false
        }
        ExitReason::Mmio => {
            let write = iss & 1 << 6 != 0;
            let data = if write { 0x5e } else { 0 };
            let expected = RunExit { ipa, size: 1, write: write.into(), data, ..exit(ExitReason::Mmio) };
            assert_eq!(world.run_page(vm.run_page), expected);
            world.cpu0.guest.clear();
            true
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_access_that_goes_on_into_the_next_page_is_nobodys_to_answer() {
    const DOUBLEWORD: u64 = 3 << 22 | 1 << 15;
    let mut world = World::new();
    let vm = world.protected_vm();
    assert_eq!(result(&mut world, vm, MMIO_GUARD_MAP, &[UART, 0, 0]), 0);
    for enrolled in [false, true] {
        if enrolled {
            assert_eq!(result(&mut world, vm, MMIO_GUARD_ENROLL, &[0, 0, 0]), 0);
        }
        for iss in [LOAD, STORE] {
            assert!(reaches_the_host(&mut world, vm, UART + 0xfff, iss));
            for offset in [0xff9, 0xffc, 0xfff] {
                assert!(!reaches_the_host(&mut world, vm, UART + offset, iss | DOUBLEWORD), "{offset:#x}");
            }
        }
    }
}

#[test]
fn only_marked_pages_are_devices_once_the_guest_is_enrolled() {
    let mut world = World::new();
    let vm = world.protected_vm();
    assert_eq!(result(&mut world, vm, MMIO_GUARD_INFO, &[0, 0, 0]), 4096);
    assert_eq!(result(&mut world, vm, MMIO_GUARD_MAP, &[UART, 0, 0]), 0, "before it is enrolled");
    for ipa in [UART, UART + 0x1000, 0] {
        assert!(reaches_the_host(&mut world, vm, ipa, LOAD), "{ipa:#x}");
    }
    assert_eq!(result(&mut world, vm, MMIO_GUARD_ENROLL, &[0, 0, 0]), 0);
    for iss in [LOAD, STORE] {
        for ipa in [UART, UART + 0xfff] {
            assert!(reaches_the_host(&mut world, vm, ipa, iss), "{ipa:#x}");
        }
        for ipa in [0, UART - 1, UART + 0x1000, GUEST_RAM.raw() - 1] {
            assert!(!reaches_the_host(&mut world, vm, ipa, iss), "{ipa:#x}");
        }
    }
    assert_eq!(result(&mut world, vm, MMIO_GUARD_MAP, &[UART + 0x1000, 0, 0]), 0);
    assert!(reaches_the_host(&mut world, vm, UART + 0x1000, STORE));
    assert_eq!(result(&mut world, vm, MMIO_GUARD_UNMAP, &[UART, 0, 0]), 0);
    assert_eq!(result(&mut world, vm, MMIO_GUARD_UNMAP, &[UART, 0, 0]), INVALID, "twice");
    assert!(!reaches_the_host(&mut world, vm, UART, STORE));
    assert!(reaches_the_host(&mut world, vm, UART + 0x1000, STORE));
    assert_eq!(result(&mut world, vm, MMIO_GUARD_ENROLL, &[0, 0, 0]), 0, "again");
    world.end(vm);
    world.assert_all_back();
}

#[test]
fn memory_of_an_enrolled_guest_is_still_asked_for() {
    let mut world = World::new();
    let vm = world.protected_vm();
    result(&mut world, vm, MMIO_GUARD_ENROLL, &[0, 0, 0]);
    let ipa = GUEST_RAM.raw() + 0x8000;
    let fault = RunExit { ipa, write: 1, ..exit(ExitReason::MemoryFault) };
    world.exits(vm, move |_| trap(abort(class::DATA_ABORT_LOWER, STORE, ipa)), fault);
}

#[test]
fn one_vm_is_enrolled_and_no_other() {
    let mut world = World::new();
    let vms = [world.vm(RAM, true, 1), world.vm(RAM + 32, true, 1)];
    assert_eq!(result(&mut world, vms[0], MMIO_GUARD_ENROLL, &[0, 0, 0]), 0);
    assert_eq!(vms.map(|vm| reaches_the_host(&mut world, vm, UART, STORE)), [false, true]);
}

#[test]
fn a_granted_device_takes_the_place_of_its_mark() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let handle = u64::from(vm.handle.0);
    result(&mut world, vm, MMIO_GUARD_ENROLL, &[0, 0, 0]);
    assert_eq!(result(&mut world, vm, MMIO_GUARD_MAP, &[UART, 0, 0]), 0);
    world.call(HostCall::VmGrantDevice, &[handle, 0, DEVICE, UART >> 12, 1]).unwrap();
    assert_eq!(result(&mut world, vm, MMIO_GUARD_MAP, &[UART, 0, 0]), 0, "there is a device");
    assert_eq!(result(&mut world, vm, MMIO_GUARD_UNMAP, &[UART, 0, 0]), 0);
    let memory = world.monitor.vms().live(vm.handle).unwrap();
    let presence = memory.memory().lock().presence(&world.cpu0, abi::Ipa::new(UART));
    assert_eq!(presence, Ok(ownership::Presence::Mapped));
}

#[test]
fn malformed_guard_calls_are_invalid() {
    let mut world = World::new();
    let vm = world.protected_vm();
    for function in [MMIO_GUARD_MAP, MMIO_GUARD_UNMAP] {
        for arguments in [
            [UART + 1, 0, 0],
            [UART, 1, 0],
            [UART, 0, 1],
            [GUEST_RAM.raw(), 0, 0],
            [GUEST_RAM.raw() + 0x8000, 0, 0],
            [1 << IPA_BITS, 0, 0],
            [!0xfff, 0, 0],
        ] {
            assert_eq!(result(&mut world, vm, function, &arguments), INVALID, "{function:#x} {arguments:x?}");
        }
    }
    for function in [MMIO_GUARD_INFO, MMIO_GUARD_ENROLL] {
        for arguments in [[1, 0, 0], [0, 1, 0], [0, 0, 1]] {
            assert_eq!(result(&mut world, vm, function, &arguments), INVALID, "{function:#x} {arguments:x?}");
        }
    }
    assert!(reaches_the_host(&mut world, vm, UART, STORE), "it is not enrolled");
}

#[test]
fn a_mark_without_tables_asks_the_host_for_pages() {
    let mut world = World::new();
    let vm = world.vm_with_cache(RAM, true, 1, 0);
    exits(&mut world, vm, 0, MMIO_GUARD_MAP, &[UART, 0, 0], exit(ExitReason::TopUp));
    world.call(HostCall::VcpuTopUp, &[u64::from(vm.handle.0), 0, RAM + 64, 8]).unwrap();
    assert_eq!(result(&mut world, vm, MMIO_GUARD_MAP, &[UART, 0, 0]), 0);
    assert!(reaches_the_host(&mut world, vm, UART, STORE));
    world.end(vm);
    world.assert_all_back();
}

#[test]
fn a_guest_that_is_not_protected_has_no_guard() {
    let mut world = World::new();
    let vm = world.vm(RAM, false, 1);
    for function in [MMIO_GUARD_INFO, MMIO_GUARD_ENROLL, MMIO_GUARD_MAP, MMIO_GUARD_UNMAP] {
        assert_eq!(result(&mut world, vm, function, &[0, 0, 0]), NOT_SUPPORTED, "{function:#x}");
    }
}
