//! Many CPUs at once: PSCI, stage-2 faults, and calls that race for one page or one vCPU.

use super::{Context, take_apart};
use crate::cpu::{self, Cpu};
use crate::frames::{self, Pages};
use crate::hypercall;
use crate::run::{self, Exits, Stop};
use crate::{expect, interrupt, psci, report, smp};
use abi::psci::{
    AFFINITY_OFF, AFFINITY_ON, ALREADY_ON, CPU_OFF, CPU_ON_64, CPU_SUSPEND_64, INVALID_ADDRESS, INVALID_PARAMETERS,
    NOT_SUPPORTED, ON_PENDING, PSCI_FEATURES, PSCI_VERSION, SUCCESS, SYSTEM_OFF, SYSTEM_RESET,
};
use abi::run::ExitReason;
use abi::{Error, Gfn, PAGE_SIZE};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// Rounds of each race.
const ROUNDS: usize = 10;
/// Pages of RAM that each CPU touches at most.
const MOST_TOUCHED: u64 = 1 << 17;
/// Guest frame from which races donate.
const RACE_FRAME: u64 = 0x40400;

/// See the module.
pub fn run(context: &Context) {
    expect!("cpus-online", context.online, context.machine.cpus.len());
    let cpus: Vec<&'static Cpu> = smp::online().collect();
    ticks(&cpus);
    queries();
    suspend();
    touch_together(&cpus);
    if let Some((&victim, _)) = cpus.split_last().filter(|(_, others)| !others.is_empty()) {
        bad_cpu_on(victim);
        off_and_on(victim);
        if cpus.len() > 2 {
            race_cpu_on(victim, cpus[0], cpus[1]);
        }
    }
    if hypercall::is_present() {
        race_donate(context, &cpus);
        race_run(context, &cpus);
    }
    expect!("stray-interrupts", cpu::all().iter().map(Cpu::stray_interrupts).sum::<u64>(), 0);
}

/// Waits until every CPU's timer has ticked.
fn ticks(cpus: &[&'static Cpu]) {
    let before: Vec<u64> = cpus.iter().map(|cpu| cpu.ticks()).collect();
    let start = interrupt::microseconds();
    let all = || cpus.iter().zip(&before).all(|(cpu, before)| cpu.ticks() > before + 1);
    while !all() && interrupt::microseconds() - start < 5_000_000 {
        core::hint::spin_loop();
    }
    report::check("every-cpu-ticks", all(), format_args!("not within five seconds"));
}

/// What PSCI says of itself.
fn queries() {
    let version = psci::call(PSCI_VERSION, [0; 3]);
    report::check("psci-version", version >= 0x1_0000, format_args!("{version:#x}"));
    for function in [CPU_ON_64, CPU_OFF, CPU_SUSPEND_64, SYSTEM_OFF, SYSTEM_RESET, abi::smccc::VERSION] {
        let features = psci::call(PSCI_FEATURES, [function.into(), 0, 0]);
        report::check("psci-features", features >= 0, format_args!("{function:#x}: {features}"));
    }
    expect!("psci-features-unknown", psci::call(PSCI_FEATURES, [0xc400_7ffe, 0, 0]), NOT_SUPPORTED);
    expect!("affinity-of-self", psci::affinity_info(cpu::current().mpidr()), AFFINITY_ON);
    expect!("affinity-of-nobody", psci::affinity_info(0xff_00ff_fffe), INVALID_PARAMETERS);
    expect!("cpu-on-self", psci::cpu_on(cpu::current().mpidr(), smp::entry(), 0), ALREADY_ON);
}

/// A standby ends with the next tick.
fn suspend() {
    let before = cpu::current().ticks();
    expect!("suspend-standby", psci::call(CPU_SUSPEND_64, [0, 0, 0]), SUCCESS);
    let start = interrupt::microseconds();
    while cpu::current().ticks() == before && interrupt::microseconds() - start < 1_000_000 {
        core::hint::spin_loop();
    }
    report::check("tick-after-standby", cpu::current().ticks() > before, format_args!("no tick"));
}

/// All CPUs touch the same pages in the same order, all over the free RAM, each its own word: their first touches fault
/// at stage 2 at the same time.
fn touch_together(cpus: &[&'static Cpu]) {
    let blocks: Vec<Pages> = frames::all_free();
    let pages: u64 = blocks.iter().map(Pages::count).sum();
    let stride = pages.div_ceil(MOST_TOUCHED).max(1);
    let order = AtomicUsize::new(0);
    smp::run_on(cpus, || {
        let index = order.fetch_add(1, Ordering::Relaxed) as u64;
        for block in &blocks {
            for page in (0..block.count()).step_by(stride as usize) {
                let word = block.address().raw() + page * PAGE_SIZE + 8 * index;
                // SAFETY: the page is free RAM that this function holds, and the word is this CPU's alone.
                unsafe { (word as *mut u64).write_volatile(word ^ index) };
            }
        }
    });
    let wrong = AtomicU64::new(0);
    for index in 0..cpus.len() as u64 {
        for block in &blocks {
            for page in (0..block.count()).step_by(stride as usize) {
                let word = block.address().raw() + page * PAGE_SIZE + 8 * index;
                // SAFETY: as above; nobody writes it any more.
                let good = unsafe { (word as *const u64).read_volatile() } == word ^ index;
                wrong.fetch_add(u64::from(!good), Ordering::Relaxed);
            }
        }
    }
    report::value("pages-touched-together", pages / stride);
    expect!("words-touched-together", wrong.load(Ordering::Relaxed), 0);
}

/// Turns `cpu` off and waits until PSCI says that it is.
fn turn_off(cpu: &'static Cpu) -> bool {
    smp::stop(cpu);
    let start = interrupt::microseconds();
    while psci::affinity_info(cpu.mpidr()) != AFFINITY_OFF {
        if interrupt::microseconds() - start > 5_000_000 {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// CPU_ON that must be refused, and leave its victim off.
fn bad_cpu_on(victim: &'static Cpu) {
    report::check("cpu-off", turn_off(victim), format_args!("{}", psci::affinity_info(victim.mpidr())));
    for mpidr in [0xff_00ff_fffe, u64::MAX, 1 << 31, victim.mpidr() | 1 << 24, victim.mpidr() | 1 << 63] {
        expect!("cpu-on-bad-mpidr", psci::cpu_on(mpidr, smp::entry(), 0), INVALID_PARAMETERS);
    }
    expect!("cpu-on-entry-beyond", psci::cpu_on(victim.mpidr(), 0xffff_ffff_ffff_f000, 0), INVALID_ADDRESS);
    if let Ok(info) = hypercall::memory_info() {
        for entry in [info.carve_out.start.raw(), info.carve_out.end.raw() - 4] {
            expect!("cpu-on-entry-in-carve-out", psci::cpu_on(victim.mpidr(), entry, 0), INVALID_ADDRESS);
        }
    }
    expect!("still-off", psci::affinity_info(victim.mpidr()), AFFINITY_OFF);
    report::check("cpu-on", smp::start(victim), format_args!("it did not come"));
    expect!("affinity-on", psci::affinity_info(victim.mpidr()), AFFINITY_ON);
}

/// Off and on, again and again.
fn off_and_on(victim: &'static Cpu) {
    for _ in 0..ROUNDS {
        report::check("off-again", turn_off(victim), format_args!("it stays on"));
        report::check("on-again", smp::start(victim), format_args!("it did not come"));
        let ran = AtomicBool::new(false);
        smp::run_on(&[victim], || ran.store(true, Ordering::Relaxed));
        report::check("works-again", ran.load(Ordering::Relaxed), format_args!("idle"));
    }
}

/// Runs `work` on all of `cpus`, all starting at the same time, and collects what it returns.
fn together<T: Send>(cpus: &[&'static Cpu], work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results = Mutex::new(Vec::new());
    let order = AtomicUsize::new(0);
    smp::run_on(cpus, || {
        let index = order.fetch_add(1, Ordering::AcqRel);
        while order.load(Ordering::Acquire) < cpus.len() {
            core::hint::spin_loop();
        }
        let result = work(index);
        results.lock().push(result);
    });
    results.into_inner()
}

/// Two CPUs turn the same third one on: one of them does.
fn race_cpu_on(victim: &'static Cpu, one: &'static Cpu, other: &'static Cpu) {
    for _ in 0..ROUNDS {
        if !report::check("race-cpu-off", turn_off(victim), format_args!("it stays on")) {
            return;
        }
        smp::prepare(victim);
        let results = together(&[one, other], |_| psci::cpu_on(victim.mpidr(), smp::entry(), victim.context()));
        let successes = results.iter().filter(|result| **result == SUCCESS).count();
        let losers = results.iter().filter(|result| matches!(**result, ALREADY_ON | ON_PENDING)).count();
        report::check("race-cpu-on", (successes, losers) == (1, 1), format_args!("{results:?}"));
        report::check("race-cpu-on-works", smp::wait_online(victim), format_args!("it did not come"));
    }
}

/// All CPUs donate the same page at different frames: one of them does.
fn race_donate(context: &Context, cpus: &[&'static Cpu]) {
    let Some(mut vm) = context.guest("hello") else { return };
    for round in 0..ROUNDS {
        let Some(page) = Pages::zeroed(1) else { return };
        let frame = |index: usize| Gfn::new(RACE_FRAME + (round * cpus.len() + index) as u64);
        let handle = vm.handle();
        let results = together(cpus, |index| (index, hypercall::vm_donate(handle, 0, page.pfn(), frame(index), 1)));
        let winners: Vec<usize> =
            results.iter().filter(|(_, result)| result.is_ok()).map(|(index, _)| *index).collect();
        let losers_right = results
            .iter()
            .all(|(_, result)| matches!(result, Ok(()) | Err(Error::NotYours | Error::WrongState | Error::Busy)));
        report::check("race-donate", winners.len() == 1 && losers_right, format_args!("{results:?}"));
        match winners.first() {
            Some(winner) => vm.donated(page, frame(*winner)),
            None => drop(page),
        }
    }
    let mut exits = Exits::default();
    expect!("guest-after-race", run::run(&mut vm, &mut exits, u64::MAX), Stop::Off);
    take_apart(vm);
}

/// All CPUs run the same vCPU: one at a time does, and the others are told that it is busy.
fn race_run(context: &Context, cpus: &[&'static Cpu]) {
    let Some(mut vm) = context.guest("spin") else { return };
    let mut exits = Exits::default();
    // Until the guest does nothing but spin.
    expect!("spinning", run::run(&mut vm, &mut exits, 5), Stop::Interrupted);
    let handle = vm.handle();
    let (mut runs, mut refusals) = (0, 0);
    for _ in 0..ROUNDS {
        let results = together(cpus, |_| hypercall::vcpu_run(handle, 0));
        runs += results.iter().filter(|result| **result == Ok(ExitReason::Interrupt)).count();
        refusals += results.iter().filter(|result| **result == Err(Error::Busy)).count();
    }
    let total = ROUNDS * cpus.len();
    report::check("race-run-one-wins", runs >= ROUNDS, format_args!("{runs} of {total}"));
    expect!("race-run-results", runs + refusals, total);
    if cpus.len() > 1 {
        report::check("race-run-others-busy", refusals > 0, format_args!("{runs} runs, {refusals} refusals"));
    }
    take_apart(vm);
}
