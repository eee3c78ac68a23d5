//! What an operation wants a range to become, worked out without touching anything.

use abi::PhysAddr;

use crate::bits;
use crate::descriptor::{Kind, address, is_leaf, is_vacant_or_annotated, kind, leaf};
use crate::environment::TableFrames;
use crate::error::TableError;
use crate::geometry::{LAST_LEVEL, entry_size, may_be_leaf};
use crate::walker::{Entry, Step, Visitor};

/// Which pass over the range this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pass {
    /// Only break what stands in the way of a new mapping.
    Break,
    /// Bring the range to what it should be.
    Make,
}

/// The change of a range.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// Map linearly.
    Map {
        /// Output address of offset 0, modulo 2^64.
        delta: u64,
        /// Attribute bits.
        attributes: u64,
        /// No blocks.
        force_pages: bool,
        /// Annotations may be lost.
        replace_annotations: bool,
        /// Other mappings may be lost.
        replace_mappings: bool,
    },
    /// Make invalid, with this value of the descriptors: 0 or an annotation.
    Invalidate(u64),
    /// Change the attribute bits of what is mapped, which is all of the range.
    Protect(u64),
    /// Take the write right from what is mapped: keep these bits of a leaf, and set those.
    WriteProtect {
        /// Bits that stay.
        keep: u64,
        /// Bits that are set.
        set: u64,
    },
    /// Have no leaves above this level.
    Split(u8),
}

impl Action {
    /// The descriptor that a wholly covered entry at `offset` with value `old` is to have; `None` where it takes a
    /// table of smaller ones. Where `old` is linear too, the covered entries of one table have targets all or none, and
    /// each maps what follows the one before.
    #[inline]
    pub(crate) fn target(&self, offset: u64, level: u8, old: u64) -> Option<u64> {
        match *self {
            Self::Map { delta, attributes, force_pages, .. } => {
                let output = offset.wrapping_add(delta);
                let fits =
                    level == LAST_LEVEL || !force_pages && may_be_leaf(level) && output & (entry_size(level) - 1) == 0;
                fits.then(|| leaf(output, attributes, level))
            }
            Self::Invalidate(value) => Some(value),
            Self::Protect(attributes) => Some(leaf(address(old).raw(), attributes, level)),
            Self::WriteProtect { keep, set } => Some(old & keep | set),
            Self::Split(deepest) => (level >= deepest).then_some(old),
        }
    }

    /// True where no leaf beneath a table's descriptor of `level` can need the change.
    #[inline]
    pub(crate) const fn ends_above(&self, level: u8) -> bool {
        matches!(*self, Self::Split(deepest) if level + 1 >= deepest)
    }

    /// True where the part of `entry` in the walk's range is as it should be without any change.
    #[inline]
    pub(crate) fn is_satisfied(&self, entry: &Entry) -> bool {
        let is_leaf = is_leaf(entry.raw, entry.level);
        match *self {
            Self::Map { delta, attributes, .. } => {
                is_leaf
                    && entry.raw & bits::ATTRIBUTES == attributes
                    && address(entry.raw).raw() == entry.base.wrapping_add(delta)
            }
            Self::Invalidate(value) => entry.raw == value,
            Self::Protect(attributes) => is_leaf && entry.raw & bits::ATTRIBUTES == attributes,
            Self::WriteProtect { keep, set } if is_leaf => entry.raw & keep | set == entry.raw,
            Self::Split(deepest) if is_leaf => entry.level >= deepest,
            Self::WriteProtect { .. } | Self::Split(_) => {
                matches!(kind(entry.raw, entry.level), Kind::Vacant | Kind::Annotated)
            }
        }
    }

    /// Whether the change is allowed to happen to an entry that is not a table.
    #[inline]
    pub(crate) fn permit(&self, entry: &Entry) -> Result<(), TableError> {
        match (*self, kind(entry.raw, entry.level)) {
            (_, Kind::Unlinked | Kind::Locked | Kind::Reserved) => Err(TableError::Corrupt),
            (Self::Map { replace_mappings: false, .. }, Kind::Leaf) => Err(TableError::Exists),
            (Self::Map { replace_annotations: false, .. }, Kind::Annotated) => Err(TableError::Annotated),
            (Self::Protect(_), Kind::Vacant | Kind::Annotated) => Err(TableError::NotMapped),
            _ => Ok(()),
        }
    }

    /// Tables that it takes to change the offsets from `start` to `end` beneath a descriptor of the level above
    /// `level`, with no table there yet.
    pub(crate) fn tables(&self, level: u8, start: u64, end: u64) -> u64 {
        if level >= LAST_LEVEL {
            return 1;
        }
        let size = entry_size(level);
        let mut count = 1;
        let mut next = start;
        while next < end {
            let base = next & !(size - 1);
            let entry_end = end.min(base + size);
            if entry_end - next != size {
                count += self.tables(level + 1, next, entry_end);
                next = entry_end;
            } else {
                // Either all of a level have a target, or none, which takes the same of each.
                let whole_end = end & !(size - 1);
                if self.target(next, level, 0).is_none() {
                    count += (whole_end - next) / size * self.tables(level + 1, next, entry_end);
                }
                next = whole_end;
            }
        }
        count
    }
}

/// Checks that an action is allowed all over its range, and counts the tables that it takes.
pub(crate) struct Plan<'a, F: ?Sized> {
    frames: &'a F,
    action: Action,
    /// Tables needed so far.
    pub(crate) tables: u64,
}

impl<'a, F: TableFrames + ?Sized> Plan<'a, F> {
    pub(crate) fn new(frames: &'a F, action: Action) -> Self {
        Self { frames, action, tables: 0 }
    }
}

impl<F: TableFrames + ?Sized> Visitor for Plan<'_, F> {
    type Frames = F;

    fn frames(&self) -> &F {
        self.frames
    }

    fn table_before(&mut self, entry: &Entry) -> Result<Step, TableError> {
        // A table that goes as a whole needs no look at what it holds.
        let goes = matches!(self.action, Action::Invalidate(_)) && entry.is_covered();
        Ok(if goes || self.action.ends_above(entry.level) { Step::Skip } else { Step::Descend })
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        if self.action.is_satisfied(entry) {
            return Ok(Step::Skip);
        }
        self.action.permit(entry)?;
        if !entry.is_covered() || self.action.target(entry.base, entry.level, entry.raw).is_none() {
            self.tables += self.action.tables(entry.level + 1, entry.start, entry.end);
        }
        Ok(Step::Skip)
    }

    #[inline(always)]
    fn shortcut(&mut self, _slot: PhysAddr, raw: u64, level: u8, _base: u64) -> bool {
        // What takes neither permission nor table.
        match self.action {
            Action::Map { .. } => level == LAST_LEVEL && raw == 0,
            Action::Invalidate(_) => is_vacant_or_annotated(raw) || is_leaf(raw, level),
            Action::Protect(_) => is_leaf(raw, level),
            Action::WriteProtect { .. } => raw == 0 || is_leaf(raw, level),
            Action::Split(deepest) => raw == 0 || level >= deepest && is_leaf(raw, level),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4 << 10;
    const MIB2: u64 = 2 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn tables_are_counted_level_by_level() {
        let map = |delta, force_pages| Action::Map {
            delta,
            attributes: 0,
            force_pages,
            replace_annotations: false,
            replace_mappings: false,
        };
        let (pages, blocks, skewed) = (map(0, true), map(0, false), map(MIB2, false));
        for (action, level, start, end, expected) in [
            (pages, 3, 0, PAGE, 1),
            (pages, 2, 0, MIB2, 2),
            (pages, 2, PAGE, 2 * MIB2 + PAGE, 4),
            (pages, 1, 0, GIB, 1 + 513),
            (pages, 1, 0, 3 * GIB, 1 + 3 * 513),
            (pages, 1, PAGE, GIB + PAGE, 1 + 513 + 2),
            (blocks, 1, 0, 3 * GIB, 1),
            (blocks, 1, MIB2, GIB + PAGE, 1 + 1 + 2),
            (blocks, 1, PAGE, MIB2 - PAGE, 3),
            (skewed, 1, 0, 3 * GIB, 1 + 3),
            (Action::Split(3), 1, 0, 2 * GIB, 1 + 2 * 513),
            (Action::Split(2), 1, 0, 2 * GIB, 1 + 2),
            (Action::Invalidate(0), 1, GIB - PAGE, 3 * GIB, 1 + 2),
        ] {
            assert_eq!(action.tables(level, start, end), expected, "{action:?}, level {level}, {start:#x} to {end:#x}");
        }
    }
}
