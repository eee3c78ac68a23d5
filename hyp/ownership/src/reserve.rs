//! Table frames taken before a transition begins, so that it cannot run out in the middle.

use crate::environment::Environment;
use crate::page_cache::{PageCache, forward_to_environment};
use abi::{Error, PhysAddr, PhysRange};
use pgtable::geometry::{LAST_LEVEL, entry_size};
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};

/// How many new tables it takes to change the entries of `start..end` alone, where `first_level` and `last_level` are
/// the levels of the leaves that now decide for the first and the last byte.
///
/// A table of level n is missing where the leaf stands above n and the range begins or ends within the span that the
/// table would cover. Level 0 holds no leaves that map.
#[inline]
pub(crate) fn missing_tables(start: u64, end: u64, first_level: u8, last_level: u8) -> usize {
    if first_level >= LAST_LEVEL && last_level >= LAST_LEVEL {
        return 0;
    }
    missing_below(start, end, first_level, last_level)
}

/// As [`missing_tables`], where some may be.
fn missing_below(start: u64, end: u64, first_level: u8, last_level: u8) -> usize {
    let mut missing = 0;
    for level in 1..=LAST_LEVEL {
        let span = entry_size(level - 1);
        let inside = |boundary: u64| level == 1 || !boundary.is_multiple_of(span);
        let at_start = first_level < level && inside(start);
        let one_table = start / span == end.saturating_sub(1) / span;
        let at_end = last_level < level && inside(end) && !(one_table && at_start);
        missing += usize::from(at_start) + usize::from(at_end);
    }
    missing
}

/// An environment with frames put aside. Tables are built from these and no others; what is left goes back when this
/// is dropped.
pub(crate) struct ReservedFrames<'a, E: Environment> {
    env: &'a mut E,
    frames: PageCache,
}

impl<'a, E: Environment> ReservedFrames<'a, E> {
    /// An environment with no frames yet.
    pub(crate) fn new(env: &'a mut E) -> Self {
        Self { env, frames: PageCache::new() }
    }

    /// Puts `count` more frames aside. Refused where there are not that many.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), Error> {
        for _ in 0..count {
            let frame = self.env.allocate().ok_or(Error::OutOfMemory)?;
            self.frames.push(self.env, frame);
        }
        Ok(())
    }

    /// The environment within, for what is not done with the frames that were put aside.
    pub(crate) fn environment(&mut self) -> &mut E {
        self.env
    }
}

impl<E: Environment> Drop for ReservedFrames<'_, E> {
    fn drop(&mut self) {
        while let Some(frame) = self.frames.pop(self.env) {
            self.env.free(frame);
        }
    }
}

impl<E: Environment> TableFrames for ReservedFrames<'_, E> {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let frame = self.frames.pop(self.env)?;
        // All but the list's link is zero since it was allocated.
        self.env.write(frame, 0);
        Some(frame)
    }

    fn free(&mut self, frame: PhysAddr) {
        self.env.free(frame);
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.env.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.env.write(descriptor, value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.env.compare_exchange(descriptor, current, new)
    }
}

forward_to_environment!(ReservedFrames);

#[cfg(test)]
mod tests {
    use super::missing_tables;

    const PAGE: u64 = 4 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn tables_are_missing_only_where_the_range_cuts_a_leaf() {
        for (start, end, first, last, expected) in [
            (0, GIB, 1, 1, 0),
            (0, 2 * MIB, 2, 2, 0),
            (0, PAGE, 3, 3, 0),
            (0, PAGE, 2, 2, 1),
            (0, PAGE, 1, 1, 2),
            (0, PAGE, 0, 0, 3),
            (0, 2 * MIB, 1, 1, 1),
            (2 * MIB, 4 * MIB, 1, 1, 1),
            (2 * MIB - PAGE, 2 * MIB + PAGE, 2, 2, 2),
            (2 * MIB - PAGE, 2 * MIB + PAGE, 3, 2, 1),
            (2 * MIB - PAGE, 2 * MIB + PAGE, 1, 1, 3),
            (GIB - PAGE, GIB + PAGE, 1, 1, 4),
            (GIB - PAGE, GIB + 2 * MIB, 1, 1, 3),
            (0, GIB, 0, 0, 1),
            (0, 2 * GIB, 0, 0, 1),
            (0, 512 * GIB, 0, 0, 1),
            (512 * GIB - PAGE, 512 * GIB + PAGE, 0, 0, 6),
            (PAGE, 2 * MIB, 2, 2, 1),
            (PAGE, 6 * MIB, 2, 2, 1),
        ] {
            assert_eq!(missing_tables(start, end, first, last), expected, "{start:#x}..{end:#x} at {first}, {last}");
        }
    }
}
