//! Interrupts: the GICv3 and the tick of the physical timer (Arm IHI 0069; Arm ARM D12).

use crate::cpu;
use crate::device_tree::Machine;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTP_CTL_EL0, CNTP_TVAL_EL0, CNTPCT_EL0, Readable, Writeable};
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicV3, SgiTarget, SgiTargetGroup};
use arm_gic::{IntId, InterruptGroup, UniqueMmioPointer};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Mutex;

/// Ticks in a second.
pub const TICKS_PER_SECOND: u64 = 100;
/// Lets every priority through.
const LOWEST_PRIORITY: u8 = 0xff;
/// Priority of all that the host uses.
const PRIORITY: u8 = 0x80;
/// The interrupt that wakes an idle CPU.
const WAKE: IntId = IntId::sgi(0);

static GIC: Mutex<Option<GicV3<'static>>> = Mutex::new(None);
/// INTID of the timer's interrupt.
static TIMER: AtomicU32 = AtomicU32::new(0);

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
    {
        let mut gic = GIC.lock();
        let gic = gic.as_mut().expect("the GIC is set up");
        for interrupt in [timer_interrupt(), WAKE] {
            gic.set_interrupt_priority(interrupt, Some(redistributor), PRIORITY).expect("it is private");
            gic.enable_interrupt(interrupt, Some(redistributor), true).expect("it is private");
        }
    }
    GicCpuInterface::set_priority_mask(LOWEST_PRIORITY);
    arm_next_tick();
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

fn arm_next_tick() {
    CNTP_TVAL_EL0.set(CNTFRQ_EL0.get() / TICKS_PER_SECOND);
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
            arm_next_tick();
            cpu::current().count_tick();
        } else if interrupt != WAKE {
            cpu::current().count_stray_interrupt();
        }
    });
}

/// CNTPCT_EL0 in microseconds.
pub fn microseconds() -> u64 {
    let frequency = u128::from(CNTFRQ_EL0.get().max(1));
    (u128::from(CNTPCT_EL0.get()) * 1_000_000 / frequency) as u64
}
