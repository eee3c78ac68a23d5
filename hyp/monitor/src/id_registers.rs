//! The feature ID registers that a guest reads: an allow-list over the CPU's own. A field that is not listed reads as
//! zero, which says "not there" for all of them.

use crate::features::{IdRegisters, field};
use crate::syndrome::SystemRegister;

/// The four-bit field `number`: field 0 is bits 3:0.
const fn f(number: u32) -> u64 {
    0xf << (number * 4)
}

/// ID_AA64PFR0_EL1: FP, AdvSIMD, DIT, CSV3 as the CPU has them. The exception levels and CSV2 are set apart.
const PFR0: u64 = f(4) | f(5) | f(12) | f(15);
/// ID_AA64PFR0_EL1: EL0 and EL1 in AArch64 only; no EL2, no EL3.
const PFR0_LEVELS: u64 = 0x11;
/// ID_AA64PFR0_EL1.GIC: system registers of the CPU interface, which a guest has at most in their first version.
const GIC_SHIFT: u32 = 24;
/// ID_AA64PFR0_EL1.CSV2.
const CSV2_SHIFT: u32 = 56;
/// ID_AA64PFR1_EL1: BT, SSBS.
const PFR1: u64 = f(0) | f(1);
/// ID_AA64DFR0_EL1.DebugVer: Armv8 debug; one breakpoint, one watchpoint, which do nothing.
const DFR0: u64 = 0x6;
/// ID_AA64ISAR0_EL1: everything but TME.
const ISAR0: u64 = !(f(0) | f(6));
/// ID_AA64ISAR1_EL1: everything but XS and LS64.
const ISAR1: u64 = !(f(14) | f(15));
/// ID_AA64ISAR2_EL1: RPRES, GPA3, APA3, MOPS, BC, PAC_frac, CLRBHB, CSSC. WFxT is left out: its time-out is the host's.
const ISAR2: u64 = f(1) | f(2) | f(3) | f(4) | f(5) | f(6) | f(7) | f(13);
/// ID_AA64MMFR0_EL1: ASIDBits, BigEnd, BigEndEL0, the granules of stage 1, ExS. PARange is set apart.
const MMFR0: u64 = f(1) | f(2) | f(4) | f(5) | f(6) | f(7) | f(11);
/// ID_AA64MMFR1_EL1: HPDS, PAN, ETS, AFP, nTLBPA, ECBHB. HAFDBS is set apart.
const MMFR1: u64 = f(3) | f(5) | f(9) | f(11) | f(12) | f(15);
/// The highest HAFDBS that needs no register that traps: access flag and dirty state.
const HAFDBS_MAX: u64 = 2;
/// ID_AA64MMFR2_EL1: CnP, UAO, LSM, ST, AT, IDS, TTL, BBM, E0PD. VARange is set apart.
const MMFR2: u64 = f(0) | f(1) | f(2) | f(7) | f(8) | f(9) | f(12) | f(13) | f(15);

/// ID_AA64MMFR2_EL1.VARange.
const VA_RANGE_SHIFT: u32 = 16;
/// The highest VARange that needs no register that traps: 52 bits.
const VA_RANGE_MAX: u64 = 1;

/// What a guest with IPAs of `ipa_bits` bits reads from a register of the ID space: op0 3, op1 0, CRn 0, CRm 1 to 7, which
/// HCR_EL2.TID3 traps.
pub fn read_feature_register(register: SystemRegister, id: &IdRegisters, ipa_bits: u32) -> u64 {
    match (register.crm(), register.op2()) {
        (4, 0) => {
            let csv2 = field(id.id_aa64pfr0_el1, CSV2_SHIFT).min(1);
            let gic = field(id.id_aa64pfr0_el1, GIC_SHIFT).min(1);
            id.id_aa64pfr0_el1 & PFR0 | PFR0_LEVELS | gic << GIC_SHIFT | csv2 << CSV2_SHIFT
        }
        (4, 1) => id.id_aa64pfr1_el1 & PFR1,
        (5, 0) => DFR0,
        (6, 0) => id.id_aa64isar0_el1 & ISAR0,
        (6, 1) => id.id_aa64isar1_el1 & ISAR1,
        (6, 2) => id.id_aa64isar2_el1 & ISAR2,
        (7, 0) => id.id_aa64mmfr0_el1 & MMFR0 | field(id.id_aa64mmfr0_el1, 0).min(pa_range(ipa_bits)),
        (7, 1) => id.id_aa64mmfr1_el1 & MMFR1 | field(id.id_aa64mmfr1_el1, 0).min(HAFDBS_MAX),
        (7, 2) => {
            let va_range = field(id.id_aa64mmfr2_el1, VA_RANGE_SHIFT).min(VA_RANGE_MAX);
            id.id_aa64mmfr2_el1 & MMFR2 | va_range << VA_RANGE_SHIFT
        }
        _ => 0,
    }
}

/// The smallest PARange that holds an IPA space of `ipa_bits` bits: with less, the guest's own tables could not name all of
/// it (TCR_EL1.IPS). What lies beyond the space is an abort.
const fn pa_range(ipa_bits: u32) -> u64 {
    match ipa_bits {
        0..=32 => 0,
        33..=36 => 1,
        37..=40 => 2,
        41..=42 => 3,
        43..=44 => 4,
        45..=48 => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::guest_register::{Policy, policy};

    fn read(crm: u8, op2: u8, id: &IdRegisters) -> u64 {
        let register = SystemRegister::new(3, 0, 0, crm, op2);
        assert_eq!(policy(register, true), Policy::Feature);
        read_feature_register(register, id, 40)
    }

    /// A CPU that claims the highest value of every field.
    fn everything() -> IdRegisters {
        IdRegisters {
            id_aa64pfr0_el1: !0,
            id_aa64pfr1_el1: !0,
            id_aa64pfr2_el1: !0,
            id_aa64zfr0_el1: !0,
            id_aa64smfr0_el1: !0,
            id_aa64dfr0_el1: !0,
            id_aa64dfr1_el1: !0,
            id_aa64isar0_el1: !0,
            id_aa64isar1_el1: !0,
            id_aa64isar2_el1: !0,
            id_aa64isar3_el1: !0,
            id_aa64mmfr0_el1: !0,
            id_aa64mmfr1_el1: !0,
            id_aa64mmfr2_el1: !0,
            id_aa64mmfr3_el1: !0,
            id_aa64mmfr4_el1: !0,
            ..IdRegisters::default()
        }
    }

    #[test]
    fn what_the_guest_must_not_use_is_hidden() {
        let id = everything();
        let pfr0 = read(4, 0, &id);
        for (name, shift) in [("EL2", 8), ("EL3", 12), ("RAS", 28), ("SVE", 32), ("MPAM", 40), ("AMU", 44)] {
            assert_eq!(field(pfr0, shift), 0, "{name}");
        }
        assert_eq!(pfr0 & 0xff, 0x11, "no AArch32");
        assert_eq!(field(pfr0, 24), 1, "GICv3, and not GICv4.1");
        assert_eq!(field(pfr0, 56), 1, "SCXTNUM is trapped");
        let pfr1 = read(4, 1, &id);
        assert_eq!((field(pfr1, 8), field(pfr1, 24), field(pfr1, 44)), (0, 0, 0), "MTE, SME, GCS");
        assert_eq!(read(5, 0, &id), 6, "no PMU, no SPE, no trace");
        assert_eq!(field(read(6, 1, &id), 60), 0, "LS64");
        assert_eq!(field(read(6, 2, &id), 0), 0, "WFxT");
        let mmfr0 = read(7, 0, &id);
        assert_eq!((field(mmfr0, 56), field(mmfr0, 60)), (0, 0), "FGT, ECV");
        let mmfr1 = read(7, 1, &id);
        assert_eq!((field(mmfr1, 8), field(mmfr1, 16), field(mmfr1, 40)), (0, 0, 0), "VHE, LOR, HCX");
        let mmfr2 = read(7, 2, &id);
        assert_eq!((field(mmfr2, 24), field(mmfr2, 40)), (0, 0), "NV, FWB");
        for (crm, op2) in [(4, 2), (4, 4), (4, 5), (5, 1), (6, 3), (7, 3), (7, 4), (1, 0), (2, 7), (3, 3)] {
            assert_eq!(read(crm, op2, &id), 0, "CRm {crm} op2 {op2}");
        }
    }

    #[test]
    fn what_the_guest_may_use_is_the_cpus_own() {
        let id = IdRegisters { id_aa64isar0_el1: 0x1021_1112_1021_2120, ..IdRegisters::default() };
        assert_eq!(read(6, 0, &id), 0x1021_1112_1021_2120 & !(0xf << 24));
    }

    #[test]
    fn the_address_size_reaches_all_of_the_guests_own_space() {
        let large = IdRegisters { id_aa64mmfr0_el1: 6, ..IdRegisters::default() };
        let register = SystemRegister::new(3, 0, 0, 7, 0);
        let sizes = [
            (32, 0),
            (33, 1),
            (36, 1),
            (37, 2),
            (39, 2),
            (40, 2),
            (41, 3),
            (42, 3),
            (43, 4),
            (44, 4),
            (45, 5),
            (48, 5),
        ];
        for (ipa_bits, expected) in sizes {
            assert_eq!(read_feature_register(register, &large, ipa_bits), expected, "{ipa_bits}");
        }
        let small = IdRegisters { id_aa64mmfr0_el1: 1, ..IdRegisters::default() };
        assert_eq!(read_feature_register(register, &small, 48), 1);
    }
}
