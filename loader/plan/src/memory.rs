//! Sets of physical ranges: RAM as banks, and what is reserved.

use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use alloc::vec::Vec;
use core::fmt;

/// Sorts `ranges`, drops the empty ones, and joins those that touch or overlap.
pub fn merge(mut ranges: Vec<PhysRange>) -> Vec<PhysRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<PhysRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// RAM as banks: `ranges` cut off at `limit`, merged, shrunk to whole 4 KiB pages.
pub fn banks(ranges: &[PhysRange], limit: PhysAddr) -> Vec<PhysRange> {
    let below = ranges.iter().map(|range| PhysRange { start: range.start, end: range.end.min(limit) }).collect();
    merge(below)
        .into_iter()
        .filter_map(|bank| {
            let start = bank.start.align_up(PAGE_SIZE)?;
            let end = bank.end.align_down(PAGE_SIZE);
            (start < end).then_some(PhysRange { start, end })
        })
        .collect()
}

/// Bytes in all of `ranges`, which must be disjoint.
pub fn total(ranges: &[PhysRange]) -> u64 {
    ranges.iter().fold(0, |sum, range| sum.saturating_add(range.size()))
}

/// A number of bytes, shown in the largest unit that keeps it readable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        let (unit, name) = match self.0 {
            0..KIB => return write!(f, "{} bytes", self.0),
            KIB..MIB => (KIB, "KiB"),
            MIB..GIB => (MIB, "MiB"),
            GIB.. => (GIB, "GiB"),
        };
        let tenth = (self.0 % unit) / (unit / 10);
        match tenth.min(9) {
            0 => write!(f, "{} {name}", self.0 / unit),
            tenth => write!(f, "{}.{tenth} {name}", self.0 / unit),
        }
    }
}
