//! What each CPU has of its own, found through TPIDR_EL1.

use crate::device_tree::MAX_CPUS;
use crate::interrupt;
use aarch64_cpu::registers::{MPIDR_EL1, Readable, TPIDR_EL1, Writeable};
use abi::psci::MPIDR_AFFINITY_MASK;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// One CPU.
#[repr(C)]
pub struct Cpu {
    /// Top of its stack; read by the entry code with the MMU off.
    stack_top: AtomicU64,
    mpidr: AtomicU64,
    ticks: AtomicU64,
    stray_interrupts: AtomicU64,
    online: AtomicBool,
    /// CNTPCT_EL0 at which its next tick is due.
    pub next_tick: AtomicU64,
    /// CNTPCT_EL0 at which its timer is to interrupt it besides; `u64::MAX` for never.
    pub event: AtomicU64,
    /// Where the registers of its private interrupts are: SGI_base of its redistributor (Arm IHI 0069, section 12.10).
    pub private_interrupts: AtomicU64,
    work: Work,
}

/// Where [`Cpu::stack_top`] lies, for the entry code.
pub const STACK_TOP_OFFSET: usize = offset_of!(Cpu, stack_top);

/// What a CPU is to do: a function and its argument, and the affinity of who wants it done. The states follow each
/// other in this order, and round again.
struct Work {
    state: AtomicU32,
    function: AtomicUsize,
    argument: AtomicPtr<()>,
    poster: AtomicU64,
}

/// A piece of work: a function, and what it is called with.
pub type Job = (fn(*mut ()), *mut ());

/// Nothing to do.
const IDLE: u32 = 0;
/// Some CPU writes the function and argument.
const CLAIMED: u32 = 1;
/// To be done.
const POSTED: u32 = 2;
/// Done; whoever posted it has yet to see that.
const DONE: u32 = 3;

static CPUS: [Cpu; MAX_CPUS] = [const { Cpu::new() }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

impl Cpu {
    const fn new() -> Self {
        Self {
            stack_top: AtomicU64::new(0),
            mpidr: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            stray_interrupts: AtomicU64::new(0),
            online: AtomicBool::new(false),
            next_tick: AtomicU64::new(0),
            event: AtomicU64::new(u64::MAX),
            private_interrupts: AtomicU64::new(0),
            work: Work {
                state: AtomicU32::new(IDLE),
                function: AtomicUsize::new(0),
                argument: AtomicPtr::new(core::ptr::null_mut()),
                poster: AtomicU64::new(0),
            },
        }
    }

    /// Its affinity, as PSCI takes it.
    pub fn mpidr(&self) -> u64 {
        self.mpidr.load(Ordering::Relaxed)
    }

    /// Ticks of its timer so far.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Counts a tick.
    pub fn count_tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Interrupts that nobody asked for.
    pub fn stray_interrupts(&self) -> u64 {
        self.stray_interrupts.load(Ordering::Relaxed)
    }

    /// Counts an interrupt that nobody asked for.
    pub fn count_stray_interrupt(&self) {
        self.stray_interrupts.fetch_add(1, Ordering::Relaxed);
    }

    /// True from when the CPU takes work until it is told to go off.
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// Says that the CPU takes work, or takes no more.
    pub fn set_online(&self, online: bool) {
        self.online.store(online, Ordering::Release);
    }

    /// Gives the CPU its stack.
    pub fn set_stack_top(&self, top: u64) {
        self.stack_top.store(top, Ordering::Release);
    }

    /// The CPU's stack; 0 where it has none yet.
    pub fn stack_top(&self) -> u64 {
        self.stack_top.load(Ordering::Relaxed)
    }

    /// Has the CPU call `function` with `argument`. False where it has something to do already.
    pub fn post(&self, function: fn(*mut ()), argument: *mut ()) -> bool {
        if self.work.state.compare_exchange(IDLE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        self.work.function.store(function as usize, Ordering::Relaxed);
        self.work.argument.store(argument, Ordering::Relaxed);
        self.work.poster.store(current().mpidr(), Ordering::Relaxed);
        self.work.state.store(POSTED, Ordering::Release);
        aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISHST);
        interrupt::wake(self.mpidr());
        true
    }

    /// Waits until the CPU has done what was posted. Only for whoever posted it.
    pub fn wait(&self) {
        let done = || self.work.state.load(Ordering::Acquire) == DONE;
        while !done() {
            interrupt::sleep_unless(done);
        }
        self.work.state.store(IDLE, Ordering::Release);
    }

    /// What the calling CPU is to do now, if anything. Only for the CPU itself.
    pub fn next_work(&self) -> Option<Job> {
        if !self.has_work() {
            return None;
        }
        let address = self.work.function.load(Ordering::Relaxed);
        // SAFETY: in state POSTED the word holds what `post` stored there: a `fn(*mut ())`.
        let function = unsafe { core::mem::transmute::<usize, fn(*mut ())>(address) };
        Some((function, self.work.argument.load(Ordering::Relaxed)))
    }

    /// True where there is something to do.
    pub fn has_work(&self) -> bool {
        self.work.state.load(Ordering::Acquire) == POSTED
    }

    /// Says that the work is done, and wakes whoever posted it. Only for the CPU itself.
    pub fn finish_work(&self) {
        let poster = self.work.poster.load(Ordering::Relaxed);
        self.work.state.store(DONE, Ordering::Release);
        aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISHST);
        interrupt::wake(poster);
    }

    /// The address by which the entry code knows this CPU.
    pub fn context(&'static self) -> u64 {
        core::ptr::from_ref(self) as u64
    }
}

/// Names the CPUs, the boot CPU first, and makes the caller the boot CPU. To be called once.
pub fn init(affinities: &[u64]) {
    let own = MPIDR_EL1.get() & MPIDR_AFFINITY_MASK;
    let others = affinities.iter().copied().filter(|affinity| *affinity != own);
    let mut count = 0;
    for (cpu, affinity) in CPUS.iter().zip(core::iter::once(own).chain(others)) {
        cpu.mpidr.store(affinity, Ordering::Relaxed);
        count += 1;
    }
    COUNT.store(count, Ordering::Release);
    make_current(&CPUS[0]);
    CPUS[0].set_online(true);
}

/// Makes `cpu` what [`current`] gives on the calling CPU.
pub fn make_current(cpu: &'static Cpu) {
    TPIDR_EL1.set(core::ptr::from_ref(cpu) as u64);
}

/// The calling CPU.
pub fn current() -> &'static Cpu {
    // SAFETY: every CPU stores the address of its entry of CPUS in TPIDR_EL1 before it calls anything else, and nothing
    // changes it.
    unsafe { &*(TPIDR_EL1.get() as *const Cpu) }
}

/// All CPUs of the machine; the boot CPU is the first.
pub fn all() -> &'static [Cpu] {
    &CPUS[..COUNT.load(Ordering::Acquire)]
}
