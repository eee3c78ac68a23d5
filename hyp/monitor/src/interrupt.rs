//! A vCPU's interrupts: the list registers that the host fills, checked, and what else its virtual CPU interface holds
//! (Arm IHI 0069, chapter 6 and section 12.4).

use crate::control_bits::ich_hcr;
use crate::registers::VcpuContext;
use crate::syndrome::SystemRegisterAccess;
use abi::Error;
use abi::guest_register::Policy;
use abi::run::{MAX_LIST_REGISTERS, NOTIFY_NONE_PENDING, NOTIFY_UNDERFLOW};

/// ICC_SRE_EL1 of a vCPU: system registers in use, no bypass.
const SRE_DFB_DIB: u64 = 0b111;

/// `ICH_LR<n>_EL2`: the virtual INTID.
const VIRTUAL_INTID: u64 = 0xffff_ffff;
/// `ICH_LR<n>_EL2`.pINTID, bits 44:32.
const PHYSICAL_INTID_SHIFT: u32 = 32;
/// `ICH_LR<n>_EL2`.pINTID, once shifted down.
const PHYSICAL_INTID: u64 = 0x1fff;
/// `ICH_LR<n>_EL2`.EOI, where there is no physical interrupt: a maintenance interrupt at the end of this one.
const EOI: u64 = 1 << 41;
/// `ICH_LR<n>_EL2`.Priority.
const PRIORITY: u64 = 0xff << 48;
/// `ICH_LR<n>_EL2`.Group.
const GROUP: u64 = 1 << 60;
/// `ICH_LR<n>_EL2`.HW: a physical interrupt is behind it.
const HW: u64 = 1 << 61;
/// `ICH_LR<n>_EL2`.State: bit 0 pending, bit 1 active.
const STATE_SHIFT: u32 = 62;
/// Pending and active.
const PENDING_AND_ACTIVE: u64 = 0b11;
/// INTIDs from here on are special, or of kinds that a guest has not.
const FIRST_SPECIAL_INTID: u64 = 1020;
/// The INTIDs of a CPU's own peripherals.
const PRIVATE_PERIPHERALS: core::ops::Range<u64> = 16..32;

/// What a vCPU's virtual CPU interface holds while it is not in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct InterruptRegisters {
    /// `ICH_LR<n>_EL2`, of which only the first [`list_registers_in_use`](Self::list_registers_in_use) count.
    pub list_registers: [u64; MAX_LIST_REGISTERS],
    /// From this one on all are empty, and stay so while the guest is in, since only software fills one. No more than
    /// the CPU has.
    pub list_registers_in_use: usize,
    /// ICH_VMCR_EL2: priority mask, group enables, binary points.
    pub ich_vmcr_el2: u64,
    /// `ICH_AP0R<n>_EL2`.
    pub ich_ap0r_el2: [u64; 4],
    /// `ICH_AP1R<n>_EL2`.
    pub ich_ap1r_el2: [u64; 4],
}

/// Checks the list registers that a vCPU is to run with: those of the run page that the CPU has. One in which nothing
/// is pending or active becomes zero. How many there are to the last one that is not.
///
/// # Errors
/// [`Error::InvalidParameter`] for what [`RunPage::list_registers`](abi::run::RunPage::list_registers) forbids.
/// `virtual_timer` is the INTID of the one physical interrupt that may be behind one.
#[inline(never)]
pub fn check_list_registers(registers: &mut [u64], virtual_timer: Option<u32>) -> Result<usize, Error> {
    let mut in_use = 0;
    for place in 0..registers.len() {
        let (earlier, rest) = registers.split_at_mut_checked(place).unwrap_or_default();
        let Some(register) = rest.first_mut() else { break };
        let state = *register >> STATE_SHIFT;
        if state == 0 {
            *register = 0;
            continue;
        }
        let intid = *register & VIRTUAL_INTID;
        if intid >= FIRST_SPECIAL_INTID || !is_well_formed(*register, state, virtual_timer) {
            return Err(Error::InvalidParameter);
        }
        // Those before it are checked, and the empty ones among them zero.
        if earlier.iter().any(|other| *other != 0 && other & VIRTUAL_INTID == intid) {
            return Err(Error::InvalidParameter);
        }
        in_use = place.saturating_add(1);
    }
    Ok(in_use)
}

/// True where something is pending or active in one of the list registers whose bits, all together, are `bits`.
#[inline(always)]
pub const fn is_any_in_use(bits: u64) -> bool {
    bits >> STATE_SHIFT != 0
}

/// True where the fields that are not zero may be there.
fn is_well_formed(register: u64, state: u64, virtual_timer: Option<u32>) -> bool {
    let common = VIRTUAL_INTID | PRIORITY | GROUP | PENDING_AND_ACTIVE << STATE_SHIFT;
    if register & HW == 0 {
        return register & !(common | EOI) == 0;
    }
    let physical = register >> PHYSICAL_INTID_SHIFT & PHYSICAL_INTID;
    register & !(common | HW | PHYSICAL_INTID << PHYSICAL_INTID_SHIFT) == 0
        && PRIVATE_PERIPHERALS.contains(&(register & VIRTUAL_INTID))
        && virtual_timer.is_some_and(|timer| u64::from(timer) == physical)
        && state != PENDING_AND_ACTIVE
}

/// ICH_HCR_EL2 for what the host asks to be told.
///
/// # Errors
/// [`Error::InvalidParameter`] where it asks for something that there is not.
pub fn control(interrupt_control: u64) -> Result<u64, Error> {
    if interrupt_control & !(NOTIFY_UNDERFLOW | NOTIFY_NONE_PENDING) != 0 {
        return Err(Error::InvalidParameter);
    }
    let bit = |asked, bit| if interrupt_control & asked != 0 { bit } else { 0 };
    Ok(ich_hcr::EN | bit(NOTIFY_UNDERFLOW, ich_hcr::UIE) | bit(NOTIFY_NONE_PENDING, ich_hcr::NPIE))
}

/// What an access to a register of the CPU interface leads to, of those that trap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interface {
    /// It is done.
    Done,
    /// The guest sends an SGI; the value of ICC_SGI1R_EL1.
    Sgi(u64),
}

/// Does what an access of this policy asks for; `None` where it is for another register, or is none that is allowed.
pub fn emulate(policy: Policy, access: SystemRegisterAccess, context: &mut VcpuContext) -> Option<Interface> {
    match policy {
        Policy::SendSgi => Some(Interface::Sgi(context.general.x(access.general_register()))),
        // SGIs of Group 0 and of the other security state: a guest has only one state, and is sent none of Group 0.
        Policy::LostSgi => Some(Interface::Done),
        Policy::InterfaceEnable => {
            if access.is_read() {
                context.general.set_x(access.general_register(), SRE_DFB_DIB);
            }
            Some(Interface::Done)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENDING: u64 = 1 << 62;
    const ACTIVE: u64 = 1 << 63;
    const TIMER: u64 = HW | 27 << 32 | 27;

    fn check(registers: &[u64]) -> Result<Vec<u64>, Error> {
        let mut checked = registers.to_vec();
        let in_use = check_list_registers(&mut checked, Some(27))?;
        assert!(checked[in_use..].iter().all(|register| *register == 0), "{checked:x?} from {in_use}");
        assert!(in_use == 0 || checked[in_use - 1] != 0, "{checked:x?} to {in_use}");
        let bits = registers.iter().fold(0, |bits, register| bits | register);
        assert_eq!(is_any_in_use(bits), in_use != 0, "{checked:x?}");
        Ok(checked)
    }

    #[test]
    fn what_a_guest_may_be_given_is_loaded_as_it_is() {
        for register in [
            PENDING,
            PENDING | ACTIVE | GROUP | 0xa0 << 48 | 1019,
            ACTIVE | EOI | 33,
            PENDING | GROUP | TIMER,
            ACTIVE | GROUP | TIMER,
        ] {
            assert_eq!(check(&[register]).unwrap(), [register], "{register:#x}");
        }
        assert_eq!(check(&[PENDING | 1, 0, ACTIVE | 2]).unwrap(), [PENDING | 1, 0, ACTIVE | 2]);
        assert_eq!(check(&[]).unwrap(), []);
    }

    #[test]
    fn a_register_without_state_is_empty_whatever_else_it_holds() {
        assert_eq!(check(&[!(0b11 << 62), EOI | 33, PENDING | 33]).unwrap(), [0, 0, PENDING | 33]);
    }

    #[test]
    fn forged_registers_are_refused() {
        for register in [
            PENDING | 1020,
            PENDING | 1023,
            PENDING | 8192,
            PENDING | 0xffff_ffff,
            PENDING | 1 << 32 | 40,
            PENDING | 1 << 45 | 40,
            PENDING | 1 << 56 | 40,
            PENDING | 1 << 59 | 40,
        ] {
            assert_eq!(check(&[register]), Err(Error::InvalidParameter), "{register:#x}");
        }
    }

    #[test]
    fn a_physical_interrupt_is_the_virtual_timers_or_none() {
        for register in [
            PENDING | HW | 30 << 32 | 27,
            PENDING | HW | 27,
            PENDING | HW | 27 << 32 | 33,
            PENDING | HW | 27 << 32 | 5,
            PENDING | ACTIVE | TIMER,
            PENDING | TIMER | 1 << 45,
        ] {
            assert_eq!(check(&[register]), Err(Error::InvalidParameter), "{register:#x}");
        }
        assert_eq!(check_list_registers(&mut [PENDING | TIMER], None), Err(Error::InvalidParameter));
    }

    #[test]
    fn an_interrupt_is_in_one_register_only() {
        assert_eq!(check(&[PENDING | 40, ACTIVE | 40]), Err(Error::InvalidParameter));
        assert_eq!(check(&[PENDING | 40, 0, 0, PENDING | EOI | 40]), Err(Error::InvalidParameter));
        assert!(check(&[PENDING | 40, 40]).is_ok());
    }

    #[test]
    fn the_host_is_told_what_it_asked_for() {
        assert_eq!(control(0), Ok(1));
        assert_eq!(control(NOTIFY_UNDERFLOW), Ok(1 | 1 << 1));
        assert_eq!(control(NOTIFY_NONE_PENDING), Ok(1 | 1 << 3));
        for asked in [1 << 2, 1 << 63, u64::MAX] {
            assert_eq!(control(asked), Err(Error::InvalidParameter), "{asked:#x}");
        }
    }
}
