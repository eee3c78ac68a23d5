//! Interrupts: the GICv3 and the tick of the physical timer (Arm IHI 0069; Arm ARM D12).

use crate::cpu;
use crate::device_tree::Machine;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, Readable, Writeable};
use abi::PhysRange;
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicV3, SgiTarget, SgiTargetGroup};
use arm_gic::{IntId, InterruptGroup, UniqueMmioPointer};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::Mutex;

/// Ticks in a second.
pub const TICKS_PER_SECOND: u64 = 100;
/// Lets every priority through.
const LOWEST_PRIORITY: u8 = 0xff;
/// Priority of all that the host uses.
const PRIORITY: u8 = 0x80;
/// The interrupt that wakes an idle CPU.
const WAKE: IntId = IntId::sgi(0);
/// The virtual timer's interrupt, which comes while a guest runs and brings it out. The host never sees it: by then the
/// timer is the host's, and off.
const GUEST_TIMER: IntId = IntId::ppi(11);
/// The interrupt by which a virtual CPU interface asks for maintenance, of the number that Arm's Base System
/// Architecture gives it. It too comes only while a guest runs.
const MAINTENANCE: IntId = IntId::ppi(9);
/// GICR_ISACTIVER0 and GICR_ICACTIVER0, in bytes from SGI_base.
const ISACTIVER0: u64 = 0x300;
const ICACTIVER0: u64 = 0x380;
/// Bytes from one CPU's redistributor to the next one's, without and with virtual LPIs (GICR_TYPER.VLPIS), for which there
/// are two more frames; and from its beginning to SGI_base (Arm IHI 0069, section 12.10).
const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
const REDISTRIBUTOR_SIZE_V4: u64 = 0x4_0000;
const SGI_BASE: u64 = 0x1_0000;

static GIC: Mutex<Option<GicV3<'static>>> = Mutex::new(None);
/// INTID of the timer's interrupt.
static TIMER: AtomicU32 = AtomicU32::new(0);
/// What the machine's clock showed when CNTPCT_EL0 was 0, in seconds.
static CLOCK_AT_ZERO: AtomicU64 = AtomicU64::new(0);
/// Where the redistributors' registers begin.
static REDISTRIBUTORS: AtomicU64 = AtomicU64::new(0);

/// Sets the distributor and this CPU's interface up, and starts the boot CPU's tick.
///
/// # Safety
/// The GIC's registers must be where `machine` says, mapped as device memory, and used by nothing else in the host. To
/// be called once, by the boot CPU.
pub unsafe fn init(machine: &Machine) {
    let distributor = NonNull::new(machine.distributor.start.raw() as *mut Gicd).expect("no distributor");
    let redistributor = NonNull::new(machine.redistributor.start.raw() as *mut GicrSgi).expect("no redistributor");
    // SAFETY: the caller vouches for both sets of registers.
    let gic = unsafe { GicV3::new(UniqueMmioPointer::new(distributor), redistributor, machine.cpus.len()) };
    let mut gic = gic.expect("the GIC is unknown");
    TIMER.store(machine.timer_interrupt, Ordering::Relaxed);
    REDISTRIBUTORS.store(machine.redistributor.start.raw(), Ordering::Relaxed);
    let index = redistributor_of(&mut gic, cpu::current().mpidr());
    gic.setup(index);
    *GIC.lock() = Some(gic);
    enable(index);
}

/// Sets a secondary CPU's interface up and starts its tick.
pub fn init_secondary() {
    let index = {
        let mut gic = GIC.lock();
        let gic = gic.as_mut().expect("the boot CPU sets the GIC up");
        let index = redistributor_of(gic, cpu::current().mpidr());
        gic.init_cpu(index);
        index
    };
    GicCpuInterface::enable_group1(true);
    enable(index);
}

/// Which redistributor is that CPU's.
fn redistributor_of(gic: &mut GicV3<'_>, mpidr: u64) -> usize {
    (0..)
        .map_while(|index| gic.gicr_typer(index).ok().map(|typer| (index, typer.core_mpidr())))
        .find_map(|(index, affinity)| (affinity == mpidr).then_some(index))
        .expect("a CPU has no redistributor")
}

fn timer_interrupt() -> IntId {
    IntId::try_from(TIMER.load(Ordering::Relaxed)).expect("the timer's interrupt is a PPI")
}

/// Lets the interrupts that the host uses through to this CPU, and starts its tick.
fn enable(redistributor: usize) {
    let size = {
        let mut gic = GIC.lock();
        let gic = gic.as_mut().expect("the GIC is set up");
        for interrupt in [timer_interrupt(), WAKE, GUEST_TIMER, MAINTENANCE] {
            gic.set_interrupt_priority(interrupt, Some(redistributor), PRIORITY).expect("it is private");
            gic.enable_interrupt(interrupt, Some(redistributor), true).expect("it is private");
        }
        let typer = gic.gicr_typer(redistributor).expect("it is this CPU's");
        if typer.virtual_lpis_supported() { REDISTRIBUTOR_SIZE_V4 } else { REDISTRIBUTOR_SIZE }
    };
    GicCpuInterface::set_priority_mask(LOWEST_PRIORITY);
    let base = REDISTRIBUTORS.load(Ordering::Relaxed) + redistributor as u64 * size + SGI_BASE;
    cpu::current().private_interrupts.store(base, Ordering::Relaxed);
    count_from(counter());
    arm_timer();
    CNTP_CTL_EL0.write(CNTP_CTL_EL0::ENABLE::SET + CNTP_CTL_EL0::IMASK::CLEAR);
    arm_gic::irq_enable();
}

/// Makes the CPU of affinity `mpidr` look for work.
pub fn wake(mpidr: u64) {
    let affinity = |shift: u32| (mpidr >> shift) as u8;
    // ICC_SGI1R_EL1 names CPUs by Aff3 to Aff1 and one bit for each Aff0 below 16 (Arm IHI 0069, section 12.2.20). A CPU
    // beyond is missed, and looks for work at its next tick.
    let target = SgiTarget::List {
        affinity3: affinity(32),
        affinity2: affinity(16),
        affinity1: affinity(8),
        target_list: 1 << (mpidr & 0xf),
    };
    GicCpuInterface::send_sgi(WAKE, target, SgiTargetGroup::CurrentGroup1).expect("it is an SGI");
}

/// Sleeps until an interrupt, unless `ready` by then. No interrupt is lost between the question and the sleep.
pub fn sleep_unless(ready: impl FnOnce() -> bool) {
    arm_gic::irq_disable();
    if !ready() {
        // WFI also ends with an interrupt that PSTATE masks, which is then taken below.
        arm_gic::wfi();
    }
    arm_gic::irq_enable();
}

/// The calling CPU's next tick is due one period after `now`.
fn count_from(now: u64) {
    cpu::current().next_tick.store(now + CNTFRQ_EL0.get() / TICKS_PER_SECOND, Ordering::Relaxed);
}

/// Sets the calling CPU's timer to its next tick or event, whichever is first.
fn arm_timer() {
    let cpu = cpu::current();
    CNTP_CVAL_EL0.set(cpu.next_tick.load(Ordering::Relaxed).min(cpu.event.load(Ordering::Relaxed)));
}

/// Has the calling CPU interrupted when CNTPCT_EL0 is `deadline`, besides its ticks; `u64::MAX` for never.
pub fn set_event(deadline: u64) {
    if cpu::current().event.swap(deadline, Ordering::Relaxed) != deadline {
        arm_timer();
    }
}

/// Marks the virtual timer's interrupt as active on the calling CPU, or not: while it is, the CPU is not interrupted by it.
pub fn set_guest_timer_active(active: bool) {
    let register = if active { ISACTIVER0 } else { ICACTIVER0 };
    let address = cpu::current().private_interrupts.load(Ordering::Relaxed) + register;
    // SAFETY: a register of the calling CPU's redistributor, mapped as device memory; a one affects only the interrupt
    // whose bit it is, which nothing else in the host uses.
    unsafe { (address as *mut u32).write_volatile(1 << u32::from(GUEST_TIMER)) };
}

/// CNTPCT_EL0.
pub fn counter() -> u64 {
    CNTPCT_EL0.get()
}

/// Stops the calling CPU's tick and masks interrupts: it is about to go off.
pub fn stop() {
    arm_gic::irq_disable();
    CNTP_CTL_EL0.write(CNTP_CTL_EL0::ENABLE::CLEAR);
    GicCpuInterface::enable_group1(false);
}

/// Serves what is pending; called by the vectors.
pub fn serve() {
    GicCpuInterface::handle_interrupt(InterruptGroup::Group1, |interrupt| {
        if interrupt == timer_interrupt() {
            let (cpu, now) = (cpu::current(), counter());
            if cpu.next_tick.load(Ordering::Relaxed) <= now {
                cpu.count_tick();
                count_from(now);
            }
            if cpu.event.load(Ordering::Relaxed) <= now {
                cpu.event.store(u64::MAX, Ordering::Relaxed);
            }
            arm_timer();
        } else if interrupt != WAKE {
            cpu::current().count_stray_interrupt();
        }
    });
}

/// Notes the time of the machine's clock, whose registers are at `clock`; the counter carries it on.
///
/// # Safety
/// A PL031 must be there, mapped as device memory, or the range must be empty.
pub unsafe fn read_clock(clock: PhysRange) {
    if clock.is_empty() {
        return;
    }
    // SAFETY: RTCDR (Arm DDI 0224, section 3.3.1), which reading does not change.
    let now = unsafe { (clock.start.raw() as *const u32).read_volatile() };
    CLOCK_AT_ZERO.store(u64::from(now).saturating_sub(microseconds() / 1_000_000), Ordering::Relaxed);
}

/// Seconds since the beginning of 1970, or since the counter began where there is no clock.
pub fn seconds_since_1970() -> u64 {
    CLOCK_AT_ZERO.load(Ordering::Relaxed) + microseconds() / 1_000_000
}

/// What CNTPCT_EL0 counts in so many microseconds.
pub fn ticks_in(microseconds: u64) -> u64 {
    CNTFRQ_EL0.get() / 1_000_000 * microseconds
}

/// CNTPCT_EL0 in microseconds.
pub fn microseconds() -> u64 {
    let frequency = u128::from(CNTFRQ_EL0.get().max(1));
    (u128::from(CNTPCT_EL0.get()) * 1_000_000 / frequency) as u64
}
