//! What waits to be flushed: descriptors that were taken away, gathered so that one flush does for all of them.

use abi::PhysAddr;

use crate::environment::Maintenance;
use crate::geometry::entry_size;
use crate::regime::{Regime, Scope};

/// No level: descriptors of several, or tables.
pub(crate) const MIXED_LEVELS: u8 = u8::MAX;
/// No level: no descriptor.
const NONE: u8 = u8::MAX - 1;

/// Descriptors that were taken away and not yet flushed: the smallest range that holds them all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unflushed {
    /// Offset of the first byte.
    start: u64,
    /// Offset past the last byte.
    end: u64,
    /// The level of all of them, where it is the same and none was a table; [`MIXED_LEVELS`] or [`NONE`] otherwise.
    level: u8,
}

impl Unflushed {
    /// Nothing to flush.
    pub(crate) const fn none() -> Self {
        Self { start: 0, end: 0, level: NONE }
    }

    /// Adds a descriptor of `level` that decided for the offsets from `start` to `end`, which come after all that were
    /// added before: a walk goes upwards.
    #[inline]
    pub(crate) fn add(&mut self, start: u64, end: u64, level: u8) {
        if self.level != level {
            if self.is_empty() {
                *self = Self { start, end, level };
                return;
            }
            self.level = MIXED_LEVELS;
        }
        self.end = end;
    }

    /// Adds the table of the offsets from `start` to `end`. What was added last may lie within.
    pub(crate) fn add_table(&mut self, start: u64, end: u64) {
        let first = if self.is_empty() { start } else { self.start.min(start) };
        *self = Self { start: first, end, level: MIXED_LEVELS };
    }

    /// True where there is nothing to flush.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.level == NONE
    }

    /// Offset past the last descriptor.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Flushes all of them, for the table at `root`. Afterwards no CPU uses them, and every CPU finds what was written
    /// before.
    #[inline(never)]
    pub(crate) fn flush<R: Regime, M: Maintenance + ?Sized>(&mut self, regime: &R, maintenance: &M, root: PhysAddr) {
        if self.is_empty() {
            return;
        }
        let Self { start, end, level } = core::mem::replace(self, Self::none());
        let input = regime.geometry().input(start);
        let size = end - start;
        let scope = match Some(level).filter(|level| *level != MIXED_LEVELS) {
            Some(level) if size == entry_size(level) => Scope::Leaf { input, level },
            level => Scope::Range { input, size, level },
        };
        regime.invalidate(maintenance, root, scope);
    }
}
