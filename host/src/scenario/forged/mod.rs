//! A host that forges what it hands to hyp at each entry of a vCPU: list registers, responses, controls. What hyp
//! refuses has no effect, what it accepts is what it has looked at, and the guest, the payload `watcher`, finds nothing
//! else.

/// The number of a field's first word in the run page.
macro_rules! word {
    ($field:ident) => {
        core::mem::offset_of!(RunPage, $field) / 8
    };
}

pub mod exits;
mod provoked;
mod running;

use super::{Context, take_apart};
use crate::run::{self, Exits, Stop};
use crate::vm::Vm;
use crate::{cpu, expect, hypercall, report, smp};
use abi::Error;
use abi::host::VmHandle;
use abi::run::{ExitReason, MAX_LIST_REGISTERS, NOTIFY_NONE_PENDING, NOTIFY_UNDERFLOW, RESPONSE_ABORT, RunPage};
use abi::watch::{ALLOWED, ANSWERS, DEVICE, FORBIDDEN, STOP};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Entries that are tried at least while another CPU changes the run page, and how many of them must come to something.
const ENTRIES: u64 = 20_000;
const ENTRIES_DONE: u64 = 500;
/// About how many of the guest's reads are answered with an abort.
const ABORTS: u64 = 8;

/// `ICH_LR<n>_EL2`.State: pending, active.
const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 1 << 63;
/// `ICH_LR<n>_EL2`.HW.
const HW: u64 = 1 << 61;
/// `ICH_LR<n>_EL2`.Group and a priority, as every interrupt here has them.
const GROUP_AND_PRIORITY: u64 = 1 << 60 | 0xa0 << 48;
/// `ICH_LR<n>_EL2`.pINTID.
const PHYSICAL_SHIFT: u32 = 32;

/// A list register that is as it should be.
const fn pending(intid: u32) -> u64 {
    PENDING | GROUP_AND_PRIORITY | intid as u64
}

/// A word of the run page, or the words of one of its fields, as both CPUs write them.
fn words(page: *mut RunPage) -> &'static [AtomicU64; 512] {
    // SAFETY: the page is the host's for as long as its guest lives, which is longer than the caller's use; it is made
    // of words, and only ever accessed as such.
    unsafe { &*page.cast_const().cast::<[AtomicU64; 512]>() }
}

/// See the module.
pub fn run(context: &Context) {
    let Ok(info) = hypercall::interrupt_info() else {
        report::check("interrupt-info", false, format_args!("refused"));
        return;
    };
    let Some(mut vm) = context.guest("watcher") else { return };
    let timer = u64::from(info.virtual_timer);
    let mut exits = Exits::default();
    if !reach_device(&mut vm, &mut exits) {
        report::check("watcher-begins", false, format_args!("{exits:?}"));
        take_apart(vm);
        return;
    }
    refused_registers(&mut vm, &mut exits, timer);
    let aborts = refused_words(&mut vm, &mut exits);
    beyond_the_last(&mut vm, &mut exits, info.list_registers);
    wrong_vcpus(context, &mut vm);
    provoked::run(context);
    // How many the guest met is in its own report.
    report::value("aborts-answered", aborts);
    end(vm, &mut exits);
    if smp::online().count() > 1 {
        running::run(context);
        let Some(mut vm) = context.guest_with("watcher", "", |setup| setup.name = "changing") else { return };
        let begins = reach_device(&mut vm, &mut exits);
        report::check("watcher-begins", begins, format_args!("{exits:?}"));
        changed_meanwhile(&mut vm, &mut exits);
        end(vm, &mut exits);
    }
}

/// Lets the guest end, which has found nothing that may not be.
fn end(mut vm: Vm, exits: &mut Exits) {
    let stop = finish(&mut vm, exits);
    expect!("watcher-powers-off", stop, Stop::Off);
    let end = vm.spoken().lock().end;
    report::check(
        "watcher-reports",
        end.is_some_and(|(passed, failed)| passed == 2 && failed == 0),
        format_args!("{end:?}"),
    );
    take_apart(vm);
}

/// Enters the guest once, with the run page as it is, and serves what it comes out for.
fn enter(vm: &mut Vm, exits: &mut Exits) -> Result<ExitReason, Error> {
    let reason = hypercall::vcpu_run(vm.handle(), 0)?;
    let exit = run::read_exit(vm, 0, reason);
    if reason == ExitReason::Mmio && exit.ipa.raw() == DEVICE {
        run::answer_read(vm.vcpus[0].run_page(), ANSWERS[0]);
    } else {
        // The watcher never ends before it is told to.
        let _ = run::serve(vm, 0, &exit, exits);
    }
    Ok(reason)
}

/// Makes the run page one that asks for nothing.
fn clear(vm: &Vm) {
    let words = words(vm.vcpus[0].run_page());
    words[word!(response)].store(0, Ordering::Relaxed);
    words[word!(interrupt_control)].store(0, Ordering::Relaxed);
    for index in 0..MAX_LIST_REGISTERS {
        words[word!(list_registers) + index].store(0, Ordering::Relaxed);
    }
}

/// Lets the guest go on until it reads the byte where no device is.
fn reach_device(vm: &mut Vm, exits: &mut Exits) -> bool {
    for _ in 0..100_000 {
        match enter(vm, exits) {
            Ok(ExitReason::Mmio) if run::read_exit(vm, 0, ExitReason::Mmio).ipa.raw() == DEVICE => return true,
            Ok(ExitReason::SystemOff | ExitReason::Error) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    false
}

/// Checks that an entry is refused, and that the next one, which asks for nothing, is not.
fn refuses(vm: &mut Vm, exits: &mut Exits, name: &str, forge: impl FnOnce(&[AtomicU64; 512])) {
    clear(vm);
    forge(words(vm.vcpus[0].run_page()));
    let result = hypercall::vcpu_run(vm.handle(), 0);
    report::check(name, result == Err(Error::InvalidParameter), format_args!("{result:?}"));
    clear(vm);
    report::check("goes-on-afterwards", reach_device(vm, exits), format_args!("after {name}"));
}

/// Every way in which a list register can be wrong, each in the first and in the last of three, beside good ones.
fn refused_registers(vm: &mut Vm, exits: &mut Exits, timer: u64) {
    let forbidden = u64::from(FORBIDDEN[0]) | PENDING | GROUP_AND_PRIORITY;
    let linked =
        |physical: u64, virtual_one: u64| PENDING | HW | GROUP_AND_PRIORITY | physical << PHYSICAL_SHIFT | virtual_one;
    let forgeries = [
        ("register-special-1020", pending(1020)),
        ("register-special-1022", pending(1022)),
        ("register-special-1023", pending(1023)),
        ("register-lpi", pending(8192)),
        ("register-lpi-last", pending(u32::MAX)),
        ("register-active-special", ACTIVE | GROUP_AND_PRIORITY | 1023),
        ("register-reserved-32", forbidden | 1 << 32),
        ("register-reserved-40", forbidden | 1 << 40),
        ("register-reserved-45", forbidden | 1 << 45),
        ("register-reserved-56", forbidden | 1 << 56),
        ("register-reserved-59", forbidden | 1 << 59),
        ("register-hosts-timer", linked(30, FORBIDDEN[0].into())),
        ("register-hosts-timer-as-timer", linked(30, timer)),
        ("register-hosts-wake-up", linked(0, timer)),
        ("register-hosts-maintenance", linked(9, timer)),
        ("register-hosts-console", linked(33, timer)),
        ("register-no-physical-interrupt", linked(1023, timer)),
        ("register-timer-as-sgi", linked(timer, FORBIDDEN[0].into())),
        ("register-timer-as-spi", linked(timer, FORBIDDEN[1].into())),
        ("register-timer-pending-and-active", linked(timer, timer) | ACTIVE),
        ("register-timer-reserved", linked(timer, timer) | 1 << 45),
    ];
    for (name, forgery) in forgeries {
        refuses(vm, exits, name, |words| words[word!(list_registers)].store(forgery, Ordering::Relaxed));
        refuses(vm, exits, name, |words| {
            let good = [pending(ALLOWED[0]), pending(ALLOWED[1]), forgery];
            for (index, register) in good.into_iter().enumerate() {
                words[word!(list_registers) + index].store(register, Ordering::Relaxed);
            }
        });
    }
    refuses(vm, exits, "register-twice", |words| {
        for index in [0, 2] {
            words[word!(list_registers) + index].store(pending(FORBIDDEN[0]), Ordering::Relaxed);
        }
    });
    refuses(vm, exits, "register-twice-active", |words| {
        words[word!(list_registers)].store(pending(FORBIDDEN[1]), Ordering::Relaxed);
        words[word!(list_registers) + 1].store(ACTIVE | u64::from(FORBIDDEN[1]), Ordering::Relaxed);
    });
}

/// Controls and responses with bits that mean nothing; and a response where nothing is asked for, which has no effect.
/// Returns how many of the guest's reads were answered with an abort.
fn refused_words(vm: &mut Vm, exits: &mut Exits) -> u64 {
    for bits in [1 << 2, 1 << 63, u64::MAX, NOTIFY_UNDERFLOW | 1 << 4] {
        refuses(vm, exits, "control-unknown", |words| words[word!(interrupt_control)].store(bits, Ordering::Relaxed));
    }
    for bits in [1 << 1, 1 << 63, u64::MAX, RESPONSE_ABORT | 1 << 32] {
        refuses(vm, exits, "response-unknown", |words| words[word!(response)].store(bits, Ordering::Relaxed));
    }
    // Every other read is answered; the others meet an abort, and so does nothing that comes between them.
    let page = words(vm.vcpus[0].run_page());
    let mut entered = Ok(ExitReason::Mmio);
    let (mut reads, mut aborts) = (0, 0);
    for step in 0..4 * ABORTS {
        clear(vm);
        let is_read = entered == Ok(ExitReason::Mmio);
        reads += u64::from(is_read);
        let is_answered = is_read && reads % 2 == 1;
        aborts += u64::from(is_read && !is_answered);
        let response = if is_answered { 0 } else { RESPONSE_ABORT };
        page[word!(response)].store(response, Ordering::Relaxed);
        page[word!(data)].store(ANSWERS[1], Ordering::Relaxed);
        entered = enter(vm, exits);
        report::check("response-without-question", entered.is_ok(), format_args!("{entered:?} in step {step}"));
    }
    clear(vm);
    report::check("goes-on-afterwards", reach_device(vm, exits), format_args!("after responses"));
    report::check("aborts-among-answers", (1..reads).contains(&aborts), format_args!("{aborts} of {reads}"));
    aborts
}

/// List registers that the CPU does not have are not looked at.
fn beyond_the_last(vm: &mut Vm, exits: &mut Exits, count: usize) {
    if count >= MAX_LIST_REGISTERS {
        return;
    }
    clear(vm);
    let words = words(vm.vcpus[0].run_page());
    words[word!(list_registers) + count].store(pending(1023) | HW, Ordering::Relaxed);
    let result = enter(vm, exits);
    report::check("beyond-the-last-ignored", result.is_ok(), format_args!("{result:?}"));
    clear(vm);
    report::check("goes-on-afterwards", reach_device(vm, exits), format_args!("beyond the last"));
}

/// vCPUs and VMs that are not there, or not any more.
fn wrong_vcpus(context: &Context, vm: &mut Vm) {
    clear(vm);
    for index in [1, 2, 15, 16, 1 << 32, u64::MAX] {
        let result = hypercall::vcpu_run(vm.handle(), index);
        report::check("run-nobody", result.is_err(), format_args!("vCPU {index:#x}: {result:?}"));
    }
    let Some(other) = context.guest_with("watcher", "", |setup| setup.vcpus = 2) else { return };
    let handle = other.handle();
    // Its second vCPU is there, and off.
    let off = hypercall::vcpu_run(handle, 1);
    report::check("run-one-that-is-off", off == Err(Error::WrongState), format_args!("{off:?}"));
    take_apart(other);
    for wrong in [handle, VmHandle(handle.0 ^ 1 << 31), VmHandle(handle.0.wrapping_add(64)), VmHandle(!0)] {
        let result = hypercall::vcpu_run(wrong, 0);
        report::check("run-one-that-is-gone", result.is_err(), format_args!("{:#x}: {result:?}", wrong.0));
    }
}

/// Another CPU changes the run page all the time, while this one enters the guest.
fn changed_meanwhile(vm: &mut Vm, exits: &mut Exits) {
    let page = words(vm.vcpus[0].run_page());
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let Some(other) = smp::online().find(|cpu| !core::ptr::eq(*cpu, cpu::current())) else { return };
    let (entered, refused, odd) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let reads = AtomicU64::new(0);
    let state = spin::Mutex::new((vm, exits));
    smp::run_on(&[cpu::current(), other], || {
        if core::ptr::eq(cpu::current(), other) {
            begun.store(true, Ordering::Release);
            change(page, &over);
            return;
        }
        smp::wait_until(|| begun.load(Ordering::Acquire));
        let mut state = state.lock();
        let (vm, exits) = &mut *state;
        for attempt in 0..20 * ENTRIES {
            if attempt >= ENTRIES && entered.load(Ordering::Relaxed) >= ENTRIES_DONE {
                break;
            }
            // Hyp has put zero there at the last exit; the other CPU may be slower than this one.
            page[word!(data)].store(ANSWERS[0], Ordering::Relaxed);
            match hypercall::vcpu_run(vm.handle(), 0) {
                Ok(reason) => {
                    entered.fetch_add(1, Ordering::Relaxed);
                    // What the page says cannot be relied on: the watcher makes no exit that has to be served.
                    match reason {
                        ExitReason::Interrupt => exits.interrupts += 1,
                        ExitReason::Wait => {}
                        ExitReason::Mmio => {
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => odd.store(1 + reason as u64, Ordering::Relaxed),
                    }
                }
                Err(Error::InvalidParameter) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => odd.store(u64::MAX, Ordering::Relaxed),
            }
        }
        over.store(true, Ordering::Release);
        clear(vm);
    });
    let (entered, refused) = (entered.into_inner(), refused.into_inner());
    report::value("entries-while-changing", entered);
    report::value("refusals-while-changing", refused);
    report::value("reads-while-changing", reads.into_inner());
    report::check(
        "both-while-changing",
        entered >= ENTRIES_DONE && refused > 100,
        format_args!("{entered} and {refused}"),
    );
    expect!("nothing-odd-while-changing", odd.into_inner(), 0);
}

/// Writes good and forged values to the run page in turns, each field by itself, until it is `over`.
fn change(page: &[AtomicU64; 512], over: &AtomicBool) {
    let forged = |intid: u32| pending(intid) | HW | 30 << PHYSICAL_SHIFT;
    let store = |word: usize, value: u64| page[word].store(value, Ordering::Relaxed);
    let mut round = 0u64;
    while !over.load(Ordering::Acquire) {
        // Different periods, so that every combination comes; most often all is well but the first list register.
        let choose =
            |period: u64, of: u64, good: u64, bad: u64| if (round / period).is_multiple_of(of) { bad } else { good };
        store(word!(list_registers), choose(1, 2, pending(ALLOWED[0]), forged(FORBIDDEN[0])));
        store(word!(list_registers) + 1, choose(3, 7, pending(ALLOWED[1]), pending(FORBIDDEN[1]) | 1 << 45));
        store(word!(list_registers) + 2, choose(1, 11, 0, pending(1022)));
        store(word!(response), choose(5, 8, choose(2, 3, 0, RESPONSE_ABORT), 1 << 7));
        store(word!(interrupt_control), choose(7, 8, choose(3, 5, 0, NOTIFY_UNDERFLOW | NOTIFY_NONE_PENDING), 1 << 9));
        store(word!(data), choose(2, 2, ANSWERS[0], ANSWERS[1]) | (0xffff_ff00 * (round & 1)));
        store(word!(exit_reason), round);
        store(word!(ipa), !round);
        round += 1;
    }
}

/// Tells the guest that it is enough, and lets it end.
fn finish(vm: &mut Vm, exits: &mut Exits) -> Stop {
    clear(vm);
    for _ in 0..1000 {
        let reason = match hypercall::vcpu_run(vm.handle(), 0) {
            Ok(reason) => reason,
            Err(error) => return Stop::Failed(crate::vm::VmError::Refused("VCPU_RUN", error)),
        };
        let exit = run::read_exit(vm, 0, reason);
        if reason == ExitReason::Mmio && exit.ipa.raw() == DEVICE {
            run::answer_read(vm.vcpus[0].run_page(), STOP);
            continue;
        }
        if let Some(stop) = run::serve(vm, 0, &exit, exits) {
            return stop;
        }
    }
    Stop::Interrupted
}
