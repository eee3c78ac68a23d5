//! Finding memory that nothing uses yet.

use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use alloc::vec::Vec;

/// RAM, and the parts of it that are spoken for.
#[derive(Clone, Debug)]
pub struct FreeMemory<'a> {
    banks: &'a [PhysRange],
    busy: Vec<PhysRange>,
}

impl<'a> FreeMemory<'a> {
    /// All of `banks`, which must be sorted, disjoint and 4 KiB aligned, with nothing taken.
    pub fn new(banks: &'a [PhysRange]) -> Self {
        Self { banks, busy: Vec::new() }
    }

    /// Marks `range` as used, whole pages of it.
    pub fn take(&mut self, range: PhysRange) {
        if !range.is_empty() {
            let end = range.end.align_up(PAGE_SIZE).unwrap_or(range.end);
            self.busy.push(PhysRange { start: range.start.align_down(PAGE_SIZE), end });
        }
    }

    /// True where all of `range` is RAM of one bank and none of it is used.
    pub fn is_free(&self, range: &PhysRange) -> bool {
        self.banks.iter().any(|bank| bank.contains_range(range)) && self.obstacle(range).is_none()
    }

    /// The lowest free range of `size` bytes that starts `offset` bytes above a multiple of `alignment` (a power of
    /// two).
    pub fn lowest(&self, size: u64, alignment: u64, offset: u64) -> Option<PhysRange> {
        self.banks.iter().find_map(|bank| {
            let mut from = bank.start;
            loop {
                let start = at_offset(from, alignment, offset)?;
                let candidate = PhysRange::from_size(start, size)?;
                if candidate.end > bank.end {
                    return None;
                }
                match self.obstacle(&candidate) {
                    None => return Some(candidate),
                    Some(busy) => from = busy.end,
                }
            }
        })
    }

    /// The highest free range of `size` bytes (whole pages).
    pub fn highest(&self, size: u64) -> Option<PhysRange> {
        self.banks.iter().rev().find_map(|bank| {
            let mut end = bank.end;
            loop {
                let start = PhysAddr::new(end.raw().checked_sub(size)?);
                let candidate = PhysRange { start, end };
                if start < bank.start {
                    return None;
                }
                match self.obstacle(&candidate) {
                    None => return Some(candidate),
                    Some(busy) => end = busy.start,
                }
            }
        })
    }

    fn obstacle(&self, range: &PhysRange) -> Option<&PhysRange> {
        self.busy.iter().find(|busy| busy.overlaps(range))
    }
}

/// The lowest address not below `from` that lies `offset` above a multiple of `alignment`.
fn at_offset(from: PhysAddr, alignment: u64, offset: u64) -> Option<PhysAddr> {
    let base = PhysAddr::new(from.raw().saturating_sub(offset)).align_up(alignment)?;
    base.checked_add(offset)
}
