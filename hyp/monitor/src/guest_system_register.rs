//! System registers and system instructions that trap from a guest: an allow-list. What is not here is UNDEFINED.

use crate::features::IdRegisters;
use crate::id_registers::{is_feature_register, read_feature_register};
use crate::registers::VcpuContext;
use crate::syndrome::{SystemRegister, SystemRegisterAccess};

/// REVIDR_EL1.
const REVIDR_EL1: SystemRegister = SystemRegister::new(3, 0, 0, 0, 6);
/// AIDR_EL1.
const AIDR_EL1: SystemRegister = SystemRegister::new(3, 1, 0, 0, 7);
/// CTR_EL0.
const CTR_EL0: SystemRegister = SystemRegister::new(3, 3, 0, 0, 1);
/// CCSIDR_EL1.
const CCSIDR_EL1: SystemRegister = SystemRegister::new(3, 1, 0, 0, 0);
/// CLIDR_EL1.
const CLIDR_EL1: SystemRegister = SystemRegister::new(3, 1, 0, 0, 1);
/// CSSELR_EL1.
const CSSELR_EL1: SystemRegister = SystemRegister::new(3, 2, 0, 0, 0);
/// ACTLR_EL1.
const ACTLR_EL1: SystemRegister = SystemRegister::new(3, 0, 1, 0, 1);
/// OSLSR_EL1.
const OSLSR_EL1: SystemRegister = SystemRegister::new(2, 0, 1, 1, 4);
/// DC ISW, DC CSW and DC CISW.
const SET_WAY_MAINTENANCE: [SystemRegister; 3] =
    [SystemRegister::new(1, 0, 7, 6, 2), SystemRegister::new(1, 0, 7, 10, 2), SystemRegister::new(1, 0, 7, 14, 2)];
/// Debug registers that read as zero and ignore writes: MDCCINT_EL1, MDSCR_EL1, OSDTRRX_EL1, OSDTRTX_EL1, OSECCR_EL1,
/// MDRAR_EL1, OSLAR_EL1, OSDLR_EL1, DBGPRCR_EL1, DBGCLAIMSET_EL1, DBGCLAIMCLR_EL1, DBGAUTHSTATUS_EL1, MDCCSR_EL0,
/// DBGDTR_EL0, DBGDTRRX_EL0.
const DEBUG: [SystemRegister; 15] = [
    SystemRegister::new(2, 0, 0, 2, 0),
    SystemRegister::new(2, 0, 0, 2, 2),
    SystemRegister::new(2, 0, 0, 0, 2),
    SystemRegister::new(2, 0, 0, 3, 2),
    SystemRegister::new(2, 0, 0, 6, 2),
    SystemRegister::new(2, 0, 1, 0, 0),
    SystemRegister::new(2, 0, 1, 0, 4),
    SystemRegister::new(2, 0, 1, 3, 4),
    SystemRegister::new(2, 0, 1, 4, 4),
    SystemRegister::new(2, 0, 7, 8, 6),
    SystemRegister::new(2, 0, 7, 9, 6),
    SystemRegister::new(2, 0, 7, 14, 6),
    SystemRegister::new(2, 3, 0, 1, 0),
    SystemRegister::new(2, 3, 0, 4, 0),
    SystemRegister::new(2, 3, 0, 5, 0),
];

/// From this CRn on there are the registers of the CPU interface and of timers, and none that is dealt with here.
const FIRST_ELSEWHERE: u8 = 12;

/// OSLSR_EL1: the OS lock is implemented, and open.
const OSLSR_OPEN: u64 = 1 << 3;
/// CSSELR_EL1: InD and Level.
const CSSELR_MASK: u64 = 0xf;
/// CLIDR_EL1: one level, instruction and data caches apart; unification and coherency at level 1.
const CLIDR_ONE_LEVEL: u64 = 0b011 | 1 << 21 | 1 << 24 | 1 << 27;
/// CTR_EL0.DminLine: log2 of the words of the smallest data cache line.
const CTR_DMINLINE_SHIFT: u32 = 16;

/// Does what the access asks for, if a guest may; `false` where the instruction is UNDEFINED. The program counter is
/// left where it is.
pub fn emulate(access: SystemRegisterAccess, context: &mut VcpuContext, id: &IdRegisters, ipa_bits: u32) -> bool {
    let register = access.register();
    if register.crn >= FIRST_ELSEWHERE {
        return false;
    }
    if access.is_read() {
        let Some(value) = read(register, context, id, ipa_bits) else {
            return false;
        };
        context.general.set_x(access.general_register(), value);
        true
    } else {
        write(register, context.general.x(access.general_register()), context)
    }
}

fn read(register: SystemRegister, context: &VcpuContext, id: &IdRegisters, ipa_bits: u32) -> Option<u64> {
    // By far the most frequent, where it traps: EL0 asks it for the sizes of cache lines.
    if register == CTR_EL0 {
        return Some(id.ctr_el0);
    }
    if is_feature_register(register) {
        return Some(read_feature_register(register, id, ipa_bits));
    }
    if DEBUG.contains(&register) || is_breakpoint_or_watchpoint(register) {
        return Some(0);
    }
    match register {
        REVIDR_EL1 | AIDR_EL1 | ACTLR_EL1 => Some(0),
        CLIDR_EL1 => Some(CLIDR_ONE_LEVEL),
        CSSELR_EL1 => Some(context.csselr_el1),
        CCSIDR_EL1 => Some(cache_geometry(id.ctr_el0)),
        OSLSR_EL1 => Some(OSLSR_OPEN),
        _ => None,
    }
}

fn write(register: SystemRegister, value: u64, context: &mut VcpuContext) -> bool {
    if register == CSSELR_EL1 {
        context.csselr_el1 = value & CSSELR_MASK;
        return true;
    }
    // Maintenance by set and way reaches one CPU's own caches at best, and a guest does not know which CPU it is on;
    // what the host may see was cleaned to memory when the page was handed over.
    register == ACTLR_EL1
        || SET_WAY_MAINTENANCE.contains(&register)
        || DEBUG.contains(&register)
        || is_breakpoint_or_watchpoint(register)
}

/// DBGBVRn_EL1, DBGBCRn_EL1, DBGWVRn_EL1 and DBGWCRn_EL1.
fn is_breakpoint_or_watchpoint(register: SystemRegister) -> bool {
    let SystemRegister { op0, op1, crn, op2, .. } = register;
    op0 == 2 && op1 == 0 && crn == 0 && (4..=7).contains(&op2)
}

/// CCSIDR_EL1 of a cache of one set and one way, with the CPU's line size. Nothing is to be learnt from it, and a loop
/// over its sets and ways ends at once.
fn cache_geometry(ctr_el0: u64) -> u64 {
    let log2_words = ctr_el0 >> CTR_DMINLINE_SHIFT & 0xf;
    let log2_bytes = log2_words + 2;
    log2_bytes.saturating_sub(4) & 0b111
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traps::TrapControls;

    fn context() -> VcpuContext {
        VcpuContext::reset(0, 0, 0, TrapControls::default(), 0)
    }

    fn access(register: SystemRegister, general: u64, is_read: bool) -> SystemRegisterAccess {
        let SystemRegister { op0, op1, crn, crm, op2 } = register;
        SystemRegisterAccess::from_iss(
            u64::from(op0) << 20
                | u64::from(op2) << 17
                | u64::from(op1) << 14
                | u64::from(crn) << 10
                | general << 5
                | u64::from(crm) << 1
                | u64::from(is_read),
        )
    }

    #[test]
    fn reads_reach_the_named_register() {
        let id = IdRegisters { ctr_el0: 0x8444_c004, ..IdRegisters::default() };
        let mut context = context();
        assert!(emulate(access(CTR_EL0, 9, true), &mut context, &id, 40));
        assert_eq!(context.general.x(9), 0x8444_c004);
        assert!(emulate(access(CCSIDR_EL1, 10, true), &mut context, &id, 40));
        assert_eq!(context.general.x(10), 2, "64-byte lines, one set, one way");
        assert!(emulate(access(CTR_EL0, 31, true), &mut context, &id, 40), "to XZR");
    }

    #[test]
    fn the_cache_selection_is_kept() {
        let (id, mut context) = (IdRegisters::default(), context());
        context.general.set_x(1, 0xffff_fff3);
        assert!(emulate(access(CSSELR_EL1, 1, false), &mut context, &id, 40));
        assert!(emulate(access(CSSELR_EL1, 2, true), &mut context, &id, 40));
        assert_eq!(context.general.x(2), 3);
    }

    #[test]
    fn set_way_maintenance_does_nothing() {
        let (id, mut context) = (IdRegisters::default(), context());
        let before = context;
        for register in SET_WAY_MAINTENANCE {
            assert!(emulate(access(register, 0, false), &mut context, &id, 40));
            assert!(!emulate(access(register, 0, true), &mut context, &id, 40), "it cannot be read");
        }
        assert_eq!(context, before);
    }

    #[test]
    fn debug_registers_read_as_zero_and_ignore_writes() {
        let (id, mut context) = (IdRegisters::default(), context());
        let breakpoint = SystemRegister::new(2, 0, 0, 5, 5);
        context.general.set_x(3, 7);
        let before = context.el1;
        assert!(emulate(access(breakpoint, 3, false), &mut context, &id, 40));
        assert_eq!(context.el1, before);
        assert!(emulate(access(breakpoint, 3, true), &mut context, &id, 40));
        assert_eq!(context.general.x(3), 0);
    }

    #[test]
    fn everything_else_is_undefined() {
        let (id, mut context) = (IdRegisters::default(), context());
        let before = context;
        for register in [
            SystemRegister::new(3, 3, 9, 12, 0), // PMCR_EL0
            SystemRegister::new(3, 0, 9, 10, 0), // PMBLIMITR_EL1
            SystemRegister::new(3, 0, 5, 3, 0),  // ERRIDR_EL1
            SystemRegister::new(3, 1, 0, 0, 4),  // GMID_EL1
            SystemRegister::new(3, 0, 1, 2, 6),  // SMCR_EL1
            SystemRegister::new(3, 0, 10, 4, 0), // LORSA_EL1
            SystemRegister::new(3, 7, 15, 0, 0),
        ] {
            assert!(!emulate(access(register, 0, true), &mut context, &id, 40), "{register}");
            assert!(!emulate(access(register, 0, false), &mut context, &id, 40), "{register}");
        }
        let feature = SystemRegister::new(3, 0, 0, 4, 0);
        assert!(!emulate(access(feature, 0, false), &mut context, &id, 40), "ID registers cannot be written");
        assert_eq!(context, before);
    }
}
