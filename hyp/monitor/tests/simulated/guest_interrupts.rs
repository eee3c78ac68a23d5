//! A guest's interrupts and timers: what of them the host gives, and what it learns.

use crate::world::{GUEST_ENTRY, GUEST_RAM, RAM, TestVm, World, abort, esr, trap};
use abi::host::HostCall;
use abi::run::{
    ExitReason, NO_DEADLINE, NOTIFY_UNDERFLOW, PHYSICAL_TIMER_LINE, RESPONSE_ABORT, RunPage, VIRTUAL_TIMER_LINE,
};
use abi::{Error, Pfn, PhysAddr};
use monitor::platform::{GuestTrap, RunExit};
use monitor::registers::VcpuContext;
use monitor::syndrome::{Exception, exception_class as class};
use std::mem::offset_of;
use std::sync::{Arc, Mutex};

const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 1 << 63;
const HARDWARE: u64 = 1 << 61;
const UART: u64 = 0x0900_0018;
const VBAR: u64 = 0xffff_0000_0008_0000;
/// ISS of a 32-bit load into w1 from a device: ISV, SAS, SRT, and a translation fault at level 3.
const LOAD: u64 = 1 << 24 | 2 << 22 | 1 << 16 | 0x07;
const WNR: u64 = 1 << 6;
/// ENABLE of CNTx_CTL_EL0.
const ENABLE: u64 = 1;

/// Writes a word of the vCPU's run page, as the host.
fn host_writes(world: &World, vm: TestVm, offset: usize, value: u64) {
    let mut bytes = world.machine.read_page(Pfn::new(vm.run_page));
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    world.machine.write_page(0, Pfn::new(vm.run_page), &bytes);
}

fn host_reads(world: &World, vm: TestVm, offset: usize) -> u64 {
    world.machine.read_word(PhysAddr::new((vm.run_page << 12) + offset as u64))
}

const fn list_register(index: usize) -> usize {
    offset_of!(RunPage, list_registers) + 8 * index
}

/// Runs the vCPU, which does `step` and is interrupted; the context that it ran with.
fn context_in(world: &mut World, vm: TestVm, mut step: impl FnMut(&mut VcpuContext) + Send + 'static) -> VcpuContext {
    let seen = Arc::new(Mutex::new(None));
    let slot = seen.clone();
    world.cpu0.guest_does(move |context| {
        *slot.lock().unwrap() = Some(*context);
        step(context);
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 0), Ok(ExitReason::Interrupt));
    let context = seen.lock().unwrap().take();
    context.expect("the guest was in")
}

/// A trapped MSR, or where `is_read` MRS, of the register with x1.
fn system_register(op1: u64, crn: u64, crm: u64, op2: u64, is_read: bool) -> Exception {
    let iss = 3 << 20 | op2 << 17 | op1 << 14 | crn << 10 | 1 << 5 | crm << 1 | u64::from(is_read);
    Exception { esr: esr(class::SYSTEM_REGISTER, iss), ..Exception::default() }
}

fn exit(reason: ExitReason) -> RunExit {
    RunExit { exit_reason: reason as u64, ..RunExit::default() }
}

#[test]
fn list_registers_go_in_and_come_back_as_the_guest_left_them() {
    let mut world = World::new();
    let vm = world.protected_vm();
    host_writes(&world, vm, list_register(0), PENDING | 40);
    host_writes(&world, vm, list_register(3), PENDING | HARDWARE | 27 << 32 | 27);
    host_writes(&world, vm, list_register(4), PENDING | 1023);
    host_writes(&world, vm, offset_of!(RunPage, interrupt_control), NOTIFY_UNDERFLOW);
    let seen = context_in(&mut world, vm, |context| {
        context.interrupts.list_registers[0] = ACTIVE | 40;
        context.interrupts.ich_vmcr_el2 = 0x5ec2e7;
    });
    let expected = [PENDING | 40, 0, 0, PENDING | HARDWARE | 27 << 32 | 27, 0];
    assert_eq!(seen.interrupts.list_registers[..5], expected, "there are 4");
    assert_eq!(seen.traps.ich_hcr_el2, 0b11);
    assert_eq!(host_reads(&world, vm, list_register(0)), ACTIVE | 40);
    assert_eq!(host_reads(&world, vm, list_register(4)), PENDING | 1023, "what is not there is left alone");
    host_writes(&world, vm, list_register(0), 0);
    host_writes(&world, vm, offset_of!(RunPage, interrupt_control), 0);
    let again = context_in(&mut world, vm, |_| {});
    assert_eq!(again.interrupts.list_registers[0], 0);
    assert_eq!((again.interrupts.ich_vmcr_el2, again.traps.ich_hcr_el2), (0x5ec2e7, 1), "the rest is the guest's");
    let page = world.machine.read_page(Pfn::new(vm.run_page));
    assert!(!page.windows(3).any(|bytes| bytes == [0xe7, 0xc2, 0x5e]), "the host does not see it");
}

#[test]
fn empty_list_registers_behind_the_last_are_left_alone() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let empty = !(PENDING | ACTIVE);
    for in_use in 0..=4_usize {
        (0..4).for_each(|index| host_writes(&world, vm, list_register(index), empty));
        if let Some(last) = in_use.checked_sub(1) {
            host_writes(&world, vm, list_register(last), PENDING | 40);
        }
        let seen = context_in(&mut world, vm, move |context| {
            (0..in_use).for_each(|index| context.interrupts.list_registers[index] = 0);
        });
        assert_eq!(seen.interrupts.list_registers_in_use, in_use);
        for index in 0..4 {
            let expected = if index < in_use { 0 } else { empty };
            assert_eq!(host_reads(&world, vm, list_register(index)), expected, "{index} of {in_use}");
        }
    }
}

#[test]
fn what_the_run_page_may_not_hold_is_refused_and_nothing_is_run() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let first = list_register(0);
    for (offset, value) in [
        (first, PENDING | 1023),
        (first, PENDING | HARDWARE | 30 << 32 | 30),
        (first, PENDING | ACTIVE | HARDWARE | 27 << 32 | 27),
        (offset_of!(RunPage, interrupt_control), 1 << 2),
        (offset_of!(RunPage, response), 2),
        (offset_of!(RunPage, response), 1 << 63 | RESPONSE_ABORT),
    ] {
        host_writes(&world, vm, offset, value);
        world.cpu0.guest_does(|_| panic!("the guest ran"));
        let arguments = [u64::from(vm.handle.0), 0];
        assert_eq!(world.call(HostCall::VcpuRun, &arguments), Err(Error::InvalidParameter), "{value:#x}");
        host_writes(&world, vm, offset, 0);
        world.cpu0.guest.clear();
    }
    context_in(&mut world, vm, |_| {});
}

#[test]
fn an_sgi_is_told_as_it_was_written() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let send = |context: &mut VcpuContext| {
        context.general.x[1] = 0x0100_0002;
        trap(system_register(0, 12, 11, 5, false))
    };
    world.exits(vm, send, RunExit { data: 0x0100_0002, ..exit(ExitReason::Sgi) });
    for (op2, name) in [(6, "ICC_ASGI1R_EL1"), (7, "ICC_SGI0R_EL1")] {
        world.cpu0.guest_does(move |_| trap(system_register(0, 12, 11, op2, false)));
        assert_eq!(world.run(vm, 0), Ok(ExitReason::Interrupt), "{name}");
    }
    let seen = context_in(&mut world, vm, |_| {});
    assert_eq!(seen.general.pc, GUEST_ENTRY + 12);
}

#[test]
fn the_physical_timer_is_the_hosts_to_keep() {
    let mut world = World::new();
    let vm = world.protected_vm();
    world.cpu0.counter = 1000;
    let set = |op2, value| {
        move |context: &mut VcpuContext| {
            context.general.x[1] = value;
            trap(system_register(3, 14, 2, op2, false))
        }
    };
    world.exits(vm, set(0, 500), exit(ExitReason::Timer));
    let armed = RunExit { physical_deadline: 1500, ..exit(ExitReason::Timer) };
    world.exits(vm, set(1, ENABLE), armed);
    world.cpu0.counter = 1500;
    let due = RunExit { physical_deadline: 1500, timer_lines: PHYSICAL_TIMER_LINE, ..exit(ExitReason::Interrupt) };
    world.exits(vm, |_| GuestTrap::Interrupt, due);
    world.cpu0.guest_does(|_| trap(system_register(3, 14, 2, 1, true)));
    assert_eq!(world.run(vm, 0), Ok(ExitReason::Interrupt), "a read is none of the host's business");
    let seen = context_in(&mut world, vm, |_| {});
    assert_eq!(seen.general.x[1], 0b101, "ENABLE, ISTATUS");
}

#[test]
fn the_virtual_timer_counts_from_the_vms_beginning_on_every_vcpu() {
    let mut world = World::new();
    world.cpu0.counter = 7777;
    let vm = world.vm(RAM, true, 2);
    let handle = u64::from(vm.handle.0);
    world.call(HostCall::VmDonate, &[handle, 0, RAM + 64, GUEST_RAM.raw() >> 12, 4]).unwrap();
    world.cpu0.counter = 8888;
    assert_eq!(context_in(&mut world, vm, |_| {}).timer.cntvoff_el2, 7777);
    let on = |context: &mut VcpuContext| {
        context.general.x[..4].copy_from_slice(&[abi::psci::CPU_ON_64.into(), 1, GUEST_ENTRY, 0]);
        trap(Exception { esr: esr(class::HVC64, 0), ..Exception::default() })
    };
    world.exits(vm, on, RunExit { data: 1, ..exit(ExitReason::CpuOn) });
    world.cpu0.guest_does(|context| {
        assert_eq!(context.timer.cntvoff_el2, 7777);
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 1), Ok(ExitReason::Interrupt));
}

#[test]
fn a_deadline_is_told_where_the_guest_waits_and_the_line_always() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let wait = |control| {
        move |context: &mut VcpuContext| {
            context.timer.cntv_ctl_el0 = control;
            context.timer.cntv_cval_el0 = 100;
            trap(Exception { esr: esr(class::WFX, 0), ..Exception::default() })
        }
    };
    world.exits(vm, wait(ENABLE), RunExit { virtual_deadline: 100, ..exit(ExitReason::Wait) });
    world.exits(vm, wait(0), RunExit { virtual_deadline: NO_DEADLINE, ..exit(ExitReason::Wait) });
    let due = |context: &mut VcpuContext| {
        context.timer.cntv_ctl_el0 = 0b101;
        GuestTrap::Interrupt
    };
    world.exits(vm, due, RunExit { timer_lines: VIRTUAL_TIMER_LINE, ..exit(ExitReason::Interrupt) });
}

#[test]
fn where_the_host_says_that_nothing_is_there_the_guest_takes_an_abort() {
    let memory = GUEST_RAM.raw() + 0x10_0000;
    for (ipa, flags, size) in [(UART, 0, 4), (UART, WNR, 4), (memory, 0, 0)] {
        let mut world = World::new();
        let vm = world.protected_vm();
        let access = move |context: &mut VcpuContext| {
            context.el1.vbar_el1 = VBAR;
            context.general.pc = GUEST_ENTRY + 0x40;
            context.general.x[1] = 0x77;
            trap(abort(class::DATA_ABORT_LOWER, LOAD | flags, ipa))
        };
        world.cpu0.guest_does(access);
        let reason = world.run(vm, 0).unwrap();
        assert_eq!(world.run_page(vm.run_page).size, size, "{reason:?}");
        host_writes(&world, vm, offset_of!(RunPage, response), RESPONSE_ABORT);
        let seen = context_in(&mut world, vm, |_| {});
        assert_eq!((seen.general.pc, seen.el1.elr_el1), (VBAR + 0x200, GUEST_ENTRY + 0x40), "{ipa:#x} {flags:#x}");
        assert_eq!(seen.el1.esr_el1 & 0x3f, 0x10, "a synchronous external abort");
        assert_eq!(seen.general.x[1], 0x77);
        let again = context_in(&mut world, vm, |_| {});
        assert_eq!(again.general.pc, VBAR + 0x200, "there is nothing more to answer");
    }
}

#[test]
fn an_access_that_is_answered_is_done_and_one_to_memory_is_made_again() {
    for (ipa, flags, expected) in [(UART, 0, 4), (UART, WNR, 4), (GUEST_RAM.raw() + 0x10_0000, 0, 0)] {
        let mut world = World::new();
        let vm = world.protected_vm();
        world.cpu0.guest_does(move |_| trap(abort(class::DATA_ABORT_LOWER, LOAD | flags, ipa)));
        world.run(vm, 0).unwrap();
        let seen = context_in(&mut world, vm, |_| {});
        assert_eq!(seen.general.pc, GUEST_ENTRY + expected, "{ipa:#x} {flags:#x}");
    }
}

#[test]
fn the_host_learns_what_the_cpu_has_for_interrupts() {
    let mut world = World::new();
    assert_eq!(world.call(HostCall::InterruptInfo, &[]), Ok([4, 5, 27]));
}

#[test]
fn a_call_about_memory_that_there_is_to_be_none_of_is_refused() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let nowhere = GUEST_RAM.raw() + 0x10_0000;
    let share = move |context: &mut VcpuContext| {
        context.general.x[..4].copy_from_slice(&[abi::guest::MEM_SHARE.into(), nowhere, 0, 0]);
        context.general.pc += 4;
        trap(Exception { esr: esr(class::HVC64, 0), ..Exception::default() })
    };
    world.exits(vm, share, RunExit { ipa: nowhere, write: 1, ..exit(ExitReason::MemoryFault) });
    host_writes(&world, vm, offset_of!(RunPage, response), RESPONSE_ABORT);
    let seen = context_in(&mut world, vm, |_| {});
    assert_eq!(seen.general.pc, GUEST_ENTRY + 4, "past the call");
    assert_eq!(seen.general.x[0], abi::smccc::INVALID_PARAMETER as u64);
    assert_eq!(context_in(&mut world, vm, |_| {}).general, seen.general, "once");
}
