//! What the architecture says about a descriptor and its replacement, read off the bits alone and independent of the
//! code under test (Arm ARM D8.3 and D8.16.1).

use crate::tree::{Tree, TreeKind};

/// Output or next-table address, bits 47:12.
pub(crate) const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// AF, the access flag.
pub(crate) const ACCESS_FLAG: u64 = 1 << 10;

/// The meaning of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meaning {
    /// Faults.
    Invalid,
    /// A table of the next level at this address.
    Table(u64),
    /// A block or a page at this address.
    Leaf(u64),
    /// Valid bit set in an encoding that does not exist at this level.
    Reserved,
}

pub(crate) fn meaning(value: u64, level: u8) -> Meaning {
    match (value & 0b11, level) {
        (0b00 | 0b10, _) => Meaning::Invalid,
        (0b11, 0..=2) => Meaning::Table(value & ADDRESS),
        (0b11, 3) | (0b01, 1 | 2) => Meaning::Leaf(value & ADDRESS),
        _ => Meaning::Reserved,
    }
}

/// Why `new` may not overwrite `old` directly, both valid; `None` where it may.
pub(crate) fn conflict(kind: TreeKind, level: u8, old: u64, new: u64) -> Option<&'static str> {
    match (meaning(old, level), meaning(new, level)) {
        (Meaning::Leaf(_), Meaning::Leaf(_)) => {}
        (Meaning::Table(before), Meaning::Table(after)) if before == after => return None,
        _ => return Some("a table is replaced, or replaces something"),
    }
    let difference = old ^ new;
    let memory_type = match kind {
        TreeKind::Stage2 { .. } => 0b1111 << 2,
        TreeKind::El2 | TreeKind::El1 { .. } => 0b111 << 2,
    };
    if difference & ADDRESS != 0 {
        Some("the output address changes")
    } else if difference & memory_type != 0 {
        Some("the memory type changes")
    } else if difference & 0b11 << 8 != 0 {
        Some("the shareability changes")
    } else if difference & 1 << 52 != 0 {
        Some("the contiguous bit changes")
    } else if matches!(kind, TreeKind::El1 { .. }) && difference & 1 << 11 != 0 {
        Some("global and not global change")
    } else {
        None
    }
}

/// What a leaf may allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Right {
    Write,
    Read,
    /// By EL1, or EL2 in its own regime.
    Execute,
    ExecuteAtEl0,
    AccessAtEl0,
}

const RIGHTS: [Right; 5] = [Right::Write, Right::Read, Right::Execute, Right::ExecuteAtEl0, Right::AccessAtEl0];

/// True where a leaf allows this.
pub(crate) fn allows(kind: TreeKind, value: u64, right: Right) -> bool {
    let bit = |position: u32| value >> position & 1 != 0;
    match kind {
        TreeKind::Stage2 { .. } => match right {
            Right::Write => bit(7),
            Right::Read => bit(6),
            Right::Execute => matches!(value >> 53 & 0b11, 0b00 | 0b11),
            Right::ExecuteAtEl0 => matches!(value >> 53 & 0b11, 0b00 | 0b01),
            Right::AccessAtEl0 => false,
        },
        TreeKind::El2 => match right {
            Right::Write => !bit(7),
            Right::Read => true,
            Right::Execute => !bit(54),
            Right::ExecuteAtEl0 | Right::AccessAtEl0 => false,
        },
        TreeKind::El1 { .. } => match right {
            Right::Write => !bit(7),
            Right::Read => true,
            // What EL0 may write is never executable at EL1.
            Right::Execute => !bit(53) && (bit(7) || !bit(6)),
            Right::ExecuteAtEl0 => !bit(54),
            Right::AccessAtEl0 => bit(6),
        },
    }
}

/// True where `old` allows something that `new` does not: also where the access flag goes, since the next access is to be
/// noticed then.
pub(crate) fn takes_rights(kind: TreeKind, old: u64, new: u64) -> bool {
    let must_fault = old & !new & ACCESS_FLAG != 0;
    must_fault || RIGHTS.into_iter().any(|right| allows(kind, old, right) && !allows(kind, new, right))
}

/// True where somebody may fetch instructions through a leaf.
pub(crate) fn is_executable(kind: TreeKind, value: u64) -> bool {
    allows(kind, value, Right::Execute) || allows(kind, value, Right::ExecuteAtEl0)
}

/// True where an access through a leaf may go to memory past the caches: any type but write-back, and at stage 2 any that
/// leaves the choice to stage 1.
pub(crate) fn may_bypass_caches(tree: &Tree, value: u64) -> bool {
    let field = value >> 2;
    match tree.kind {
        TreeKind::Stage2 { .. } => !tree.forced_write_back || field & 0b1111 != 0b0110,
        // Index 0 of MAIR_ELx is the only write-back type of pgtable's.
        TreeKind::El2 | TreeKind::El1 { .. } => field & 0b111 != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGE2: TreeKind = TreeKind::Stage2 { vmid: 1 };

    #[test]
    fn changes_that_need_a_break_are_told_from_those_that_do_not() {
        let old = 0x8000_0000 | 0x7fd;
        for (bit, conflicts) in [
            (2, true),
            (5, true),
            (6, false),
            (7, false),
            (8, true),
            (9, true),
            (10, false),
            (21, true),
            (47, true),
            (51, false),
            (52, true),
            (53, false),
            (54, false),
            (55, false),
            (58, false),
        ] {
            assert_eq!(conflict(STAGE2, 2, old, old ^ 1 << bit).is_some(), conflicts, "bit {bit}");
        }
        assert!(conflict(TreeKind::El1 { asid: 0 }, 3, 0x703, 0xf03).is_some());
        assert!(conflict(STAGE2, 2, old, old | 2).is_some());
        assert!(conflict(STAGE2, 2, 0x1003, 0x2003).is_some());
        assert!(conflict(STAGE2, 2, 0x1003, 0x1003 | 1 << 60).is_none());
    }

    #[test]
    fn an_address_change_needs_a_break_with_and_without_the_access_flag() {
        for access_flag in [0, 1 << 10] {
            assert!(conflict(STAGE2, 3, 0x1003 | access_flag, 0x2003 | access_flag).is_some());
        }
    }

    #[test]
    fn rights_that_are_taken_away_are_noticed() {
        let all = 0b11 << 6;
        assert!(takes_rights(STAGE2, all, 0b01 << 6));
        assert!(takes_rights(STAGE2, all, 0b10 << 6));
        assert!(takes_rights(STAGE2, all, all | 0b10 << 53));
        assert!(takes_rights(STAGE2, all | 0b11 << 53, all | 0b01 << 53));
        assert!(!takes_rights(STAGE2, all | 0b10 << 53, all));
        assert!(!takes_rights(STAGE2, 0, all));
        assert!(takes_rights(TreeKind::El2, 0, 1 << 7));
        assert!(takes_rights(TreeKind::El2, 0, 1 << 54));
        assert!(!takes_rights(TreeKind::El2, 1 << 7 | 1 << 54, 0));
        assert!(takes_rights(TreeKind::El1 { asid: 0 }, 1 << 6, 0));
        assert!(takes_rights(TreeKind::El1 { asid: 0 }, 0, 1 << 53));
    }
}
