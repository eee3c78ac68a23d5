//! A guest that tries all that its interrupt controller and its timers can do: SGIs between all pairs of CPUs, both
//! timers, waits, priorities, the two modes of ending an interrupt, a level-sensitive interrupt and where it goes, the
//! clock's alarm; and registers of FP and SIMD kept while CPUs are taken away and given back.
#![no_std]
#![no_main]

mod alarm;
mod controller;
mod floating_point;
mod shared;
mod software;
mod time;
mod timers;

use core::sync::atomic::{AtomicU64, Ordering};
use payloads::cpus::{self, Cpus};
use payloads::gic;
use payloads::report::Report;
use payloads::timer;
use payloads::{Machine, payload, println};

payload!(interrupts);

/// What the tests have at hand.
struct Bench {
    cpus: Cpus,
    report: Report,
}

impl Bench {
    /// Reports whether `seen` is what it should be.
    fn expect(&mut self, group: &str, name: &str, seen: u64, expected: u64) {
        self.report.check_in(group, name, seen == expected, format_args!("{seen}, not {expected}"));
    }
}

fn interrupts(machine: &mut Machine) {
    println!("interrupts: {} CPUs", machine.platform.cpus);
    let report = Report::begin("interrupts");
    let Some(cpus) = Cpus::start(machine) else {
        let mut report = report;
        report.check("interrupts.cpus-start", false, format_args!("no GICv3, or a CPU did not come"));
        report.end();
        return;
    };
    let mut bench = Bench { cpus, report };
    let limit = machine.platform.hexadecimal_argument("lateness");
    if let Some(limit) = limit {
        timers::set_limit(limit);
    }
    software::run(&mut bench);
    time::run(&mut bench);
    for timer in [timer::VIRTUAL, timer::PHYSICAL] {
        let last = bench.cpus.count - 1;
        timers::run(&mut bench, timer, 0);
        if last != 0 {
            timers::run(&mut bench, timer, last);
        }
    }
    controller::run(&mut bench);
    if let (Some(uart), Some(intid)) = (machine.platform.uart, machine.platform.uart_interrupt) {
        shared::run(&mut bench, uart, intid);
    }
    if let (Some(clock), Some(intid)) = (machine.platform.clock, machine.platform.clock_interrupt)
        && limit.is_none()
        && machine.address_space.map_device(clock).is_ok()
    {
        alarm::run(&mut bench, clock, intid);
    }
    // A machine that counts instructions takes long to pass the time.
    if limit.is_none() {
        floating_point::run(&mut bench);
    }
    let (strays, last) = cpus::stray();
    bench.report.check("interrupts.no-strays", strays == 0, format_args!("{strays}, the last of INTID {last}"));
    bench.report.value("interrupts.cpus", bench.cpus.count as u64);
    bench.report.end();
}

/// Microseconds in which what must not happen would have happened.
const QUIET: u64 = 3_000;

/// True where `cpu`, the caller, takes `intid` within [`QUIET`] without being asked again.
fn comes(cpu: usize, intid: u32) -> bool {
    let before = cpus::count(cpu, intid);
    timer::spin(QUIET);
    cpus::count(cpu, intid) != before
}

/// True where the caller takes `intid` once it does `trigger`, and takes it once.
fn comes_once(cpu: usize, intid: u32, trigger: impl FnOnce()) -> bool {
    let before = cpus::count(cpu, intid);
    trigger();
    let came = timer::wait_until(|| cpus::count(cpu, intid) != before);
    timer::spin(QUIET);
    came && cpus::count(cpu, intid) == before + 1
}

/// Takes the most urgent interrupt by hand, interrupts being masked. Where none is pending for a good while, the answer
/// is what the CPU interface says then.
fn take() -> u32 {
    let end = timer::now() + timer::ticks(20_000);
    loop {
        let intid = gic::acknowledge();
        if intid < gic::FIRST_SPECIAL || timer::now() > end {
            return intid;
        }
    }
}

/// A number that another CPU hands back.
static RESULT: AtomicU64 = AtomicU64::new(0);

/// Hands back a number.
fn hand_back(number: u64) {
    RESULT.store(number, Ordering::Release);
}

/// What was handed back.
fn handed_back() -> u64 {
    RESULT.load(Ordering::Acquire)
}
