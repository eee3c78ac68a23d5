//! A guest's devices, wired to its interrupt controller, and that to the scheduler.

use super::scheduler::{Scheduler, VcpuId};
use crate::guests::terminal::Console;
use crate::hypercall::InterruptInfo;
use crate::interrupt;
use crate::vm::Stage2;
use alloc::boxed::Box;
use alloc::sync::Arc;
use spin::Mutex;
use vmm::gic::{DistributorDevice, Gic, GicAccess, GicConfig, GicError, LinkedInterrupt, RedistributorDevice};
use vmm::guest_space::{GuestSpace, SpaceError};
use vmm::layout::{
    GIC_DISTRIBUTOR_BASE, GIC_DISTRIBUTOR_SIZE, GIC_REDISTRIBUTOR_BASE, GIC_REDISTRIBUTOR_SIZE, RTC_BASE,
    RTC_INTERRUPT, RTC_SIZE, UART_BASE, UART_INTERRUPT, UART_SIZE, VIRTUAL_TIMER_INTERRUPT,
};
use vmm::mmio::MmioDevice;
use vmm::pl011::Pl011;
use vmm::pl031::{Pl031, WallClock};

/// SPIs of a guest: the first of them are its devices'.
const SHARED_INTERRUPTS: usize = 32;

/// A guest's interrupt controller, as its vCPUs' runners and its devices share it.
#[derive(Clone)]
pub struct SharedGic {
    gic: Arc<Mutex<Gic>>,
    scheduler: Arc<Scheduler>,
    guest: usize,
}

impl SharedGic {
    /// The controller of guest `guest`, with so many vCPUs.
    ///
    /// # Errors
    /// [`GicError`].
    pub fn new(scheduler: &Arc<Scheduler>, guest: usize, vcpus: usize, info: &InterruptInfo) -> Result<Self, GicError> {
        let gic = Gic::new(&GicConfig {
            vcpus,
            spis: SHARED_INTERRUPTS,
            list_registers: info.list_registers,
            priority_bits: info.priority_bits,
            virtual_timer: LinkedInterrupt { intid: VIRTUAL_TIMER_INTERRUPT, physical: info.virtual_timer },
        })?;
        Ok(Self { gic: Arc::new(Mutex::new(gic)), scheduler: scheduler.clone(), guest })
    }
}

impl GicAccess for SharedGic {
    fn with<R>(&self, access: impl FnOnce(&mut Gic) -> R) -> R {
        let (result, kicks) = {
            let mut gic = self.gic.lock();
            (access(&mut gic), gic.take_kicks())
        };
        let mut rest = kicks;
        while rest != 0 {
            self.scheduler.kick(VcpuId { guest: self.guest, vcpu: rest.trailing_zeros() as usize });
            rest &= rest - 1;
        }
        result
    }
}

/// A device with an interrupt.
pub trait Interrupting: MmioDevice {
    /// The level of its line.
    fn line(&mut self) -> bool;
}

impl<S: vmm::pl011::ByteSink> Interrupting for Pl011<S> {
    fn line(&mut self) -> bool {
        self.interrupt_line()
    }
}

impl<C: WallClock> Interrupting for Pl031<C> {
    fn line(&mut self) -> bool {
        self.interrupt_line()
    }
}

/// A device whose line goes to a guest's interrupt controller.
pub struct Wired<D> {
    device: Arc<Mutex<(D, bool)>>,
    interrupt: u32,
    gic: SharedGic,
}

impl<D> Clone for Wired<D> {
    fn clone(&self) -> Self {
        Self { device: self.device.clone(), interrupt: self.interrupt, gic: self.gic.clone() }
    }
}

impl<D: Interrupting> Wired<D> {
    fn new(device: D, interrupt: u32, gic: &SharedGic) -> Self {
        Self { device: Arc::new(Mutex::new((device, false))), interrupt, gic: gic.clone() }
    }

    /// Does something with the device, and lets the interrupt controller know what came of its line.
    pub fn with<R>(&self, access: impl FnOnce(&mut D) -> R) -> R {
        let mut place = self.device.lock();
        let (device, was_high) = &mut *place;
        let result = access(device);
        let is_high = device.line();
        if core::mem::replace(was_high, is_high) != is_high {
            self.gic.with(|gic| gic.set_shared_line(self.interrupt, is_high));
        }
        result
    }
}

impl<D: Interrupting> MmioDevice for Wired<D> {
    fn read(&mut self, offset: u64, width: u64) -> u64 {
        self.with(|device| device.read(offset, width))
    }

    fn write(&mut self, offset: u64, width: u64, value: u64) {
        self.with(|device| device.write(offset, width, value));
    }
}

/// The time of day: that of the machine's clock, which the counter carries on from boot.
pub struct MachineClock;

impl WallClock for MachineClock {
    fn now(&self) -> u64 {
        interrupt::seconds_since_1970()
    }
}

/// A guest's console.
pub type Uart = Wired<Pl011<Console>>;
/// A guest's clock.
pub type Clock = Wired<Pl031<MachineClock>>;

/// A guest's console, which shows what it says on `console`.
pub fn console(gic: &SharedGic, console: Console) -> Uart {
    Wired::new(Pl011::new(console), UART_INTERRUPT, gic)
}

/// A guest's clock.
pub fn clock(gic: &SharedGic) -> Clock {
    Wired::new(Pl031::new(MachineClock), RTC_INTERRUPT, gic)
}

/// Adds all that a guest's device tree names.
///
/// # Errors
/// [`SpaceError`], which would be a mistake in the layout.
pub fn add(
    space: &mut GuestSpace<Stage2>,
    gic: &SharedGic,
    vcpus: usize,
    uart: &Uart,
    clock: &Clock,
) -> Result<(), SpaceError> {
    let distributor = Box::new(DistributorDevice(gic.clone()));
    space.add_device("distributor", GIC_DISTRIBUTOR_BASE, GIC_DISTRIBUTOR_SIZE, distributor)?;
    let redistributors = Box::new(RedistributorDevice(gic.clone()));
    let size = GIC_REDISTRIBUTOR_SIZE * vcpus as u64;
    space.add_device("redistributors", GIC_REDISTRIBUTOR_BASE, size, redistributors)?;
    space.add_device("console", UART_BASE, UART_SIZE, Box::new(uart.clone()))?;
    space.add_device("clock", RTC_BASE, RTC_SIZE, Box::new(clock.clone()))?;
    Ok(())
}
