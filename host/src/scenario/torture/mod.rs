//! Calls by chance from all CPUs at once, most of them likely to be done, each judged by the specification.
//!
//! Each CPU has pages and VMs of its own, in which every outcome is determined. In between all of them fight over a few
//! pages and VMs: what they see must be what some order of their requests leads to. Guests act as the host's calls do, and
//! one that only spins is preempted. In the end everything must come back.
//!
//! Boot arguments: `seconds=` (20) or `calls=` bound the time or the calls in all, `seed=` is what the chances are made of.
//! The same seed makes each CPU choose the same.

mod barrier;
mod contest;
mod journal;
mod stage;
mod worker;

use super::{Context, machine, take_apart};
use crate::cpu::{self, Cpu};
use crate::run::{self, Exits, Stop};
use crate::vm::Vm;
use crate::{expect, hypercall, interrupt, println, report, smp};
use abi::Error;
use abi::host::VmHandle;
use abi::run::ExitReason;
use alloc::format;
use alloc::vec::Vec;
use barrier::Barrier;
use call_script::Places;
use call_script::choice::Random;
use contest::Contest;
use core::hash::Hasher;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use journal::{Counts, Journal};
use spin::Mutex;
use worker::Worker;

/// Seconds where nothing is said.
const SECONDS: u64 = 20;
/// Steps on its own that a CPU makes before all meet.
const STEPS_APART: u64 = 32;
/// Rounds that they fight when they meet.
const ROUNDS: usize = 4;
/// One step in so many the spinning guest gets the CPU.
const SPINS: u64 = 4096;
/// Ticks for which it spins before the rest begins.
const FIRST_SPIN: u64 = 3;

/// Where the chances of CPUs, and of their fights, come from.
const OWN_STREAM: u64 = 0x6f77_6e00_0000_0000;
const CONTEST_STREAM: u64 = 0x6669_6768_7400_0000;

/// What all CPUs share.
struct Torture<'a> {
    context: &'a Context,
    places: Places,
    cpus: Vec<&'static Cpu>,
    journals: Vec<Mutex<Journal>>,
    counts: Mutex<Counts>,
    barrier: Barrier,
    /// Something is wrong, or the time is up: no more is done.
    stop: AtomicBool,
    /// The first thing that was wrong has been told.
    told: AtomicBool,
    /// Pages of a guest that came back and were not empty.
    dirty: AtomicU64,
    /// The guest that spins.
    spinner: VmHandle,
}

/// See the module.
pub fn run(context: &Context) {
    let number = |name: &str| context.machine.argument(name).and_then(parse_number);
    let seed = number("seed").unwrap_or_else(interrupt::microseconds);
    let cpus: Vec<&'static Cpu> = smp::online().collect();
    println!("torture: seed={seed:#x}, {} CPUs", cpus.len());
    report::value("seed", seed);
    let calls_each = number("calls").map(|calls| calls.div_ceil(cpus.len() as u64));
    let seconds = number("seconds").unwrap_or(if calls_each.is_some() { u64::MAX } else { SECONDS });

    let Some(pool) = machine::pool(stage::pool_pages(cpus.len())).map(ManuallyDrop::new) else {
        report::check("pool", false, format_args!("too large for this machine"));
        return;
    };
    let places = match machine::places(context, pool.pfn(), stage::pool_pages(cpus.len())) {
        Ok(places) => places,
        Err(error) => {
            report::check("places", false, format_args!("{error}"));
            return;
        }
    };
    let Some(spinner) = spinning(context) else { return };
    let torture = Torture {
        context,
        places,
        journals: cpus.iter().map(|_| Mutex::new(Journal::new())).collect(),
        counts: Mutex::new(Counts::new()),
        barrier: Barrier::new(&cpus),
        cpus,
        stop: AtomicBool::new(false),
        told: AtomicBool::new(false),
        dirty: AtomicU64::new(0),
        spinner: spinner.handle(),
    };
    torture.run(seed, seconds, calls_each);
    take_apart(spinner);
}

/// A decimal or, behind `0x`, hexadecimal number.
fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A guest that has said that it spins.
fn spinning(context: &Context) -> Option<Vm> {
    let mut vm = context.guest("spin")?;
    let mut exits = Exits::default();
    while vm.spoken().lock().line_count == 0 {
        if run::run(&mut vm, &mut exits, 1) != Stop::Interrupted {
            break;
        }
    }
    expect!("spinning", run::run(&mut vm, &mut exits, FIRST_SPIN), Stop::Interrupted);
    Some(vm)
}

impl Torture<'_> {
    fn run(&self, seed: u64, seconds: u64, calls_each: Option<u64>) {
        let count = self.cpus.len();
        let stream = |stream: u64, cpu: usize| Random::new(Random::new(seed ^ stream).number() ^ cpu as u64);
        let workers: Result<Vec<_>, Error> =
            (0..count).map(|cpu| Worker::new(self, cpu, stream(OWN_STREAM, cpu))).collect();
        let contest = Contest::new(self, |cpu| stream(CONTEST_STREAM, cpu));
        let (workers, contest) = match (workers, contest) {
            (Ok(workers), Ok(contest)) => (workers, contest),
            (Err(error), _) | (_, Err(error)) => {
                report::check("guests-made", false, format_args!("{error}"));
                return;
            }
        };
        report::check("guests-made", true, format_args!(""));
        let workers: Vec<Mutex<Worker<'_>>> = workers.into_iter().map(Mutex::new).collect();
        let begin = interrupt::microseconds();
        let deadline = seconds.checked_mul(1_000_000).and_then(|length| begin.checked_add(length)).unwrap_or(u64::MAX);
        smp::run_on(&self.cpus, || {
            let own = cpu::current();
            let Some(index) = self.cpus.iter().position(|cpu| core::ptr::eq(*cpu, own)) else { return };
            let mut worker = workers[index].lock();
            self.work(index, &mut worker, &contest, deadline, calls_each);
        });
        let length = interrupt::microseconds() - begin;
        for (cpu, worker) in workers.iter().enumerate() {
            report::value(&format!("choices-alone.{cpu}"), worker.lock().choices().finish());
        }
        let mut counts = self.counts.lock();
        contest.sum_up(&mut counts);
        counts.report(length);
        drop(counts);
        report::value("rounds", contest.rounds());
        report::value("most-explanations", contest.most_explanations());
        report::check("outcomes-as-specified", !self.told.load(Ordering::Acquire), format_args!("see above"));
        self.end(workers, contest);
    }

    /// One CPU's work: some time on its own, then all together, and again.
    fn work(
        &self,
        index: usize,
        worker: &mut Worker<'_>,
        contest: &Contest<'_>,
        deadline: u64,
        calls_each: Option<u64>,
    ) {
        loop {
            for _ in 0..STEPS_APART {
                // Where CPUs are emulated, and fewer than they seem, a step may take a tenth of a second.
                if self.stop.load(Ordering::Acquire) || interrupt::microseconds() >= deadline {
                    break;
                }
                worker.step();
                if worker.chance(SPINS) {
                    self.spin();
                }
            }
            self.barrier.wait();
            let time_is_up = interrupt::microseconds() >= deadline;
            let enough = calls_each.is_some_and(|calls| worker.steps() >= calls);
            if index == 0 && (time_is_up || enough) {
                self.stop.store(true, Ordering::Release);
            }
            self.barrier.wait();
            if self.stop.load(Ordering::Acquire) {
                break;
            }
            contest.fight(index, ROUNDS, deadline);
        }
        self.counts.lock().add(worker.counts());
    }

    /// Lets the guest that spins have the CPU until the next interrupt, unless another CPU has it.
    fn spin(&self) {
        let result = hypercall::vcpu_run(self.spinner, 0);
        if !matches!(result, Ok(ExitReason::Interrupt) | Err(Error::Busy)) {
            self.tell(format_args!("the spinning guest's VCPU_RUN: {result:?}"));
        }
    }

    /// Says what is wrong, with what each CPU did last, and stops everything. Only the first is told.
    fn tell(&self, wrong: core::fmt::Arguments<'_>) {
        self.stop.store(true, Ordering::Release);
        if self.told.swap(true, Ordering::AcqRel) {
            return;
        }
        println!("torture: WRONG: {wrong}");
        println!("torture: what each CPU did last, as a script; the last line of one CPU is what was wrong");
        for (cpu, journal) in self.journals.iter().enumerate() {
            journal.lock().print(cpu);
        }
        report::check("specified", false, wrong);
    }

    /// Takes everything back and checks that it is there.
    fn end(&self, workers: Vec<Mutex<Worker<'_>>>, contest: Contest<'_>) {
        for worker in workers {
            worker.into_inner().end();
        }
        contest.end();
        let dirty = self.dirty.load(Ordering::Relaxed);
        report::check("pages-wiped", dirty == 0, format_args!("{dirty} are not"));
        let lost = stage::pages_out_of_reach(&self.places);
        report::check("every-page-back", lost.is_none(), format_args!("first page {lost:?} of the pool"));
        expect!("stray-interrupts", cpu::all().iter().map(Cpu::stray_interrupts).sum::<u64>(), 0);
    }
}
