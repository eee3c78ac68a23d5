//! The walker: one recursion over a range of a tree, which every operation is a visitor of.

use abi::PhysAddr;

use crate::descriptor::{Kind, address, kind};
use crate::environment::TableFrames;
use crate::error::TableError;
use crate::geometry::{Geometry, LAST_LEVEL, entry_shift, entry_size};

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
        self.end - self.start == entry_size(self.level)
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

    /// Called at a table descriptor, after what is beneath.
    fn table_after(&mut self, _entry: &Entry) -> Result<Step, TableError> {
        Ok(Step::Skip)
    }
}

/// The slot of descriptor `index` in the table at `table`.
pub(crate) const fn slot(table: PhysAddr, index: u64) -> PhysAddr {
    PhysAddr::new(table.raw().wrapping_add(index.wrapping_mul(DESCRIPTOR_SIZE)))
}

/// Walks the offsets from `start` to `end`, which is within the input space, of the tree at `root`.
pub(crate) fn walk<V: Visitor>(
    visitor: &mut V,
    geometry: &Geometry,
    root: PhysAddr,
    start: u64,
    end: u64,
) -> Result<(), TableError> {
    walk_table(visitor, root, geometry.start_level(), 0, start, end)?;
    Ok(())
}

/// Walks the part from `start` to `end` of one table, whose first descriptor decides for `base`.
fn walk_table<V: Visitor>(
    visitor: &mut V,
    table: PhysAddr,
    level: u8,
    base: u64,
    start: u64,
    end: u64,
) -> Result<Step, TableError> {
    let size = entry_size(level);
    let mut next = start;
    while next < end {
        let index = (next - base) >> entry_shift(level);
        let entry_base = base + index * size;
        let slot = slot(table, index);
        let raw = visitor.frames().read(slot);
        let mut entry = Entry { slot, raw, level, base: entry_base, start: next, end: end.min(entry_base + size) };
        next = entry.end;

        let step = match kind(raw, level) {
            Kind::Table => visitor.table_before(&entry)?,
            Kind::Reserved => return Err(TableError::Corrupt),
            Kind::Vacant | Kind::Annotated | Kind::Unlinked | Kind::Leaf => visitor.leaf(&entry)?,
        };
        match step {
            Step::Stop => return Ok(Step::Stop),
            Step::Skip => continue,
            // The last level holds no table, which bounds the recursion whatever the tables hold.
            Step::Descend if level >= LAST_LEVEL => continue,
            Step::Descend => {}
        }
        entry.raw = visitor.frames().read(slot);
        if kind(entry.raw, level) != Kind::Table {
            continue;
        }
        let child = address(entry.raw);
        if walk_table(visitor, child, level + 1, entry_base, entry.start, entry.end)? == Step::Stop {
            return Ok(Step::Stop);
        }
        entry.raw = visitor.frames().read(slot);
        if kind(entry.raw, level) == Kind::Table && visitor.table_after(&entry)? == Step::Stop {
            return Ok(Step::Stop);
        }
    }
    Ok(Step::Skip)
}
