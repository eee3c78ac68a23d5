//! Changing the attributes of what is mapped.

use crate::bits;
use crate::change::Action;
use crate::environment::Environment;
use crate::error::TableError;
use crate::regime::Regime;
use crate::table::PageTable;

impl<R: Regime> PageTable<R> {
    /// Gives every page of the range these attributes; output addresses stay. A right that is taken away is gone on
    /// all CPUs when this returns. Where what changes may not change in place, such as the memory type, accesses to the
    /// range fault meanwhile. Caches are left alone: memory that is to be reached by another memory type, and code that
    /// becomes executable, is the caller's to clean.
    ///
    /// # Errors
    /// [`TableError::NotMapped`] where a page of the range has no mapping; [`TableError::OutOfFrames`] where a block
    /// had to be split; [`TableError::Misaligned`], [`TableError::BadRange`], [`TableError::BadAttributes`],
    /// [`TableError::Corrupt`].
    pub fn protect<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        size: u64,
        attributes: R::Attributes,
    ) -> Result<(), TableError> {
        let (start, end) = self.range(input, size)?;
        let action = Action::Protect(self.regime().encode(attributes)?);
        let tables = self.tables().enclosing(&*environment, start, end);
        self.change(environment, action, tables, start, end)
    }

    /// Takes the right to write from all that is mapped in the range: S2AP\[1\] of stage 2 is cleared, AP\[2\] of stage
    /// 1 set. All other attributes stay, and so does what is not mapped. No CPU can write to the range through this
    /// table when this returns: dirty logging starts here.
    ///
    /// # Errors
    /// [`TableError::OutOfFrames`] where a writable block had to be split; [`TableError::Misaligned`],
    /// [`TableError::BadRange`], [`TableError::Corrupt`].
    pub fn write_protect<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        size: u64,
    ) -> Result<(), TableError> {
        let (start, end) = self.range(input, size)?;
        let (clear, set) = self.regime().write_protection();
        let action = Action::WriteProtect { keep: !(clear & bits::ATTRIBUTES), set: set & bits::ATTRIBUTES };
        let tables = self.tables().enclosing(&*environment, start, end);
        self.change(environment, action, tables, start, end)
    }
}
