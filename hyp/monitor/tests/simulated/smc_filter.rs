//! What of the host's SMC and HVC calls reaches the firmware.

use crate::world::{World, hvc, smc, trap};
use abi::host::HostCall;
use abi::smccc;
use abi::standard::Standard;
use monitor::platform::GuestTrap;
use std::collections::BTreeSet;

const NOT_SUPPORTED: u64 = -1_i64 as u64;

fn refused(world: &mut World, exception: monitor::syndrome::Exception, function: u64) {
    assert_eq!(world.smccc(exception, function, &[1, 2, 3])[0], NOT_SUPPORTED, "{function:#x}");
    assert_eq!(world.take_firmware_calls(), [], "{function:#x}");
}

#[test]
fn immediates_and_high_bits_are_refused() {
    let mut world = World::new();
    let version = u64::from(smccc::VERSION);
    for immediate in [1, 0x8000, 0xffff] {
        refused(&mut world, smc(immediate), version);
        refused(&mut world, hvc(immediate), version);
    }
    for high in [1 << 32, 1 << 63, 0xffff_ffff_0000_0000] {
        refused(&mut world, smc(0), high | version);
        refused(&mut world, hvc(0), high | version);
        refused(&mut world, smc(0), high | u64::from(abi::psci::SYSTEM_OFF));
    }
}

#[test]
fn yielding_calls_and_other_owners_are_refused() {
    let mut world = World::new();
    for function in [
        0x0000_0000_u64, // yielding
        0x0400_0000,
        0x4400_0001,
        0x7fff_ffff,
        0x8100_0000, // CPU service
        0x8200_0000, // SiP service
        0xc200_0001,
        0x8300_0000, // OEM service
        0x8400_0060, // FF-A
        0x8400_0063,
        0xc400_0066,
        0x8400_00ff,
        0x8500_0000, // standard hypervisor service
        0x8600_0000, // KVM's, which are for guests
        0xc600_0003,
        0xb200_0000, // trusted applications and OS
        0xbf00_ff01,
        0xffff_ffff,
        0x8000_0003, // PCI
        0x8000_1000,
    ] {
        refused(&mut world, smc(0), function);
        refused(&mut world, hvc(0), function);
    }
}

#[test]
fn the_host_finds_what_is_documented_and_nothing_else() {
    let mut world = World::new();
    let own = HostCall::ALL.iter().map(|call| *call as u32);
    let standard = Standard::ALL.iter().filter(|call| call.is_for_host()).map(|call| call.function);
    let documented: BTreeSet<u32> = standard.chain(own).collect();
    let ranges = [0, 0x8000_0000, 0x8400_0000, 0x8600_0000, 0xc000_0000, 0xc400_0000, 0xc500_0000, 0xc600_0000];
    let walked = ranges.into_iter().flat_map(|base: u32| (0..0x400).map(move |number| base + number));
    let neighbours = documented.iter().flat_map(|function| [function - 1, function + 1, function ^ 1 << 30, *function]);
    for function in walked.chain(neighbours).collect::<BTreeSet<u32>>() {
        // The queries are asked about what there is.
        let x0 = world.smccc(hvc(0), function.into(), &[smccc::VERSION.into()])[0];
        let asked = world.take_firmware_calls();
        let is_there = x0 != NOT_SUPPORTED || !asked.is_empty();
        assert_eq!(is_there, documented.contains(&function), "{function:#x}: {x0:#x}");
    }
}

#[test]
fn hyps_own_calls_come_by_hvc_alone() {
    let mut world = World::new();
    for function in [smccc::VENDOR_HYP_CALL_UID, smccc::VENDOR_HYP_REVISION, 0xc600_0100, 0xc600_0111] {
        refused(&mut world, smc(0), u64::from(function));
        assert_ne!(world.smccc(hvc(0), u64::from(function), &[])[0], NOT_SUPPORTED);
    }
    for function in [0xc600_0105_u64, 0xc600_010f, 0xc600_0125, 0xc600_01ff, 0x8600_0100, 0x8600_ff02] {
        refused(&mut world, hvc(0), function);
    }
}

#[test]
fn what_is_allowed_reaches_the_firmware_with_its_arguments() {
    let mut world = World::new();
    for function in [
        smccc::ARCH_SOC_ID,
        smccc::ARCH_WORKAROUND_1,
        smccc::ARCH_WORKAROUND_2,
        smccc::ARCH_WORKAROUND_3,
        smccc::TRNG_VERSION,
        smccc::TRNG_FEATURES,
        smccc::TRNG_GET_UUID,
        smccc::TRNG_RND32,
        smccc::TRNG_RND64,
    ] {
        for exception in [smc(0), hvc(0)] {
            world.smccc(exception, u64::from(function), &[7, 8, 9, 10]);
            assert_eq!(world.take_firmware_calls(), [(function, [7, 8, 9])]);
        }
    }
}

#[test]
fn the_firmwares_results_are_returned() {
    let firmware = std::sync::Arc::new(|_, function, _: [u64; 3]| [u64::from(function), 1, 2, 3]);
    let mut world = World::with_firmware(firmware, 0x1_0001);
    let results = world.smccc(smc(0), u64::from(smccc::TRNG_RND64), &[64]);
    assert_eq!(results, [u64::from(smccc::TRNG_RND64), 1, 2, 3]);
}

#[test]
fn the_smc_calling_convention_is_hyps_to_answer() {
    let mut world = World::new();
    assert_eq!(world.smccc(smc(0), u64::from(smccc::VERSION), &[])[0], 0x1_0002);
    let features = u64::from(smccc::ARCH_FEATURES);
    for known in [smccc::VERSION, smccc::ARCH_FEATURES] {
        assert_eq!(world.smccc(smc(0), features, &[u64::from(known)])[0], 0);
    }
    for unknown in [0x8000_0004, 0x8400_0000, 0xc600_0100, 0, 1 << 32 | u64::from(smccc::VERSION)] {
        assert_eq!(world.smccc(smc(0), features, &[unknown])[0], NOT_SUPPORTED);
    }
    assert_eq!(world.take_firmware_calls(), []);
    world.smccc(smc(0), features, &[u64::from(smccc::ARCH_WORKAROUND_3), 5, 6]);
    let asked = u64::from(smccc::ARCH_WORKAROUND_3);
    assert_eq!(world.take_firmware_calls(), [(smccc::ARCH_FEATURES, [asked, 0, 0])]);
}

#[test]
fn without_firmware_nothing_is_passed_on() {
    let mut world = World::without_firmware();
    for function in [
        smccc::ARCH_SOC_ID,
        smccc::ARCH_WORKAROUND_1,
        smccc::TRNG_VERSION,
        smccc::TRNG_RND64,
        abi::psci::PSCI_VERSION,
        abi::psci::CPU_OFF,
        abi::psci::SYSTEM_OFF,
    ] {
        refused(&mut world, hvc(0), u64::from(function));
    }
    let features = u64::from(smccc::ARCH_FEATURES);
    assert_eq!(world.smccc(hvc(0), features, &[u64::from(smccc::ARCH_WORKAROUND_1)])[0], NOT_SUPPORTED);
    assert_eq!(world.smccc(hvc(0), u64::from(smccc::VERSION), &[])[0], 0x1_0002);

    let vm = world.protected_vm();
    world.cpu0.guest_does(|context| {
        context.general.x[0] = u64::from(smccc::ARCH_WORKAROUND_1);
        trap(hvc(0))
    });
    world.cpu0.guest_does(|context| {
        assert_eq!(context.general.x[0], NOT_SUPPORTED);
        GuestTrap::Interrupt
    });
    world.run(vm, 0).unwrap();
}
