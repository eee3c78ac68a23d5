//! Memory that is left when the reserved parts are taken out.

use abi::{PAGE_SIZE, PhysAddr, PhysRange};

/// Calls `found` with each stretch of whole 4 KiB pages of `bank` that no range of `reserved` touches, lowest first.
pub fn free_pages(bank: PhysRange, reserved: &[PhysRange], mut found: impl FnMut(PhysRange)) {
    let bank_end = bank.end.align_down(PAGE_SIZE);
    let mut next = bank.start.align_up(PAGE_SIZE);
    while let Some(start) = next.filter(|start| *start < bank_end) {
        let rest = PhysRange { start, end: bank_end };
        let lowest = reserved.iter().filter(|hole| hole.overlaps(&rest)).min_by_key(|hole| hole.start);
        let end = lowest.map_or(bank_end, |hole| hole.start.max(start).align_down(PAGE_SIZE));
        if start < end {
            found(PhysRange { start, end });
        }
        next = lowest.and_then(|hole| hole.end.max(PhysAddr::new(start.raw() + 1)).align_up(PAGE_SIZE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn free(bank: (u64, u64), reserved: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let range = |&(start, end): &(u64, u64)| PhysRange { start: PhysAddr::new(start), end: PhysAddr::new(end) };
        let reserved: Vec<_> = reserved.iter().map(range).collect();
        let mut found = Vec::new();
        free_pages(range(&bank), &reserved, |part| found.push((part.start.raw(), part.end.raw())));
        found
    }

    #[test]
    fn what_is_reserved_is_left_out_with_the_whole_of_its_pages() {
        assert_eq!(free((0x1000, 0x9000), &[]), [(0x1000, 0x9000)]);
        assert_eq!(free((0x1000, 0x9000), &[(0x3001, 0x3002)]), [(0x1000, 0x3000), (0x4000, 0x9000)]);
        assert_eq!(free((0x1000, 0x9000), &[(0x0, 0x2000), (0x8fff, 0xa000)]), [(0x2000, 0x8000)]);
        assert_eq!(free((0x1000, 0x9000), &[(0x1000, 0x9000)]), []);
        assert_eq!(free((0x1800, 0x9800), &[]), [(0x2000, 0x9000)]);
    }

    #[test]
    fn reserved_ranges_may_overlap_touch_and_come_in_any_order() {
        let reserved = [(0x5000, 0x6000), (0x2000, 0x4000), (0x3000, 0x4800), (0x6000, 0x7000), (0x2000, 0x2000)];
        assert_eq!(free((0x1000, 0x9000), &reserved), [(0x1000, 0x2000), (0x7000, 0x9000)]);
    }

    #[test]
    fn the_top_of_the_address_space_ends_the_walk() {
        assert_eq!(free((!0x1fff, !0xfff), &[(!0x17ff, u64::MAX)]), []);
        assert_eq!(free((!0x2fff, !0xfff), &[(!0x1fff, u64::MAX)]), [(!0x2fff, !0x1fff)]);
    }
}
