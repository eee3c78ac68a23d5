//! System registers and system instructions that trap from a guest, as the table in [`abi::guest_register`] has them.

use crate::features::IdRegisters;
use crate::id_registers::read_feature_register;
use crate::registers::VcpuContext;
use crate::syndrome::SystemRegisterAccess;
use abi::guest_register::Policy;

/// OSLSR_EL1: the OS lock is implemented, and open.
const OSLSR_OPEN: u64 = 1 << 3;
/// CSSELR_EL1: InD and Level.
const CSSELR_MASK: u64 = 0xf;
/// CLIDR_EL1: one level, instruction and data caches apart; unification and coherency at level 1.
const CLIDR_ONE_LEVEL: u64 = 0b011 | 1 << 21 | 1 << 24 | 1 << 27;
/// CTR_EL0.DminLine: log2 of the words of the smallest data cache line.
const CTR_DMINLINE_SHIFT: u32 = 16;

/// Does what the access, to a register of this policy, asks for, where the guest's general registers are all that it
/// takes; `false` where it takes more, or the instruction is UNDEFINED. The program counter is left where it is.
#[inline(always)]
pub fn emulate(
    policy: Policy,
    access: SystemRegisterAccess,
    context: &mut VcpuContext,
    id: &IdRegisters,
    ipa_bits: u32,
) -> bool {
    match policy {
        Policy::Feature => {
            let value = read_feature_register(access.register(), id, ipa_bits);
            context.general.set_x(access.general_register(), value);
            true
        }
        Policy::Undefined
        | Policy::Own
        | Policy::PointerAuthenticationKey
        | Policy::InterfaceEnable
        | Policy::SendSgi
        | Policy::LostSgi
        | Policy::TimerControl
        | Policy::TimerCompare
        | Policy::TimerValue => false,
        policy => {
            emulate_rare(policy, access, context, id);
            true
        }
    }
}

/// The registers that are not asked for over and over; they are kept out of the way of those that are.
#[inline(never)]
fn emulate_rare(policy: Policy, access: SystemRegisterAccess, context: &mut VcpuContext, id: &IdRegisters) {
    let is_read = access.is_read();
    let value = match policy {
        Policy::CacheType => id.ctr_el0,
        Policy::CacheLevels => CLIDR_ONE_LEVEL,
        Policy::CacheGeometry => cache_geometry(id.ctr_el0),
        Policy::OsLockStatus => OSLSR_OPEN,
        Policy::CacheSelection => {
            if !is_read {
                context.csselr_el1 = context.general.x(access.general_register()) & CSSELR_MASK;
            }
            context.csselr_el1
        }
        _ => 0,
    };
    if is_read {
        context.general.set_x(access.general_register(), value);
    }
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
    use crate::syndrome::SystemRegister;
    use crate::traps::TrapControls;
    use crate::{guest_timer, interrupt};
    use abi::guest_register::policy;
    use std::collections::BTreeMap;

    const CTR_EL0: SystemRegister = SystemRegister::new(3, 3, 0, 0, 1);
    const CCSIDR_EL1: SystemRegister = SystemRegister::new(3, 1, 0, 0, 0);
    const CSSELR_EL1: SystemRegister = SystemRegister::new(3, 2, 0, 0, 0);
    const OSLSR_EL1: SystemRegister = SystemRegister::new(2, 0, 1, 1, 4);

    fn emulated(access: SystemRegisterAccess, context: &mut VcpuContext, id: &IdRegisters, ipa_bits: u32) -> bool {
        emulate(access.policy(), access, context, id, ipa_bits)
    }

    fn context() -> VcpuContext {
        VcpuContext::reset(0, 0, 0, TrapControls::default(), 0)
    }

    fn access(register: SystemRegister, general: u64, is_read: bool) -> SystemRegisterAccess {
        SystemRegisterAccess::from_iss(register.iss() | general << 5 | u64::from(is_read))
    }

    #[test]
    fn reads_reach_the_named_register() {
        let id = IdRegisters { ctr_el0: 0x8444_c004, ..IdRegisters::default() };
        let mut context = context();
        assert!(emulated(access(CTR_EL0, 9, true), &mut context, &id, 40));
        assert_eq!(context.general.x(9), 0x8444_c004);
        assert!(emulated(access(CCSIDR_EL1, 10, true), &mut context, &id, 40));
        assert_eq!(context.general.x(10), 2, "64-byte lines, one set, one way");
        assert!(emulated(access(OSLSR_EL1, 11, true), &mut context, &id, 40));
        assert_eq!(context.general.x(11), 8, "the OS lock is open");
        assert!(emulated(access(CTR_EL0, 31, true), &mut context, &id, 40), "to XZR");
    }

    #[test]
    fn the_cache_selection_is_kept() {
        let (id, mut context) = (IdRegisters::default(), context());
        context.general.set_x(1, 0xffff_fff3);
        assert!(emulated(access(CSSELR_EL1, 1, false), &mut context, &id, 40));
        assert!(emulated(access(CSSELR_EL1, 2, true), &mut context, &id, 40));
        assert_eq!(context.general.x(2), 3);
    }

    /// What a guest keeps in the register of an access.
    const KEPT: u64 = 0x5ec2_e700_5ec2_e707;
    /// What CNTPCT_EL0 counts, and nothing else holds.
    const NOW: u64 = 0x1234_5678_9abc;

    /// Does an access as the run loop does: who dealt with it, and the context afterwards.
    fn outcome(register: SystemRegister, is_read: bool, id: &IdRegisters) -> (&'static str, VcpuContext) {
        let mut context = context();
        context.general.set_x(7, KEPT);
        let access = access(register, 7, is_read);
        let who = if emulated(access, &mut context, id, 40) {
            "here"
        } else if let Some(effect) = interrupt::emulate(access.policy(), access, &mut context) {
            if effect == interrupt::Interface::Sgi(KEPT) { "sgi" } else { "interface" }
        } else if guest_timer::emulate(access.policy(), access, &mut context, || NOW).is_some() {
            "timer"
        } else {
            "undefined"
        };
        (who, context)
    }

    #[test]
    fn every_encoding_does_what_the_table_says_and_nothing_more() {
        let id =
            IdRegisters { ctr_el0: 0x8444_c004, id_aa64isar0_el1: 0x1021_1112_1021_2120, ..IdRegisters::default() };
        let mut counts = BTreeMap::new();
        for register in (1..4).flat_map(SystemRegister::all) {
            for is_read in [true, false] {
                let (who, context) = outcome(register, is_read, &id);
                let policy = policy(register, is_read);
                *counts.entry((format!("{policy:?}"), is_read)).or_insert(0) += 1;
                let mut expected = self::context();
                expected.general.set_x(7, KEPT);
                let value = match policy {
                    Policy::Zero => 0,
                    Policy::Feature => read_feature_register(register, &id, 40),
                    Policy::CacheType => id.ctr_el0,
                    Policy::CacheLevels => CLIDR_ONE_LEVEL,
                    Policy::CacheSelection => 0,
                    Policy::CacheGeometry => 2,
                    Policy::OsLockStatus => OSLSR_OPEN,
                    Policy::InterfaceEnable => 7,
                    Policy::TimerControl | Policy::TimerCompare => 0,
                    Policy::TimerValue => (NOW as u32).wrapping_neg().into(),
                    Policy::Undefined
                    | Policy::Own
                    | Policy::PointerAuthenticationKey
                    | Policy::SendSgi
                    | Policy::LostSgi => KEPT,
                };
                if is_read {
                    expected.general.set_x(7, value);
                } else {
                    match policy {
                        Policy::CacheSelection => expected.csselr_el1 = 7,
                        Policy::TimerControl => expected.physical_timer.cntp_ctl_el0 = 3,
                        Policy::TimerCompare => expected.physical_timer.cntp_cval_el0 = KEPT,
                        Policy::TimerValue => {
                            expected.physical_timer.cntp_cval_el0 = NOW + u64::from(KEPT as u32);
                        }
                        _ => {}
                    }
                }
                let expected_who = match policy {
                    Policy::Undefined | Policy::Own | Policy::PointerAuthenticationKey => "undefined",
                    Policy::SendSgi => "sgi",
                    Policy::LostSgi | Policy::InterfaceEnable => "interface",
                    Policy::TimerControl | Policy::TimerCompare | Policy::TimerValue => "timer",
                    _ => "here",
                };
                assert_eq!((who, context), (expected_who, expected), "{register}, read: {is_read}");
            }
        }
        // How many of each there are, by the architecture's own lists: a register more or less is a decision.
        let of = |policy: &str| [true, false].map(|is_read| *counts.get(&(policy.to_owned(), is_read)).unwrap_or(&0));
        assert_eq!(of("Zero"), [16 * 4 + 18, 16 * 4 + 19], "debug, REVIDR, AIDR, ACTLR; by set and way");
        assert_eq!(of("Feature"), [7 * 8, 0]);
        for policy in ["CacheType", "CacheLevels", "CacheGeometry", "OsLockStatus"] {
            assert_eq!(of(policy), [1, 0], "{policy}");
        }
        for policy in ["CacheSelection", "InterfaceEnable", "TimerControl", "TimerCompare", "TimerValue"] {
            assert_eq!(of(policy), [1, 1], "{policy}");
        }
        assert_eq!((of("SendSgi"), of("LostSgi")), ([0, 1], [0, 2]));
        assert_eq!(of("PointerAuthenticationKey"), [10, 10]);
    }

    #[test]
    fn what_a_guest_must_not_reach_is_undefined() {
        for register in [
            SystemRegister::new(3, 3, 9, 12, 0), // PMCR_EL0
            SystemRegister::new(3, 0, 9, 10, 0), // PMBLIMITR_EL1
            SystemRegister::new(3, 0, 9, 11, 0), // TRBLIMITR_EL1
            SystemRegister::new(3, 0, 5, 3, 0),  // ERRIDR_EL1
            SystemRegister::new(3, 1, 0, 0, 2),  // CCSIDR2_EL1
            SystemRegister::new(3, 1, 0, 0, 4),  // GMID_EL1
            SystemRegister::new(3, 1, 0, 0, 6),  // SMIDR_EL1
            SystemRegister::new(3, 0, 1, 0, 5),  // RGSR_EL1
            SystemRegister::new(3, 0, 1, 2, 0),  // ZCR_EL1
            SystemRegister::new(3, 0, 1, 2, 1),  // TRFCR_EL1
            SystemRegister::new(3, 0, 1, 2, 6),  // SMCR_EL1
            SystemRegister::new(3, 0, 2, 0, 3),  // TCR2_EL1
            SystemRegister::new(3, 0, 10, 4, 0), // LORSA_EL1
            SystemRegister::new(3, 0, 10, 5, 1), // MPAM1_EL1
            SystemRegister::new(3, 0, 13, 0, 7), // SCXTNUM_EL1
            SystemRegister::new(3, 3, 13, 0, 5), // TPIDR2_EL0
            SystemRegister::new(3, 3, 13, 2, 0), // AMCR_EL0
            SystemRegister::new(3, 7, 14, 2, 1), // CNTPS_CTL_EL1
            SystemRegister::new(2, 1, 0, 4, 0),  // TRCPRGCTLR
            SystemRegister::new(2, 1, 9, 0, 0),  // BRBCR_EL1
            SystemRegister::new(3, 7, 15, 0, 0), // IMPLEMENTATION DEFINED
            SystemRegister::new(1, 0, 11, 0, 0), // the same
        ] {
            for is_read in [true, false] {
                assert_eq!(outcome(register, is_read, &IdRegisters::default()).0, "undefined", "{register}");
            }
        }
        for crm in 1..8 {
            let register = SystemRegister::new(3, 0, 0, crm, 0);
            assert_eq!(
                outcome(register, false, &IdRegisters::default()).0,
                "undefined",
                "ID registers cannot be written"
            );
        }
    }
}
