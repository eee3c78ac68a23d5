//! Builds tables that nothing refers to yet, to take the place of a descriptor.

use abi::PhysAddr;

use crate::bits;
use crate::change::{Action, Pass};
use crate::descriptor::{address, leaf, table};
use crate::environment::TableFrames;
use crate::error::TableError;
use crate::geometry::{ENTRIES, LAST_LEVEL, entry_size};
use crate::reserve::Reserve;
use crate::walker::{Entry, slot, slot_after};

/// What tables are built of, and for.
pub(crate) struct Builder<'a, F: ?Sized> {
    pub(crate) frames: &'a F,
    /// Frames for the tables: as many as the action takes.
    pub(crate) reserve: &'a mut Reserve,
    pub(crate) action: Action,
    pub(crate) pass: Pass,
}

impl<F: TableFrames + ?Sized> Builder<'_, F> {
    /// The table that takes the place of `entry`, which is no table: what it maps or notes, with the part in the walk's
    /// range changed or, in the pass that only breaks, left out.
    pub(crate) fn replacement(&mut self, entry: &Entry) -> Result<PhysAddr, TableError> {
        self.table(entry.level + 1, entry.base, entry.start, entry.end, entry.raw)
    }

    /// The table of `level` that takes the place of a descriptor `old` that decides for `base` on, changed from `start` to
    /// `end`.
    fn table(&mut self, level: u8, base: u64, start: u64, end: u64, old: u64) -> Result<PhysAddr, TableError> {
        // The plan has counted every table, so the reserve ends early only where the tables changed under our hands.
        let page = self.reserve.take(self.frames).ok_or(TableError::Corrupt)?;
        let size = entry_size(level);
        let is_leaf = old & bits::VALID != 0;
        let old_delta = address(old).raw().wrapping_sub(base);
        let kept = |offset: u64| if is_leaf { leaf(offset.wrapping_add(old_delta), old, level) } else { old };
        let slot_of = |offset: u64| slot(page, (offset - base) / size);

        let mut offset = start & !(size - 1);
        self.fill(slot_of(base), (offset - base) / size, kept(base), size);
        while offset < end {
            let (from, to) = (start.max(offset), end.min(offset + size));
            let target = match self.pass {
                _ if to - from != size => None,
                Pass::Break => Some(0),
                Pass::Make => self.action.target(offset, level, kept(offset)),
            };
            if let Some(first) = target {
                // All that are wholly covered have a target then.
                let whole_end = end & !(size - 1);
                self.fill(slot_of(offset), (whole_end - offset) / size, first, size);
                offset = whole_end;
            } else if level >= LAST_LEVEL {
                return Err(TableError::Corrupt);
            } else {
                let child = self.table(level + 1, offset, from, to, kept(offset))?;
                self.frames.write(slot_of(offset), table(child));
                offset += size;
            }
        }
        self.fill(slot_of(offset), ENTRIES - (offset - base) / size, kept(offset), size);
        Ok(page)
    }

    /// Writes `count` descriptors of a zeroed table that nothing refers to: `first`, and those that follow it linearly,
    /// each leaf's output `size` bytes after the one before.
    #[inline(never)]
    fn fill(&self, mut slot: PhysAddr, count: u64, first: u64, size: u64) {
        if first == 0 {
            return;
        }
        let step = if first & bits::VALID != 0 { size } else { 0 };
        let mut value = first;
        for _ in 0..count {
            self.frames.write(slot, value);
            slot = slot_after(slot);
            value = value.wrapping_add(step);
        }
    }
}
