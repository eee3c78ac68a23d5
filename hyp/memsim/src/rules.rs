//! What the architecture says about a descriptor and its replacement, read off the bits alone and independent of the
//! code under test (Arm ARM D8.3 and D8.16.1).

use crate::tree::TreeKind;

/// Output or next-table address, bits 47:12.
pub(crate) const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

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

/// The rights of a leaf, as a set of bits: write, read, EL1 execute, EL0 execute, EL0 access.
fn rights(kind: TreeKind, value: u64) -> u8 {
    let bit = |position: u32| value >> position & 1 != 0;
    let flags = match kind {
        TreeKind::Stage2 { .. } => {
            let execute = value >> 53 & 0b11;
            [bit(7), bit(6), matches!(execute, 0b00 | 0b11), matches!(execute, 0b00 | 0b01), false]
        }
        TreeKind::El2 => [!bit(7), true, !bit(54), false, false],
        TreeKind::El1 { .. } => [!bit(7), true, !bit(53), !bit(54), bit(6)],
    };
    flags.into_iter().fold(0, |set, flag| set << 1 | u8::from(flag))
}

/// True where `old` allows something that `new` does not.
pub(crate) fn takes_rights(kind: TreeKind, old: u64, new: u64) -> bool {
    rights(kind, old) & !rights(kind, new) != 0
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
