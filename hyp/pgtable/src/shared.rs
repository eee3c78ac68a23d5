//! What several CPUs may do to one table at the same time: resolve faults.
//!
//! These operations take `&self`; those that unlink and free tables take `&mut self`. A lock for readers and writers
//! around the table therefore lets faults run side by side, and no table is freed while one of them may be in it.
//!
//! Each changes one descriptor, by compare-exchange. Whoever finds it vacant makes it; whoever has to break it first
//! puts a value of its own there, [`Descriptor::Locked`](crate::Descriptor::Locked), which nobody else replaces, until the
//! old one is flushed. A CPU that loses a race looks again, a bounded number of times: what it wanted has mostly been done
//! then.

use abi::{PhysAddr, PhysRange};

use crate::build::Builder;
use crate::change::{Action, Pass};
use crate::commit::free_tables;
use crate::descriptor::{Kind, LOCKED, kind, table};
use crate::environment::{Environment, TableFrames};
use crate::error::TableError;
use crate::geometry::{LAST_LEVEL, entry_size, may_be_leaf};
use crate::regime::{Change, Regime, Scope};
use crate::reserve::Reserve;
use crate::table::{MapOptions, PageTable};
use crate::walker::{Entry, Subtree};

/// How often a race may be lost before the caller is told so. Another CPU got on each time.
const ATTEMPTS: u32 = 8;

/// What came of an operation that runs beside others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome {
    /// The table says what was asked for, by this call.
    Done,
    /// It did already, or another CPU was first.
    AlreadyDone,
    /// Another CPU is changing the same descriptor. The access that faulted may be made again, and if it faults again,
    /// so may this.
    Busy,
}

/// What is to be brought where accesses through a new leaf look, once no old one leads there and before the new one does.
#[derive(Clone, Copy)]
struct Fresh {
    outputs: PhysRange,
    /// The new leaf's attribute bits.
    attributes: u64,
}

/// A descriptor that was not what it had been when it was read.
struct Lost;

impl<R: Regime> PageTable<R> {
    /// Maps the leaf of `size` bytes at `input`, the size of a block or a page, to `output`. Where the same mapping
    /// stands already, be it as part of a larger block, it is kept. Other mappings are an error unless `replace` is
    /// set: then a leaf is broken, flushed and replaced, and what else a larger block maps is kept.
    ///
    /// # Errors
    /// [`TableError::Misaligned`] where `size` is that of no leaf of this table and `options`, or either address is not a
    /// multiple of it; [`TableError::Exists`] where another mapping stands there, or smaller ones do, also one whose access
    /// flag or rights another CPU has changed meanwhile: after a fault, that is the moment to make the access again;
    /// [`TableError::Annotated`]; [`TableError::BadRange`], [`TableError::BadAttributes`], [`TableError::OutOfFrames`],
    /// [`TableError::Corrupt`].
    #[expect(clippy::too_many_arguments, reason = "those of `map`, and whether it is to replace")]
    pub fn map_leaf<E: Environment + ?Sized>(
        &self,
        environment: &mut E,
        input: R::Input,
        output: PhysAddr,
        size: u64,
        attributes: R::Attributes,
        options: MapOptions,
        replace: bool,
    ) -> Result<Outcome, TableError> {
        let change = self.mapping(input, output, size, attributes, options, replace)?;
        let first = if options.force_pages { LAST_LEVEL } else { self.geometry().start_level() };
        let level = (first..=LAST_LEVEL)
            .find(|level| may_be_leaf(*level) && entry_size(*level) == size)
            .filter(|_| output.is_aligned(size) && change.start.is_multiple_of(size))
            .ok_or(TableError::Misaligned)?;
        let fresh = Fresh { outputs: change.outputs, attributes: change.attributes };
        let fresh = options.synchronise_caches.then_some(fresh);
        for _ in 0..ATTEMPTS {
            let entry = self.entry_of(&*environment, level, change.start, change.end);
            if change.action.is_satisfied(&entry) {
                // Whoever wrote it may not have come to its barrier yet.
                self.regime().publish(&*environment);
                return Ok(Outcome::AlreadyDone);
            }
            match kind(entry.raw, entry.level) {
                Kind::Locked => return Ok(Outcome::Busy),
                Kind::Table => return Err(TableError::Exists),
                _ => change.action.permit(&entry)?,
            }
            let done = if entry.level == level {
                let target = change.action.target(entry.base, level, entry.raw).ok_or(TableError::Corrupt)?;
                self.replace_leaf(environment, &entry, target, fresh)
            } else {
                self.replace_by_table(environment, &entry, change.action, fresh)?
            };
            if done.is_ok() {
                return Ok(Outcome::Done);
            }
        }
        Ok(Outcome::Busy)
    }

    /// Gives the leaf that decides for `input`, block or page, these attributes; its output address stays. A right that is
    /// taken away is gone on all CPUs when this returns, and a right that is given is seen by this one.
    ///
    /// # Errors
    /// [`TableError::NotMapped`] where there is no mapping; [`TableError::Misaligned`], [`TableError::BadRange`],
    /// [`TableError::BadAttributes`], [`TableError::Corrupt`].
    pub fn protect_leaf<E: Environment + ?Sized>(
        &self,
        environment: &mut E,
        input: R::Input,
        attributes: R::Attributes,
    ) -> Result<Outcome, TableError> {
        let (start, end) = self.range(input, entry_size(LAST_LEVEL))?;
        let action = Action::Protect(self.regime().encode(attributes)?);
        for _ in 0..ATTEMPTS {
            let entry = self.entry_of(&*environment, LAST_LEVEL, start, end);
            if action.is_satisfied(&entry) {
                // This CPU may still have what it faulted on.
                self.flush(environment, &entry);
                return Ok(Outcome::AlreadyDone);
            }
            if kind(entry.raw, entry.level) == Kind::Locked {
                return Ok(Outcome::Busy);
            }
            action.permit(&entry)?;
            let target = action.target(entry.base, entry.level, entry.raw).ok_or(TableError::Corrupt)?;
            if self.replace_leaf(environment, &entry, target, None).is_ok() {
                return Ok(Outcome::Done);
            }
        }
        Ok(Outcome::Busy)
    }

    /// The descriptor that decides for the offsets from `start` to `end`, at `deepest` level or above: the first on the
    /// way down that is no table's, or that of `deepest` whatever it is.
    fn entry_of<F: TableFrames + ?Sized>(&self, frames: &F, deepest: u8, start: u64, end: u64) -> Entry {
        let mut tables = Subtree::whole(self.geometry(), self.root());
        loop {
            let (slot, level) = (tables.slot_of(start), tables.level);
            let raw = frames.read(slot);
            if level >= deepest || kind(raw, level) != Kind::Table {
                let base = start & !(entry_size(level) - 1);
                return Entry { slot, raw, level, base, start, end };
            }
            tables = tables.child(raw);
        }
    }

    /// Gives an entry that is no table the new leaf `new` of its level.
    fn replace_leaf<E: Environment + ?Sized>(
        &self,
        environment: &mut E,
        entry: &Entry,
        new: u64,
        fresh: Option<Fresh>,
    ) -> Result<(), Lost> {
        if kind(entry.raw, entry.level) != Kind::Leaf {
            self.synchronise_caches(environment, fresh);
            exchange(environment, entry, new)?;
            self.regime().publish(&*environment);
            return Ok(());
        }
        match self.regime().change(entry.raw, new) {
            Change::None | Change::InPlace => {
                self.synchronise_caches(environment, fresh);
                exchange(environment, entry, new)?;
                self.flush(environment, entry);
                Ok(())
            }
            Change::BreakBeforeMake => self.break_before_make(environment, entry, new, fresh),
        }
    }

    /// Gives an entry above the level of the new leaf a table, which holds it and what else the entry held.
    fn replace_by_table<E: Environment + ?Sized>(
        &self,
        environment: &mut E,
        entry: &Entry,
        action: Action,
        fresh: Option<Fresh>,
    ) -> Result<Result<(), Lost>, TableError> {
        let level = entry.level + 1;
        let mut reserve = Reserve::allocate(environment, action.tables(level, entry.start, entry.end))?;
        let built =
            Builder { frames: &*environment, reserve: &mut reserve, action, pass: Pass::Make }.replacement(entry);
        reserve.release(environment);
        let child = built?;
        let linked = if kind(entry.raw, entry.level) == Kind::Leaf {
            self.break_before_make(environment, entry, table(child), fresh)
        } else {
            self.synchronise_caches(environment, fresh);
            exchange(environment, entry, table(child)).inspect(|()| self.regime().publish(&*environment))
        };
        if linked.is_err() {
            // Nobody has seen it.
            free_tables(environment, child, level);
        }
        Ok(linked)
    }

    /// Replaces a leaf by a conflicting valid descriptor, `new`. In between, it is locked.
    fn break_before_make<E: Environment + ?Sized>(
        &self,
        environment: &E,
        entry: &Entry,
        new: u64,
        fresh: Option<Fresh>,
    ) -> Result<(), Lost> {
        exchange(environment, entry, LOCKED)?;
        self.flush(environment, entry);
        self.synchronise_caches(environment, fresh);
        environment.write(entry.slot, new);
        self.regime().publish(environment);
        Ok(())
    }

    fn synchronise_caches<E: Environment + ?Sized>(&self, environment: &E, fresh: Option<Fresh>) {
        if let Some(Fresh { outputs, attributes }) = fresh {
            self.regime().synchronise_caches(environment, attributes, outputs);
        }
    }

    /// Flushes what an entry, a leaf's, held.
    fn flush<E: Environment + ?Sized>(&self, environment: &E, entry: &Entry) {
        let scope = Scope::Leaf { input: self.geometry().input(entry.base), level: entry.level };
        self.regime().invalidate(environment, self.root(), scope);
    }
}

/// Writes `new` where the entry is as it was read.
fn exchange<F: TableFrames + ?Sized>(frames: &F, entry: &Entry, new: u64) -> Result<(), Lost> {
    frames.compare_exchange(entry.slot, entry.raw, new).map(|_| ()).map_err(|_| Lost)
}
