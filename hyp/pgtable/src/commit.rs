//! Carries out a planned change, with break-before-make where it is due and as few flushes as will do.
//!
//! What needs a break is broken on the way through the range, and all of it is flushed at once at the end; a second
//! walk makes it then. Meanwhile the invalid descriptor itself holds what it is to become: see [`pending`].

use abi::PhysAddr;

use crate::bits::{self, AF};
use crate::build::Builder;
use crate::change::{Action, Pass};
use crate::descriptor::{Kind, address, is_leaf, is_vacant_or_annotated, kind, leaf, table, unlinked};
use crate::environment::{Environment, TableFrames};
use crate::error::TableError;
use crate::flush::{MIXED_LEVELS, Unflushed};
use crate::geometry::{ENTRIES, LAST_LEVEL, entry_size};
use crate::regime::{Change, Regime};
use crate::reserve::Reserve;
use crate::walker::{Entry, Step, Subtree, Visitor, slot};

/// Tells a descriptor that is to be made valid from a table's that is to be freed, both [`Kind::Unlinked`]. No
/// attribute has this bit.
const PENDING: u64 = 1 << 62;
/// The descriptor that is to be made is a block's. No attribute has this bit either.
const PENDING_BLOCK: u64 = 1 << 63;

/// What stands in for the valid descriptor `new` from the break of the old one to the flush.
const fn pending(new: u64) -> u64 {
    let block = if new & bits::TABLE_OR_PAGE == 0 { PENDING_BLOCK } else { 0 };
    new & !bits::VALID | bits::TABLE_OR_PAGE | PENDING | block
}

/// True where `raw` is what [`pending`] gives.
const fn is_pending(raw: u64) -> bool {
    raw & (PENDING | bits::TABLE_OR_PAGE | bits::VALID) == PENDING | bits::TABLE_OR_PAGE
}

/// The descriptor that [`pending`] was given.
const fn made(pending: u64) -> u64 {
    let block = if pending & PENDING_BLOCK == 0 { 0 } else { bits::TABLE_OR_PAGE };
    pending & !(PENDING | PENDING_BLOCK | block) | bits::VALID
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
    /// Descriptors that were broken and wait to be made.
    pending: u64,
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
            unflushed: Unflushed::none(),
            unpublished: false,
            unlinked: false,
            pending: 0,
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
    #[inline]
    pub(crate) fn settle(&mut self) {
        if !self.unflushed.is_empty() {
            // Its barriers publish as well.
            self.unflushed.flush(self.regime, &*self.environment, self.root);
        } else if self.unpublished {
            self.regime.publish(&*self.environment);
        }
        self.unpublished = false;
    }

    /// Ends the operation, whose walk over the offsets from `start` to `end` of `tables` came to `result`: flushes or
    /// publishes what is left to do, makes what was broken, frees what was unlinked, and gives back the frames that
    /// were set aside and not used.
    #[inline(always)]
    pub(crate) fn finish(
        &mut self,
        tables: Subtree,
        start: u64,
        end: u64,
        mut result: Result<(), TableError>,
    ) -> Result<(), TableError> {
        self.settle();
        if self.unlinked || self.pending != 0 {
            result = result.and(self.complete(tables, start, end));
        }
        core::mem::take(&mut self.reserve).release(self.environment);
        result
    }

    /// Makes what was broken, and frees what was unlinked, once both are flushed.
    #[inline(never)]
    fn complete(&mut self, tables: Subtree, start: u64, end: u64) -> Result<(), TableError> {
        let mut complete = Complete { environment: &mut *self.environment, action: self.action };
        let result = tables.walk(&mut complete, start, end);
        if self.pending != 0 {
            self.regime.publish(&*self.environment);
        }
        result
    }

    /// Writes a valid descriptor where an invalid one is, which is clean.
    fn make(&mut self, slot: PhysAddr, value: u64) {
        self.environment.write(slot, value);
        self.unpublished = true;
    }

    /// Breaks the leaf `old`, which is to be replaced by the conflicting valid descriptor `new`.
    #[cold]
    fn break_leaf(&mut self, entry: &Entry, new: u64) {
        let Entry { slot, raw, level, base, .. } = *entry;
        let frames = &*self.environment;
        // The hardware may set the access flag until the leaf is broken. The leaves that take its place are to have it.
        if raw & AF == 0
            && kind(new, level) == Kind::Table
            && frames.compare_exchange(slot, raw, pending(new)).is_err_and(|found| found & AF != 0)
        {
            set_access_flags(frames, address(new), level + 1);
        }
        frames.write(slot, pending(new));
        self.pending += 1;
        self.unflushed.add(base, base.wrapping_add(entry_size(level)), level);
    }

    /// Replaces the leaf `old` by one that differs only in what may change while it is valid.
    fn change_in_place(&self, slot: PhysAddr, old: u64, new: u64) {
        let frames = &*self.environment;
        if (old | new) & AF != 0 {
            frames.write(slot, new);
        } else if let Err(found) = frames.compare_exchange(slot, old, new) {
            // The hardware has set the access flag meanwhile, and changes nothing else.
            frames.write(slot, new | found & AF);
        }
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
        if new & bits::VALID == 0 {
            self.environment.write(slot, new);
        } else {
            match self.regime.change(raw, new) {
                Change::None => return,
                Change::InPlace => self.change_in_place(slot, raw, new),
                Change::BreakBeforeMake => return self.break_leaf(entry, new),
            }
        }
        self.unflushed.add(base, base.wrapping_add(entry_size(level)), level);
    }
}

/// True where every descriptor of `tables`, which are not the whole tree, is vacant outside the range from `start` to
/// `end`.
pub(crate) fn is_vacant_outside<F: TableFrames + ?Sized>(frames: &F, tables: Subtree, start: u64, end: u64) -> bool {
    let read = |index: u64| frames.read(slot(tables.table, index));
    let (first, last) = (tables.index_of(start), tables.index_of(end - 1));
    // Neighbours first: a table that is emptied page by page is seen not to be empty yet by one or two reads.
    if first.checked_sub(1).is_some_and(|before| read(before) != 0)
        || last + 1 < ENTRIES && read(last + 1) != 0
        || !are_vacant(frames, tables.table, last + 1, ENTRIES)
        || !are_vacant(frames, tables.table, 0, first)
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

/// True where the descriptors of `table` from `first` up to, but not including, `end` are vacant.
fn are_vacant<F: TableFrames + ?Sized>(frames: &F, table: PhysAddr, first: u64, end: u64) -> bool {
    // Several are read for each question.
    const TURN: u64 = 8;
    let read = |index: u64| frames.read(slot(table, index));
    let mut next = first;
    while end.saturating_sub(next) >= TURN {
        if (next..next + TURN).fold(0, |found, index| found | read(index)) != 0 {
            return false;
        }
        next += TURN;
    }
    (next..end).all(|index| read(index) == 0)
}

impl<R: Regime, E: Environment + ?Sized> Visitor for Commit<'_, R, E> {
    type Frames = E;

    fn frames(&self) -> &E {
        self.environment
    }

    fn table_before(&mut self, entry: &Entry) -> Result<Step, TableError> {
        let Action::Invalidate(value) = self.action else {
            return Ok(if self.action.ends_above(entry.level) { Step::Skip } else { Step::Descend });
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
            Action::Invalidate(value) if is_vacant_or_annotated(raw) => {
                if raw != value {
                    self.environment.write(slot, value);
                }
                return true;
            }
            _ if !is_leaf(raw, level) => return false,
            Action::Invalidate(value) => value,
            Action::Protect(attributes) => {
                let difference = raw & bits::ATTRIBUTES ^ attributes;
                if difference == 0 {
                    return true;
                }
                let new = raw ^ difference;
                if difference & !self.regime.live_bits() == 0 {
                    new
                } else {
                    self.pending += 1;
                    pending(new)
                }
            }
            Action::WriteProtect { keep, set } => {
                let new = raw & keep | set;
                if new == raw {
                    return true;
                }
                if raw & AF == 0 {
                    return false;
                }
                new
            }
            Action::Split(deepest) => return level >= deepest,
        };
        self.environment.write(slot, new);
        self.unflushed.add(base, base.wrapping_add(entry_size(level)), level);
        true
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        if self.pending != 0 && is_pending(entry.raw) {
            // Broken by the first of two passes: made now, for the second to go on beneath.
            self.make(entry.slot, made(entry.raw));
            self.pending -= 1;
            return Ok(Step::Descend);
        }
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
            self.break_leaf(entry, child);
        } else {
            self.make(entry.slot, child);
        }
        Ok(Step::Skip)
    }
}

/// Sets the access flag of all leaves of the table at `page`, whose descriptors are of `level`, and of those beneath
/// it. Nothing refers to it yet.
fn set_access_flags<F: TableFrames + ?Sized>(frames: &F, page: PhysAddr, level: u8) {
    for slot in (0..ENTRIES).map(|index| slot(page, index)) {
        let raw = frames.read(slot);
        match kind(raw, level) {
            Kind::Leaf => frames.write(slot, raw | AF),
            Kind::Table => set_access_flags(frames, address(raw), level + 1),
            _ => {}
        }
    }
}

/// Completes what was flushed: makes what was broken, and frees the tables that were unlinked.
struct Complete<'a, E: ?Sized> {
    environment: &'a mut E,
    action: Action,
}

impl<E: TableFrames + ?Sized> Visitor for Complete<'_, E> {
    type Frames = E;

    fn frames(&self) -> &E {
        self.environment
    }

    fn table_before(&mut self, entry: &Entry) -> Result<Step, TableError> {
        Ok(if self.action.ends_above(entry.level) { Step::Skip } else { Step::Descend })
    }

    #[inline(always)]
    fn shortcut(&mut self, slot: PhysAddr, raw: u64, level: u8, _base: u64) -> bool {
        if is_pending(raw) {
            self.environment.write(slot, made(raw));
            return true;
        }
        raw == 0 || is_leaf(raw, level)
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        if is_pending(entry.raw) {
            self.environment.write(entry.slot, made(entry.raw));
        } else if kind(entry.raw, entry.level) == Kind::Unlinked {
            let value = if let Action::Invalidate(value) = self.action { value } else { 0 };
            self.environment.write(entry.slot, value);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_descriptor_is_invalid_and_remembers_all_of_the_valid_one() {
        let attributes = 0x07f0_0000_0000_0ffc;
        let next = table(PhysAddr::new(0x0000_ffff_ffff_f000));
        for (new, level) in [(next, 0), (next, 2), (leaf(0x4000_0000, attributes, 1), 1), (leaf(0, attributes, 3), 3)] {
            assert_eq!(pending(new) & bits::VALID, 0);
            assert_eq!(kind(pending(new), level), Kind::Unlinked);
            assert!(is_pending(pending(new)));
            assert_eq!(made(pending(new)), new);
        }
        assert!(!is_pending(unlinked(next)) && !is_pending(next) && !is_pending(0));
        assert!(!is_pending(crate::descriptor::LOCKED));
    }
}
