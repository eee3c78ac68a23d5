//! A vCPU's registers as the host sees and sets them, which it may where the VM is not protected.

use crate::registers::VcpuContext;
use abi::Error;
use abi::register::{NamedRegister, Register};

/// CNTV_CTL_EL0.{ENABLE, IMASK}.
const CNTV_CTL_WRITABLE: u64 = 0b11;
/// PSTATE.M\[4:0\]: 0 in bit 4 is AArch64.
const PSTATE_MODE: u64 = 0b1_1111;
const MODE_EL0T: u64 = 0b0_0000;
const MODE_EL1T: u64 = 0b0_0100;
const MODE_EL1H: u64 = 0b0_0101;
/// What an exception from AArch64 may leave in SPSR_EL2 besides the mode (Arm ARM, SPSR_EL2): DAIF, BTYPE, SSBS,
/// ALLINT, IL, SS, PAN, UAO, DIT, TCO, NZCV.
const PSTATE_FLAGS: u64 = 0xf << 6 | 0b11 << 10 | 1 << 12 | 1 << 13 | 0x3f << 20 | 0xf << 28;

/// The value of a register.
pub(crate) fn get(context: &mut VcpuContext, register: Register) -> u64 {
    match register {
        Register::Vector { index, upper } => {
            let value = context.fp.v.get(usize::from(index)).copied().unwrap_or(0);
            (if upper { value >> 64 } else { value }) as u64
        }
        Register::General(index) => context.general.x(index.into()),
        Register::Named(named) => place(context, named).map_or(0, |place| *place),
    }
}

/// Sets a register.
///
/// # Errors
/// [`Error::InvalidParameter`] where it cannot have the value.
pub(crate) fn set(context: &mut VcpuContext, register: Register, value: u64) -> Result<(), Error> {
    match register {
        Register::General(index) => context.general.set_x(index.into(), value),
        Register::Vector { index, upper } => {
            if let Some(vector) = context.fp.v.get_mut(usize::from(index)) {
                let shift = if upper { 64 } else { 0 };
                *vector = *vector & !(u128::from(u64::MAX) << shift) | u128::from(value) << shift;
            }
        }
        Register::Named(named) => {
            let value = match named {
                NamedRegister::Pstate if !is_pstate(value) => return Err(Error::InvalidParameter),
                // A guest that sets them itself is ignored.
                NamedRegister::ActlrEl1 | NamedRegister::MdscrEl1 if value != 0 => return Err(Error::InvalidParameter),
                NamedRegister::CntvCtlEl0 => value & CNTV_CTL_WRITABLE,
                _ => value,
            };
            if let Some(place) = place(context, named) {
                *place = value;
            }
        }
    }
    Ok(())
}

/// True where a guest can be entered with this PSTATE, and hyp not.
fn is_pstate(value: u64) -> bool {
    matches!(value & PSTATE_MODE, MODE_EL0T | MODE_EL1T | MODE_EL1H) && value & !(PSTATE_MODE | PSTATE_FLAGS) == 0
}

/// Where a register is kept; `None` for those that are zero for every guest.
fn place(context: &mut VcpuContext, register: NamedRegister) -> Option<&mut u64> {
    let el1 = &mut context.el1;
    Some(match register {
        NamedRegister::ActlrEl1 | NamedRegister::MdscrEl1 => return None,
        NamedRegister::Pc => &mut context.general.pc,
        NamedRegister::Pstate => &mut context.general.pstate,
        NamedRegister::SpEl0 => &mut el1.sp_el0,
        NamedRegister::SpEl1 => &mut el1.sp_el1,
        NamedRegister::SctlrEl1 => &mut el1.sctlr_el1,
        NamedRegister::CpacrEl1 => &mut el1.cpacr_el1,
        NamedRegister::Ttbr0El1 => &mut el1.ttbr0_el1,
        NamedRegister::Ttbr1El1 => &mut el1.ttbr1_el1,
        NamedRegister::TcrEl1 => &mut el1.tcr_el1,
        NamedRegister::EsrEl1 => &mut el1.esr_el1,
        NamedRegister::Afsr0El1 => &mut el1.afsr0_el1,
        NamedRegister::Afsr1El1 => &mut el1.afsr1_el1,
        NamedRegister::FarEl1 => &mut el1.far_el1,
        NamedRegister::MairEl1 => &mut el1.mair_el1,
        NamedRegister::AmairEl1 => &mut el1.amair_el1,
        NamedRegister::VbarEl1 => &mut el1.vbar_el1,
        NamedRegister::ContextidrEl1 => &mut el1.contextidr_el1,
        NamedRegister::TpidrEl0 => &mut el1.tpidr_el0,
        NamedRegister::TpidrroEl0 => &mut el1.tpidrro_el0,
        NamedRegister::TpidrEl1 => &mut el1.tpidr_el1,
        NamedRegister::ElrEl1 => &mut el1.elr_el1,
        NamedRegister::SpsrEl1 => &mut el1.spsr_el1,
        NamedRegister::ParEl1 => &mut el1.par_el1,
        NamedRegister::CntkctlEl1 => &mut el1.cntkctl_el1,
        NamedRegister::DisrEl1 => &mut el1.disr_el1,
        NamedRegister::CntvCtlEl0 => &mut context.timer.cntv_ctl_el0,
        NamedRegister::CntvCvalEl0 => &mut context.timer.cntv_cval_el0,
        NamedRegister::Fpcr => &mut context.fp.fpcr,
        NamedRegister::Fpsr => &mut context.fp.fpsr,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traps::TrapControls;
    use std::collections::BTreeMap;

    fn context() -> VcpuContext {
        VcpuContext::reset(0, 0x4000, 0, TrapControls::default(), 0)
    }

    fn every_register() -> impl Iterator<Item = Register> {
        (0..0x200).filter_map(Register::from_number)
    }

    #[test]
    fn each_register_is_itself_and_no_other() {
        let writable = |register: &Register| {
            !matches!(register, Register::Named(NamedRegister::ActlrEl1 | NamedRegister::MdscrEl1))
        };
        let value_of = |register: Register| match register {
            Register::Named(NamedRegister::Pstate) => 0xf000_0005,
            Register::Named(NamedRegister::CntvCtlEl0) => 0b11,
            other => 0x1234_5678_9abc_0000 | other.number(),
        };
        let mut context = context();
        for register in every_register().filter(writable) {
            assert_eq!(set(&mut context, register, value_of(register)), Ok(()));
        }
        let found: BTreeMap<_, _> =
            every_register().map(|register| (register.number(), get(&mut context, register))).collect();
        for register in every_register() {
            let expected = if writable(&register) { value_of(register) } else { 0 };
            assert_eq!(found[&register.number()], expected, "{register:?}");
        }
        assert_eq!((context.general.x[30], context.general.pc), (0x1234_5678_9abc_001e, 0x1234_5678_9abc_0020));
        assert_eq!(context.el1.mair_el1, 0x1234_5678_9abc_004c);
        assert_eq!(context.fp.v[31], 0x1234_5678_9abc_00bf_1234_5678_9abc_00be);
    }

    #[test]
    fn pstate_is_that_of_a_guest_in_aarch64() {
        let pstate = Register::Named(NamedRegister::Pstate);
        for value in [0, 4, 5, 0x3c5, 0xf000_03c5, 0xf3f0_3fc5] {
            assert_eq!(set(&mut context(), pstate, value), Ok(()), "{value:#x}");
        }
        let modes = (0..32).filter(|mode| ![0, 4, 5].contains(mode));
        for value in modes.chain([1 << 5 | 5, 1 << 14 | 5, 1 << 26 | 5, 1 << 32 | 5, 1 << 63 | 5, u64::MAX]) {
            let mut context = context();
            assert_eq!(set(&mut context, pstate, value), Err(Error::InvalidParameter), "{value:#x}");
            assert_eq!(context.general.pstate, 0x3c5);
        }
    }

    #[test]
    fn what_a_guest_cannot_set_the_host_cannot() {
        for named in [NamedRegister::ActlrEl1, NamedRegister::MdscrEl1] {
            let register = Register::Named(named);
            assert_eq!(set(&mut context(), register, 0), Ok(()));
            assert_eq!(set(&mut context(), register, 1 << 15), Err(Error::InvalidParameter), "{named:?}");
        }
        let mut context = context();
        set(&mut context, Register::Named(NamedRegister::CntvCtlEl0), u64::MAX).unwrap();
        assert_eq!(context.timer.cntv_ctl_el0, 0b11);
    }
}
