//! A timer: deadlines met and never early, set anew in the handler, masked, in the past, far away; and what it wakes.

use crate::{Bench, QUIET, comes};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use payloads::cpus::{self, count, current};
use payloads::gic;
use payloads::timer::{self, ENABLE, IMASK, ISTATUS, PHYSICAL, Timer, VIRTUAL};

/// Deadlines.
const DEADLINES: u64 = 20;
/// Microseconds from one to the next.
const PERIOD: u64 = 2_000;
/// Microseconds by which a deadline may be missed on a machine that others use too, unless [`set_limit`] says less.
const LATENESS_MOST: u64 = 5_000_000;

/// Microseconds by which a deadline may be missed.
static LIMIT: AtomicU64 = AtomicU64::new(LATENESS_MOST);

/// Allows deadlines to be missed by so many microseconds, where time passes as the machine works and not by a clock on
/// the wall.
pub fn set_limit(microseconds: u64) {
    LIMIT.store(microseconds, Ordering::Relaxed);
}

/// Deadlines that are still to come, when the next is, how late the latest was, and how many came early.
static LEFT: AtomicU64 = AtomicU64::new(0);
static DEADLINE: AtomicU64 = AtomicU64::new(0);
static LATEST: AtomicU64 = AtomicU64::new(0);
static EARLY: AtomicU64 = AtomicU64::new(0);
/// How late WFI ended.
static WOKEN_LATE: AtomicU64 = AtomicU64::new(0);
/// What was wrong: a bit for each of [`NAMES`].
static WRONG: AtomicU64 = AtomicU64::new(0);
/// Which of the two timers is tested: 0 is the virtual one. And on which CPU: others use theirs as alarm clocks meanwhile.
static TESTED: AtomicUsize = AtomicUsize::new(0);
static TESTED_CPU: AtomicUsize = AtomicUsize::new(0);

/// The checks, in the order of their results.
const NAMES: [&str; 10] = [
    "deadlines-met",
    "never-early",
    "not-too-late",
    "masked",
    "unmasked",
    "past-deadline",
    "far-deadline",
    "counts-down",
    "wakes-wfi",
    "wakes-wfi-in-time",
];

pub fn run(bench: &mut Bench, timer: Timer, cpu: usize) {
    WRONG.store(u64::MAX, Ordering::Release);
    TESTED.store(usize::from(timer.intid == PHYSICAL.intid), Ordering::Release);
    TESTED_CPU.store(cpu, Ordering::Release);
    let done = bench.cpus.run(cpu, on_this_cpu, 0);
    let wrong = WRONG.load(Ordering::Acquire);
    for (index, name) in NAMES.iter().enumerate() {
        let right = done && wrong >> index & 1 == 0;
        let (left, early, latest) =
            (LEFT.load(Ordering::Relaxed), EARLY.load(Ordering::Relaxed), LATEST.load(Ordering::Relaxed));
        let group =
            if timer.intid == PHYSICAL.intid { "interrupts.physical-timer" } else { "interrupts.virtual-timer" };
        let woken = WOKEN_LATE.load(Ordering::Relaxed);
        let seen = format_args!("CPU {cpu}, {left} deadlines left, {early} early, {latest} ticks late, WFI {woken}");
        bench.report.check_in(group, name, right, seen);
    }
    let name = if timer.intid == PHYSICAL.intid {
        "interrupts.physical-lateness-us"
    } else {
        "interrupts.virtual-lateness-us"
    };
    bench.report.value(name, timer::microseconds(LATEST.load(Ordering::Relaxed)));
}

fn tested() -> Timer {
    if TESTED.load(Ordering::Acquire) == 0 { VIRTUAL } else { PHYSICAL }
}

/// The handler: notes how late it is, and sets the timer anew or turns it off.
fn deadline_came(cpu: usize, intid: u32) {
    let timer = tested();
    if intid != timer.intid || cpu != TESTED_CPU.load(Ordering::Acquire) {
        return;
    }
    let now = (timer.counter)();
    if LEFT.load(Ordering::Relaxed) == 0 {
        (timer.set_control)(0);
        return;
    }
    let deadline = DEADLINE.load(Ordering::Relaxed);
    match now.checked_sub(deadline) {
        Some(late) => {
            LATEST.fetch_max(late, Ordering::Relaxed);
        }
        // One that comes after the timer was set anew, and was meant for the deadline before.
        None if (timer.control)() & ISTATUS == 0 => {
            EARLY.fetch_add(1, Ordering::Relaxed);
        }
        None => {}
    }
    let left = LEFT.fetch_sub(1, Ordering::Relaxed) - 1;
    if left == 0 {
        (timer.set_control)(0);
    } else {
        let next = now + timer::ticks(PERIOD);
        DEADLINE.store(next, Ordering::Relaxed);
        (timer.set_compare)(next);
    }
}

/// All of it, on the calling CPU.
fn on_this_cpu(_: u64) {
    let (timer, cpu) = (tested(), current());
    let now = timer.counter;
    (timer.set_control)(0);
    // An alarm of an earlier rest may still be on its way.
    timer::spin(QUIET);

    LATEST.store(0, Ordering::Relaxed);
    EARLY.store(0, Ordering::Relaxed);
    LEFT.store(DEADLINES, Ordering::Relaxed);
    cpus::set_action(Some(deadline_came));
    let before = count(cpu, timer.intid);
    let start = now();
    DEADLINE.store(start + timer::ticks(PERIOD), Ordering::Relaxed);
    (timer.set_compare)(start + timer::ticks(PERIOD));
    (timer.set_control)(ENABLE);
    let give_up = start + timer::ticks(PERIOD * DEADLINES + LATENESS_MOST);
    while LEFT.load(Ordering::Relaxed) != 0 && now() < give_up {}
    let met = LEFT.load(Ordering::Relaxed) == 0 && u64::from(count(cpu, timer.intid) - before) == DEADLINES;
    let never_early = EARLY.load(Ordering::Relaxed) == 0 && now() >= start + timer::ticks(PERIOD * DEADLINES);
    let not_late = LATEST.load(Ordering::Relaxed) <= timer::ticks(LIMIT.load(Ordering::Relaxed));
    LEFT.store(0, Ordering::Relaxed);

    // Its condition holds, and says so; yet the interrupt does not come while it is masked.
    (timer.set_compare)(now());
    (timer.set_control)(ENABLE | IMASK);
    let masked = !comes(cpu, timer.intid) && (timer.control)() == ENABLE | IMASK | ISTATUS;
    let before = count(cpu, timer.intid);
    (timer.set_control)(ENABLE);
    let unmasked = timer_came(cpu, timer, before) && (timer.control)() == 0;

    // A deadline in the past is met at once, be it by value or by compare value.
    let before = count(cpu, timer.intid);
    (timer.set_value)(-1000i64 as u64);
    (timer.set_control)(ENABLE);
    let by_value = timer_came(cpu, timer, before);
    let before = count(cpu, timer.intid);
    (timer.set_compare)(0);
    (timer.set_control)(ENABLE);
    let past = by_value && timer_came(cpu, timer, before);

    (timer.set_compare)(u64::MAX);
    (timer.set_control)(ENABLE);
    let far = !comes(cpu, timer.intid) && (timer.control)() == ENABLE;
    (timer.set_control)(0);

    (timer.set_value)(timer::ticks(1_000_000));
    let first = (timer.value)();
    timer::spin(1_000);
    let second = (timer.value)();
    let counts_down = first <= timer::ticks(1_000_000) && second + timer::ticks(1_000) <= first;

    // WFI ends when the deadline has come, though interrupts are masked; and not before, unless something else came.
    gic::mask();
    let deadline = now() + timer::ticks(PERIOD);
    (timer.set_compare)(deadline);
    (timer.set_control)(ENABLE);
    let mut pending = gic::highest_pending();
    while pending != timer.intid && now() < deadline + timer::ticks(LATENESS_MOST) {
        gic::wait();
        pending = gic::highest_pending();
    }
    let woken = now();
    let wakes = pending == timer.intid && woken >= deadline;
    let woken_late = woken.saturating_sub(deadline);
    WOKEN_LATE.store(woken_late, Ordering::Relaxed);
    let woken_in_time = woken_late <= timer::ticks(LIMIT.load(Ordering::Relaxed));
    gic::unmask();
    timer::spin(QUIET);
    (timer.set_control)(0);
    cpus::set_action(None);

    let right = [met, never_early, not_late, masked, unmasked, past, far, counts_down, wakes, woken_in_time];
    let wrong = right.iter().enumerate().filter(|(_, right)| !**right).fold(0, |wrong, (index, _)| wrong | 1 << index);
    WRONG.store(wrong, Ordering::Release);
}

/// True where the timer's interrupt comes once more than `before`; it is turned off by then.
fn timer_came(cpu: usize, timer: Timer, before: u32) -> bool {
    let give_up = timer::now() + timer::ticks(LATENESS_MOST);
    while count(cpu, timer.intid) == before && timer::now() < give_up {}
    let came = count(cpu, timer.intid) == before + 1;
    timer::spin(QUIET);
    came && count(cpu, timer.intid) == before + 1
}
