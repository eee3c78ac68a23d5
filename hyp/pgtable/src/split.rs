//! Splitting blocks before it is necessary, so that a later change of a part needs neither frames nor a break.

use crate::change::Action;
use crate::environment::Environment;
use crate::error::TableError;
use crate::geometry::{LAST_LEVEL, entry_size};
use crate::regime::Regime;
use crate::table::PageTable;

impl<R: Regime> PageTable<R> {
    /// Splits the blocks of the range down to leaves of `level`: 2 for 2 MiB, 3 for 4 KiB. What is mapped, and how,
    /// stays; leaves that are small enough are left alone, as is what is not mapped. A block that the range cuts
    /// through is split where it lies in the range, and into the largest leaves that fit elsewhere.
    ///
    /// All blocks are broken before one flush, and made after it: accesses to them fault meanwhile.
    ///
    /// # Errors
    /// [`TableError::OutOfFrames`]; [`TableError::BadRange`] for another `level` too; [`TableError::Misaligned`],
    /// [`TableError::Corrupt`].
    pub fn split<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        size: u64,
        level: u8,
    ) -> Result<(), TableError> {
        if !(2..=LAST_LEVEL).contains(&level) {
            return Err(TableError::BadRange);
        }
        let (start, end) = self.range(input, size)?;
        // A leaf of the right size that the range cuts through is in it as a whole. The input space ends where one
        // does.
        let mask = entry_size(level) - 1;
        let (start, end) = (start & !mask, end.wrapping_add(mask) & !mask);
        let tables = self.tables().enclosing(&*environment, start, end);
        self.change(environment, Action::Split(level), tables, start, end)
    }
}
