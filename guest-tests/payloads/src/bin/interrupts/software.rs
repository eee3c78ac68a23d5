//! Software generated interrupts: to itself, from each CPU to each, and to all others.

use crate::{Bench, comes_once, hand_back, handed_back};
use payloads::cpus::{self, count};
use payloads::gic;
use payloads::timer::{self, wait_until};

/// The SGI that tests send.
const SGI: u32 = 3;
/// The SGI that goes to all others.
const BROADCAST: u32 = 4;
/// What is handed back by a CPU that is about to wait.
const WAITING: u64 = 2;
/// SGIs from each CPU to each.
const ROUNDS: u32 = 10;

pub fn run(bench: &mut Bench) {
    let itself = comes_once(0, SGI, || gic::send(SGI, 0));
    bench.report.check("interrupts.sgi-to-itself", itself, format_args!("it did not come, or more than once"));

    let count_of_cpus = bench.cpus.count;
    let mut wrong = 0;
    for from in 0..count_of_cpus {
        for to in 0..count_of_cpus {
            hand_back(0);
            let before: u32 = counts(count_of_cpus, SGI);
            let done = bench.cpus.run(from, ping, to as u64);
            let all = counts(count_of_cpus, SGI) - before;
            let right = done && handed_back() == u64::from(ROUNDS) && all == ROUNDS;
            wrong += u64::from(!right);
        }
    }
    bench.expect("interrupts", "sgi-between-pairs-wrong", wrong, 0);
    bench.report.value("interrupts.pairs", (count_of_cpus * count_of_cpus) as u64);

    let mut wrong = 0;
    for from in 0..count_of_cpus {
        let mut before = [0; payloads::secondary::MAX_CPUS];
        (0..count_of_cpus).for_each(|cpu| before[cpu] = count(cpu, BROADCAST));
        let sent = bench.cpus.run(from, |_| gic::send_to_others(BROADCAST), 0);
        let came = wait_until(|| (0..count_of_cpus).all(|cpu| cpu == from || count(cpu, BROADCAST) == before[cpu] + 1));
        timer::spin(crate::QUIET);
        wrong += u64::from(!sent || !came || count(from, BROADCAST) != before[from]);
    }
    bench.expect("interrupts", "sgi-to-all-others-wrong", wrong, 0);

    // A CPU that waits with interrupts masked goes on all the same when one is sent to it.
    if count_of_cpus > 1 {
        hand_back(0);
        bench.cpus.post(1, wait_for_sgi, 0);
        wait_until(|| handed_back() == WAITING);
        timer::spin(crate::QUIET);
        gic::send(SGI, 1);
        let done = bench.cpus.wait(1);
        bench.report.check(
            "interrupts.wfi-woken-by-ipi",
            done && handed_back() == 1,
            format_args!("{}", handed_back()),
        );
    }
}

fn counts(cpus: usize, intid: u32) -> u32 {
    (0..cpus).map(|cpu| count(cpu, intid)).sum()
}

/// Sends the SGI to the CPU `to`, so manieth times, each when the one before has been taken; hands back how many were
/// taken there.
fn ping(to: u64) {
    let to = to as usize;
    let start = count(to, SGI);
    for round in 1..=ROUNDS {
        gic::send(SGI, to);
        if !wait_until(|| count(to, SGI) == start + round) {
            break;
        }
    }
    hand_back(u64::from(count(to, SGI) - start));
}

/// Waits for the SGI with interrupts masked, takes it by hand, and hands back 1 where it is the one.
fn wait_for_sgi(_: u64) {
    gic::mask();
    hand_back(WAITING);
    let mut intid = gic::acknowledge();
    while intid >= gic::FIRST_SPECIAL {
        gic::wait();
        intid = gic::acknowledge();
        if intid < gic::FIRST_SPECIAL && intid != SGI {
            // The one that brought this work, or an alarm that is over.
            gic::end(intid);
            intid = gic::FIRST_SPECIAL;
        }
    }
    gic::end(intid);
    hand_back(u64::from(intid == SGI && cpus::current() == 1));
    gic::unmask();
}
