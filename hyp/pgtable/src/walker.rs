//! The walker: one recursion over a range of a tree, which every operation is a visitor of.

use abi::PhysAddr;

use crate::descriptor::{Kind, address, is_table, kind};
use crate::environment::TableFrames;
use crate::error::TableError;
use crate::geometry::{ENTRIES, Geometry, LAST_LEVEL, LEVEL_BITS, entry_shift, entry_size};

/// Bytes of a descriptor.
const DESCRIPTOR_SIZE: u64 = 8;

/// One descriptor of a table that the walk has come to. Offsets count from the lowest input address, so that no sum of
/// them overflows whatever half of the address space the table serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Where the descriptor is.
    pub(crate) slot: PhysAddr,
    /// Its value when the visitor was called.
    pub(crate) raw: u64,
    /// Its level.
    pub(crate) level: u8,
    /// Offset of the first byte that it decides for.
    pub(crate) base: u64,
    /// Offset of the first byte that is part of the walk.
    pub(crate) start: u64,
    /// Offset past the last byte that is part of the walk.
    pub(crate) end: u64,
}

impl Entry {
    /// True where the walk's range includes all that the descriptor decides for.
    pub(crate) const fn is_covered(&self) -> bool {
        self.end.wrapping_sub(self.start) == entry_size(self.level)
    }

    /// The table that the descriptor, a table's, refers to.
    pub(crate) const fn child(&self) -> Subtree {
        Subtree::below(self.level, self.raw)
    }
}

/// How a walk goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Into the table that the descriptor refers to by now, if it does, and on.
    Descend,
    /// On with the next descriptor.
    Skip,
    /// Not at all: the walk ends here, successfully.
    Stop,
}

/// What is done at each descriptor. The descriptor is read again after a call, which may have replaced it.
pub(crate) trait Visitor {
    /// Access to the tables.
    type Frames: TableFrames + ?Sized;

    /// The frames that are walked.
    fn frames(&self) -> &Self::Frames;

    /// Called at a table descriptor, before what is beneath.
    fn table_before(&mut self, _entry: &Entry) -> Result<Step, TableError> {
        Ok(Step::Descend)
    }

    /// Called at any descriptor that is not a table's.
    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError>;

    /// Called at a descriptor that the walk's range covers, of value `raw` and `level`, whose first offset is `base`,
    /// before anything else is made of it. True where that was all, and the walk goes on with the next; otherwise
    /// nothing was done. Walks over many leaves spend their time here.
    #[inline(always)]
    fn shortcut(&mut self, _slot: PhysAddr, _raw: u64, _level: u8, _base: u64) -> bool {
        false
    }

    /// Called at a table descriptor, after what is beneath.
    fn table_after(&mut self, _entry: &Entry) -> Result<Step, TableError> {
        Ok(Step::Skip)
    }
}

/// The slot of descriptor `index` in the table at `table`.
pub(crate) const fn slot(table: PhysAddr, index: u64) -> PhysAddr {
    PhysAddr::new(table.raw().wrapping_add(index.wrapping_mul(DESCRIPTOR_SIZE)))
}

/// A table of a tree, from which a walk may start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subtree {
    /// The table's address.
    pub(crate) table: PhysAddr,
    /// The level of its descriptors.
    pub(crate) level: u8,
    /// log2 of the bytes that one of them decides for.
    shift: u32,
    /// Which bits of a descriptor's number, counted from offset 0, are its index: tables side by side at the root are
    /// one long table, any other has [`ENTRIES`] descriptors.
    index_mask: u64,
}

impl Subtree {
    /// The whole tree at `root`.
    pub(crate) const fn whole(geometry: &Geometry, root: PhysAddr) -> Self {
        let (level, shift) = (geometry.start_level(), geometry.start_shift());
        Self { table: root, level, shift, index_mask: u64::MAX }
    }

    /// The table that `raw`, a table's descriptor of `level`, refers to.
    const fn below(level: u8, raw: u64) -> Self {
        let level = level.wrapping_add(1);
        Self { table: address(raw), level, shift: entry_shift(level), index_mask: ENTRIES - 1 }
    }

    /// The table that the descriptor `raw`, a table's, of this table refers to.
    pub(crate) const fn child(&self, raw: u64) -> Self {
        let (level, shift) = (self.level.wrapping_add(1), self.shift.wrapping_sub(LEVEL_BITS));
        Self { table: address(raw), level, shift, index_mask: ENTRIES - 1 }
    }

    /// True for all but the root.
    pub(crate) const fn is_below_root(&self) -> bool {
        self.index_mask == ENTRIES - 1
    }

    /// The index of the descriptor that decides for `offset`.
    #[inline]
    pub(crate) const fn index_of(&self, offset: u64) -> u64 {
        offset.wrapping_shr(self.shift) & self.index_mask
    }

    /// The slot of the descriptor that decides for `offset`.
    #[inline]
    pub(crate) const fn slot_of(&self, offset: u64) -> PhysAddr {
        slot(self.table, self.index_of(offset))
    }

    /// The smallest part of this tree that decides for all the offsets from `start` to `end` and more, so that a walk
    /// over them meets the same descriptors below it as from here.
    #[inline]
    pub(crate) fn enclosing<F: TableFrames + ?Sized>(mut self, frames: &F, start: u64, end: u64) -> Self {
        while self.level < LAST_LEVEL {
            let size = entry_size(self.level);
            let base = start & !(size - 1);
            if end.wrapping_sub(base) > size || end.wrapping_sub(start) == size {
                break;
            }
            let raw = frames.read(self.slot_of(start));
            if kind(raw, self.level) != Kind::Table {
                break;
            }
            self = self.child(raw);
        }
        self
    }

    /// The table of pages that decides for `offset`, where there is one.
    #[inline]
    pub(crate) fn of_pages<F: TableFrames + ?Sized>(mut self, frames: &F, offset: u64) -> Option<Self> {
        while self.level < LAST_LEVEL {
            let raw = frames.read(self.slot_of(offset));
            if !is_table(raw) {
                return None;
            }
            self = self.child(raw);
        }
        Some(self)
    }

    /// Bytes that one descriptor decides for.
    #[inline]
    pub(crate) const fn entry_size(&self) -> u64 {
        1_u64.wrapping_shl(self.shift)
    }

    /// The last descriptor of a walk to `offset`, with its level.
    #[inline]
    pub(crate) fn leaf_of<F: TableFrames + ?Sized>(self, frames: &F, offset: u64) -> (u64, u8) {
        let (tables, raw) = self.deciding(frames, offset);
        (raw, tables.level)
    }

    /// The table in which a walk to `offset` ends, and the descriptor that it finds there.
    #[inline]
    pub(crate) fn deciding<F: TableFrames + ?Sized>(mut self, frames: &F, offset: u64) -> (Self, u64) {
        loop {
            let raw = frames.read(self.slot_of(offset));
            if self.level >= LAST_LEVEL || !is_table(raw) {
                return (self, raw);
            }
            self = self.child(raw);
        }
    }

    /// Walks the offsets from `start` to `end`, multiples of the page size within what the table decides for.
    pub(crate) fn walk<V: Visitor>(self, visitor: &mut V, start: u64, end: u64) -> Result<(), TableError> {
        self.walk_entries(visitor, start, end).map(|_| ())
    }

    fn walk_entries<V: Visitor>(self, visitor: &mut V, start: u64, end: u64) -> Result<Step, TableError> {
        let level = self.level;
        let size = entry_size(level);
        let whole_end = end & !(size - 1);
        let mut slot = self.slot_of(start);
        let mut next = start;
        loop {
            if next & (size - 1) == 0 {
                while next < whole_end && visitor.shortcut(slot, visitor.frames().read(slot), level, next) {
                    slot = slot_after(slot);
                    next = next.wrapping_add(size);
                }
            }
            if next >= end {
                return Ok(Step::Skip);
            }
            let base = next & !(size - 1);
            let after = end.min(base.wrapping_add(size));
            let entry = Entry { slot, raw: visitor.frames().read(slot), level, base, start: next, end: after };
            if self.walk_entry(visitor, entry)? == Step::Stop {
                return Ok(Step::Stop);
            }
            slot = slot_after(slot);
            next = after;
        }
    }

    /// Shows one entry to the visitor, and goes on beneath it. Out of line, so that the loop above stays small.
    #[inline(never)]
    fn walk_entry<V: Visitor>(self, visitor: &mut V, mut entry: Entry) -> Result<Step, TableError> {
        let step = match kind(entry.raw, self.level) {
            Kind::Table => visitor.table_before(&entry)?,
            Kind::Reserved => return Err(TableError::Corrupt),
            Kind::Vacant | Kind::Annotated | Kind::Unlinked | Kind::Locked | Kind::Leaf => visitor.leaf(&entry)?,
        };
        if step != Step::Descend {
            return Ok(step);
        }
        entry.raw = visitor.frames().read(entry.slot);
        // The last level holds no table, which bounds the recursion whatever the tables hold.
        if kind(entry.raw, self.level) != Kind::Table {
            return Ok(Step::Skip);
        }
        if self.child(entry.raw).walk_entries(visitor, entry.start, entry.end)? == Step::Stop {
            return Ok(Step::Stop);
        }
        entry.raw = visitor.frames().read(entry.slot);
        if kind(entry.raw, self.level) != Kind::Table {
            return Ok(Step::Skip);
        }
        visitor.table_after(&entry)
    }
}

/// The slot of the previous descriptor of a table.
#[inline]
pub(crate) const fn slot_before(slot: PhysAddr) -> PhysAddr {
    PhysAddr::new(slot.raw().wrapping_sub(DESCRIPTOR_SIZE))
}

/// The slot of the next descriptor of a table.
#[inline]
pub(crate) const fn slot_after(slot: PhysAddr) -> PhysAddr {
    PhysAddr::new(slot.raw().wrapping_add(DESCRIPTOR_SIZE))
}
