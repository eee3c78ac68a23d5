//! Time as all CPUs see it together: handed from one to the next, over and over, while they give way to each other and
//! move between CPUs below, it never goes back, and the virtual counter is the physical one less the same offset
//! everywhere.

use crate::Bench;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::cpus::{current, rest};
use payloads::timer::{self, PHYSICAL, VIRTUAL};

/// Turns of each CPU, and readings in each turn.
const TURNS: u64 = 40;
const READINGS: u64 = 8;
/// One turn in so many is held for a while: longer than a host lets one CPU run where several want to.
const LONG_TURN: u64 = 13;
/// Microseconds of that.
const HELD: u64 = 12_000;

/// Whose turn it is: a number that counts on, whose CPU is its remainder.
static TURN: AtomicU64 = AtomicU64::new(0);
/// How many CPUs take part.
static COUNT: AtomicU64 = AtomicU64::new(1);
/// The latest reading of both counters. Whose turn it is writes it.
static VIRTUAL_LATEST: AtomicU64 = AtomicU64::new(0);
static PHYSICAL_LATEST: AtomicU64 = AtomicU64::new(0);
/// Readings that were before the latest.
static BACKWARD: AtomicU64 = AtomicU64::new(0);
/// What the readings leave possible for the offset: no less, and no more. Differences of counters, which wrap.
static OFFSET_LEAST: AtomicU64 = AtomicU64::new(i64::MIN as u64);
static OFFSET_MOST: AtomicU64 = AtomicU64::new(i64::MAX as u64);

pub fn run(bench: &mut Bench) {
    let count = bench.cpus.count;
    COUNT.store(count as u64, Ordering::Release);
    (1..count).for_each(|cpu| bench.cpus.post(cpu, take_turns, 0));
    take_turns(0);
    let done = (1..count).all(|cpu| bench.cpus.wait(cpu));
    bench.expect(
        "interrupts.time",
        "turns-taken",
        TURN.load(Ordering::Acquire),
        if done { TURNS * count as u64 } else { 0 },
    );
    bench.expect("interrupts.time", "never-goes-back", BACKWARD.load(Ordering::Acquire), 0);
    let [least, most] = [&OFFSET_LEAST, &OFFSET_MOST].map(|bound| bound.load(Ordering::Acquire) as i64);
    bench.report.check(
        "interrupts.time.one-offset",
        least <= most,
        format_args!("CNTPCT_EL0 is CNTVCT_EL0 and at least {least}, and at most {most}"),
    );
    bench.report.value("interrupts.offset-known-to-ticks", most.saturating_sub(least).max(0) as u64);
}

/// Reads the counters whenever it is this CPU's turn.
fn take_turns(_: u64) {
    let (cpu, count) = (current() as u64, COUNT.load(Ordering::Acquire));
    for turn in 0..TURNS {
        let mine = turn * count + cpu;
        // Not for ever: a CPU that does not come is seen by the number of turns.
        if !timer::wait_until(|| TURN.load(Ordering::Acquire) == mine) {
            return;
        }
        if turn % LONG_TURN == cpu % LONG_TURN {
            timer::spin(HELD);
        }
        (0..READINGS).for_each(|_| look());
        TURN.store(mine + 1, Ordering::Release);
        rest();
    }
}

/// Reads the physical counter, the virtual one, and the physical one again: the offset is between the two differences.
fn look() {
    let before = (PHYSICAL.counter)();
    let between = (VIRTUAL.counter)();
    let after = (PHYSICAL.counter)();
    let backward = before < PHYSICAL_LATEST.load(Ordering::Relaxed)
        || between < VIRTUAL_LATEST.load(Ordering::Relaxed)
        || after < before;
    BACKWARD.fetch_add(u64::from(backward), Ordering::Relaxed);
    PHYSICAL_LATEST.store(after, Ordering::Relaxed);
    VIRTUAL_LATEST.store(between, Ordering::Relaxed);
    let [least, most] = [before, after].map(|physical| physical.wrapping_sub(between) as i64);
    let raised = (OFFSET_LEAST.load(Ordering::Relaxed) as i64).max(least);
    OFFSET_LEAST.store(raised as u64, Ordering::Relaxed);
    let lowered = (OFFSET_MOST.load(Ordering::Relaxed) as i64).min(most);
    OFFSET_MOST.store(lowered as u64, Ordering::Relaxed);
}
