//! A guest's timers (Arm ARM, section D12). The virtual one is the hardware's. The physical one belongs to the host: the
//! guest's accesses to it trap, its registers are kept here, and the host is told when it is to assert its interrupt.

use crate::registers::{TimerRegisters, VcpuContext};
use crate::syndrome::SystemRegisterAccess;
use abi::guest_register::Policy;
use abi::run::{NO_DEADLINE, PHYSICAL_TIMER_LINE, VIRTUAL_TIMER_LINE};

/// CNTx_CTL_EL0.ENABLE.
const ENABLE: u64 = 1 << 0;
/// CNTx_CTL_EL0.IMASK.
const IMASK: u64 = 1 << 1;
/// CNTx_CTL_EL0.ISTATUS.
const ISTATUS: u64 = 1 << 2;

/// The physical timer of a guest, which exists only here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PhysicalTimer {
    /// CNTP_CTL_EL0 without ISTATUS.
    pub cntp_ctl_el0: u64,
    /// CNTP_CVAL_EL0.
    pub cntp_cval_el0: u64,
}

impl PhysicalTimer {
    /// True where CNTPCT_EL0, which is `now`, has come to the compare value.
    const fn is_due(&self, now: u64) -> bool {
        now >= self.cntp_cval_el0
    }

    /// True where the timer is on and may assert its interrupt.
    const fn is_armed(&self) -> bool {
        self.cntp_ctl_el0 & (ENABLE | IMASK) == ENABLE
    }

    /// The value of CNTPCT_EL0 from which on the interrupt is asserted.
    pub const fn deadline(&self) -> u64 {
        if self.is_armed() { self.cntp_cval_el0 } else { NO_DEADLINE }
    }
}

/// What an access to the physical timer leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The guest has read a register.
    Read,
    /// The timer is set anew.
    Set,
}

/// Does what an access of this policy asks for; `None` where it is for another register. `now` gives CNTPCT_EL0.
pub fn emulate(
    policy: Policy,
    access: SystemRegisterAccess,
    context: &mut VcpuContext,
    now: impl FnOnce() -> u64,
) -> Option<Effect> {
    let timer = &mut context.physical_timer;
    if !access.is_read() {
        let value = context.general.x(access.general_register());
        match policy {
            Policy::TimerControl => timer.cntp_ctl_el0 = value & (ENABLE | IMASK),
            Policy::TimerCompare => timer.cntp_cval_el0 = value,
            Policy::TimerValue => timer.cntp_cval_el0 = now().wrapping_add(value as u32 as i32 as u64),
            _ => return None,
        }
        return Some(Effect::Set);
    }
    let value = match policy {
        Policy::TimerControl => {
            let is_met = timer.cntp_ctl_el0 & ENABLE != 0 && timer.is_due(now());
            timer.cntp_ctl_el0 | if is_met { ISTATUS } else { 0 }
        }
        Policy::TimerCompare => timer.cntp_cval_el0,
        Policy::TimerValue => timer.cntp_cval_el0.wrapping_sub(now()) & 0xffff_ffff,
        _ => return None,
    };
    context.general.set_x(access.general_register(), value);
    Some(Effect::Read)
}

/// Which timers of a vCPU that has just come out assert their interrupts. `now` gives CNTPCT_EL0.
pub fn lines(context: &VcpuContext, now: impl FnOnce() -> u64) -> u64 {
    let is_asserted = context.timer.cntv_ctl_el0 & (ENABLE | IMASK | ISTATUS) == ENABLE | ISTATUS;
    let physical = &context.physical_timer;
    let physical_line = if physical.is_armed() && physical.is_due(now()) { PHYSICAL_TIMER_LINE } else { 0 };
    physical_line | if is_asserted { VIRTUAL_TIMER_LINE } else { 0 }
}

/// The value of CNTPCT_EL0 from which on the virtual timer asserts its interrupt. CNTVCT_EL0 is CNTPCT_EL0 less the
/// offset, and the comparison is one of 64-bit numbers: a compare value so high that the sum overflows is never met.
pub const fn virtual_deadline(timer: &TimerRegisters) -> u64 {
    if timer.cntv_ctl_el0 & (ENABLE | IMASK) == ENABLE {
        timer.cntv_cval_el0.saturating_add(timer.cntvoff_el2)
    } else {
        NO_DEADLINE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syndrome::SystemRegister;
    use crate::traps::TrapControls;

    const CNTP_TVAL_EL0: SystemRegister = SystemRegister::new(3, 3, 14, 2, 0);
    const CNTP_CTL_EL0: SystemRegister = SystemRegister::new(3, 3, 14, 2, 1);
    const CNTP_CVAL_EL0: SystemRegister = SystemRegister::new(3, 3, 14, 2, 2);

    fn access(register: SystemRegister, is_read: bool) -> SystemRegisterAccess {
        SystemRegisterAccess::from_iss(register.iss() | 1 << 5 | u64::from(is_read))
    }

    fn context() -> VcpuContext {
        VcpuContext::reset(0, 0, 0, TrapControls::default(), 0)
    }

    fn write(context: &mut VcpuContext, register: SystemRegister, value: u64, now: u64) {
        context.general.set_x(1, value);
        let access = access(register, false);
        assert_eq!(emulate(access.policy(), access, context, || now), Some(Effect::Set));
    }

    fn read(context: &mut VcpuContext, register: SystemRegister, now: u64) -> u64 {
        let access = access(register, true);
        assert_eq!(emulate(access.policy(), access, context, || now), Some(Effect::Read));
        context.general.x(1)
    }

    #[test]
    fn the_physical_timer_counts_down_and_reaches_its_deadline() {
        let mut context = context();
        assert_eq!(context.physical_timer.deadline(), NO_DEADLINE);
        write(&mut context, CNTP_TVAL_EL0, 100, 1000);
        write(&mut context, CNTP_CTL_EL0, !IMASK, 1000);
        assert_eq!(read(&mut context, CNTP_CVAL_EL0, 1000), 1100);
        assert_eq!(read(&mut context, CNTP_TVAL_EL0, 1040), 60);
        assert_eq!(read(&mut context, CNTP_CTL_EL0, 1099), ENABLE);
        assert_eq!(read(&mut context, CNTP_CTL_EL0, 1100), ENABLE | ISTATUS);
        assert_eq!(context.physical_timer.deadline(), 1100);
        assert_eq!((lines(&context, || 1099), lines(&context, || 1100)), (0, PHYSICAL_TIMER_LINE));
        write(&mut context, CNTP_CTL_EL0, ENABLE | IMASK, 1200);
        assert_eq!(read(&mut context, CNTP_CTL_EL0, 1200), ENABLE | IMASK | ISTATUS);
        assert_eq!((lines(&context, || 1200), context.physical_timer.deadline()), (0, NO_DEADLINE));
        assert_eq!(read(&mut context, CNTP_TVAL_EL0, 1200), 0xffff_ff9c, "past it, TVAL is negative");
    }

    #[test]
    fn a_negative_timer_value_is_in_the_past() {
        let mut context = context();
        write(&mut context, CNTP_TVAL_EL0, 0xffff_ffff, 500);
        assert_eq!(read(&mut context, CNTP_CVAL_EL0, 500), 499);
    }

    #[test]
    fn a_timer_that_is_off_asserts_nothing() {
        let mut context = context();
        write(&mut context, CNTP_CVAL_EL0, 5, 0);
        assert_eq!(read(&mut context, CNTP_CTL_EL0, 10), 0);
        assert_eq!(lines(&context, || 10), 0);
    }

    #[test]
    fn the_virtual_timers_line_is_the_hardwares() {
        let mut context = context();
        for (control, line) in [(0b101, 1), (0b111, 0), (0b001, 0), (0b100, 0), (0b110, 0)] {
            context.timer.cntv_ctl_el0 = control;
            assert_eq!(lines(&context, || 0), line, "{control:#b}");
        }
    }

    #[test]
    fn the_virtual_deadline_is_in_the_hosts_time() {
        let timer = |control, compare, offset| TimerRegisters {
            cntv_ctl_el0: control,
            cntv_cval_el0: compare,
            cntvoff_el2: offset,
        };
        assert_eq!(virtual_deadline(&timer(1, 100, 1000)), 1100);
        assert_eq!(virtual_deadline(&timer(3, 100, 1000)), NO_DEADLINE);
        assert_eq!(virtual_deadline(&timer(0, 100, 1000)), NO_DEADLINE);
        assert_eq!(virtual_deadline(&timer(1, u64::MAX - 5, 1000)), NO_DEADLINE);
    }

    #[test]
    fn other_registers_are_not_the_timers() {
        let mut context = context();
        let other = SystemRegister::new(3, 3, 14, 3, 1);
        for is_read in [true, false] {
            let access = access(other, is_read);
            assert_eq!(emulate(access.policy(), access, &mut context, || 0), None);
        }
    }
}
