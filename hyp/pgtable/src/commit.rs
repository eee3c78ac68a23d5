//! Carries out a planned change, with break-before-make where it is due and as few flushes as will do.

use abi::PhysAddr;

use crate::bits;
use crate::change::Action;
use crate::descriptor::{Kind, address, kind, leaf, table, unlinked};
use crate::environment::{Environment, TableFrames};
use crate::error::TableError;
use crate::geometry::{ENTRIES, LAST_LEVEL, entry_size};
use crate::regime::{Change, Regime, Scope};
use crate::reserve::Reserve;
use crate::walker::{Entry, Step, Visitor, slot};

/// Descriptors that were taken away and not yet flushed: the smallest range that holds them all.
#[derive(Clone, Copy, Debug, Default)]
struct Unflushed {
    start: u64,
    end: u64,
    descriptors: u64,
    /// The level of all of them, where it is the same and none was a table.
    level: Option<u8>,
}

impl Unflushed {
    fn add(&mut self, start: u64, end: u64, level: Option<u8>) {
        if self.descriptors == 0 {
            *self = Self { start, end, descriptors: 1, level };
        } else {
            // A walk goes upwards.
            self.end = end;
            self.descriptors = self.descriptors.saturating_add(1);
            self.level = self.level.filter(|known| level == Some(*known));
        }
    }
}

/// Which pass over the range this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pass {
    /// Only break what stands in the way of a new mapping.
    Break,
    /// Bring the range to what it should be.
    Make,
}

/// The visitor that changes a tree.
pub(crate) struct Commit<'a, R: Regime, E: ?Sized> {
    environment: &'a mut E,
    regime: &'a R,
    root: PhysAddr,
    action: Action,
    reserve: Reserve,
    pass: Pass,
    unflushed: Unflushed,
    /// A valid descriptor was written that no barrier has made visible yet.
    unpublished: bool,
    /// A table was unlinked that waits to be freed.
    unlinked: bool,
}

impl<'a, R: Regime, E: Environment + ?Sized> Commit<'a, R, E> {
    pub(crate) fn new(environment: &'a mut E, regime: &'a R, root: PhysAddr, action: Action, reserve: Reserve) -> Self {
        Self {
            environment,
            regime,
            root,
            action,
            reserve,
            pass: Pass::Make,
            unflushed: Unflushed::default(),
            unpublished: false,
            unlinked: false,
        }
    }

    /// Chooses the pass that the next walk makes.
    pub(crate) fn set_pass(&mut self, pass: Pass) {
        self.pass = pass;
    }

    /// The environment, between passes.
    pub(crate) fn environment(&mut self) -> &mut E {
        self.environment
    }

    /// Flushes or publishes what the walk has left to do. Afterwards no CPU uses what was taken away, and every CPU
    /// finds what was made.
    pub(crate) fn settle(&mut self) {
        let Unflushed { start, end, descriptors, level } = self.unflushed;
        let input = self.regime.geometry().input(start);
        let scope = match (descriptors, level) {
            (0, _) => {
                if self.unpublished {
                    self.regime.publish(&*self.environment);
                    self.unpublished = false;
                }
                return;
            }
            (1, Some(level)) => Scope::Leaf { input, level },
            _ => Scope::Range { input, size: end - start, level },
        };
        // Its barriers publish as well.
        self.regime.invalidate(&*self.environment, self.root, scope);
        self.unflushed = Unflushed::default();
        self.unpublished = false;
    }

    /// Ends the operation: settles, and gives back the frames that were set aside and not used. Returns true where
    /// unlinked tables wait for [`Release`].
    pub(crate) fn finish(mut self) -> bool {
        self.settle();
        self.reserve.release(self.environment);
        self.unlinked
    }

    /// Writes a valid descriptor where an invalid one is, which is clean.
    fn make(&mut self, slot: PhysAddr, value: u64) {
        self.environment.write(slot, value);
        self.unpublished = true;
    }

    /// Replaces a valid leaf by a conflicting valid descriptor.
    fn break_before_make(&mut self, entry: &Entry, value: u64) {
        self.environment.write(entry.slot, 0);
        let scope = Scope::Leaf { input: self.regime.geometry().input(entry.base), level: entry.level };
        self.regime.invalidate(&*self.environment, self.root, scope);
        self.make(entry.slot, value);
    }

    /// Gives a wholly covered entry that is no table its new descriptor.
    fn replace(&mut self, entry: &Entry, new: u64) {
        let removed_to = entry.base + entry_size(entry.level);
        if entry.raw & bits::VALID == 0 {
            if new & bits::VALID != 0 {
                self.make(entry.slot, new);
            } else if new != entry.raw {
                self.environment.write(entry.slot, new);
            }
        } else if new & bits::VALID == 0 {
            self.environment.write(entry.slot, new);
            self.unflushed.add(entry.base, removed_to, Some(entry.level));
        } else {
            match self.regime.change(entry.raw, new) {
                Change::None => {}
                Change::InPlace => {
                    self.environment.write(entry.slot, new);
                    self.unflushed.add(entry.base, removed_to, Some(entry.level));
                }
                Change::BreakBeforeMake => self.break_before_make(entry, new),
            }
        }
    }

    /// Builds the table that takes the place of a descriptor `old` that decides for `base` on: what it maps or notes,
    /// from `start` to `end` changed or, in the pass that only breaks, left out. Nothing refers to it yet.
    fn build(&mut self, level: u8, base: u64, start: u64, end: u64, old: u64) -> Result<PhysAddr, TableError> {
        // The plan has counted every table, so the reserve ends early only where the tables changed under our hands.
        let page = self.reserve.take(&*self.environment).ok_or(TableError::Corrupt)?;
        let size = entry_size(level);
        let is_leaf = old & bits::VALID != 0;
        let old_delta = address(old).raw().wrapping_sub(base);
        for index in 0..ENTRIES {
            let offset = base + index * size;
            let kept = if is_leaf { leaf(offset.wrapping_add(old_delta), old, level) } else { old };
            let value = if offset >= end || offset + size <= start {
                kept
            } else {
                let (from, to) = (start.max(offset), end.min(offset + size));
                let target = match self.pass {
                    _ if to - from != size => None,
                    Pass::Break => Some(0),
                    Pass::Make => self.action.target(offset, level, kept),
                };
                match target {
                    Some(value) => value,
                    None if level >= LAST_LEVEL => return Err(TableError::Corrupt),
                    None => table(self.build(level + 1, offset, from, to, kept)?),
                }
            };
            if value != 0 {
                self.environment.write(slot(page, index), value);
            }
        }
        Ok(page)
    }

    /// True where every descriptor of the table at `page` that is not in the range from `start` to `end` is vacant.
    fn is_vacant_outside(&self, page: PhysAddr, level: u8, base: u64, start: u64, end: u64) -> bool {
        let size = entry_size(level);
        let read = |index: u64| self.environment.read(slot(page, index));
        let first = (start - base) / size;
        let last = (end - 1 - base) / size;
        // Neighbours first: a table that is emptied page by page is seen not to be empty yet by one or two reads.
        let is_vacant = |index: u64| read(index) == 0;
        if first.checked_sub(1).is_some_and(|before| !is_vacant(before))
            || !(last + 1..ENTRIES).all(is_vacant)
            || !(0..first).all(is_vacant)
        {
            return false;
        }
        [first, last].into_iter().all(|index| {
            let offset = base + index * size;
            let (from, to) = (start.max(offset), end.min(offset + size));
            if to - from == size {
                return true;
            }
            let raw = read(index);
            match kind(raw, level) {
                Kind::Vacant => true,
                Kind::Table => self.is_vacant_outside(address(raw), level + 1, offset, from, to),
                _ => false,
            }
        })
    }
}

impl<R: Regime, E: Environment + ?Sized> Visitor for Commit<'_, R, E> {
    type Frames = E;

    fn frames(&self) -> &E {
        self.environment
    }

    fn table_before(&mut self, entry: &Entry) -> Result<Step, TableError> {
        let Action::Invalidate(value) = self.action else {
            return Ok(Step::Descend);
        };
        let goes = entry.is_covered()
            || value == 0
                && self.is_vacant_outside(address(entry.raw), entry.level + 1, entry.base, entry.start, entry.end);
        if !goes {
            return Ok(Step::Descend);
        }
        // All of it at once: what is beneath stays as it is until the flush.
        self.environment.write(entry.slot, unlinked(entry.raw));
        self.unflushed.add(entry.start, entry.end, None);
        self.unlinked = true;
        Ok(Step::Skip)
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        if self.action.is_satisfied(entry) {
            return Ok(Step::Skip);
        }
        let is_leaf = kind(entry.raw, entry.level) == Kind::Leaf;
        if self.pass == Pass::Break && !is_leaf {
            return Ok(Step::Skip);
        }
        if entry.is_covered() {
            let target = self.action.target(entry.base, entry.level, entry.raw);
            if self.pass == Pass::Break {
                if target.is_none_or(|new| self.regime.change(entry.raw, new) == Change::BreakBeforeMake) {
                    self.replace(entry, 0);
                }
                return Ok(Step::Skip);
            }
            if let Some(new) = target {
                self.replace(entry, new);
                return Ok(Step::Skip);
            }
        }
        let child = table(self.build(entry.level + 1, entry.base, entry.start, entry.end, entry.raw)?);
        if is_leaf {
            self.break_before_make(entry, child);
        } else {
            self.make(entry.slot, child);
        }
        Ok(Step::Skip)
    }
}

/// Frees the tables that were unlinked and flushed, and gives their descriptors their last value.
pub(crate) struct Release<'a, E: ?Sized> {
    pub(crate) environment: &'a mut E,
    /// The value, 0 or an annotation.
    pub(crate) value: u64,
}

impl<E: TableFrames + ?Sized> Visitor for Release<'_, E> {
    type Frames = E;

    fn frames(&self) -> &E {
        self.environment
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        if kind(entry.raw, entry.level) == Kind::Unlinked {
            self.environment.write(entry.slot, self.value);
            free_tables(self.environment, address(entry.raw), entry.level + 1);
        }
        Ok(Step::Skip)
    }
}

/// Frees the table at `page`, whose descriptors are of `level`, and all beneath it. No CPU can reach it.
pub(crate) fn free_tables<F: TableFrames + ?Sized>(frames: &mut F, page: PhysAddr, level: u8) {
    if level < LAST_LEVEL {
        for index in 0..ENTRIES {
            let raw = frames.read(slot(page, index));
            if kind(raw, level) == Kind::Table {
                free_tables(frames, address(raw), level + 1);
            }
        }
    }
    frames.free(page);
}
