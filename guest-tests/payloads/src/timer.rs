//! The generic timer (Arm ARM, section D12): the virtual and the physical one of EL1, which work alike.

use core::arch::asm;

/// CNTx_CTL_EL0.ENABLE.
pub const ENABLE: u64 = 1 << 0;
/// CNTx_CTL_EL0.IMASK.
pub const IMASK: u64 = 1 << 1;
/// CNTx_CTL_EL0.ISTATUS.
pub const ISTATUS: u64 = 1 << 2;

/// A timer's registers, and the interrupt that the Base System Architecture gives it.
#[derive(Clone, Copy)]
pub struct Timer {
    /// A word for it, for the names of checks.
    pub name: &'static str,
    /// INTID of its interrupt.
    pub intid: u32,
    /// The counter that it compares with.
    pub counter: fn() -> u64,
    /// Reads CNTx_CTL_EL0.
    pub control: fn() -> u64,
    /// Writes CNTx_CTL_EL0.
    pub set_control: fn(u64),
    /// Writes CNTx_CVAL_EL0.
    pub set_compare: fn(u64),
    /// Reads CNTx_TVAL_EL0.
    pub value: fn() -> u64,
    /// Writes CNTx_TVAL_EL0.
    pub set_value: fn(u64),
}

macro_rules! read {
    ($name:ident, $register:literal) => {
        fn $name() -> u64 {
            let value;
            // SAFETY: Reading the timer changes nothing.
            unsafe { asm!("isb", concat!("mrs {0}, ", $register), out(reg) value, options(nostack)) };
            value
        }
    };
}

macro_rules! write {
    ($name:ident, $register:literal) => {
        fn $name(value: u64) {
            // SAFETY: The timer is the payload's, and touches no memory.
            unsafe { asm!(concat!("msr ", $register, ", {0}"), "isb", in(reg) value, options(nostack)) };
        }
    };
}

read!(virtual_counter, "cntvct_el0");
read!(virtual_control, "cntv_ctl_el0");
read!(virtual_value, "cntv_tval_el0");
read!(physical_counter, "cntpct_el0");
read!(physical_control, "cntp_ctl_el0");
read!(physical_value, "cntp_tval_el0");
read!(counter_frequency, "cntfrq_el0");
write!(set_virtual_control, "cntv_ctl_el0");
write!(set_virtual_compare, "cntv_cval_el0");
write!(set_virtual_value, "cntv_tval_el0");
write!(set_physical_control, "cntp_ctl_el0");
write!(set_physical_compare, "cntp_cval_el0");
write!(set_physical_value, "cntp_tval_el0");

/// The virtual timer.
pub const VIRTUAL: Timer = Timer {
    name: "virtual-timer",
    intid: 27,
    counter: virtual_counter,
    control: virtual_control,
    set_control: set_virtual_control,
    set_compare: set_virtual_compare,
    value: virtual_value,
    set_value: set_virtual_value,
};

/// The physical timer.
pub const PHYSICAL: Timer = Timer {
    name: "physical-timer",
    intid: 30,
    counter: physical_counter,
    control: physical_control,
    set_control: set_physical_control,
    set_compare: set_physical_compare,
    value: physical_value,
    set_value: set_physical_value,
};

/// What the counter counts in so many microseconds.
pub fn ticks(microseconds: u64) -> u64 {
    (u128::from(counter_frequency()) * u128::from(microseconds) / 1_000_000) as u64
}

/// Microseconds in which the counter counts so much.
pub fn microseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000 / u128::from(counter_frequency().max(1))) as u64
}

/// CNTVCT_EL0.
pub fn now() -> u64 {
    virtual_counter()
}

/// Microseconds after which what has not happened is taken not to happen, on a machine that shares its CPUs with others.
const PATIENCE: u64 = 30_000_000;

/// Waits, as [`rest`](crate::cpus::rest) does, until `condition` holds. False where it did not for very long.
pub fn wait_until(condition: impl Fn() -> bool) -> bool {
    let end = now() + ticks(PATIENCE);
    while !condition() {
        if now() > end {
            return false;
        }
        crate::cpus::rest();
    }
    true
}

/// Lets `duration` microseconds pass without giving up the CPU.
pub fn spin(duration: u64) {
    let end = now() + ticks(duration);
    while now() < end {}
}
