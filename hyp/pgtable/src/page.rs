//! Changes of a single page that take no more than to write its descriptor: there is a table of pages, and nothing is to
//! be broken first. Most changes are such.

use abi::{PAGE_SIZE, PhysAddr, PhysRange};

use crate::bits::AF;
use crate::descriptor::{Kind, RawLeaf, is_leaf, kind, leaf};
use crate::environment::{Environment, TableFrames};
use crate::error::TableError;
use crate::geometry::{ENTRIES, LAST_LEVEL};
use crate::regime::{Change, InputAddress, Regime, Scope};
use crate::table::{MapOptions, PageTable};
use crate::walker::{slot as slot_in, slot_after, slot_before};

/// A page's descriptor in a table, found by a walk that a change of the page need not make again. It is good until the
/// table is next changed, for one change; builds with debug assertions check that.
#[derive(Debug)]
pub struct PageEntry<I> {
    slot: PhysAddr,
    raw: u64,
    input: I,
}

impl<I: InputAddress> PageEntry<I> {
    /// What the descriptor says.
    #[inline]
    pub const fn leaf(&self) -> RawLeaf<I> {
        RawLeaf::new(self.raw, LAST_LEVEL, self.input, PAGE_SIZE)
    }
}

impl<R: Regime> PageTable<R> {
    /// The descriptor of the page at `input`; `None` where no table of pages decides for it, or it is not page aligned
    /// or out of bounds.
    #[inline(always)]
    pub fn page_entry<F: TableFrames + ?Sized>(&self, frames: &F, input: R::Input) -> Option<PageEntry<R::Input>> {
        let offset = self.geometry().offset(input.into_raw())?;
        if input.into_raw() & (PAGE_SIZE - 1) != 0 {
            return None;
        }
        let slot = self.tables().of_pages(frames, offset)?.slot_of(offset);
        Some(PageEntry { slot, raw: frames.read(slot), input })
    }

    /// [`map`](Self::map) for the page of an entry.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    #[inline(always)]
    pub fn map_entry<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        entry: PageEntry<R::Input>,
        output: PhysAddr,
        attributes: R::Attributes,
        options: MapOptions,
    ) -> Result<(), TableError> {
        self.check_good(&*environment, &entry);
        match self.write_mapping(environment, &entry, output, attributes, options, false) {
            Some(()) => Ok(()),
            None => self.map(environment, entry.input, output, PAGE_SIZE, attributes, options),
        }
    }

    /// [`unmap`](Self::unmap) for the page of an entry.
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap).
    #[inline(always)]
    pub fn unmap_entry<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        entry: PageEntry<R::Input>,
    ) -> Result<(), TableError> {
        self.check_good(&*environment, &entry);
        match self.write_invalid(environment, &entry, 0) {
            Some(()) => Ok(()),
            None => self.invalidate_tables(environment, entry.input, PAGE_SIZE, 0),
        }
    }

    fn check_good<F: TableFrames + ?Sized>(&self, frames: &F, entry: &PageEntry<R::Input>) {
        debug_assert_eq!(
            self.page_entry(frames, entry.input).map(|found| (found.slot, found.raw)),
            Some((entry.slot, entry.raw)),
            "the table was changed since the entry was found"
        );
    }

    /// Maps a page where it is vacant, or where `replace` allows it and only what may change in place differs. `None` where
    /// it is not so, or the mapping is one that the table cannot hold, with nothing done.
    #[inline(always)]
    pub(crate) fn write_mapping<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        entry: &PageEntry<R::Input>,
        output: PhysAddr,
        attributes: R::Attributes,
        options: MapOptions,
        replace: bool,
    ) -> Option<()> {
        if !output.is_aligned(PAGE_SIZE) || output.raw() >= self.geometry().output_end() {
            return None;
        }
        let attributes = self.regime().encode(attributes).ok()?;
        let (old, new) = (entry.raw, leaf(output.raw(), attributes, LAST_LEVEL));
        let is_vacant = old == 0 || options.replace_annotations && kind(old, LAST_LEVEL) == Kind::Annotated;
        // The hardware sets the access flag where it is clear.
        let in_place =
            replace && is_leaf(old, LAST_LEVEL) && self.regime().change(old, new) == Change::InPlace && old & AF != 0;
        if !is_vacant && !in_place {
            return None;
        }
        if options.synchronise_caches {
            let outputs = PhysRange::from_size(output, PAGE_SIZE)?;
            self.regime().synchronise_caches(&*environment, attributes, outputs);
        }
        environment.write(entry.slot, new);
        if is_vacant {
            self.regime().publish(&*environment);
        } else {
            self.flush_page(&*environment, entry);
        }
        Some(())
    }

    /// Leaves `value`, 0 or an annotation's descriptor, where a page is mapped, annotated or vacant. `None` where the table
    /// might be empty then, or the descriptor is none that stays, with nothing done.
    #[inline(always)]
    pub(crate) fn write_invalid<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        entry: &PageEntry<R::Input>,
        value: u64,
    ) -> Option<()> {
        if value == 0 && !self.has_other(&*environment, entry.slot) {
            return None;
        }
        let old = entry.raw;
        match kind(old, LAST_LEVEL) {
            Kind::Vacant | Kind::Annotated => {
                if old != value {
                    environment.write(entry.slot, value);
                }
            }
            Kind::Leaf => {
                environment.write(entry.slot, value);
                self.flush_page(&*environment, entry);
            }
            Kind::Unlinked | Kind::Locked | Kind::Table | Kind::Reserved => return None,
        }
        Some(())
    }

    /// True where another descriptor than that at `slot` is not vacant in its table, which so does not become empty when
    /// that one does.
    #[inline]
    fn has_other<F: TableFrames + ?Sized>(&mut self, frames: &F, slot: PhysAddr) -> bool {
        let last = self.last_in_use;
        has_neighbour(frames, slot)
            // What is found once answers for the same table many times.
            || last.align_down(PAGE_SIZE) == slot.align_down(PAGE_SIZE) && last != slot && frames.read(last) != 0
            || self.find_other(frames, slot)
    }

    #[inline(never)]
    fn find_other<F: TableFrames + ?Sized>(&mut self, frames: &F, slot: PhysAddr) -> bool {
        let found = find_other(frames, slot);
        self.last_in_use = found.unwrap_or(self.last_in_use);
        found.is_some()
    }

    /// Flushes the leaf that was in an entry.
    #[inline]
    fn flush_page<E: Environment + ?Sized>(&self, environment: &E, entry: &PageEntry<R::Input>) {
        let scope = Scope::Leaf { input: entry.input.into_raw(), level: LAST_LEVEL };
        self.regime().invalidate(environment, self.root(), scope);
    }
}

/// True where the descriptor before that at `slot`, or the one behind it, is not vacant: the table of both does not become
/// empty when that one does.
#[inline]
fn has_neighbour<F: TableFrames + ?Sized>(frames: &F, slot: PhysAddr) -> bool {
    let (before, after) = (slot_before(slot), slot_after(slot));
    !slot.is_aligned(PAGE_SIZE) && frames.read(before) != 0 || !after.is_aligned(PAGE_SIZE) && frames.read(after) != 0
}

/// The first descriptor that is not vacant in the page that has the one at `slot`, other than that.
fn find_other<F: TableFrames + ?Sized>(frames: &F, slot: PhysAddr) -> Option<PhysAddr> {
    // So many are read for each question.
    const TURN: u64 = 8;
    let table = slot.align_down(PAGE_SIZE);
    let read = |index: u64| frames.read(slot_in(table, index));
    (0..ENTRIES / TURN).map(|turn| turn * TURN).find_map(|first| {
        let turn = first..first + TURN;
        if turn.clone().fold(0, |found, index| found | read(index)) == 0 {
            return None;
        }
        turn.map(|index| slot_in(table, index)).find(|other| *other != slot && frames.read(*other) != 0)
    })
}
