//! A host that forges what it hands to hyp at each entry of a vCPU: list registers, responses, controls. What hyp refuses has no
//! effect, what it accepts is what it has looked at, and the guest, the payload `watcher`, finds nothing else.

use super::{Context, take_apart};
use crate::run::{self, Exits, Stop};
use crate::vm::Vm;
use crate::{cpu, expect, hypercall, report, smp};
use abi::Error;
use abi::host::VmHandle;
use abi::run::{
    ExitReason, MAX_LIST_REGISTERS, NO_DEADLINE, NOTIFY_NONE_PENDING, NOTIFY_UNDERFLOW, RESPONSE_ABORT, RunPage,
};
use abi::watch::{ALLOWED, ANSWERS, DEVICE, FORBIDDEN, STOP};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Entries that are tried at least while another CPU changes the run page, and how many of them must come to something.
const ENTRIES: u64 = 20_000;
const ENTRIES_DONE: u64 = 500;

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
    // SAFETY: the page is the host's for as long as its guest lives, which is longer than the caller's use; it is made of words,
    // and only ever accessed as such.
    unsafe { &*page.cast_const().cast::<[AtomicU64; 512]>() }
}

macro_rules! word {
    ($field:ident) => {
        core::mem::offset_of!(RunPage, $field) / 8
    };
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
        return;
    }
    refused_registers(&mut vm, &mut exits, timer);
    refused_words(&mut vm, &mut exits);
    beyond_the_last(&mut vm, &mut exits, info.list_registers);
    wrong_vcpus(context, &mut vm);
    exits_expose_nothing(context);
    if smp::online().count() > 1 {
        while_it_runs(context);
        changed_meanwhile(&mut vm, &mut exits);
    }
    let stop = finish(&mut vm, &mut exits);
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
fn refused_words(vm: &mut Vm, exits: &mut Exits) {
    for bits in [1 << 2, 1 << 63, u64::MAX, NOTIFY_UNDERFLOW | 1 << 4] {
        refuses(vm, exits, "control-unknown", |words| words[word!(interrupt_control)].store(bits, Ordering::Relaxed));
    }
    for bits in [1 << 1, 1 << 63, u64::MAX, RESPONSE_ABORT | 1 << 32] {
        refuses(vm, exits, "response-unknown", |words| words[word!(response)].store(bits, Ordering::Relaxed));
    }
    // The answer first; then, with nothing pending, the same word again until the next read.
    let page = words(vm.vcpus[0].run_page());
    let mut entered = Ok(ExitReason::Mmio);
    for step in 0..8 {
        clear(vm);
        let response = if entered == Ok(ExitReason::Mmio) { 0 } else { RESPONSE_ABORT };
        page[word!(response)].store(response, Ordering::Relaxed);
        page[word!(data)].store(ANSWERS[1], Ordering::Relaxed);
        entered = enter(vm, exits);
        report::check("response-without-question", entered.is_ok(), format_args!("{entered:?} in step {step}"));
    }
    clear(vm);
    report::check("goes-on-afterwards", reach_device(vm, exits), format_args!("after responses"));
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

/// What of a run page an exit may fill besides its reason and the list registers: words by their number.
fn exposed(reason: ExitReason) -> &'static [usize] {
    match reason {
        ExitReason::Mmio => &[word!(ipa), word!(size), word!(write), word!(data)],
        ExitReason::MemoryFault => &[word!(ipa), word!(write)],
        ExitReason::Shared | ExitReason::Unshared | ExitReason::Relinquished | ExitReason::Poisoned => &[word!(ipa)],
        ExitReason::CpuOn | ExitReason::Sgi => &[word!(data)],
        ExitReason::Lent | ExitReason::Returned | ExitReason::Offered | ExitReason::Accepted | ExitReason::Ended => {
            &[word!(ipa), word!(data), word!(peer)]
        }
        _ => &[],
    }
}

/// Words of the run page that the exit left something in, and that it says nothing about.
fn leaked(page: *mut RunPage, reason: ExitReason) -> usize {
    let words = words(page);
    let lines_and_deadlines = [word!(timer_lines), word!(virtual_deadline), word!(physical_deadline)];
    let is_known = |index: usize| {
        index == word!(exit_reason)
            || lines_and_deadlines.contains(&index)
            || exposed(reason).contains(&index)
            || (word!(list_registers)..word!(list_registers) + MAX_LIST_REGISTERS).contains(&index)
    };
    let stray = (0..words.len()).filter(|index| !is_known(*index) && words[*index].load(Ordering::Relaxed) != 0);
    let deadline = words[word!(virtual_deadline)].load(Ordering::Relaxed);
    stray.count() + usize::from(reason != ExitReason::Wait && deadline != NO_DEADLINE)
}

/// After each exit, of every kind that payloads make, the run page tells what the exit is about, and nothing else.
fn exits_expose_nothing(context: &Context) {
    for name in ["hello", "pages", "smp"] {
        let Some(mut vm) = context.guest_with(name, "", |setup| setup.vcpus = if name == "smp" { 2 } else { 1 }) else {
            return;
        };
        let (mut kinds, mut leaks, mut last) = (0u64, 0, None);
        let stop = run::run_watched(&mut vm, &mut Exits::default(), u64::MAX, |vm, exit| {
            kinds |= 1 << exit.reason as u64;
            for vcpu in &vm.vcpus {
                let page = vcpu.run_page();
                let reason = words(page)[word!(exit_reason)].load(Ordering::Relaxed);
                // The one that came out; what the others left was looked at then.
                // One that has not run yet has no deadline there.
                let has_run = words(page)[word!(physical_deadline)].load(Ordering::Relaxed) != 0;
                if reason == exit.reason as u64 && has_run {
                    let found = leaked(page, exit.reason);
                    leaks += found;
                    last = (found != 0).then_some(exit.reason).or(last);
                }
            }
        });
        report::check("exits-expose-nothing", leaks == 0, format_args!("{leaks} words, lastly by {last:?} of {name}"));
        report::check("exits-guest-ends", stop == Stop::Off, format_args!("{name}: {stop:?}"));
        report::value("exits-kinds", kinds.count_ones().into());
        take_apart(vm);
    }
}

/// A guest that runs on another CPU can neither be run here, nor be taken apart; once it is out, it can.
fn while_it_runs(context: &Context) {
    let Some(vm) = context.guest("spin") else { return };
    let Some(other) = smp::online().find(|cpu| !core::ptr::eq(*cpu, cpu::current())) else { return };
    let handle = vm.handle();
    let page = vm.map().runs().next().map(|(first, _)| first);
    let over = AtomicBool::new(false);
    let (entries, wrong, busy) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let job = || {
        if core::ptr::eq(cpu::current(), other) {
            while !over.load(Ordering::Acquire) {
                match hypercall::vcpu_run(handle, 0) {
                    Ok(_) => entries.fetch_add(1, Ordering::Relaxed),
                    Err(_) => break,
                };
            }
            return;
        }
        smp::wait_until(|| entries.load(Ordering::Acquire) > 2);
        for _ in 0..2_000 {
            let results = [
                hypercall::vcpu_run(handle, 0).map(drop),
                hypercall::vm_finalise(handle),
                page.map_or(Ok(()), |page| hypercall::vm_reclaim(handle, page, 1).map(drop)),
            ];
            busy.fetch_add(u64::from(results[0] == Err(Error::Busy)), Ordering::Relaxed);
            // Between two entries it may be run here; nothing else is ever done to it.
            wrong.fetch_add(results[1..].iter().filter(|result| result.is_ok()).count() as u64, Ordering::Relaxed);
            match hypercall::vm_teardown(handle) {
                Err(Error::Busy) => {}
                Ok(()) => break,
                Err(_) => {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        over.store(true, Ordering::Release);
    };
    smp::run_on(&[cpu::current(), other], job);
    report::check("busy-while-it-runs", busy.load(Ordering::Relaxed) != 0, format_args!("{entries:?} entries"));
    expect!("never-taken-apart-while-it-runs", wrong.load(Ordering::Relaxed), 0);
    // It is dying already, or still to die.
    let teardown = hypercall::vm_teardown(handle);
    report::check("dies-in-the-end", matches!(teardown, Ok(()) | Err(Error::WrongState)), format_args!("{teardown:?}"));
    super::check_returned(vm.reclaim());
}

/// Another CPU changes the run page all the time, while this one enters the guest.
fn changed_meanwhile(vm: &mut Vm, exits: &mut Exits) {
    let page = words(vm.vcpus[0].run_page());
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let Some(other) = smp::online().find(|cpu| !core::ptr::eq(*cpu, cpu::current())) else { return };
    let (entered, refused, odd) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
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
                        ExitReason::Wait | ExitReason::Mmio => {}
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
