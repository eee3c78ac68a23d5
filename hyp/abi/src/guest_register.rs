//! The system registers and system instructions that a guest finds, and what becomes of an access to each: one table,
//! which hyp obeys when an access traps, and which tests walk. What is not in it is UNDEFINED.

use crate::system_register::SystemRegister;
use Directions::{Both, Read, Write};

/// What becomes of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The instruction is UNDEFINED.
    Undefined,
    /// It does not trap: on a CPU that has it, the guest has its own. Which those are follows from EL2's trap controls.
    Own,
    /// Its own as well, from its first use of pointer authentication on, which traps: a half of a key.
    PointerAuthenticationKey,
    /// Reads as zero, and ignores writes.
    Zero,
    /// A register of the feature ID space, of which a guest sees chosen fields.
    Feature,
    /// CTR_EL0: the CPU's.
    CacheType,
    /// CLIDR_EL1: one level.
    CacheLevels,
    /// CSSELR_EL1: keeps what is written, and selects nothing.
    CacheSelection,
    /// CCSIDR_EL1: one set, one way, lines as the CPU has them.
    CacheGeometry,
    /// OSLSR_EL1: the OS lock is there, and open.
    OsLockStatus,
    /// ICC_SRE_EL1: the CPU interface by system registers, for good.
    InterfaceEnable,
    /// ICC_SGI1R_EL1: sends an SGI.
    SendSgi,
    /// ICC_SGI0R_EL1 and ICC_ASGI1R_EL1: SGIs that nobody takes.
    LostSgi,
    /// CNTP_CTL_EL0 of a timer that hyp emulates.
    TimerControl,
    /// CNTP_CVAL_EL0 of it.
    TimerCompare,
    /// CNTP_TVAL_EL0 of it.
    TimerValue,
}

/// Which accesses there are. The others are UNDEFINED.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Directions {
    /// MRS.
    Read,
    /// MSR, or a system instruction.
    Write,
    /// MRS and MSR.
    Both,
}

/// Registers with a policy in common: all with CRm and op2 from the first to the last of each.
struct Row {
    op0: u8,
    op1: u8,
    crn: u8,
    crm: (u8, u8),
    op2: (u8, u8),
    directions: Directions,
    policy: Policy,
}

/// A row of one register.
const fn one(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8, directions: Directions, policy: Policy) -> Row {
    Row { op0, op1, crn, crm: (crm, crm), op2: (op2, op2), directions, policy }
}

/// A row of several.
const fn range(encoding: (u8, u8, u8), crm: (u8, u8), op2: (u8, u8), directions: Directions, policy: Policy) -> Row {
    Row { op0: encoding.0, op1: encoding.1, crn: encoding.2, crm, op2, directions, policy }
}

/// The table.
const TABLE: &[Row] = &[
    // System instructions: maintenance by set and way reaches one CPU's own caches at best, and a guest does not know
    // which CPU it is on; what the host may see was cleaned to memory when the page was handed over.
    one(1, 0, 7, 6, 2, Write, Policy::Zero),  // DC ISW
    one(1, 0, 7, 10, 2, Write, Policy::Zero), // DC CSW
    one(1, 0, 7, 14, 2, Write, Policy::Zero), // DC CISW
    // All others of caches, translations and TLBs that EL1 has.
    range((1, 0, 7), (0, 5), (0, 7), Write, Policy::Own),
    range((1, 0, 7), (6, 6), (0, 1), Write, Policy::Own),
    range((1, 0, 7), (6, 6), (3, 7), Write, Policy::Own),
    range((1, 0, 7), (7, 9), (0, 7), Write, Policy::Own),
    range((1, 0, 7), (10, 10), (0, 1), Write, Policy::Own),
    range((1, 0, 7), (10, 10), (3, 7), Write, Policy::Own),
    range((1, 0, 7), (11, 13), (0, 7), Write, Policy::Own),
    range((1, 0, 7), (14, 14), (0, 1), Write, Policy::Own),
    range((1, 0, 7), (14, 14), (3, 7), Write, Policy::Own),
    range((1, 0, 7), (15, 15), (0, 7), Write, Policy::Own),
    range((1, 0, 8), (0, 15), (0, 7), Write, Policy::Own),
    range((1, 0, 9), (0, 15), (0, 7), Write, Policy::Own),
    range((1, 3, 7), (1, 15), (0, 7), Write, Policy::Own),
    // Debug.
    one(2, 0, 0, 0, 2, Both, Policy::Zero),                // OSDTRRX_EL1
    one(2, 0, 0, 2, 0, Both, Policy::Zero),                // MDCCINT_EL1
    one(2, 0, 0, 2, 2, Both, Policy::Zero),                // MDSCR_EL1
    one(2, 0, 0, 3, 2, Both, Policy::Zero),                // OSDTRTX_EL1
    one(2, 0, 0, 6, 2, Both, Policy::Zero),                // OSECCR_EL1
    range((2, 0, 0), (0, 15), (4, 7), Both, Policy::Zero), // DBGBVR, DBGBCR, DBGWVR, DBGWCR
    one(2, 0, 1, 0, 0, Both, Policy::Zero),                // MDRAR_EL1
    one(2, 0, 1, 0, 4, Both, Policy::Zero),                // OSLAR_EL1
    one(2, 0, 1, 1, 4, Read, Policy::OsLockStatus),        // OSLSR_EL1
    one(2, 0, 1, 3, 4, Both, Policy::Zero),                // OSDLR_EL1
    one(2, 0, 1, 4, 4, Both, Policy::Zero),                // DBGPRCR_EL1
    one(2, 0, 7, 8, 6, Both, Policy::Zero),                // DBGCLAIMSET_EL1
    one(2, 0, 7, 9, 6, Both, Policy::Zero),                // DBGCLAIMCLR_EL1
    one(2, 0, 7, 14, 6, Both, Policy::Zero),               // DBGAUTHSTATUS_EL1
    one(2, 3, 0, 1, 0, Both, Policy::Zero),                // MDCCSR_EL0
    one(2, 3, 0, 4, 0, Both, Policy::Zero),                // DBGDTR_EL0
    one(2, 3, 0, 5, 0, Both, Policy::Zero),                // DBGDTRRX_EL0, DBGDTRTX_EL0
    // Identity.
    one(3, 0, 0, 0, 0, Read, Policy::Own),  // MIDR_EL1
    one(3, 0, 0, 0, 5, Read, Policy::Own),  // MPIDR_EL1
    one(3, 0, 0, 0, 6, Read, Policy::Zero), // REVIDR_EL1
    range((3, 0, 0), (1, 7), (0, 7), Read, Policy::Feature),
    one(3, 1, 0, 0, 0, Read, Policy::CacheGeometry),  // CCSIDR_EL1
    one(3, 1, 0, 0, 1, Read, Policy::CacheLevels),    // CLIDR_EL1
    one(3, 1, 0, 0, 7, Read, Policy::Zero),           // AIDR_EL1
    one(3, 2, 0, 0, 0, Both, Policy::CacheSelection), // CSSELR_EL1
    one(3, 3, 0, 0, 1, Read, Policy::CacheType),      // CTR_EL0
    one(3, 3, 0, 0, 7, Read, Policy::Own),            // DCZID_EL0
    // Control, translation, exceptions.
    one(3, 0, 1, 0, 0, Both, Policy::Own),               // SCTLR_EL1
    one(3, 0, 1, 0, 1, Both, Policy::Zero),              // ACTLR_EL1
    one(3, 0, 1, 0, 2, Both, Policy::Own),               // CPACR_EL1
    range((3, 0, 2), (0, 0), (0, 2), Both, Policy::Own), // TTBR0_EL1, TTBR1_EL1, TCR_EL1
    range((3, 0, 2), (1, 2), (0, 3), Both, Policy::PointerAuthenticationKey),
    range((3, 0, 2), (3, 3), (0, 1), Both, Policy::PointerAuthenticationKey),
    range((3, 0, 4), (0, 0), (0, 1), Both, Policy::Own), // SPSR_EL1, ELR_EL1
    one(3, 0, 4, 1, 0, Both, Policy::Own),               // SP_EL0
    one(3, 0, 4, 2, 0, Both, Policy::Own),               // SPSel
    one(3, 0, 4, 2, 2, Read, Policy::Own),               // CurrentEL
    range((3, 0, 4), (2, 2), (3, 4), Both, Policy::Own), // PAN, UAO
    one(3, 0, 4, 3, 0, Both, Policy::Own),               // ALLINT
    range((3, 0, 5), (1, 1), (0, 1), Both, Policy::Own), // AFSR0_EL1, AFSR1_EL1
    one(3, 0, 5, 2, 0, Both, Policy::Own),               // ESR_EL1
    one(3, 0, 6, 0, 0, Both, Policy::Own),               // FAR_EL1
    one(3, 0, 7, 4, 0, Both, Policy::Own),               // PAR_EL1
    one(3, 0, 10, 2, 0, Both, Policy::Own),              // MAIR_EL1
    one(3, 0, 10, 3, 0, Both, Policy::Own),              // AMAIR_EL1
    one(3, 0, 12, 0, 0, Both, Policy::Own),              // VBAR_EL1
    one(3, 0, 12, 1, 0, Read, Policy::Own),              // ISR_EL1
    one(3, 0, 12, 1, 1, Both, Policy::Own),              // DISR_EL1
    one(3, 0, 13, 0, 1, Both, Policy::Own),              // CONTEXTIDR_EL1
    one(3, 0, 13, 0, 4, Both, Policy::Own),              // TPIDR_EL1
    one(3, 0, 14, 1, 0, Both, Policy::Own),              // CNTKCTL_EL1
    // The CPU interface.
    one(3, 0, 4, 6, 0, Both, Policy::Own),                // ICC_PMR_EL1
    one(3, 0, 12, 8, 0, Read, Policy::Own),               // ICC_IAR0_EL1
    one(3, 0, 12, 8, 1, Write, Policy::Own),              // ICC_EOIR0_EL1
    one(3, 0, 12, 8, 2, Read, Policy::Own),               // ICC_HPPIR0_EL1
    range((3, 0, 12), (8, 8), (3, 7), Both, Policy::Own), // ICC_BPR0_EL1, ICC_AP0R_EL1
    range((3, 0, 12), (9, 9), (0, 3), Both, Policy::Own), // ICC_AP1R_EL1
    one(3, 0, 12, 9, 5, Read, Policy::Own),               // ICC_NMIAR1_EL1
    one(3, 0, 12, 11, 1, Write, Policy::Own),             // ICC_DIR_EL1
    one(3, 0, 12, 11, 3, Read, Policy::Own),              // ICC_RPR_EL1
    one(3, 0, 12, 11, 5, Write, Policy::SendSgi),         // ICC_SGI1R_EL1
    range((3, 0, 12), (11, 11), (6, 7), Write, Policy::LostSgi),
    one(3, 0, 12, 12, 0, Read, Policy::Own),                // ICC_IAR1_EL1
    one(3, 0, 12, 12, 1, Write, Policy::Own),               // ICC_EOIR1_EL1
    one(3, 0, 12, 12, 2, Read, Policy::Own),                // ICC_HPPIR1_EL1
    range((3, 0, 12), (12, 12), (3, 4), Both, Policy::Own), // ICC_BPR1_EL1, ICC_CTLR_EL1
    one(3, 0, 12, 12, 5, Both, Policy::InterfaceEnable),    // ICC_SRE_EL1
    range((3, 0, 12), (12, 12), (6, 7), Both, Policy::Own), // ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1
    // What EL0 has.
    range((3, 3, 2), (4, 4), (0, 1), Read, Policy::Own), // RNDR, RNDRRS
    range((3, 3, 4), (2, 2), (0, 1), Both, Policy::Own), // NZCV, DAIF
    range((3, 3, 4), (2, 2), (5, 7), Both, Policy::Own), // DIT, SSBS, TCO
    range((3, 3, 4), (4, 4), (0, 1), Both, Policy::Own), // FPCR, FPSR
    range((3, 3, 13), (0, 0), (2, 3), Both, Policy::Own), // TPIDR_EL0, TPIDRRO_EL0
    // Time.
    range((3, 3, 14), (0, 0), (0, 2), Read, Policy::Own), // CNTFRQ_EL0, CNTPCT_EL0, CNTVCT_EL0
    range((3, 3, 14), (0, 0), (5, 6), Read, Policy::Own), // CNTPCTSS_EL0, CNTVCTSS_EL0
    one(3, 3, 14, 2, 0, Both, Policy::TimerValue),        // CNTP_TVAL_EL0
    one(3, 3, 14, 2, 1, Both, Policy::TimerControl),      // CNTP_CTL_EL0
    one(3, 3, 14, 2, 2, Both, Policy::TimerCompare),      // CNTP_CVAL_EL0
    range((3, 3, 14), (3, 3), (0, 2), Both, Policy::Own), // CNTV_TVAL_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0
];

/// Encodings with op0, op1 and CRn in common: a policy for each op2, CRm and direction.
type Group = [Policy; 256];

/// How many values op0, op1 and CRn have together.
const PREFIXES: usize = 512;

/// The number that op0, op1 and CRn make. The order is that of the fields of ESR_EL2.ISS, from which it takes least.
#[inline(always)]
const fn prefix(register: SystemRegister) -> usize {
    let iss = register.iss();
    (iss >> 20 & 0b11) as usize * 128 + (iss >> 10 & 0x7f) as usize
}

/// The number that op2, CRm and the direction make, likewise.
#[inline(always)]
const fn rest(register: SystemRegister, is_read: bool) -> usize {
    let iss = register.iss() | is_read as u64;
    (iss >> 17 & 0b111) as usize * 32 + (iss & 0x1f) as usize
}

/// Where each prefix has its group; the first is that of all that the table does not name.
const NUMBERED: [u8; PREFIXES] = {
    let mut index = [0; PREFIXES];
    let mut groups = 0;
    let mut row = 0;
    while row < TABLE.len() {
        let prefix = prefix(first(&TABLE[row]));
        if index[prefix] == 0 {
            groups += 1;
            index[prefix] = groups;
        }
        row += 1;
    }
    index
};

/// A row's first register.
const fn first(row: &Row) -> SystemRegister {
    SystemRegister::new(row.op0, row.op1, row.crn, row.crm.0, row.op2.0)
}

/// How many groups there are.
const GROUP_COUNT: usize = {
    let mut most = 0;
    let mut prefix = 0;
    while prefix < PREFIXES {
        if NUMBERED[prefix] as usize > most {
            most = NUMBERED[prefix] as usize;
        }
        prefix += 1;
    }
    most + 1
};

/// The table, spread out.
struct Spread {
    index: [u8; PREFIXES],
    groups: [Group; GROUP_COUNT],
}

static SPREAD: Spread = Spread { index: NUMBERED, groups: GROUPS };

/// The groups. Two rows for one access do not compile.
const GROUPS: [Group; GROUP_COUNT] = {
    let mut groups = [[Policy::Undefined; 256]; GROUP_COUNT];
    let mut number = 0;
    while number < TABLE.len() {
        let row = &TABLE[number];
        let group = &mut groups[NUMBERED[prefix(first(row))] as usize];
        let mut crm = row.crm.0;
        while crm <= row.crm.1 {
            let mut op2 = row.op2.0;
            while op2 <= row.op2.1 {
                let register = SystemRegister::new(row.op0, row.op1, row.crn, crm, op2);
                let [write, read] = [rest(register, false), rest(register, true)];
                assert!(matches!([group[write], group[read]], [Policy::Undefined, Policy::Undefined]));
                if !matches!(row.directions, Directions::Read) {
                    group[write] = row.policy;
                }
                if !matches!(row.directions, Directions::Write) {
                    group[read] = row.policy;
                }
                op2 += 1;
            }
            crm += 1;
        }
        number += 1;
    }
    groups
};

/// What becomes of an access: MRS where it is a read, else MSR or a system instruction.
#[inline(always)]
pub fn policy(register: SystemRegister, is_read: bool) -> Policy {
    let group = SPREAD.index.get(prefix(register)).map_or(0, |group| usize::from(*group));
    let group = SPREAD.groups.get(group);
    group.and_then(|group| group.get(rest(register, is_read))).map_or(Policy::Undefined, |policy| *policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_found_and_nothing_else_is() {
        let mut in_rows = 0;
        for register in (0..4).flat_map(SystemRegister::all) {
            let row = TABLE.iter().find(|row| {
                (row.op0, row.op1, row.crn) == (register.op0(), register.op1(), register.crn())
                    && (row.crm.0..=row.crm.1).contains(&register.crm())
                    && (row.op2.0..=row.op2.1).contains(&register.op2())
            });
            in_rows += usize::from(row.is_some());
            for (is_read, without) in [(true, Write), (false, Read)] {
                let expected = row.filter(|row| row.directions != without).map_or(Policy::Undefined, |row| row.policy);
                assert_eq!(policy(register, is_read), expected, "{register}");
            }
        }
        let named: usize = TABLE
            .iter()
            .map(|row| usize::from(row.crm.1 - row.crm.0 + 1) * usize::from(row.op2.1 - row.op2.0 + 1))
            .sum();
        assert_eq!(in_rows, named);
    }

    #[test]
    fn nothing_of_a_higher_exception_level_is_there() {
        for register in (0..4).flat_map(SystemRegister::all).filter(|register| register.op1() >= 4) {
            assert_eq!([false, true].map(|is_read| policy(register, is_read)), [Policy::Undefined; 2], "{register}");
        }
    }
}
