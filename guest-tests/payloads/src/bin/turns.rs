//! A guest whose two CPUs share one page with the host in turns, and take it back, as fast as they can. While the page is
//! shared it holds words for the host, and otherwise secrets.
#![no_std]
#![no_main]

use aarch64_cpu::asm::barrier::{ISHST, dsb};
use aarch64_cpu::asm::{sev, wfe};
use abi::payloads::turns::{MOST_ROUNDS, ROUNDS, SECRET, SHARED, WORDS, word};
use abi::{guest, psci};
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::hypervisor::{KvmCalls, call_status, power_off};
use payloads::report::Report;
use payloads::{Machine, payload, println, secondary};

/// Affinity of the second CPU.
const SECOND: u64 = 1;
/// The turn after the last.
const OVER: u64 = u64::MAX;

/// The page; the host writes to its second half while it is shared.
#[repr(C, align(4096))]
struct Page([AtomicU64; 2 * WORDS]);

static PAGE: Page = Page([const { AtomicU64::new(0) }; 2 * WORDS]);
/// The round, whose parity says whose turn it is.
static TURN: AtomicU64 = AtomicU64::new(0);
/// Calls that were refused.
static REFUSED: AtomicU64 = AtomicU64::new(0);
/// Words for the host that somebody changed, and secrets.
static CHANGED: AtomicU64 = AtomicU64::new(0);
static CHANGED_SECRETS: AtomicU64 = AtomicU64::new(0);
/// Rounds after which an answer of the host's was found.
static ANSWERS: AtomicU64 = AtomicU64::new(0);

payload!(turns);

fn turns(machine: &mut Machine) {
    println!("turns: {} CPUs", machine.platform.cpus);
    let mut report = Report::begin("turns");
    if KvmCalls::find().is_none() || machine.platform.cpus < 2 {
        report.check("turns.no-host", true, format_args!(""));
        return report.end();
    }
    // SAFETY: The second CPU has never been on.
    let status = unsafe { secondary::start(&machine.address_space, SECOND, second, 0) };
    report.check("turns.second-on", status == psci::SUCCESS, format_args!("{status}"));
    if status == psci::SUCCESS {
        take_turns(0);
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    for (name, counter) in
        [("refused", &REFUSED), ("shared-words-changed", &CHANGED), ("secrets-changed", &CHANGED_SECRETS)]
    {
        report.check_in("turns.none", name, count(counter) == 0, format_args!("{}", count(counter)));
    }
    let answers = count(&ANSWERS);
    report.check("turns.host-answered", answers != 0, format_args!("it never did"));
    report.value("turns.answers", answers);
    report.end();
}

extern "C" fn second(_: u64, _: u64) -> ! {
    take_turns(SECOND);
    call_status(psci::CPU_OFF, [0; 3]);
    power_off()
}

/// Takes every second turn, until the host has answered and there were enough. The first CPU ends it.
fn take_turns(own: u64) {
    loop {
        let mut round = TURN.load(Ordering::Acquire);
        while round % 2 != own && round != OVER {
            wfe();
            round = TURN.load(Ordering::Acquire);
        }
        if round == OVER {
            return;
        }
        if round != 0 {
            take_back(round - 1);
        }
        let is_enough = round >= ROUNDS && ANSWERS.load(Ordering::Relaxed) != 0 || round >= MOST_ROUNDS;
        let is_over = own == 0 && is_enough;
        if !is_over {
            share(round);
        }
        TURN.store(if is_over { OVER } else { round + 1 }, Ordering::Release);
        // WFE is to find the turn when it finds the event.
        dsb(ISHST);
        sev();
    }
}

/// Makes a call about the page.
fn call(function: u32) {
    let status = call_status(function, [PAGE.0.as_ptr() as u64, 0, 0]);
    REFUSED.fetch_add(u64::from(status != 0), Ordering::Relaxed);
}

/// Counts the words that are not `expected`.
fn count_others(words: &[AtomicU64], expected: u64, others: &AtomicU64) {
    let count = words.iter().filter(|word| word.load(Ordering::Acquire) != expected).count();
    others.fetch_add(count as u64, Ordering::Relaxed);
}

fn fill(words: &[AtomicU64], value: u64) {
    words.iter().for_each(|word| word.store(value, Ordering::Release));
}

/// Takes back what was shared in the round before, and puts secrets in its place.
fn take_back(round: u64) {
    call(guest::MEM_UNSHARE);
    let (own, hosts) = PAGE.0.split_at(WORDS);
    count_others(own, u64::from_le_bytes(word(SHARED, round)), &CHANGED);
    let answered = hosts.iter().any(|word| word.load(Ordering::Acquire) != 0);
    ANSWERS.fetch_add(u64::from(answered), Ordering::Relaxed);
    let secret = u64::from_le_bytes(word(SECRET, round));
    fill(&PAGE.0, secret);
    count_others(&PAGE.0, secret, &CHANGED_SECRETS);
}

/// Puts words for the host where the secrets were, which nobody has touched, and shares them.
fn share(round: u64) {
    if round != 0 {
        count_others(&PAGE.0, u64::from_le_bytes(word(SECRET, round - 1)), &CHANGED_SECRETS);
    }
    let (own, hosts) = PAGE.0.split_at(WORDS);
    fill(own, u64::from_le_bytes(word(SHARED, round)));
    fill(hosts, 0);
    call(guest::MEM_SHARE);
}
