//! Turning full tables back into blocks.

use abi::PhysAddr;

use crate::bits::{self, AF};
use crate::descriptor::{Kind, address, is_leaf, kind, leaf, unlinked};
use crate::environment::{Environment, TableFrames};
use crate::error::TableError;
use crate::flush::Unflushed;
use crate::geometry::{ENTRIES, LAST_LEVEL, entry_size, may_be_leaf};
use crate::regime::Regime;
use crate::table::PageTable;
use crate::walker::{Entry, Step, Visitor, slot};

impl<R: Regime> PageTable<R> {
    /// Replaces each table that lies in the range as a whole, and that one descriptor could stand for, by that
    /// descriptor, and frees it: 512 leaves with the same attributes that follow each other linearly, from an aligned
    /// address, become a block of 2 MiB, and 512 of those one of 1 GiB; 512 times the same annotation, or nothing,
    /// becomes one. What is mapped, and how, stays. Returns how many tables went.
    ///
    /// All tables are unlinked before one flush, and blocks made after it: accesses to them fault meanwhile.
    ///
    /// # Errors
    /// [`TableError::Misaligned`], [`TableError::BadRange`]; [`TableError::Corrupt`], in front of which tables may have
    /// been replaced.
    pub fn coalesce<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        size: u64,
    ) -> Result<u64, TableError> {
        let (start, end) = self.range(input, size)?;
        let mut find = Find { frames: &*environment, unflushed: Unflushed::none() };
        let found = self.tables().walk(&mut find, start, end);
        let mut unflushed = find.unflushed;
        if unflushed.is_empty() {
            return found.map(|()| 0);
        }
        let last = unflushed.end();
        unflushed.flush(self.regime(), &*environment, self.root());
        let mut replace = Replace { environment, freed: 0, made: false };
        let replaced = self.tables().walk(&mut replace, start, last);
        let Replace { freed, made, .. } = replace;
        if made {
            self.regime().publish(&*environment);
        }
        found.and(replaced).map(|()| freed)
    }
}

/// Unlinks the tables that a single descriptor can stand for.
struct Find<'a, F: ?Sized> {
    frames: &'a F,
    unflushed: Unflushed,
}

impl<F: TableFrames + ?Sized> Visitor for Find<'_, F> {
    type Frames = F;

    fn frames(&self) -> &F {
        self.frames
    }

    #[inline(always)]
    fn shortcut(&mut self, _slot: PhysAddr, raw: u64, level: u8, _base: u64) -> bool {
        raw == 0 || is_leaf(raw, level)
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        match kind(entry.raw, entry.level) {
            Kind::Leaf | Kind::Vacant | Kind::Annotated => Ok(Step::Skip),
            _ => Err(TableError::Corrupt),
        }
    }

    fn table_after(&mut self, entry: &Entry) -> Result<Step, TableError> {
        if entry.is_covered() && is_uniform(self.frames, entry.raw, entry.level) {
            self.frames.write(entry.slot, unlinked(entry.raw));
            self.unflushed.add_table(entry.start, entry.end);
        }
        Ok(Step::Skip)
    }
}

/// Puts single descriptors in the place of the unlinked tables, which no CPU can reach any more.
struct Replace<'a, E: ?Sized> {
    environment: &'a mut E,
    freed: u64,
    /// A block was made.
    made: bool,
}

impl<E: TableFrames + ?Sized> Replace<'_, E> {
    /// Frees the table at `page`, whose descriptors are of `level`, and those that were unlinked beneath it.
    fn free(&mut self, page: PhysAddr, level: u8) {
        for index in 0..ENTRIES {
            if let Some(below) = unlinked_child(self.environment.read(slot(page, index)), level) {
                self.free(below, level + 1);
            }
        }
        self.environment.free(page);
        self.freed += 1;
    }
}

impl<E: TableFrames + ?Sized> Visitor for Replace<'_, E> {
    type Frames = E;

    fn frames(&self) -> &E {
        self.environment
    }

    #[inline(always)]
    fn shortcut(&mut self, _slot: PhysAddr, raw: u64, level: u8, _base: u64) -> bool {
        raw == 0 || is_leaf(raw, level)
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        if let Some(page) = unlinked_child(entry.raw, entry.level) {
            let mut new = summary(&*self.environment, entry.raw, entry.level);
            if is_leaf(new, entry.level) {
                self.made = true;
                // The hardware may have set the access flag of any part until the flush.
                if new & AF == 0 && is_young(&*self.environment, page, entry.level + 1) {
                    new |= AF;
                }
            }
            self.environment.write(entry.slot, new);
            self.free(page, entry.level + 1);
        }
        Ok(Step::Skip)
    }
}

/// The table that `raw` referred to before it was unlinked, if it did.
fn unlinked_child(raw: u64, level: u8) -> Option<PhysAddr> {
    (level < LAST_LEVEL && kind(raw, level) == Kind::Unlinked).then(|| address(raw))
}

/// The descriptor of `level` that says by itself what the table of `raw`, uniform, says.
fn summary<F: TableFrames + ?Sized>(frames: &F, raw: u64, level: u8) -> u64 {
    let below = level + 1;
    let first = summary_of(frames, slot(address(raw), 0), below);
    if is_leaf(first, below) { leaf(address(first).raw(), first, level) } else { first }
}

/// The descriptor at `slot`, or what stands for it where it is an unlinked table's.
fn summary_of<F: TableFrames + ?Sized>(frames: &F, slot: PhysAddr, level: u8) -> u64 {
    let raw = frames.read(slot);
    if unlinked_child(raw, level).is_some() { summary(frames, raw, level) } else { raw }
}

/// True where a single descriptor of `level` can stand for the table that `raw` refers to. Tables beneath it that were
/// unlinked count as what stands for them.
fn is_uniform<F: TableFrames + ?Sized>(frames: &F, raw: u64, level: u8) -> bool {
    let (page, below) = (address(raw), level + 1);
    let first = summary_of(frames, slot(page, 0), below);
    let step = match kind(first, below) {
        Kind::Vacant | Kind::Annotated => 0,
        Kind::Leaf if may_be_leaf(level) && address(first).is_aligned(entry_size(level)) => entry_size(below),
        _ => return false,
    };
    // An aligned address leaves room for the sum below the attributes.
    (1..ENTRIES).all(|index| summary_of(frames, slot(page, index), below) == first.wrapping_add(index * step))
}

/// True where a leaf of the table at `page`, whose descriptors are of `level`, or of those beneath it has its access
/// flag set.
fn is_young<F: TableFrames + ?Sized>(frames: &F, page: PhysAddr, level: u8) -> bool {
    (0..ENTRIES).any(|index| {
        let raw = frames.read(slot(page, index));
        match unlinked_child(raw, level) {
            Some(below) => is_young(frames, below, level + 1),
            None => raw & (AF | bits::VALID) == AF | bits::VALID,
        }
    })
}
