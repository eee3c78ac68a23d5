//! Every function that a guest finds, by one table, and that there is no other.

use crate::guest_calls::{NOT_SUPPORTED, prepare};
use crate::world::{RAM, TestVm, World, hvc, smc, trap};
use abi::guest::GuestCall;
use abi::host::HostCall;
use abi::run::ExitReason;
use abi::standard::Standard;
use abi::{guest, psci, smccc};
use monitor::platform::GuestTrap;
use monitor::syndrome::Exception;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// For whom a function is there.
#[derive(Clone, Copy, PartialEq)]
enum For {
    All,
    Protected,
}

/// The functions, made with zeroes for arguments, and what comes of them: x0, or an exit.
const FUNCTIONS: &[(u32, For, Due)] = &[
    (smccc::VERSION, For::All, Due::X0(0x1_0002)),
    (smccc::ARCH_FEATURES, For::All, Due::X0(NOT_SUPPORTED)),
    (smccc::ARCH_SOC_ID, For::All, Due::X0(NOT_SUPPORTED)),
    (smccc::ARCH_WORKAROUND_1, For::All, Due::X0(0)),
    (smccc::ARCH_WORKAROUND_2, For::All, Due::X0(0)),
    (smccc::ARCH_WORKAROUND_3, For::All, Due::X0(0)),
    (smccc::TRNG_VERSION, For::All, Due::X0(0x1_0000)),
    (smccc::TRNG_FEATURES, For::All, Due::X0(NOT_SUPPORTED)),
    (smccc::TRNG_GET_UUID, For::All, Due::X0(0x316a_6bd0)),
    (smccc::TRNG_RND32, For::All, Due::X0(-2_i64 as u64)),
    (smccc::TRNG_RND64, For::All, Due::X0(-2_i64 as u64)),
    (psci::PSCI_VERSION, For::All, Due::X0(0x1_0001)),
    (psci::PSCI_FEATURES, For::All, Due::X0(NOT_SUPPORTED)),
    (psci::CPU_ON_32, For::All, Due::X0(-4_i64 as u64)),
    (psci::CPU_ON_64, For::All, Due::X0(-4_i64 as u64)),
    (psci::CPU_OFF, For::All, Due::Exit(ExitReason::CpuOff)),
    (psci::CPU_SUSPEND_32, For::All, Due::Exit(ExitReason::Wait)),
    (psci::CPU_SUSPEND_64, For::All, Due::Exit(ExitReason::Wait)),
    (psci::AFFINITY_INFO_32, For::All, Due::X0(0)),
    (psci::AFFINITY_INFO_64, For::All, Due::X0(0)),
    (psci::MIGRATE_INFO_TYPE, For::All, Due::X0(2)),
    (psci::SYSTEM_OFF, For::All, Due::Exit(ExitReason::SystemOff)),
    (psci::SYSTEM_RESET, For::All, Due::Exit(ExitReason::SystemReset)),
    (psci::SYSTEM_RESET2_32, For::All, Due::Exit(ExitReason::SystemReset)),
    (psci::SYSTEM_RESET2_64, For::All, Due::Exit(ExitReason::SystemReset)),
    (smccc::VENDOR_HYP_CALL_UID, For::All, Due::X0(0xb66f_b428)),
    (guest::FEATURES, For::All, Due::Features),
    (guest::HYP_MEMINFO, For::Protected, Due::X0(4096)),
    (guest::MEM_SHARE, For::Protected, Due::X0(-3_i64 as u64)),
    (guest::MEM_UNSHARE, For::Protected, Due::X0(-3_i64 as u64)),
    (guest::MMIO_GUARD_INFO, For::Protected, Due::X0(4096)),
    (guest::MMIO_GUARD_ENROLL, For::Protected, Due::X0(0)),
    (guest::MMIO_GUARD_MAP, For::Protected, Due::X0(0)),
    // The page that the call before it has marked.
    (guest::MMIO_GUARD_UNMAP, For::Protected, Due::X0(0)),
    (guest::MEM_RELINQUISH, For::Protected, Due::X0(-3_i64 as u64)),
    (GuestCall::VmName as u32, For::All, Due::X0(0)),
    (GuestCall::MemLend as u32, For::Protected, Due::X0(-19_i64 as u64)),
    (GuestCall::MemReturn as u32, For::Protected, Due::X0(-19_i64 as u64)),
    (GuestCall::MemOffer as u32, For::Protected, Due::X0(-3_i64 as u64)),
    (GuestCall::MemAccept as u32, For::Protected, Due::X0(-3_i64 as u64)),
    (GuestCall::MemWithdraw as u32, For::Protected, Due::X0(-17_i64 as u64)),
    (GuestCall::MemDrop as u32, For::Protected, Due::X0(-22_i64 as u64)),
];

/// What comes of a call.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Due {
    X0(u64),
    /// FEATURES, which differs.
    Features,
    Exit(ExitReason),
}

fn made(world: &mut World, vm: TestVm, exception: Exception, function: u64) -> Due {
    let seen = Arc::new(Mutex::new(None));
    let slot = seen.clone();
    world.cpu0.guest_does(move |context| {
        prepare(context, function, &[0; 7]);
        trap(exception)
    });
    world.cpu0.guest_does(move |context| {
        *slot.lock().unwrap() = Some(context.general.x[0]);
        GuestTrap::Interrupt
    });
    let reason = world.run(vm, 0).unwrap();
    world.cpu0.guest.clear();
    match seen.lock().unwrap().take() {
        Some(x0) if reason == ExitReason::Interrupt => Due::X0(x0),
        _ => Due::Exit(reason),
    }
}

fn due(function: u32, protected: bool) -> Due {
    let entry = FUNCTIONS.iter().find(|(known, whose, _)| *known == function && (*whose == For::All || protected));
    match entry {
        Some((_, _, Due::Features)) => Due::X0(if protected { 0x3fd } else { 1 }),
        Some((_, _, due)) => *due,
        None => Due::X0(NOT_SUPPORTED),
    }
}

#[test]
fn the_table_has_what_is_documented() {
    for (protected, whose) in [(true, "a protected guest"), (false, "another guest")] {
        let table: BTreeSet<u32> =
            FUNCTIONS.iter().filter(|(_, whose, _)| protected || *whose == For::All).map(|entry| entry.0).collect();
        let own = GuestCall::ALL.iter().filter(|call| protected || **call == GuestCall::VmName);
        let standard = Standard::ALL.iter().filter(|call| call.is_for_guest(protected)).map(|call| call.function);
        // SOC_ID is answered, by saying that it is not there.
        let documented = standard.chain(own.map(|call| *call as u32)).chain([smccc::ARCH_SOC_ID]).collect();
        assert_eq!(table, documented, "{whose}");
    }
}

#[test]
fn each_function_does_what_the_table_says_and_no_other_is_there() {
    // The beginning of each range of fast and of yielding calls, and the neighbours of what is there.
    let ranges = [0x8000_0000, 0x8400_0000, 0x8600_0000, 0xc000_0000, 0xc400_0000, 0xc500_0000, 0xc600_0000, 0];
    let walked = ranges.into_iter().flat_map(|base: u32| (0..1250).map(move |number| base + number));
    let known = FUNCTIONS.iter().map(|(function, ..)| *function).chain(HostCall::ALL.iter().map(|call| *call as u32));
    let neighbours = known.flat_map(|function| {
        [function - 1, function, function + 1, function ^ 1 << 30, function ^ 1 << 31, function | 0xff00]
    });
    let functions: BTreeSet<u32> = walked.chain(neighbours).collect();
    assert!(functions.len() > 10_000);
    for protected in [true, false] {
        let mut world = World::new();
        let mut vm = world.vm(RAM, protected, 1);
        for &function in &functions {
            let expected = due(function, protected);
            let exception = if function & 2 == 0 { hvc(0) } else { smc(0) };
            assert_eq!(made(&mut world, vm, exception, function.into()), expected, "{function:#x}");
            if let Due::Exit(ExitReason::CpuOff | ExitReason::SystemOff | ExitReason::SystemReset) = expected {
                world.end(vm);
                vm = world.vm(RAM, protected, 1);
            }
        }
        let asked: BTreeSet<u32> = world.take_firmware_calls().into_iter().map(|(function, _)| function).collect();
        assert_eq!(asked, [smccc::ARCH_WORKAROUND_3, smccc::ARCH_WORKAROUND_1].into());
    }
}

#[test]
fn what_the_queries_deny_is_not_there_and_what_they_grant_is() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let psci_functions: Vec<u32> = (0x8400_0000..0x8400_0020).flat_map(|id| [id, id | 1 << 30]).collect();
    for function in psci_functions {
        let asked = crate::guest_calls::result(&mut world, vm, psci::PSCI_FEATURES, &[function.into()]);
        let is_there = FUNCTIONS.iter().any(|(known, ..)| *known == function);
        assert_eq!(asked, if is_there { 0 } else { NOT_SUPPORTED }, "{function:#x}");
    }
}
