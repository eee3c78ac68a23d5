//! Walking a table for one address after another.

use crate::disagreement::{Disagreement, Table};
use abi::Pfn;
use pgtable::regime::InputAddress;
use pgtable::{Leaf, PageTable, Regime, TableFrames};

/// A table, and the leaf that was found last: where addresses are near each other, most need no walk.
pub(crate) struct Cursor<'a, F, R: Regime> {
    frames: &'a F,
    table: &'a PageTable<R>,
    name: Table,
    leaf: Option<Leaf<R>>,
}

impl<'a, F: TableFrames, R: Regime> Cursor<'a, F, R> {
    pub(crate) fn new(frames: &'a F, table: &'a PageTable<R>, name: Table) -> Self {
        Self { frames, table, name, leaf: None }
    }

    /// The leaf that decides for a page of the table's input addresses, by number.
    pub(crate) fn at(&mut self, number: u64) -> Result<Leaf<R>, Disagreement> {
        let unreadable = || Disagreement::new(Pfn::new(number), None, self.name, "has no readable descriptor");
        let address = Pfn::new(number).checked_address().ok_or_else(unreadable)?.raw();
        if let Some(leaf) = self.leaf.filter(|leaf| {
            let base = leaf.base.into_raw();
            address >= base && address - base < leaf.size
        }) {
            return Ok(leaf);
        }
        let leaf = self.table.lookup(self.frames, R::Input::from_raw(address)).map_err(|_| unreadable())?;
        self.leaf = Some(leaf);
        Ok(leaf)
    }
}
