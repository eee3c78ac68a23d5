//! What a guest's traps lead to, and what the host sees of them.

use crate::world::{GUEST_ENTRY, GUEST_RAM, IPA_BITS, Options, RAM, TestVm, World, abort, esr, trap};
use abi::run::ExitReason;
use abi::{Error, Pfn};
use monitor::platform::{GuestTrap, RunExit};
use monitor::registers::VcpuContext;
use monitor::syndrome::{Exception, exception_class as class};
use std::sync::{Arc, Mutex};

const ISV: u64 = 1 << 24;
const SSE: u64 = 1 << 21;
const SF: u64 = 1 << 15;
const WNR: u64 = 1 << 6;
const TRANSLATION_FAULT: u64 = 0x07;
const UART: u64 = 0x0900_0018;
/// What a guest keeps in every register.
const SECRET: u64 = 0x5ec2_e700_5ec2_e700;
const VBAR: u64 = 0xffff_0000_0008_0000;

fn srt(register: u64) -> u64 {
    register << 16
}

/// A load or store of `size` (as its logarithm) that the CPU has decoded.
fn access(ipa: u64, log2_size: u64, register: u64, flags: u64) -> Exception {
    abort(class::DATA_ABORT_LOWER, ISV | log2_size << 22 | srt(register) | flags | TRANSLATION_FAULT, ipa)
}

fn with_secrets(context: &mut VcpuContext) {
    context.general.x = [SECRET; 31];
    context.general.pc = GUEST_ENTRY;
    context.el1.vbar_el1 = VBAR;
    context.el1.sctlr_el1 = SECRET;
}

/// Runs `step` and then lets the guest look at itself; the exit after that is an interrupt.
fn look(
    world: &mut World,
    vm: TestVm,
    step: impl FnMut(&mut VcpuContext) -> GuestTrap + Send + 'static,
) -> VcpuContext {
    let seen = Arc::new(Mutex::new(None));
    let slot = seen.clone();
    world.cpu0.guest_does(step);
    world.cpu0.guest_does(move |context| {
        *slot.lock().unwrap() = Some(*context);
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 0), Ok(ExitReason::Interrupt));
    let context = seen.lock().unwrap().take();
    context.expect("the guest went on")
}

#[test]
fn a_vcpu_starts_where_vm_init_said() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let seen = look(&mut world, vm, |_| trap(Exception { esr: esr(class::FP, 0), ..Exception::default() }));
    assert_eq!((seen.general.pc, seen.general.x[0]), (GUEST_ENTRY, GUEST_RAM.raw()));
    assert!(seen.general.x[1..].iter().all(|&x| x == 0));
    let memory = world.monitor.vms().live(vm.handle).unwrap();
    let memory = memory.memory().lock();
    assert_eq!(seen.traps.vttbr_el2, memory.stage2().vttbr_el2());
    assert_ne!(memory.stage2().vmid(), 0, "VMID 0 is the host's");
}

#[test]
fn vms_have_different_vmids() {
    let mut world = World::new();
    let vms = [world.vm(RAM, true, 1), world.vm(RAM + 32, true, 1), world.vm(RAM + 64, false, 1)];
    let vmids = vms.map(|vm| world.monitor.vms().live(vm.handle).unwrap().memory().lock().stage2().vmid());
    assert!(vmids[0] != vmids[1] && vmids[1] != vmids[2] && vmids[0] != vmids[2], "{vmids:?}");
}

#[test]
fn a_store_to_a_device_shows_its_data_and_nothing_else() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let store = |context: &mut VcpuContext| {
        with_secrets(context);
        context.general.x[5] = 0x1234_5678_9abc_de41;
        trap(access(UART, 0, 5, WNR))
    };
    let expected = RunExit {
        exit_reason: ExitReason::Mmio as u64,
        ipa: UART,
        size: 1,
        write: 1,
        data: 0x41,
        ..RunExit::default()
    };
    world.exits(vm, store, expected);
    let seen = look(&mut world, vm, |_| trap(Exception { esr: esr(class::FP, 0), ..Exception::default() }));
    assert_eq!(seen.general.pc, GUEST_ENTRY + 4);
}

#[test]
fn a_load_from_a_device_takes_the_hosts_answer_into_one_register() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let load = |context: &mut VcpuContext| {
        with_secrets(context);
        trap(access(UART, 1, 7, SSE | SF))
    };
    world.exits(
        vm,
        load,
        RunExit { exit_reason: ExitReason::Mmio as u64, ipa: UART, size: 2, write: 0, data: 0, ..RunExit::default() },
    );
    world.answer(vm.run_page, 0xffff_ffff_0000_8001);
    let seen = look(&mut world, vm, |_| trap(Exception { esr: esr(class::FP, 0), ..Exception::default() }));
    let mut expected = [SECRET; 31];
    expected[7] = 0xffff_ffff_ffff_8001;
    assert_eq!(seen.general.x, expected);
    assert_eq!(seen.general.pc, GUEST_ENTRY + 4);
    world.answer(vm.run_page, 0x7777);
    let again = look(&mut world, vm, |_| trap(Exception { esr: esr(class::FP, 0), ..Exception::default() }));
    assert_eq!(again.general.x, expected, "an answer counts once");
}

#[test]
fn what_a_protected_guest_keeps_in_its_registers_stays_there() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let esr_of = |class: u64, iss: u64| Exception { esr: esr(class, iss), far: SECRET, hpfar: 0 };
    let traps = [
        GuestTrap::Interrupt,
        trap(access(UART, 3, 2, 0)),
        trap(Exception { far: SECRET, ..access(UART, 3, 31, WNR) }),
        trap(Exception { far: SECRET, ..abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT, 0x4100_0000) }),
        trap(Exception { far: SECRET, ..abort(class::INSTRUCTION_ABORT_LOWER, TRANSLATION_FAULT, 0x4100_0000) }),
        trap(esr_of(class::WFX, 0)),
        trap(esr_of(class::HVC64, 0)),
        trap(esr_of(class::UNKNOWN, 0)),
        GuestTrap::SError { esr: SECRET },
    ];
    for step in traps {
        world.cpu0.guest_does(move |context| {
            with_secrets(context);
            step
        });
        world.run(vm, 0).unwrap();
        let page = world.machine.read_page(Pfn::new(vm.run_page));
        for window in page.windows(4) {
            assert!(!window.starts_with(&[0xe7, 0xc2, 0x5e]), "{step:x?} leaves a register in the run page");
        }
    }
}

#[test]
fn an_exit_leaves_nothing_of_the_one_before() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let store = |context: &mut VcpuContext| {
        with_secrets(context);
        trap(access(UART, 3, 5, WNR))
    };
    let first = RunExit {
        exit_reason: ExitReason::Mmio as u64,
        ipa: UART,
        size: 8,
        write: 1,
        data: SECRET,
        ..RunExit::default()
    };
    world.exits(vm, store, first);
    world.exits(vm, |_| GuestTrap::Interrupt, RunExit { exit_reason: 0, ..RunExit::default() });
}

#[test]
fn memory_that_is_not_there_is_asked_for() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let fault = ExitReason::MemoryFault as u64;
    for (exception, ipa, write) in [
        (access(0x4000_5123, 2, 1, 0), 0x4000_5000, 0),
        (access(0x4000_5123, 2, 1, WNR), 0x4000_5000, 1),
        (abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT | WNR, 0x4000_5000), 0x4000_5000, 1),
        (abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT | WNR | 1 << 8, 0x4000_5000), 0x4000_5000, 0),
        (abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT | 1 << 7, 0xf_ffff_f000), 0xf_ffff_f000, 0),
        (abort(class::INSTRUCTION_ABORT_LOWER, TRANSLATION_FAULT, 0x4000_6004), 0x4000_6000, 0),
    ] {
        world.exits(vm, move |_| trap(exception), RunExit { exit_reason: fault, ipa, write, ..RunExit::default() });
    }
    let handle = u64::from(vm.handle.0);
    let donate = [handle, 0, RAM + 70, 0x4_0005, 1];
    world.call(abi::host::HostCall::VmDonate, &donate).unwrap();
    world.end(vm);
    world.assert_all_back();
}

#[test]
fn a_write_to_what_a_plain_guest_may_only_read_is_the_hosts_to_answer() {
    const PERMISSION_FAULT: u64 = 0x0f;
    let walk = PERMISSION_FAULT | 1 << 7;
    let mut world = World::new();
    let vm = world.vm(RAM, false, 1);
    let fault =
        RunExit { exit_reason: ExitReason::MemoryFault as u64, ipa: 0x4000_5000, write: 1, ..RunExit::default() };
    for exception in [
        abort(class::DATA_ABORT_LOWER, ISV | WNR | PERMISSION_FAULT, 0x4000_5123),
        abort(class::DATA_ABORT_LOWER, WNR | PERMISSION_FAULT, 0x4000_5123),
        abort(class::DATA_ABORT_LOWER, WNR | 1 << 8 | PERMISSION_FAULT, 0x4000_5123),
        abort(class::DATA_ABORT_LOWER, walk, 0x4000_5000),
        abort(class::INSTRUCTION_ABORT_LOWER, walk, 0x4000_5000),
    ] {
        world.exits(vm, move |_| trap(exception), fault);
    }
    let store = |context: &mut VcpuContext| {
        with_secrets(context);
        context.general.x[5] = 0x41;
        trap(abort(class::DATA_ABORT_LOWER, ISV | 2 << 22 | srt(5) | WNR | PERMISSION_FAULT, UART))
    };
    let mmio = RunExit { exit_reason: ExitReason::Mmio as u64, ipa: UART, size: 4, write: 1, data: 0x41, ..fault };
    world.exits(vm, store, mmio);
    // Every other right that it has not got, and every one that a protected guest has not got, is an abort.
    let other = world.vm(RAM + 32, true, 1);
    for (vm, class, iss, ipa) in [
        (vm, class::DATA_ABORT_LOWER, ISV | PERMISSION_FAULT, 0x4000_5123),
        (vm, class::INSTRUCTION_ABORT_LOWER, PERMISSION_FAULT, 0x4000_5000),
        (vm, class::INSTRUCTION_ABORT_LOWER, walk, UART),
        (vm, class::DATA_ABORT_LOWER, walk, UART),
        (vm, class::DATA_ABORT_LOWER, ISV | WNR | PERMISSION_FAULT, 1 << IPA_BITS),
        (other, class::DATA_ABORT_LOWER, ISV | WNR | PERMISSION_FAULT, 0x4000_5123),
        (other, class::DATA_ABORT_LOWER, walk, 0x4000_5000),
        (other, class::INSTRUCTION_ABORT_LOWER, walk, 0x4000_5000),
    ] {
        let seen = look(&mut world, vm, move |context| {
            with_secrets(context);
            context.general.pstate = 0x5;
            trap(abort(class, iss, ipa))
        });
        assert_eq!(seen.general.pc, VBAR + 0x200, "{class:#x} {iss:#x} {ipa:#x}");
    }
}

#[test]
fn what_cannot_be_answered_is_an_external_abort_to_the_guest() {
    let mut world = World::new();
    let vm = world.protected_vm();
    for (exception, expected_class) in [
        (abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT | WNR, UART), class::DATA_ABORT_SAME),
        (abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT | 1 << 7, UART), class::DATA_ABORT_SAME),
        (abort(class::INSTRUCTION_ABORT_LOWER, TRANSLATION_FAULT, UART), class::INSTRUCTION_ABORT_SAME),
        (access(1 << IPA_BITS, 3, 0, 0), class::DATA_ABORT_SAME),
        (access(1 << 47, 3, 0, WNR), class::DATA_ABORT_SAME),
        (abort(class::INSTRUCTION_ABORT_LOWER, TRANSLATION_FAULT, 1 << IPA_BITS), class::INSTRUCTION_ABORT_SAME),
        (abort(class::DATA_ABORT_LOWER, ISV | WNR | 0x0f, 0x4000_0000), class::DATA_ABORT_SAME),
        (abort(class::DATA_ABORT_LOWER, ISV | WNR | 0x0f, UART), class::DATA_ABORT_SAME),
        (abort(class::DATA_ABORT_LOWER, 0x35, 0x4000_0000), class::DATA_ABORT_SAME),
        (abort(class::INSTRUCTION_ABORT_LOWER, 0x0f, 0x4000_0000), class::INSTRUCTION_ABORT_SAME),
        (abort(class::DATA_ABORT_LOWER, TRANSLATION_FAULT, 1 << 36), class::DATA_ABORT_SAME),
        (abort(class::INSTRUCTION_ABORT_LOWER, TRANSLATION_FAULT, 1 << 36), class::INSTRUCTION_ABORT_SAME),
        (abort(class::DATA_ABORT_LOWER, 0x00, 0), class::DATA_ABORT_SAME),
        (abort(class::DATA_ABORT_LOWER, 0x10, 0), class::DATA_ABORT_SAME),
    ] {
        let seen = look(&mut world, vm, move |context| {
            with_secrets(context);
            context.general.pstate = 0x5;
            trap(exception)
        });
        assert_eq!(seen.general.pc, VBAR + 0x200, "{exception}");
        assert_eq!(seen.el1.elr_el1, GUEST_ENTRY, "{exception}");
        assert_eq!(seen.el1.spsr_el1, 0x5, "{exception}");
        assert_eq!(seen.el1.far_el1, exception.far, "{exception}");
        assert_eq!(seen.el1.esr_el1 >> 26, expected_class, "{exception}");
        assert_eq!(seen.el1.esr_el1 & 0x3f, 0x10, "{exception}");
        assert_eq!(seen.general.x, [SECRET; 31], "{exception}");
    }
}

#[test]
fn waiting_is_told_once() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let wait = |for_event: u64| {
        move |context: &mut VcpuContext| {
            with_secrets(context);
            trap(Exception { esr: esr(class::WFX, for_event), ..Exception::default() })
        }
    };
    world.exits(vm, wait(0), RunExit { exit_reason: ExitReason::Wait as u64, ..RunExit::default() });
    world.exits(vm, wait(1), RunExit { exit_reason: ExitReason::Yield as u64, ..RunExit::default() });
    let seen = look(&mut world, vm, |_| trap(Exception { esr: esr(class::FP, 0), ..Exception::default() }));
    assert_eq!(seen.general.pc, GUEST_ENTRY + 4);
}

#[test]
fn fp_is_switched_on_by_its_first_use_and_off_at_the_exit() {
    const TFP: u64 = 1 << 10;
    let mut world = World::new();
    let vm = world.protected_vm();
    for _ in 0..2 {
        let seen = look(&mut world, vm, |context| {
            assert_eq!((context.fp_enabled, context.traps.cptr_el2 & TFP), (0, TFP));
            context.fp.v[3] = 5;
            trap(Exception { esr: esr(class::FP, 0), ..Exception::default() })
        });
        assert_eq!((seen.fp_enabled, seen.traps.cptr_el2 & TFP), (1, 0));
        assert_eq!(seen.fp.v[3], 5);
        assert_eq!(seen.general.pc, GUEST_ENTRY, "the instruction is executed again");
    }
}

#[test]
fn keys_are_given_at_their_first_use_for_good() {
    // MSR APIAKeyLo_EL1, x1; and an instruction that uses a key.
    let key = esr(class::SYSTEM_REGISTER, 3 << 20 | 2 << 10 | 1 << 5 | 1 << 1);
    let instruction = esr(class::POINTER_AUTHENTICATION_TRAP, 0);
    for first_use in [key, instruction] {
        let mut world = World::with(Options { pointer_authentication: true, ..Options::default() });
        let vm = world.protected_vm();
        let seen = look(&mut world, vm, move |context| {
            assert!(!context.traps.gives_keys());
            trap(Exception { esr: first_use, ..Exception::default() })
        });
        assert!(seen.traps.gives_keys());
        assert_eq!(seen.general.pc, GUEST_ENTRY, "the instruction is executed again");
        // Where they are given already, a trap for them would come again for ever.
        let seen = look(&mut world, vm, move |context| {
            assert!(context.traps.gives_keys(), "at the next entry they go in with the guest");
            context.el1.vbar_el1 = VBAR;
            trap(Exception { esr: first_use, ..Exception::default() })
        });
        assert_eq!(seen.general.pc, VBAR + 0x200);

        let mut world = World::new();
        let vm = world.protected_vm();
        let seen = look(&mut world, vm, move |context| {
            context.el1.vbar_el1 = VBAR;
            trap(Exception { esr: first_use, ..Exception::default() })
        });
        assert_eq!(seen.general.pc, VBAR + 0x200, "a CPU without them has none to give");
        assert!(!seen.traps.gives_keys());
    }
}

#[test]
fn id_registers_are_read_and_unknown_registers_undefined() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let read = |crn: u64, crm: u64, op2: u64| {
        esr(class::SYSTEM_REGISTER, 3 << 20 | op2 << 17 | crn << 10 | 4 << 5 | crm << 1 | 1)
    };
    let pfr0 = Exception { esr: read(0, 4, 0), ..Exception::default() };
    let seen = look(&mut world, vm, move |context| {
        with_secrets(context);
        trap(pfr0)
    });
    assert_eq!((seen.general.x[4], seen.general.pc), (0x11 | 1 << 24, GUEST_ENTRY + 4), "EL0, EL1, GICv3");
    let pmcr = Exception { esr: read(9, 12, 0), far: SECRET, ..Exception::default() };
    let seen = look(&mut world, vm, move |context| {
        with_secrets(context);
        trap(pmcr)
    });
    assert_eq!((seen.general.x[4], seen.general.pc), (SECRET, VBAR + 0x200));
    assert_eq!((seen.el1.esr_el1, seen.el1.elr_el1, seen.el1.far_el1), (1 << 25, GUEST_ENTRY, 0));
}

#[test]
fn sve_and_sme_are_undefined() {
    let mut world = World::new();
    let vm = world.protected_vm();
    for class in [class::SVE, class::SME, class::UNKNOWN, class::ILLEGAL_STATE, 0x3f] {
        let seen = look(&mut world, vm, move |context| {
            with_secrets(context);
            trap(Exception { esr: esr(class, 0), ..Exception::default() })
        });
        assert_eq!(seen.general.pc, VBAR + 0x200);
    }
}

#[test]
fn a_vcpu_that_cannot_go_on_does_not() {
    for (protected, shown) in [(true, 0), (false, 0xbe00_0011)] {
        let mut world = World::new();
        let vm = world.vm(RAM, protected, 1);
        let expected = RunExit { exit_reason: ExitReason::Error as u64, data: shown, ..RunExit::default() };
        world.exits(vm, |_| GuestTrap::SError { esr: 0xbe00_0011 }, expected);
        assert_eq!(world.run(vm, 0), Err(Error::WrongState));
        world.end(vm);
        world.assert_all_back();
    }
}

#[test]
fn a_guest_in_aarch32_is_stopped() {
    const HVC: u64 = class::HVC64 << 26;
    let undefined = GuestTrap::Synchronous(Exception { esr: esr(class::UNKNOWN, 0), ..Exception::default() });
    let call = GuestTrap::Synchronous(Exception { esr: HVC, ..Exception::default() });
    // Whatever brings it out: the host's interrupt, too.
    for trap in [undefined, call, GuestTrap::Interrupt, GuestTrap::SError { esr: 0xbe00_0011 }] {
        for pstate in [0x1d0, 0x1f0, 0x10] {
            let mut world = World::new();
            let vm = world.protected_vm();
            let step = move |context: &mut VcpuContext| {
                context.general.pstate = pstate;
                trap
            };
            world.exits(vm, step, RunExit { exit_reason: ExitReason::Error as u64, ..RunExit::default() });
            assert_eq!(world.run(vm, 0), Err(Error::WrongState), "{trap:?} {pstate:#x}");
        }
    }
}
