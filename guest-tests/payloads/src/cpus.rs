//! All CPUs of the machine with interrupts, and work for each of them.

use crate::gic::{self, Gic};
use crate::memory::AddressSpace;
use crate::platform::Platform;
use crate::secondary::{self, MAX_CPUS};
use crate::{Machine, timer, vectors};
use aarch64_cpu::registers::{MPIDR_EL1, Readable};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// INTIDs that are counted.
const COUNTED: usize = 128;
/// The SGI that tells a CPU that there is work.
const WORK: u32 = 15;
/// Microseconds of a [`rest`].
const REST: u64 = 200;

/// How often each CPU has taken each interrupt.
static COUNTS: [[AtomicU32; COUNTED]; MAX_CPUS] = [const { [const { AtomicU32::new(0) }; COUNTED] }; MAX_CPUS];
/// What each CPU is to do, a [`Work`], and with what; 0 for nothing.
static WORKS: [[AtomicU64; 2]; MAX_CPUS] = [const { [const { AtomicU64::new(0) }; 2] }; MAX_CPUS];
/// A bit for each CPU that is ready.
static READY: AtomicU64 = AtomicU64::new(0);
/// What the handler does besides counting: an [`Action`], or 0.
static ACTION: AtomicU64 = AtomicU64::new(0);
/// INTIDs that were taken and are none that is counted: how many, and the last.
static STRAY: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
/// The distributor and the redistributors, for the CPUs that come later: the address of the first CPU's [`Gic`].
static GIC: AtomicU64 = AtomicU64::new(0);

/// What a CPU may be given to do.
pub type Work = fn(argument: u64);
/// What is to be done when interrupt `intid` was taken on `cpu`, before it is ended.
pub type Action = fn(cpu: usize, intid: u32);

/// The machine's CPUs and its interrupt controller.
pub struct Cpus {
    /// The controller.
    pub gic: &'static Gic,
    /// How many CPUs there are.
    pub count: usize,
}

/// Aff0 of the calling CPU: which of the payload's it is.
pub fn current() -> usize {
    (MPIDR_EL1.get() & 0xff) as usize
}

/// Gives the CPU up for a moment, with the virtual timer for an alarm clock. Interrupts are masked meanwhile, and as
/// they were afterwards.
pub fn rest() {
    let was: u64;
    // SAFETY: Reading PSTATE changes nothing.
    unsafe { core::arch::asm!("mrs {0}, daif", out(reg) was, options(nostack)) };
    gic::mask();
    (timer::VIRTUAL.set_compare)(timer::now() + timer::ticks(REST));
    (timer::VIRTUAL.set_control)(timer::ENABLE);
    gic::wait();
    (timer::VIRTUAL.set_control)(0);
    // SAFETY: What was masked before is again, and the vectors serve what was not.
    unsafe { core::arch::asm!("msr daif, {0}", "isb", in(reg) was, options(nostack)) };
}

/// Sets what the interrupt handler does besides counting.
pub fn set_action(action: Option<Action>) {
    ACTION.store(action.map_or(0, |action| action as usize as u64), Ordering::Release);
}

/// How often `cpu` has taken `intid`.
pub fn count(cpu: usize, intid: u32) -> u32 {
    COUNTS[cpu][intid as usize % COUNTED].load(Ordering::Acquire)
}

/// Interrupts that no test of the payload's can have caused: how many, and the last INTID.
pub fn stray() -> (u32, u32) {
    (STRAY[0].load(Ordering::Relaxed), STRAY[1].load(Ordering::Relaxed))
}

extern "C" fn handle() {
    let (cpu, intid) = (current(), gic::acknowledge());
    if intid >= gic::FIRST_SPECIAL {
        // What was pending is not any more.
        return;
    }
    if intid as usize >= COUNTED {
        STRAY[0].fetch_add(1, Ordering::Relaxed);
        STRAY[1].store(intid, Ordering::Relaxed);
    }
    let action = ACTION.load(Ordering::Acquire) as usize;
    if action != 0 {
        // SAFETY: The word holds 0 or what `set_action` stored: an `Action`.
        let action = unsafe { core::mem::transmute::<usize, Action>(action) };
        action(cpu, intid);
    }
    COUNTS[cpu][intid as usize % COUNTED].fetch_add(1, Ordering::AcqRel);
    gic::end(intid);
}

impl Cpus {
    /// Sets the interrupt controller up and starts every CPU, at most [`MAX_CPUS`]; `None` where there is no GICv3, or
    /// a CPU does not come. The caller takes interrupts from here on.
    pub fn start(machine: &mut Machine) -> Option<Self> {
        let Machine { platform, address_space } = machine;
        let place = open(platform, address_space)?;
        let count = platform.cpus.min(MAX_CPUS);
        vectors::set_interrupt_handler(handle);
        place.enable_distributor();
        ready(place, 0);
        for cpu in 1..count {
            // SAFETY: The CPU has never been on.
            let status = unsafe { secondary::start(address_space, cpu as u64, main, cpu as u64) };
            if status != 0 || !timer::wait_until(|| READY.load(Ordering::Acquire) >> cpu & 1 != 0) {
                return None;
            }
        }
        gic::unmask();
        Some(Self { gic: place, count })
    }

    /// Has `cpu`, which must not be the caller, do `work`, and does not wait for it.
    pub fn post(&self, cpu: usize, work: Work, argument: u64) {
        WORKS[cpu][1].store(argument, Ordering::Relaxed);
        WORKS[cpu][0].store(work as usize as u64, Ordering::Release);
        gic::send(WORK, cpu);
    }

    /// Waits until `cpu` has done what was posted. False where that takes too long.
    pub fn wait(&self, cpu: usize) -> bool {
        timer::wait_until(|| WORKS[cpu][0].load(Ordering::Acquire) == 0)
    }

    /// Has `cpu`, which may be the caller, do `work`, and waits for it. False where that takes too long.
    pub fn run(&self, cpu: usize, work: Work, argument: u64) -> bool {
        if cpu == current() {
            work(argument);
            return true;
        }
        self.post(cpu, work, argument);
        self.wait(cpu)
    }
}

/// The controller, for all CPUs.
fn open(platform: &Platform, space: &mut AddressSpace) -> Option<&'static Gic> {
    static PLACE: spin::Once<Gic> = spin::Once::new();
    let gic = Gic::open(platform.gic.as_ref()?, space).ok()?;
    let place = PLACE.call_once(|| gic);
    GIC.store(core::ptr::from_ref(place) as u64, Ordering::Release);
    Some(place)
}

/// Readies the calling CPU.
fn ready(gic: &Gic, cpu: usize) {
    gic.enable_cpu(cpu);
    for timer in [timer::VIRTUAL, timer::PHYSICAL] {
        (timer.set_control)(0);
        gic.set(cpu, gic::Bits::SetEnable, timer.intid);
    }
}

/// The other CPUs: one piece of work after the other.
extern "C" fn main(argument: u64, _sctlr: u64) -> ! {
    let cpu = argument as usize;
    // SAFETY: `open` stored the address of a static before this CPU was started.
    ready(unsafe { &*(GIC.load(Ordering::Acquire) as *const Gic) }, cpu);
    READY.fetch_or(1 << cpu, Ordering::AcqRel);
    loop {
        gic::mask();
        let work = WORKS[cpu][0].load(Ordering::Acquire) as usize;
        if work == 0 {
            gic::wait();
            gic::unmask();
            continue;
        }
        gic::unmask();
        // SAFETY: The word holds 0 or what `post` stored: a `Work`.
        let work = unsafe { core::mem::transmute::<usize, Work>(work) };
        work(WORKS[cpu][1].load(Ordering::Relaxed));
        WORKS[cpu][0].store(0, Ordering::Release);
    }
}
