//! The host's faults and other exceptions.

use crate::world::{CARVE_OUT, RAM, World, abort, esr};
use abi::host::HostCall;
use monitor::HostAction;
use monitor::inject::Injection;
use monitor::registers::HostRegisters;
use monitor::syndrome::{Exception, exception_class as class};

const TRANSLATION_FAULT: u64 = 0x06;
const WNR: u64 = 1 << 6;
const S1PTW: u64 = 1 << 7;
const CM: u64 = 1 << 8;

fn take(world: &mut World, exception: Exception) -> HostAction {
    let mut registers = HostRegisters { x: [3; 31], elr: 0x1000, spsr: 0x3c5, reserved: 0 };
    let before = registers;
    let action = world.monitor.clone().host_exit(&mut world.cpu0, &mut registers, &exception);
    assert_eq!(registers, before, "a fault changes no register");
    world.machine.assert_clean();
    action
}

fn is_injected(action: HostAction) -> bool {
    matches!(action, HostAction::Inject(Injection::ExternalAbort { .. }))
}

#[test]
fn the_hosts_own_memory_and_devices_are_mapped_as_they_are_touched() {
    let mut world = World::new();
    for (class, iss, ipa) in [
        (class::DATA_ABORT_LOWER, TRANSLATION_FAULT, RAM << 12 | 0x123),
        (class::DATA_ABORT_LOWER, TRANSLATION_FAULT | WNR, (RAM + 5) << 12),
        (class::INSTRUCTION_ABORT_LOWER, TRANSLATION_FAULT, (RAM + 600) << 12),
        (class::DATA_ABORT_LOWER, TRANSLATION_FAULT | WNR, 0x0900_0000),
    ] {
        let exception = abort(class, iss, ipa);
        assert_eq!(take(&mut world, exception), HostAction::Resume, "{ipa:#x}");
        assert_eq!(take(&mut world, exception), HostAction::Resume, "{ipa:#x}, when another CPU was faster");
    }
}

#[test]
fn what_is_not_the_hosts_is_an_external_abort() {
    let mut world = World::new();
    let vm = world.protected_vm();
    for ipa in [CARVE_OUT << 12, (RAM + 64) << 12, RAM << 12, 1 << 40] {
        for class in [class::DATA_ABORT_LOWER, class::INSTRUCTION_ABORT_LOWER] {
            for iss in [TRANSLATION_FAULT, TRANSLATION_FAULT | S1PTW] {
                assert!(is_injected(take(&mut world, abort(class, iss, ipa))), "{ipa:#x}");
            }
        }
        assert!(is_injected(take(&mut world, abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT | WNR, ipa))));
        assert!(is_injected(take(&mut world, abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT | WNR | CM, ipa))));
    }
    world.end(vm);
}

#[test]
fn the_abort_tells_the_address_that_the_host_used() {
    let mut world = World::new();
    let exception = abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT | WNR, CARVE_OUT << 12 | 0x18);
    let HostAction::Inject(Injection::ExternalAbort { instruction, abort, far }) = take(&mut world, exception) else {
        panic!("not injected")
    };
    assert_eq!((instruction, abort.is_write(), far), (false, true, exception.far));
}

#[test]
fn devices_hold_no_instructions() {
    let mut world = World::new();
    let fetch = |iss| abort(class::INSTRUCTION_ABORT_LOWER, iss, 0x0900_0000);
    assert!(is_injected(take(&mut world, fetch(TRANSLATION_FAULT))));
    assert_eq!(take(&mut world, fetch(TRANSLATION_FAULT | S1PTW)), HostAction::Resume, "a walk reads");
}

#[test]
fn faults_that_no_mapping_mends_are_injected() {
    let mut world = World::new();
    let permission = 0x0e;
    for status in [0x00, permission, 0x10, 0x14, 0x21, 0x30, 0x34, 0x35, 0x3f] {
        assert!(is_injected(take(&mut world, abort(class::DATA_ABORT_LOWER, status, RAM << 12))), "{status:#x}");
    }
}

#[test]
fn everything_else_is_undefined() {
    let mut world = World::new();
    for class in [class::UNKNOWN, class::WFX, class::FP, class::SYSTEM_REGISTER, class::SVE, class::ILLEGAL_STATE, 0x3f]
    {
        let exception = Exception { esr: esr(class, 0x1ff_ffff), ..Exception::default() };
        assert_eq!(take(&mut world, exception), HostAction::Inject(Injection::Undefined), "{class:#x}");
    }
}

#[test]
fn what_the_host_shares_with_hyp_stays_within_its_reach() {
    let mut world = World::new();
    world.call(HostCall::HypShare, &[RAM, 1]).unwrap();
    let touch = abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT | WNR, RAM << 12);
    assert_eq!(take(&mut world, touch), HostAction::Resume);
}
