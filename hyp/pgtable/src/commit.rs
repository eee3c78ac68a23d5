//! Carries out a planned change, with break-before-make where it is due and as few flushes as will do.

use abi::PhysAddr;

use crate::bits;
use crate::build::Builder;
use crate::change::{Action, Pass};
use crate::descriptor::{Kind, address, is_leaf, kind, leaf, table, unlinked};
use crate::environment::{Environment, TableFrames};
use crate::error::TableError;
use crate::geometry::{ENTRIES, LAST_LEVEL, entry_size};
use crate::regime::{Change, Regime, Scope};
use crate::reserve::Reserve;
use crate::walker::{Entry, Step, Subtree, Visitor, slot};

/// Descriptors that were taken away and not yet flushed: the smallest range that holds them all.
#[derive(Clone, Copy, Debug, Default)]
struct Unflushed {
    start: u64,
    /// Equal to `start` where there are none.
    end: u64,
    /// The level of all of them, where it is the same and none was a table; [`MIXED_LEVELS`] otherwise.
    level: u8,
}

/// No level: descriptors of several, or tables.
const MIXED_LEVELS: u8 = u8::MAX;

impl Unflushed {
    #[inline]
    fn add(&mut self, start: u64, end: u64, level: u8) {
        if self.end == self.start {
            *self = Self { start, end, level };
            return;
        }
        // A walk goes upwards.
        self.end = end;
        if self.level != level {
            self.level = MIXED_LEVELS;
        }
    }
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
    #[inline]
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
        let Unflushed { start, end, level } = self.unflushed;
        if start == end {
            if self.unpublished {
                self.regime.publish(&*self.environment);
                self.unpublished = false;
            }
            return;
        }
        let input = self.regime.geometry().input(start);
        let size = end - start;
        let scope = match Some(level).filter(|level| *level != MIXED_LEVELS) {
            Some(level) if size == entry_size(level) => Scope::Leaf { input, level },
            level => Scope::Range { input, size, level },
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
    #[cold]
    fn break_before_make(&mut self, slot: PhysAddr, base: u64, level: u8, value: u64) {
        self.environment.write(slot, 0);
        let scope = Scope::Leaf { input: self.regime.geometry().input(base), level };
        self.regime.invalidate(&*self.environment, self.root, scope);
        self.make(slot, value);
    }

    /// Gives a wholly covered entry that is no table its new descriptor.
    #[inline(never)]
    fn replace(&mut self, entry: &Entry, new: u64) {
        let Entry { slot, raw, level, base, .. } = *entry;
        if raw & bits::VALID == 0 {
            if new & bits::VALID != 0 {
                self.make(slot, new);
            } else if new != raw {
                self.environment.write(slot, new);
            }
            return;
        }
        if new & bits::VALID != 0 {
            match self.regime.change(raw, new) {
                Change::None => return,
                Change::InPlace => {}
                Change::BreakBeforeMake => return self.break_before_make(slot, base, level, new),
            }
        }
        self.environment.write(slot, new);
        self.unflushed.add(base, base.wrapping_add(entry_size(level)), level);
    }
}

/// True where every descriptor of `tables`, which are not the whole tree, is vacant outside the range from `start` to
/// `end`.
pub(crate) fn is_vacant_outside<F: TableFrames + ?Sized>(frames: &F, tables: Subtree, start: u64, end: u64) -> bool {
    let read = |index: u64| frames.read(slot(tables.table, index));
    let (first, last) = (tables.index_of(start), tables.index_of(end - 1));
    // Neighbours first: a table that is emptied page by page is seen not to be empty yet by one or two reads.
    let is_vacant = |index: u64| read(index) == 0;
    if first.checked_sub(1).is_some_and(|before| !is_vacant(before))
        || !(last + 1..ENTRIES).all(is_vacant)
        || !(0..first).all(is_vacant)
    {
        return false;
    }
    let size = entry_size(tables.level);
    [(first, start & !(size - 1)), (last, (end - 1) & !(size - 1))].into_iter().all(|(index, offset)| {
        let (from, to) = (start.max(offset), end.min(offset + size));
        if to - from == size {
            return true;
        }
        let raw = read(index);
        match kind(raw, tables.level) {
            Kind::Vacant => true,
            Kind::Table => is_vacant_outside(frames, tables.child(raw), from, to),
            _ => false,
        }
    })
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
            || value == 0 && is_vacant_outside(&*self.environment, entry.child(), entry.start, entry.end);
        if !goes {
            return Ok(Step::Descend);
        }
        // All of it at once: what is beneath stays as it is until the flush.
        self.environment.write(entry.slot, unlinked(entry.raw));
        self.unflushed.add(entry.start, entry.end, MIXED_LEVELS);
        self.unlinked = true;
        Ok(Step::Skip)
    }

    #[inline(always)]
    fn shortcut(&mut self, slot: PhysAddr, raw: u64, level: u8, base: u64) -> bool {
        let new = match self.action {
            Action::Map { delta, attributes, .. } => {
                if level != LAST_LEVEL || raw != 0 || self.pass == Pass::Break {
                    return false;
                }
                self.make(slot, leaf(base.wrapping_add(delta), attributes, level));
                return true;
            }
            Action::Invalidate(value) if value == 0 && raw == 0 => return true,
            _ if !is_leaf(raw, level) => return false,
            Action::Invalidate(value) => value,
            Action::Protect(attributes) => {
                let new = leaf(raw, attributes, level);
                match self.regime.change(raw, new) {
                    Change::None => return true,
                    Change::InPlace => new,
                    Change::BreakBeforeMake => return false,
                }
            }
        };
        self.environment.write(slot, new);
        self.unflushed.add(base, base.wrapping_add(entry_size(level)), level);
        true
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        if self.action.is_satisfied(entry) {
            return Ok(Step::Skip);
        }
        self.action.permit(entry)?;
        let is_leaf = is_leaf(entry.raw, entry.level);
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
        let (frames, action, pass) = (&*self.environment, self.action, self.pass);
        let child = table(Builder { frames, reserve: &mut self.reserve, action, pass }.replacement(entry)?);
        if is_leaf {
            self.break_before_make(entry.slot, entry.base, entry.level, child);
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
