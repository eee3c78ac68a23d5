//! A guest that measures what leaving it costs: the virtual counter before and after an operation, the median of many,
//! less what reading the counter takes. Where QEMU counts instructions (`-icount shift=0`) a tick is an instruction, of
//! whoever ran.
//!
//! Nothing here knows which hypervisor is below: it wants a GICv3, a PL011 and PSCI by HVC.
#![no_std]
#![no_main]

use abi::{Ipa, PAGE_SIZE, psci, smccc};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::cpus::{self, Cpus};
use payloads::gic;
use payloads::memory::Kind;
use payloads::mmio::read32;
use payloads::report::Report;
use payloads::timer::{self, now};
use payloads::{Machine, payload, println, vectors};

/// How often an operation is measured. The median of an odd number is one of them.
const SAMPLES: usize = 101;
/// How often it is done before.
const WARM_UP: usize = 16;
/// A function id that nobody knows: of the standard hypervisor services, which have none so high (Arm DEN0028, section 6).
const UNKNOWN_FUNCTION: u64 = 0x8500_ff3f;
/// GICD_TYPER.
const GICD_TYPER: u64 = 0x0004;
/// UARTFR of a PL011.
const UARTFR: u64 = 0x018;
/// The SGI that is sent.
const SGI: u32 = 3;
/// Ticks from the setting of the timer to its deadline: more than the setting itself takes anywhere.
const TIMER_DELAY: u64 = 100_000;
/// Bytes from the start of RAM to pages that share their 2 MiB with what was loaded, and to those that do not.
const SINGLE_PAGES: u64 = 1 << 20;
const BLOCKS: u64 = 4 << 20;
/// Bytes of a block of memory, the unit in which a hypervisor may give it.
const BLOCK_SIZE: u64 = 2 << 20;

/// When the interrupt handler was last entered, by the virtual counter.
static ENTERED: AtomicU64 = AtomicU64::new(0);
/// How often CPU 0 took an interrupt.
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// How often CPU 1 did.
static ANSWERED: AtomicU64 = AtomicU64::new(0);
/// 1 while CPU 1 is to spin.
static SPIN: AtomicU64 = AtomicU64::new(0);

payload!(latency);

/// What is measured. The number is that of its marker, for a profiler.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Operation {
    Empty = 1,
    PsciVersion,
    UnknownCall,
    IdRegister,
    DistributorRead,
    DeviceRead,
    FirstTouch,
    BlockTouch,
    SgiToItself,
    Timer,
    HostExit,
    IpiRunning,
    IpiWaiting,
}

/// Tells a profiler that operation `N` begins, or with 0 that it has ended: MOVN to XZR, which does nothing and which
/// no compiler emits.
fn mark<const N: u16>() {
    // SAFETY: The instruction changes nothing.
    unsafe { asm!("movn xzr, #{number}", number = const N, options(nomem, nostack, preserves_flags)) };
}

/// Measures `operation`, which may say itself when it was over.
fn sample<const N: u16>(operation: &mut impl FnMut() -> Option<u64>) -> u64 {
    mark::<N>();
    let before = now();
    let end = operation();
    let after = now();
    mark::<0>();
    end.unwrap_or(after).wrapping_sub(before)
}

fn median(samples: &mut [u64]) -> u64 {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// The median of [`SAMPLES`], in ticks.
fn measure<const N: u16>(mut operation: impl FnMut() -> Option<u64>) -> u64 {
    for _ in 0..WARM_UP {
        operation();
    }
    let mut samples = [0; SAMPLES];
    for place in &mut samples {
        *place = sample::<N>(&mut operation);
    }
    median(&mut samples)
}

/// HVC with `function` in x0; what x0 holds then.
fn hvc(function: u64) -> u64 {
    let result;
    // SAFETY: The calls that are made change nothing; an SMCCC call keeps all registers but these.
    unsafe {
        asm!("hvc #0", inout("x0") function => result, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _,
            out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _,
            out("x14") _, out("x15") _, out("x16") _, out("x17") _, options(nostack));
    }
    result
}

/// ID_AA64PFR0_EL1.
fn id_register() -> u64 {
    let value;
    // SAFETY: Reading the register has no effect.
    unsafe { asm!("mrs {0}, id_aa64pfr0_el1", out(reg) value, options(nomem, nostack)) };
    value
}

/// Lets an emulator that runs one CPU after the other go on with the next (YIELD).
fn let_others_run() {
    // SAFETY: A hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

extern "C" fn handle() {
    let entered = now();
    let intid = gic::acknowledge();
    if intid >= gic::FIRST_SPECIAL {
        return;
    }
    if intid == timer::VIRTUAL.intid {
        (timer::VIRTUAL.set_control)(0);
    }
    if cpus::current() == 0 {
        ENTERED.store(entered, Ordering::Relaxed);
        TAKEN.fetch_add(1, Ordering::Release);
    } else {
        ANSWERED.fetch_add(1, Ordering::Release);
    }
    gic::end(intid);
}

/// Does `trigger` and waits until CPU 0 has taken an interrupt; when its handler was entered.
fn until_handled(trigger: impl FnOnce()) -> u64 {
    let before = TAKEN.load(Ordering::Acquire);
    trigger();
    while TAKEN.load(Ordering::Acquire) == before {}
    ENTERED.load(Ordering::Relaxed)
}

/// The 64 bits at the start of the page at `address`, and how long the load took.
fn touch<const N: u16>(machine: &mut Machine, address: u64) -> (u64, u64) {
    let window = match machine.address_space.open_window(Ipa::new(address), Kind::Data) {
        Ok(window) => window.raw() as *const u64,
        Err(error) => panic!("{address:#x} cannot be mapped: {error:?}"),
    };
    let mut word = 0;
    let time = sample::<N>(&mut || {
        // SAFETY: RAM that is mapped at the window, and that nothing else uses.
        word = unsafe { window.read_volatile() };
        None
    });
    machine.address_space.close_window();
    (word, time)
}

/// First touches of `count` pages from `start` on, `stride` bytes from each other: the median, and how many words were
/// not zero though nobody has put anything there.
fn touches<const N: u16>(machine: &mut Machine, start: u64, stride: u64, count: usize) -> (u64, u64) {
    let mut samples = [0; SAMPLES];
    let count = count.min(SAMPLES);
    let mut dirty = 0;
    for (index, place) in samples[..count].iter_mut().enumerate() {
        let address = start + index as u64 * stride;
        let (word, time) = touch::<N>(machine, address);
        dirty += u64::from(word != 0 && !machine.platform.device_tree.contains(&address));
        *place = time;
    }
    (median(&mut samples[..count]), dirty)
}

/// CPU 1: runs, and takes what comes.
fn spin(_: u64) {
    while SPIN.load(Ordering::Acquire) != 0 {
        let_others_run();
    }
}

/// Sends an SGI to CPU 1 and waits until its handler has answered.
fn ipi() -> Option<u64> {
    let before = ANSWERED.load(Ordering::Acquire);
    gic::send(SGI, 1);
    while ANSWERED.load(Ordering::Acquire) == before {
        let_others_run();
    }
    None
}

fn latency(machine: &mut Machine) {
    println!("latency: {} CPUs", machine.platform.cpus);
    let mut report = Report::begin("latency");
    let Some(cpus) = Cpus::start(machine) else {
        report.check("latency.cpus-start", false, format_args!("no GICv3, or a CPU did not come"));
        report.end();
        return;
    };
    vectors::set_interrupt_handler(handle);
    let empty = measure::<{ Operation::Empty as u16 }>(|| None);
    report.value("latency.counter-frequency", timer::ticks(1_000_000));
    report.value("latency.empty", empty);
    let tell = |report: &Report, name: &str, ticks: u64| report.value(name, ticks.saturating_sub(empty));

    calls(&mut report, tell);
    devices(machine, &mut report, tell);
    memory(machine, &mut report, tell);
    interrupts(&mut report, tell);
    if cpus.count > 1 {
        between_cpus(&cpus, &mut report, tell);
    }
    report.end();
}

/// What a hypervisor answers by itself, and one exit that asks nothing of anybody: an emulated timer is turned off that
/// is off.
fn calls(report: &mut Report, tell: impl Fn(&Report, &str, u64)) {
    let mut answer = 0;
    let time = measure::<{ Operation::PsciVersion as u16 }>(|| {
        answer = hvc(psci::PSCI_VERSION.into());
        None
    });
    report.check("latency.psci-answers", answer >> 16 >= 1 && answer >> 31 == 0, format_args!("{answer:#x}"));
    tell(report, "latency.hvc-psci-version", time);
    let time = measure::<{ Operation::UnknownCall as u16 }>(|| {
        answer = hvc(UNKNOWN_FUNCTION);
        None
    });
    let is_refused = answer as u32 == smccc::NOT_SUPPORTED as u32;
    report.check("latency.unknown-call-is-refused", is_refused, format_args!("{answer:#x}"));
    tell(report, "latency.hvc-unknown", time);
    let time = measure::<{ Operation::IdRegister as u16 }>(|| {
        answer = id_register();
        None
    });
    report.check("latency.id-register-has-el1", answer & 0xf0 != 0, format_args!("{answer:#x}"));
    tell(report, "latency.id-register", time);
    let time = measure::<{ Operation::HostExit as u16 }>(|| {
        (timer::PHYSICAL.set_control)(0);
        None
    });
    tell(report, "latency.exit-and-entry", time);
}

fn devices(machine: &Machine, report: &mut Report, tell: impl Fn(&Report, &str, u64)) {
    if let Some(gic) = &machine.platform.gic {
        let typer = gic.distributor.start + GICD_TYPER;
        let mut value = 0;
        let time = measure::<{ Operation::DistributorRead as u16 }>(|| {
            // SAFETY: A register of the distributor, which `Cpus::start` has mapped.
            value = unsafe { read32(typer) };
            None
        });
        report.check("latency.distributor-answers", value & 0x1f != 0, format_args!("{value:#x}"));
        tell(report, "latency.distributor-read", time);
    }
    if let Some(uart) = machine.platform.uart {
        let mut value = 0;
        let time = measure::<{ Operation::DeviceRead as u16 }>(|| {
            // SAFETY: A register of the PL011, which is mapped, and which reading does not change.
            value = unsafe { read32(uart.raw() + UARTFR) };
            None
        });
        report.check("latency.device-answers", value & 1 << 4 != 0, format_args!("{value:#x}"));
        tell(report, "latency.device-read", time);
    }
}

/// The first touch of pages in a block of which some pages are there already, and of blocks of which none is.
fn memory(machine: &mut Machine, report: &mut Report, tell: impl Fn(&Report, &str, u64)) {
    let ram = machine.platform.memory.clone();
    let (time, dirty) =
        touches::<{ Operation::FirstTouch as u16 }>(machine, ram.start + SINGLE_PAGES, PAGE_SIZE, SAMPLES);
    tell(report, "latency.first-touch", time);
    let blocks = ((ram.end - ram.start).saturating_sub(BLOCKS) / BLOCK_SIZE) as usize;
    report.check("latency.there-are-blocks", blocks > 0, format_args!("{:#x} bytes of RAM", ram.end - ram.start));
    if blocks == 0 {
        return;
    }
    let (time, also_dirty) =
        touches::<{ Operation::BlockTouch as u16 }>(machine, ram.start + BLOCKS, BLOCK_SIZE, blocks);
    let dirty = dirty + also_dirty;
    report.check("latency.fresh-pages-are-zero", dirty == 0, format_args!("{dirty} are not"));
    tell(report, "latency.first-touch-of-block", time);
    report.value("latency.first-touch-of-block-per-page", time / (BLOCK_SIZE / PAGE_SIZE));
}

fn interrupts(report: &mut Report, tell: impl Fn(&Report, &str, u64)) {
    let before = TAKEN.load(Ordering::Acquire);
    let time = measure::<{ Operation::SgiToItself as u16 }>(|| Some(until_handled(|| gic::send(SGI, 0))));
    tell(report, "latency.sgi-to-itself", time);
    // From the deadline on, which the counter says.
    let mut samples = [0; SAMPLES];
    for index in 0..WARM_UP + SAMPLES {
        let deadline = now() + TIMER_DELAY;
        mark::<{ Operation::Timer as u16 }>();
        let entered = until_handled(|| {
            (timer::VIRTUAL.set_compare)(deadline);
            (timer::VIRTUAL.set_control)(timer::ENABLE);
        });
        mark::<0>();
        if let Some(place) = index.checked_sub(WARM_UP).and_then(|index| samples.get_mut(index)) {
            *place = entered.saturating_sub(deadline);
        }
    }
    tell(report, "latency.timer", median(&mut samples));
    let (taken, expected) = (TAKEN.load(Ordering::Acquire) - before, 2 * (WARM_UP + SAMPLES) as u64);
    report.check("latency.interrupts-taken-once", taken == expected, format_args!("{taken}, not {expected}"));
}

fn between_cpus(cpus: &Cpus, report: &mut Report, tell: impl Fn(&Report, &str, u64)) {
    let time = measure::<{ Operation::IpiWaiting as u16 }>(ipi);
    tell(report, "latency.ipi-to-waiting", time);
    SPIN.store(1, Ordering::Release);
    cpus.post(1, spin, 0);
    let time = measure::<{ Operation::IpiRunning as u16 }>(ipi);
    tell(report, "latency.ipi-to-running", time);
    SPIN.store(0, Ordering::Release);
    let done = cpus.wait(1);
    let answered = ANSWERED.load(Ordering::Acquire);
    let expected = 2 * (WARM_UP + SAMPLES) as u64;
    // And the one that brought CPU 1 the work.
    report.check("latency.ipis-answered", done && answered > expected, format_args!("{answered} of {expected}"));
}
