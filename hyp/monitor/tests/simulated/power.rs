//! The PSCI relay.

use crate::world::{
    CARVE_OUT, CPUS, Firmware, HYP_CONTEXT, HYP_ENTRY, RAM, World, agreeable_firmware, hvc, smc, smccc,
};
use abi::host::HostCall;
use abi::psci;
use monitor::cpu_power::{BootRequest, PowerState};
use monitor::platform::CpuIndex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Barrier};

const ENTRY: u64 = (RAM + 800) << 12 | 0x40;

/// A firmware that always answers the same.
fn firmware_that_answers(result: i64) -> Firmware {
    Arc::new(move |_, _, _| [result as u64, 0, 0, 0])
}

#[test]
fn cpu_on_starts_the_cpu_in_hyp_and_then_in_the_host() {
    let mut world = World::new();
    assert_eq!(world.psci(psci::CPU_ON_64, &[CPUS[2], ENTRY, 0xc0]), psci::SUCCESS);
    assert_eq!(world.take_firmware_calls(), [(psci::CPU_ON_64, [CPUS[2], HYP_ENTRY, HYP_CONTEXT + 2])]);
    assert_eq!(world.monitor.psci().power_state(CpuIndex(2)), PowerState::OnPending);
    assert_eq!(world.monitor.take_boot_request(CpuIndex(1)), None, "not this one");
    assert_eq!(world.monitor.take_boot_request(CpuIndex(2)), Some(BootRequest { entry: ENTRY, context: 0xc0 }));
    assert_eq!(world.monitor.take_boot_request(CpuIndex(2)), None, "once");
    assert_eq!(world.monitor.psci().power_state(CpuIndex(2)), PowerState::On);
}

#[test]
fn every_affinity_that_there_is_can_be_turned_on_and_no_other() {
    let mut world = World::new();
    for affinity in &CPUS[1..] {
        assert_eq!(world.psci(psci::CPU_ON_64, &[*affinity, ENTRY, 0]), psci::SUCCESS, "{affinity:#x}");
    }
    world.take_firmware_calls();
    for affinity in [2, 0x101, 0x8000_0001, 1 << 40 | 1, u64::MAX, 0x1_0000_0001] {
        assert_eq!(world.psci(psci::CPU_ON_64, &[affinity, ENTRY, 0]), psci::INVALID_PARAMETERS, "{affinity:#x}");
    }
    assert_eq!(world.take_firmware_calls(), []);
}

#[test]
fn an_entry_outside_the_hosts_memory_is_refused() {
    let mut world = World::new();
    world.call(HostCall::VmReserve, &[]).unwrap();
    let vm = world.protected_vm();
    for entry in [CARVE_OUT << 12, (RAM + 64) << 12, 0x0900_0000, ENTRY + 1, ENTRY + 2, u64::MAX - 3, 0] {
        assert_eq!(world.psci(psci::CPU_ON_64, &[1, entry, 0]), psci::INVALID_ADDRESS, "{entry:#x}");
        let power_down = 1 << 16;
        assert_eq!(world.psci(psci::CPU_SUSPEND_64, &[power_down, entry, 0]), psci::INVALID_ADDRESS);
        assert_eq!(world.psci(psci::SYSTEM_SUSPEND_64, &[entry, 0]), psci::INVALID_ADDRESS);
    }
    assert_eq!(world.take_firmware_calls(), []);
    assert_eq!(world.monitor.psci().power_state(CpuIndex(1)), PowerState::Off);
    world.end(vm);
}

#[test]
fn a_cpu_is_on_once() {
    let mut world = World::new();
    assert_eq!(world.psci(psci::CPU_ON_64, &[0, ENTRY, 0]), psci::ALREADY_ON, "the caller");
    assert_eq!(world.psci(psci::CPU_ON_64, &[1, ENTRY, 0]), psci::SUCCESS);
    assert_eq!(world.psci(psci::CPU_ON_64, &[1, ENTRY + 4, 0]), psci::ON_PENDING);
    assert_eq!(world.monitor.take_boot_request(CpuIndex(1)).map(|request| request.entry), Some(ENTRY));
    assert_eq!(world.psci(psci::CPU_ON_64, &[1, ENTRY, 0]), psci::ALREADY_ON);
    assert_eq!(world.take_firmware_calls().len(), 1);
}

#[test]
fn one_of_many_turns_a_cpu_on() {
    for _ in 0..200 {
        let world = World::new();
        let barrier = Barrier::new(3);
        let (successes, pending) = (AtomicI64::new(0), AtomicI64::new(0));
        std::thread::scope(|scope| {
            for index in 0..3 {
                let mut cpu = world.cpu(index);
                let (barrier, monitor, successes, pending) = (&barrier, &world.monitor, &successes, &pending);
                scope.spawn(move || {
                    barrier.wait();
                    let arguments = [CPUS[3], ENTRY + 4 * index as u64, index as u64];
                    let function = u64::from(psci::CPU_ON_64);
                    match smccc(monitor, &mut cpu, hvc(0), function, &arguments)[0] as i64 {
                        psci::SUCCESS => successes.fetch_add(1, Ordering::Relaxed),
                        psci::ON_PENDING => pending.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    };
                });
            }
        });
        assert_eq!((successes.load(Ordering::Relaxed), pending.load(Ordering::Relaxed)), (1, 2));
        let request = world.monitor.take_boot_request(CpuIndex(3)).unwrap();
        assert_eq!(request.entry, ENTRY + 4 * request.context, "entry and context are of the same call");
        assert_eq!(world.take_firmware_calls().len(), 1);
    }
}

#[test]
fn a_refusal_of_the_firmware_leaves_the_cpu_off() {
    for error in [psci::INTERNAL_FAILURE, psci::DENIED, psci::ALREADY_ON, psci::INVALID_PARAMETERS] {
        let mut world = World::with_firmware(firmware_that_answers(error), 0x1_0001);
        assert_eq!(world.psci(psci::CPU_ON_64, &[1, ENTRY, 0]), error);
        assert_eq!(world.monitor.psci().power_state(CpuIndex(1)), PowerState::Off);
        assert_eq!(world.monitor.take_boot_request(CpuIndex(1)), None);
        assert_eq!(world.psci(psci::CPU_ON_64, &[1, ENTRY, 0]), error, "it may be tried again");
    }
}

#[test]
fn the_thirty_two_bit_form_takes_thirty_two_bits() {
    let mut world = World::new();
    let high = 0xffff_ffff_0000_0000;
    assert_eq!(world.psci(psci::CPU_ON_32, &[high | 1, high | ENTRY, high | 5]), psci::SUCCESS);
    assert_eq!(world.monitor.take_boot_request(CpuIndex(1)), Some(BootRequest { entry: ENTRY, context: 5 }));
    assert_eq!(world.psci(psci::AFFINITY_INFO_32, &[high | 1, high]), psci::SUCCESS);
}

#[test]
fn cpu_off_can_be_followed_by_cpu_on() {
    let seen = Arc::new(AtomicBool::new(false));
    let flag = seen.clone();
    let firmware: Firmware = Arc::new(move |_, function, _| {
        flag.fetch_or(function == psci::CPU_OFF, Ordering::Relaxed);
        [psci::DENIED as u64, 0, 0, 0]
    });
    let mut world = World::with_firmware(firmware, 0x1_0001);
    assert_eq!(world.psci(psci::CPU_OFF, &[]), psci::DENIED);
    assert!(seen.load(Ordering::Relaxed));
    assert_eq!(world.monitor.psci().power_state(CpuIndex(0)), PowerState::On, "the firmware denied it");
    let mut world = World::new();
    world.psci(psci::CPU_ON_64, &[1, ENTRY, 0]);
    world.monitor.take_boot_request(CpuIndex(1)).unwrap();
    let mut cpu1 = world.cpu(1);
    let monitor = world.monitor.clone();
    cpu1.firmware = Arc::new(move |_, function, _| {
        assert_eq!(function, psci::CPU_OFF);
        assert_eq!(monitor.psci().power_state(CpuIndex(1)), PowerState::Off, "off before the firmware knows");
        panic!("the CPU is off")
    });
    let monitor = world.monitor.clone();
    let off = std::thread::spawn(move || smccc(&monitor, &mut cpu1, smc(0), u64::from(psci::CPU_OFF), &[]));
    assert!(off.join().is_err(), "CPU_OFF does not return");
    assert_eq!(world.psci(psci::CPU_ON_64, &[1, ENTRY + 8, 0]), psci::SUCCESS);
    assert_eq!(world.monitor.take_boot_request(CpuIndex(1)).map(|request| request.entry), Some(ENTRY + 8));
}

#[test]
fn affinity_info_knows_what_is_pending() {
    let mut world = World::new();
    let info = |world: &mut World, target| world.psci(psci::AFFINITY_INFO_64, &[target, 0]);
    assert_eq!(info(&mut world, 1), psci::AFFINITY_OFF, "as the firmware says");
    world.psci(psci::CPU_ON_64, &[1, ENTRY, 0]);
    assert_eq!(info(&mut world, 1), psci::AFFINITY_ON_PENDING, "whatever the firmware says");
    world.monitor.take_boot_request(CpuIndex(1)).unwrap();
    assert_eq!(info(&mut world, 1), psci::AFFINITY_OFF, "as the firmware says");
    assert_eq!(info(&mut world, 7), psci::INVALID_PARAMETERS);
    assert_eq!(world.psci(psci::AFFINITY_INFO_64, &[1, 4]), psci::INVALID_PARAMETERS);
    world.take_firmware_calls();
    world.psci(psci::AFFINITY_INFO_64, &[1, 1]);
    assert_eq!(world.take_firmware_calls(), [(psci::AFFINITY_INFO_64, [1, 1, 0])]);
}

#[test]
fn standby_returns_and_power_down_comes_back_through_hyp() {
    let mut world = World::new();
    assert_eq!(world.psci(psci::CPU_SUSPEND_64, &[0x11, 0xbad, 0xbad]), psci::SUCCESS);
    assert_eq!(world.take_firmware_calls(), [(psci::CPU_SUSPEND_64, [0x11, 0, 0])], "no address is passed on");
    let power_down = 1 << 16;
    assert_eq!(world.psci(psci::CPU_SUSPEND_64, &[power_down, ENTRY, 4]), psci::SUCCESS, "woken at once");
    assert_eq!(world.take_firmware_calls(), [(psci::CPU_SUSPEND_64, [power_down, HYP_ENTRY, HYP_CONTEXT])]);
    assert_eq!(world.monitor.psci().power_state(CpuIndex(0)), PowerState::On);
    assert_eq!(world.monitor.take_boot_request(CpuIndex(0)), None, "it did not come back that way");

    let monitor = world.monitor.clone();
    world.cpu0.firmware = Arc::new(move |_, _, _| {
        assert_eq!(monitor.take_boot_request(CpuIndex(0)), Some(BootRequest { entry: ENTRY, context: 4 }));
        [0; 4]
    });
    world.psci(psci::CPU_SUSPEND_64, &[power_down, ENTRY, 4]);
    world.psci(psci::SYSTEM_SUSPEND_64, &[ENTRY, 4]);
}

#[test]
fn the_power_states_format_is_the_firmwares() {
    let extended: Firmware = Arc::new(|_, function, _| [u64::from(function == psci::PSCI_FEATURES) << 1, 0, 0, 0]);
    let mut world = World::with_firmware(extended, 0x1_0001);
    let (original, extended) = (1 << 16, 1 << 30);
    assert_eq!(world.psci(psci::CPU_SUSPEND_64, &[original, 0xbad, 0]), psci::SUCCESS, "part of the state's name");
    assert_eq!(world.psci(psci::CPU_SUSPEND_64, &[extended, 0xbad, 0]), psci::INVALID_ADDRESS);
}

#[test]
fn system_calls_are_passed_on() {
    let mut world = World::new();
    for function in [psci::SYSTEM_OFF, psci::SYSTEM_RESET, psci::SYSTEM_RESET2_64, psci::MIGRATE_INFO_TYPE] {
        world.psci(function, &[1, 2, 3]);
        assert_eq!(world.take_firmware_calls(), [(function, [1, 2, 3])]);
    }
}

#[test]
fn features_are_the_firmwares_for_what_is_relayed() {
    let mut world = World::with_firmware(firmware_that_answers(6), 0x1_0001);
    for function in [psci::CPU_ON_64, psci::CPU_SUSPEND_32, psci::SYSTEM_RESET2_64] {
        assert_eq!(world.psci(psci::PSCI_FEATURES, &[u64::from(function)]), 6);
        assert_eq!(world.take_firmware_calls(), [(psci::PSCI_FEATURES, [u64::from(function), 0, 0])]);
    }
    for unknown in [0x8400_000b_u64, 0x8400_000f, 0x8400_0014, 0x8400_0060] {
        assert_eq!(world.psci(psci::PSCI_FEATURES, &[unknown]), psci::NOT_SUPPORTED, "{unknown:#x}");
    }
    assert_eq!(world.psci(psci::PSCI_FEATURES, &[0x8000_0000]), psci::SUCCESS, "SMCCC_VERSION");
    for unknown in [0x8400_000b, 0x8400_000f, 0x8400_0014] {
        assert_eq!(world.psci(unknown, &[]), psci::NOT_SUPPORTED);
    }
    assert_eq!(world.take_firmware_calls(), []);
}

#[test]
fn the_version_is_the_firmwares_and_no_more_than_is_relayed() {
    for (firmware, answered) in [(0x1_0003, 0x1_0001), (0x1_0001, 0x1_0001), (0x1_0000, 0x1_0000), (2, 2)] {
        let mut world = World::with_firmware(agreeable_firmware(), firmware);
        assert_eq!(world.psci(psci::PSCI_VERSION, &[]), answered);
        assert_eq!(world.smccc(hvc(0), u64::from(psci::PSCI_VERSION), &[])[0] as i64, answered, "by HVC too");
    }
    let mut old = World::with_firmware(agreeable_firmware(), 2);
    assert_eq!(old.psci(psci::PSCI_FEATURES, &[0xc400_0003]), psci::NOT_SUPPORTED, "there was none before 1.0");
    let mut none = World::with_firmware(agreeable_firmware(), 0);
    for function in [psci::PSCI_VERSION, psci::CPU_ON_64, psci::SYSTEM_OFF] {
        assert_eq!(none.psci(function, &[1, ENTRY, 0]), psci::NOT_SUPPORTED);
    }
    assert_eq!(none.take_firmware_calls(), []);
}
