//! The calls that a guest finds.

use crate::world::{Firmware, GUEST_ENTRY, GUEST_RAM, RAM, TestVm, World, abort, esr, hvc, smc, trap};
use abi::run::ExitReason;
use abi::{Error, guest, psci, smccc};
use monitor::HostAction;
use monitor::platform::{GuestTrap, RunExit};
use monitor::registers::{GuestRegisters, HostRegisters, VcpuContext};
use monitor::syndrome::{Exception, exception_class as class};
use ownership::PageState;
use std::sync::{Arc, Mutex};

pub const NOT_SUPPORTED: u64 = -1_i64 as u64;
pub const INVALID: u64 = -3_i64 as u64;

/// What the guest finds in its registers after a call that does not exit.
pub fn call(world: &mut World, vm: TestVm, exception: Exception, function: u64, arguments: &[u64]) -> GuestRegisters {
    let seen = Arc::new(Mutex::new(None));
    let slot = seen.clone();
    let arguments = arguments.to_vec();
    world.cpu0.guest_does(move |context| {
        prepare(context, function, &arguments);
        trap(exception)
    });
    world.cpu0.guest_does(move |context| {
        *slot.lock().unwrap() = Some(context.general);
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 0), Ok(ExitReason::Interrupt), "{function:#x}");
    let registers = seen.lock().unwrap().take().unwrap();
    assert!(registers.x[4..].iter().all(|&x| x == 0x55), "x4 to x30 are kept");
    registers
}

pub fn prepare(context: &mut VcpuContext, function: u64, arguments: &[u64]) {
    context.general.x = [0x55; 31];
    context.general.x[0] = function;
    context.general.x[1..=arguments.len()].copy_from_slice(arguments);
    context.general.pc = GUEST_ENTRY;
}

pub fn result(world: &mut World, vm: TestVm, function: u32, arguments: &[u64]) -> u64 {
    call(world, vm, hvc(0), u64::from(function), arguments).x[0]
}

/// Makes a call that exits.
#[track_caller]
pub fn exits(world: &mut World, vm: TestVm, index: u64, function: u32, arguments: &[u64], expected: RunExit) {
    let arguments = arguments.to_vec();
    world.cpu0.guest_does(move |context| {
        prepare(context, u64::from(function), &arguments);
        trap(hvc(0))
    });
    world.run(vm, index).unwrap();
    assert_eq!(world.run_page(vm.run_page + index), expected);
}

pub fn exit(reason: ExitReason) -> RunExit {
    RunExit { exit_reason: reason as u64, ..RunExit::default() }
}

#[test]
fn linux_finds_its_way_to_the_kvm_calls() {
    let mut world = World::new();
    let vm = world.protected_vm();
    assert_eq!(result(&mut world, vm, psci::PSCI_VERSION, &[]), 0x1_0001);
    assert_eq!(result(&mut world, vm, psci::PSCI_FEATURES, &[u64::from(smccc::VERSION)]), 0);
    assert!(result(&mut world, vm, smccc::VERSION, &[]) >= 0x1_0001);
    let uid = call(&mut world, vm, hvc(0), u64::from(smccc::VENDOR_HYP_CALL_UID), &[]);
    assert_eq!(uid.x[..4], [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d]);
    let features = call(&mut world, vm, hvc(0), u64::from(guest::FEATURES), &[]);
    assert_eq!(features.x[..4], [0x3fd, 0, 0, 0]);
    assert_eq!(result(&mut world, vm, guest::HYP_MEMINFO, &[0, 0, 0]), 4096);
    assert_eq!(result(&mut world, vm, guest::HYP_MEMINFO, &[0, 1, 0]), INVALID);
}

#[test]
fn both_conduits_end_behind_the_instruction() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let function = u64::from(psci::PSCI_VERSION);
    assert_eq!(call(&mut world, vm, hvc(0), function, &[]).pc, GUEST_ENTRY);
    let by_smc = call(&mut world, vm, smc(0), function, &[]);
    assert_eq!((by_smc.x[0], by_smc.pc), (0x1_0001, GUEST_ENTRY + 4));
}

#[test]
fn what_is_not_offered_is_not_supported() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let known = [0, 2, 3, 4, 5, 6, 7, 8, 9];
    let functions = (0..=0x80).filter(|number| !known.contains(number)).flat_map(|number| {
        [0xc600_0000 | number, 0x8600_0000 | number, 0x8400_0020 | number, 0xc500_0000 | number, number]
    });
    // What PSCI_FEATURES denies, the host's own calls, and FF-A.
    let others =
        [0x8400_0005, 0x8400_000e, 0xc400_000e, 0x8400_0013, 0xc600_0100, 0xc600_0118, 0x8600_ff03, 0x8400_0063];
    for function in functions.chain(others) {
        if (0x8400_0050..=0x8400_0053).contains(&function) {
            continue;
        }
        assert_eq!(call(&mut world, vm, hvc(0), function, &[]).x[0], NOT_SUPPORTED, "{function:#x}");
    }
    let version = u64::from(psci::PSCI_VERSION);
    assert_eq!(call(&mut world, vm, hvc(1), version, &[]).x[0], NOT_SUPPORTED, "an immediate");
    assert_eq!(call(&mut world, vm, smc(0xffff), version, &[]).x[0], NOT_SUPPORTED, "an immediate");
    assert_eq!(call(&mut world, vm, hvc(0), 1 << 32 | version, &[]).x[0], NOT_SUPPORTED, "bit 32");
    assert!(world.take_firmware_calls().is_empty());
}

#[test]
fn workarounds_reach_the_firmware() {
    let mut world = World::new();
    let vm = world.protected_vm();
    result(&mut world, vm, smccc::ARCH_WORKAROUND_1, &[1, 2, 3]);
    result(&mut world, vm, smccc::ARCH_FEATURES, &[u64::from(smccc::ARCH_WORKAROUND_2)]);
    let expected =
        [(smccc::ARCH_WORKAROUND_1, [1, 2, 3]), (smccc::ARCH_FEATURES, [u64::from(smccc::ARCH_WORKAROUND_2), 0, 0])];
    assert_eq!(world.take_firmware_calls(), expected);
}

#[test]
fn a_guest_leaves_the_cpus_mitigations_as_they_are() {
    for (firmware, expected) in [(0_i64, 1_i64), (1, 1), (-1, -1), (-2, -2)] {
        let answers: Firmware = Arc::new(move |_, function, _| match function {
            smccc::ARCH_FEATURES => [firmware as u64, 0, 0, 0],
            _ => [0; 4],
        });
        let mut world = World::with_firmware(answers, psci::VERSION_1_1 as u32);
        let vm = world.protected_vm();
        let asked = |world: &mut World, id: u32| result(world, vm, smccc::ARCH_FEATURES, &[id.into()]) as i64;
        assert_eq!(asked(&mut world, smccc::ARCH_WORKAROUND_2), expected);
        assert_eq!(asked(&mut world, smccc::ARCH_WORKAROUND_1), firmware);
        assert_eq!(asked(&mut world, smccc::ARCH_WORKAROUND_3), firmware);
        world.take_firmware_calls();
        assert_eq!(result(&mut world, vm, smccc::ARCH_WORKAROUND_2, &[0]), 0);
        assert_eq!(asked(&mut world, smccc::ARCH_SOC_ID), -1);
        assert_eq!(result(&mut world, vm, smccc::ARCH_SOC_ID, &[0]), NOT_SUPPORTED);
        assert!(world.take_firmware_calls().is_empty());
    }
}

#[test]
fn a_reset_is_the_architectures_or_none() {
    let mut world = World::new();
    let vm = world.protected_vm();
    for function in [psci::SYSTEM_RESET2_32, psci::SYSTEM_RESET2_64] {
        for (kind, code) in [(1, -2), (0x7fff_ffff, -2), (1 << 31, -1), (0xffff_ffff, -1), (0xffff_ffff_8000_0000, -1)]
        {
            assert_eq!(result(&mut world, vm, function, &[kind, 0]) as i64, code, "{function:#x} {kind:#x}");
        }
    }
    let reset = [0xffff_ffff_0000_0000, 9];
    exits(&mut world, vm, 0, psci::SYSTEM_RESET2_64, &reset, exit(ExitReason::SystemReset));
}

/// Whether the host may touch a page.
fn host_may_touch(world: &mut World, page: u64) -> bool {
    let exception = abort(class::DATA_ABORT_LOWER, 0x07, page << 12);
    let mut registers = HostRegisters::new();
    world.monitor.clone().host_exit(&mut world.cpu0, &mut registers, &exception) == HostAction::Resume
}

#[test]
fn a_page_is_shared_taken_back_and_given_back() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let (ipa, page) = (GUEST_RAM.raw() + 0x2000, RAM + 66);
    let at = |reason| RunExit { ipa, ..exit(reason) };
    assert!(!host_may_touch(&mut world, page));
    assert_eq!(result(&mut world, vm, guest::MEM_UNSHARE, &[ipa, 0, 0]), INVALID, "not shared");
    exits(&mut world, vm, 0, guest::MEM_SHARE, &[ipa, 0, 0], at(ExitReason::Shared));
    assert!(host_may_touch(&mut world, page));
    assert_eq!(result(&mut world, vm, guest::MEM_SHARE, &[ipa, 0, 0]), INVALID, "twice");
    exits(&mut world, vm, 0, guest::MEM_UNSHARE, &[ipa, 0, 0], at(ExitReason::Unshared));
    assert!(!host_may_touch(&mut world, page));
    world.machine.fill_page(0, abi::Pfn::new(page), 0x77);
    exits(&mut world, vm, 0, guest::MEM_RELINQUISH, &[ipa, 0, 0], at(ExitReason::Relinquished));
    assert_eq!(world.state(page), PageState::HOST_ALONE);
    assert!(world.machine.read_page(abi::Pfn::new(page)).iter().all(|&byte| byte == 0), "wiped");
    assert!(host_may_touch(&mut world, page));
    world.end(vm);
    world.assert_all_back();
}

#[test]
fn a_share_succeeds_with_zero_in_x0() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let shared = RunExit { ipa: GUEST_RAM.raw(), ..exit(ExitReason::Shared) };
    exits(&mut world, vm, 0, guest::MEM_SHARE, &[GUEST_RAM.raw(), 0, 0], shared);
    world.cpu0.guest_does(|context| {
        assert_eq!((context.general.x[0], context.general.pc), (0, GUEST_ENTRY));
        GuestTrap::Interrupt
    });
    world.run(vm, 0).unwrap();
}

#[test]
fn a_share_of_what_is_not_there_yet_is_made_again() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let ipa = GUEST_RAM.raw() + 0x8000;
    let fault = RunExit { ipa, write: 1, ..exit(ExitReason::MemoryFault) };
    exits(&mut world, vm, 0, guest::MEM_SHARE, &[ipa, 0, 0], fault);
    world.cpu0.guest_does(|context| {
        assert_eq!(context.general.pc, GUEST_ENTRY - 4, "back at the HVC");
        assert_eq!(context.general.x[0], u64::from(guest::MEM_SHARE), "with its registers");
        GuestTrap::Interrupt
    });
    world.run(vm, 0).unwrap();
}

#[test]
fn malformed_memory_calls_are_invalid() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let ipa = GUEST_RAM.raw();
    for function in [guest::MEM_SHARE, guest::MEM_UNSHARE, guest::MEM_RELINQUISH] {
        for arguments in
            [[ipa + 1, 0, 0], [ipa, 1, 0], [ipa, 0, 1], [1 << 36, 0, 0], [!0xfff, 0, 0], [0x0900_0000, 0, 0]]
        {
            assert_eq!(result(&mut world, vm, function, &arguments), INVALID, "{function:#x} {arguments:x?}");
        }
    }
}

#[test]
fn a_guest_that_is_not_protected_has_no_memory_to_share() {
    let mut world = World::new();
    let vm = world.vm(RAM, false, 1);
    let features = call(&mut world, vm, hvc(0), u64::from(guest::FEATURES), &[]);
    assert_eq!(features.x[..4], [1, 0, 0, 0]);
    for function in [guest::HYP_MEMINFO, guest::MEM_SHARE, guest::MEM_UNSHARE, guest::MEM_RELINQUISH] {
        assert_eq!(result(&mut world, vm, function, &[0, 0, 0]), NOT_SUPPORTED);
    }
}

#[test]
fn psci_answers_what_it_features() {
    let mut world = World::new();
    let vm = world.protected_vm();
    for function in [0x8400_0000_u64, 0x8400_0001, 0xc400_0001, 0x8400_0002, 0x8400_0003, 0xc400_0003, 0x8400_0004]
        .into_iter()
        .chain([0xc400_0004, 0x8400_0006, 0x8400_0008, 0x8400_0009, 0x8400_000a, 0x8400_0012, 0xc400_0012])
    {
        assert_eq!(result(&mut world, vm, psci::PSCI_FEATURES, &[function]), 0, "{function:#x}");
    }
    for function in [0x8400_0005_u64, 0x8400_0007, 0x8400_000b, 0x8400_000e, 0x8400_0013, 0xc600_0003, 0] {
        assert_eq!(result(&mut world, vm, psci::PSCI_FEATURES, &[function]), NOT_SUPPORTED, "{function:#x}");
    }
    assert_eq!(result(&mut world, vm, psci::MIGRATE_INFO_TYPE, &[]), 2);
    exits(&mut world, vm, 0, psci::CPU_SUSPEND_64, &[0, 0, 0], exit(ExitReason::Wait));
}

#[test]
fn a_vcpu_turns_another_on_and_off() {
    let mut world = World::new();
    let vm = world.vm(RAM, true, 3);
    let affinity = |world: &mut World, target| result(world, vm, psci::AFFINITY_INFO_64, &[target, 0]) as i64;
    assert_eq!(affinity(&mut world, 0), psci::AFFINITY_ON);
    assert_eq!(affinity(&mut world, 2), psci::AFFINITY_OFF);
    assert_eq!(world.run(vm, 2), Err(Error::WrongState), "it is off");

    let on = |world: &mut World, target, entry| result(world, vm, psci::CPU_ON_64, &[target, entry, 9]) as i64;
    assert_eq!(on(&mut world, 3, GUEST_ENTRY), psci::INVALID_PARAMETERS);
    for stray in 2..64 {
        assert_eq!(on(&mut world, 1 << stray | 1, GUEST_ENTRY), psci::INVALID_PARAMETERS, "bit {stray}");
        assert_eq!(affinity(&mut world, 1 << stray | 1), psci::INVALID_PARAMETERS, "bit {stray}");
    }
    assert_eq!(on(&mut world, 2, GUEST_ENTRY + 1), psci::INVALID_ADDRESS);
    assert_eq!(on(&mut world, 2, 1 << 36), psci::INVALID_ADDRESS);
    assert_eq!(on(&mut world, 0, GUEST_ENTRY), psci::ALREADY_ON);
    exits(
        &mut world,
        vm,
        0,
        psci::CPU_ON_64,
        &[2, GUEST_ENTRY + 8, 0x99],
        RunExit { data: 2, ..exit(ExitReason::CpuOn) },
    );
    assert_eq!(affinity(&mut world, 2), psci::AFFINITY_ON_PENDING);
    assert_eq!(on(&mut world, 2, GUEST_ENTRY), psci::ON_PENDING);

    world.cpu0.guest_does(|context| {
        assert_eq!((context.general.pc, context.general.x[0]), (GUEST_ENTRY + 8, 0x99));
        assert_eq!(context.traps.vmpidr_el2 & psci::MPIDR_AFFINITY_MASK, 2);
        context.general.x[20] = 20;
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 2), Ok(ExitReason::Interrupt));
    assert_eq!(affinity(&mut world, 2), psci::AFFINITY_ON);
    assert_eq!(on(&mut world, 2, GUEST_ENTRY), psci::ALREADY_ON);

    exits(&mut world, vm, 2, psci::CPU_OFF, &[], exit(ExitReason::CpuOff));
    assert_eq!(world.run(vm, 2), Err(Error::WrongState));
    assert_eq!(affinity(&mut world, 2), psci::AFFINITY_OFF);
    exits(&mut world, vm, 0, psci::CPU_ON_64, &[2, GUEST_ENTRY, 1], RunExit { data: 2, ..exit(ExitReason::CpuOn) });
    world.cpu0.guest_does(|context| {
        assert_eq!(context.general.x[20], 0, "nothing is left of its former life");
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 2), Ok(ExitReason::Interrupt));
    assert_eq!(result(&mut world, vm, psci::AFFINITY_INFO_64, &[0, 1]) as i64, psci::INVALID_PARAMETERS);
    world.end(vm);
    world.assert_all_back();
}

#[test]
fn thirty_two_bit_calls_take_thirty_two_bits() {
    let mut world = World::new();
    let vm = world.vm(RAM, true, 2);
    let arguments = [0xffff_ffff_0000_0001, 0xffff_ffff_0000_0000 | GUEST_ENTRY, 0xffff_ffff_0000_0007];
    exits(&mut world, vm, 0, psci::CPU_ON_32, &arguments, RunExit { data: 1, ..exit(ExitReason::CpuOn) });
    world.cpu0.guest_does(|context| {
        assert_eq!((context.general.pc, context.general.x[0]), (GUEST_ENTRY, 7));
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 1), Ok(ExitReason::Interrupt));
}

#[test]
fn the_end_of_the_system_is_the_end_of_every_vcpu() {
    for (function, reason) in [
        (psci::SYSTEM_OFF, ExitReason::SystemOff),
        (psci::SYSTEM_RESET, ExitReason::SystemReset),
        (psci::SYSTEM_RESET2_32, ExitReason::SystemReset),
        (psci::SYSTEM_RESET2_64, ExitReason::SystemReset),
    ] {
        let mut world = World::new();
        let vm = world.vm(RAM, true, 2);
        exits(&mut world, vm, 0, psci::CPU_ON_64, &[1, GUEST_ENTRY, 0], RunExit { data: 1, ..exit(ExitReason::CpuOn) });
        // vCPU 1 runs on another CPU, while vCPU 0 ends the system.
        let (mut cpu1, monitor, handle) = (world.cpu(1), world.monitor.clone(), u64::from(vm.handle.0));
        cpu1.guest_does(move |context| {
            prepare(context, u64::from(function), &[0, 0]);
            trap(hvc(0))
        });
        world.cpu0.guest_does(move |_| {
            let run = abi::host::HostCall::VcpuRun;
            let [exit, ..] = crate::world::host_call(&monitor, &mut cpu1, run, &[handle, 0]).unwrap();
            assert_eq!(exit, reason as u64);
            trap(Exception { esr: esr(class::FP, 0), ..Exception::default() })
        });
        assert_eq!(world.run(vm, 1), Ok(reason));
        for index in 0..2 {
            assert_eq!(world.run(vm, index), Err(Error::WrongState));
        }
        world.end(vm);
        world.assert_all_back();
    }
}
