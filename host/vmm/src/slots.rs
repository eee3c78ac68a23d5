//! A guest's memory slots: which of the host's memory stands behind which of the guest's pages.

use crate::address_space::{Changes, Listener, Refusal};
use crate::dirty::DirtyBitmap;
use crate::dispatch::{RangeError, RangeTable};
use crate::flat_view::{FlatContent, FlatRange};
use crate::region::BackingId;
use abi::{Gfn, Ipa, PAGE_SIZE};

/// Most slots that a guest has.
pub const SLOTS_MAX: usize = 512;
/// Pages of a block of 2 MiB, which are given at once where they can be.
pub const BLOCK_PAGES: u64 = 512;

/// A slot. The number is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SlotId(u64);

/// What the guest may do with a slot's memory, and what is noted of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SlotFlags {
    /// A write does not reach the memory, but leaves the guest as a device's would.
    pub read_only: bool,
    /// It is noted which pages the guest writes.
    pub dirty_logging: bool,
}

/// What a slot is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSettings {
    /// Where it starts; a multiple of 4 KiB.
    pub start: Ipa,
    /// Its size in bytes, a multiple of 4 KiB.
    pub size: u64,
    /// The memory behind it.
    pub backing: BackingId,
    /// Where in that memory it starts, in bytes; a multiple of 4 KiB.
    pub backing_offset: u64,
    /// Its flags.
    pub flags: SlotFlags,
}

impl SlotSettings {
    /// The slot for a range of an address space; `None` where there is no memory behind the range.
    fn of(range: &FlatRange) -> Option<Self> {
        let read_only = !matches!(range.content, FlatContent::Ram(_));
        Some(Self {
            start: range.start,
            size: range.size,
            backing: range.content.backing()?,
            backing_offset: range.offset,
            flags: SlotFlags { read_only, dirty_logging: range.dirty_logging },
        })
    }

    fn is_aligned(&self) -> bool {
        [self.start.raw(), self.size, self.backing_offset].iter().all(|value| value.is_multiple_of(PAGE_SIZE))
    }
}

/// A stretch of a guest's memory.
#[derive(Clone, Debug)]
pub struct Slot {
    id: SlotId,
    settings: SlotSettings,
    dirty: Option<DirtyBitmap>,
}

impl Slot {
    /// Its number.
    pub const fn id(&self) -> SlotId {
        self.id
    }

    /// What it is.
    pub const fn settings(&self) -> &SlotSettings {
        &self.settings
    }

    /// Its first page.
    pub const fn first(&self) -> Gfn {
        Gfn::containing(self.settings.start)
    }

    /// How many pages it has.
    pub const fn pages(&self) -> u64 {
        self.settings.size / PAGE_SIZE
    }

    /// The first page of the block that `frame` is in, where all of the block is in the slot.
    pub const fn block_around(&self, frame: Gfn) -> Option<Gfn> {
        let block = frame.raw() & !(BLOCK_PAGES - 1);
        match block.checked_sub(self.first().raw()) {
            Some(before) if before.saturating_add(BLOCK_PAGES) <= self.pages() => Some(Gfn::new(block)),
            _ => None,
        }
    }

    /// Which page of the memory behind it `frame`, one of its pages, is.
    pub const fn backing_page(&self, frame: Gfn) -> u64 {
        let distance = frame.raw().saturating_sub(self.first().raw());
        (self.settings.backing_offset / PAGE_SIZE).saturating_add(distance)
    }

    /// Which pages the guest has written, counted from the first, where that is noted.
    pub const fn dirty(&self) -> Option<&DirtyBitmap> {
        self.dirty.as_ref()
    }

    fn set_flags(&mut self, flags: SlotFlags) {
        self.settings.flags = flags;
        let pages = self.pages();
        self.dirty = flags.dirty_logging.then(|| self.dirty.take().unwrap_or_else(|| DirtyBitmap::new(pages)));
    }
}

/// Why slots cannot be changed so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotError {
    /// An address, a size or an offset is not a multiple of 4 KiB.
    Unaligned,
    /// The slot is empty, or it or its memory ends beyond a 64-bit address.
    BadRange,
    /// Another slot has one of its pages.
    Overlap,
    /// There are [`SLOTS_MAX`] already.
    TooMany,
    /// There is no such slot.
    NoSuchSlot,
    /// The guest cannot have such a slot.
    Unsupported,
}

impl From<RangeError> for SlotError {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::BadRange => SlotError::BadRange,
            RangeError::Overlap => SlotError::Overlap,
        }
    }
}

/// Who does to the guest's stage 2 what happens to its slots. A new slot needs nothing done: pages come as the guest
/// touches them.
pub trait SlotDriver {
    /// Whether the guest can have such a slot.
    fn accepts(&self, settings: &SlotSettings) -> bool;

    /// A slot is no more where it was, be it deleted or moved: the guest must lose its pages there.
    fn unmapped(&mut self, slot: &Slot);

    /// A slot has other flags than `before`: rights that it lost must be taken from pages that the guest has.
    fn flags_changed(&mut self, slot: &Slot, before: SlotFlags);

    /// It is to be seen when the guest next writes one of the `pages` of a slot, counted from its first.
    fn protect(&mut self, slot: &Slot, pages: &DirtyBitmap);
}

/// A guest's slots. They may listen to an address space, whose memory they then are.
#[derive(Debug)]
pub struct MemorySlots<D> {
    slots: RangeTable<Slot>,
    next: u64,
    driver: D,
}

impl<D: SlotDriver> MemorySlots<D> {
    /// No slots; what happens to them is done by `driver`.
    pub const fn new(driver: D) -> Self {
        Self { slots: RangeTable::new(), next: 0, driver }
    }

    /// Who does what happens to the slots.
    pub const fn driver(&self) -> &D {
        &self.driver
    }

    /// The same, to be asked for something.
    pub const fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// The slot that has the page `frame`, and who gives the guest its pages.
    pub fn find_with_driver(&mut self, frame: Gfn) -> Option<(&Slot, &mut D)> {
        let (slot, _) = self.slots.get(frame.checked_address()?)?;
        Some((slot, &mut self.driver))
    }

    /// The slots, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }

    /// The slot `id`.
    pub fn get(&self, id: SlotId) -> Option<&Slot> {
        self.iter().find(|slot| slot.id == id)
    }

    /// The slot that has the page `frame`, and which of its pages that is.
    pub fn find(&self, frame: Gfn) -> Option<(&Slot, u64)> {
        let (slot, offset) = self.slots.get(frame.checked_address()?)?;
        Some((slot, offset / PAGE_SIZE))
    }

    /// Makes a slot.
    ///
    /// # Errors
    /// [`SlotError`]; nothing is changed.
    pub fn create(&mut self, settings: SlotSettings) -> Result<SlotId, SlotError> {
        if !settings.is_aligned() {
            return Err(SlotError::Unaligned);
        }
        settings.backing_offset.checked_add(settings.size).ok_or(SlotError::BadRange)?;
        if !self.driver.accepts(&settings) {
            return Err(SlotError::Unsupported);
        }
        if self.iter().count() >= SLOTS_MAX {
            return Err(SlotError::TooMany);
        }
        let id = SlotId(self.next);
        self.slots.insert(settings.start, settings.size, Slot { id, settings, dirty: None })?;
        self.next += 1;
        if let Some((slot, _)) = self.slots.find(settings.start, settings.size) {
            slot.set_flags(settings.flags);
        }
        Ok(id)
    }

    /// Deletes a slot.
    ///
    /// # Errors
    /// `NoSuchSlot`.
    pub fn delete(&mut self, id: SlotId) -> Result<(), SlotError> {
        let start = self.get(id).ok_or(SlotError::NoSuchSlot)?.settings.start;
        self.delete_at(start);
        Ok(())
    }

    /// Moves a slot to `start`, with what was noted of it. It may overlap where it was.
    ///
    /// # Errors
    /// [`SlotError`]; nothing is changed.
    pub fn move_to(&mut self, id: SlotId, start: Ipa) -> Result<(), SlotError> {
        let old = self.get(id).ok_or(SlotError::NoSuchSlot)?.settings;
        let new = SlotSettings { start, ..old };
        if !new.is_aligned() {
            return Err(SlotError::Unaligned);
        }
        if !self.driver.accepts(&new) {
            return Err(SlotError::Unsupported);
        }
        let slot = self.slots.remove(old.start).ok_or(SlotError::NoSuchSlot)?;
        let moved = self.slots.insert(start, new.size, Slot { settings: new, ..slot.clone() });
        if let Err(error) = moved {
            self.slots.insert(old.start, old.size, slot).expect("it was there");
            return Err(error.into());
        }
        self.driver.unmapped(&slot);
        Ok(())
    }

    /// Gives a slot other flags. What was noted is kept for as long as it is noted.
    ///
    /// # Errors
    /// `NoSuchSlot`, `Unsupported`; nothing is changed.
    pub fn set_flags(&mut self, id: SlotId, flags: SlotFlags) -> Result<(), SlotError> {
        let slot = self.slots.values_mut().find(|slot| slot.id == id).ok_or(SlotError::NoSuchSlot)?;
        let before = slot.settings.flags;
        if !self.driver.accepts(&SlotSettings { flags, ..slot.settings }) {
            return Err(SlotError::Unsupported);
        }
        if before != flags {
            slot.set_flags(flags);
            self.driver.flags_changed(slot, before);
        }
        Ok(())
    }

    /// Takes note that the guest wrote `frame`; true where that is noted, and news.
    pub fn mark_dirty(&mut self, frame: Gfn) -> bool {
        let found = frame.checked_address().and_then(|address| self.slots.find(address, PAGE_SIZE));
        found.is_some_and(|(slot, offset)| slot.dirty.as_mut().is_some_and(|dirty| dirty.mark(offset / PAGE_SIZE)))
    }

    /// Gives which pages of a slot were written since this was last asked, and has it noted anew; `None` where that is not
    /// noted.
    ///
    /// # Errors
    /// `NoSuchSlot`.
    pub fn take_dirty(&mut self, id: SlotId) -> Result<Option<DirtyBitmap>, SlotError> {
        let slot = self.slots.values_mut().find(|slot| slot.id == id).ok_or(SlotError::NoSuchSlot)?;
        let written = slot.dirty.as_mut().map(DirtyBitmap::take);
        if let Some(written) = &written {
            self.driver.protect(slot, written);
        }
        Ok(written)
    }

    fn delete_at(&mut self, start: Ipa) {
        if let Some(slot) = self.slots.remove(start) {
            self.driver.unmapped(&slot);
        }
    }
}

impl<D: SlotDriver> Listener for MemorySlots<D> {
    fn check(&self, changes: &Changes) -> Result<(), Refusal> {
        let mut after = RangeTable::new();
        let gone = |slot: &Slot| {
            let gone = changes.removed.iter().filter_map(SlotSettings::of);
            gone.into_iter().any(|settings| settings.start == slot.settings.start)
        };
        let stay = self.iter().filter(|slot| !gone(slot)).map(|slot| slot.settings);
        for settings in stay.chain(changes.added.iter().filter_map(SlotSettings::of)) {
            if !settings.is_aligned() {
                return Err(Refusal::Unaligned(settings.start));
            }
            if !self.driver.accepts(&settings) {
                return Err(Refusal::Unsupported(settings.start));
            }
            after.insert(settings.start, settings.size, ()).map_err(|_| Refusal::Overlap(settings.start))?;
        }
        let logged = changes.logging_changed.iter().filter_map(SlotSettings::of);
        if let Some(refused) = logged.into_iter().find(|settings| !self.driver.accepts(settings)) {
            return Err(Refusal::Unsupported(refused.start));
        }
        if after.values().count() > SLOTS_MAX { Err(Refusal::TooMany) } else { Ok(()) }
    }

    fn removed(&mut self, range: &FlatRange) {
        if SlotSettings::of(range).is_some() {
            self.delete_at(range.start);
        }
    }

    fn added(&mut self, range: &FlatRange) {
        if let Some(settings) = SlotSettings::of(range) {
            self.create(settings).expect("the change was checked");
        }
    }

    fn logging_changed(&mut self, range: &FlatRange) {
        let id = self.slots.get(range.start).map(|(slot, _)| slot.id);
        if let (Some(id), Some(settings)) = (id, SlotSettings::of(range)) {
            self.set_flags(id, settings.flags).expect("the slot was just found");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use alloc::vec::Vec;

    #[derive(Default)]
    struct Recorder(Vec<String>);

    /// Where no slot is taken.
    const FORBIDDEN: u64 = 0x666_0000;

    impl SlotDriver for Recorder {
        fn accepts(&self, settings: &SlotSettings) -> bool {
            settings.start != Ipa::new(FORBIDDEN) && !(settings.flags.read_only && settings.flags.dirty_logging)
        }
        fn protect(&mut self, slot: &Slot, pages: &DirtyBitmap) {
            let pages: Vec<_> = pages.iter().collect();
            self.0.push(format!("{:x} noted anew: {pages:x?}", slot.first().raw()));
        }
        fn unmapped(&mut self, slot: &Slot) {
            self.0.push(format!("-{:x}+{:x}", slot.first().raw(), slot.pages()));
        }
        fn flags_changed(&mut self, slot: &Slot, before: SlotFlags) {
            let flags = slot.settings().flags;
            self.0.push(format!("{:x}:{before:?}>{flags:?}", slot.first().raw()).replace("SlotFlags", ""));
        }
    }

    const NOTED: SlotFlags = SlotFlags { read_only: false, dirty_logging: true };

    fn settings(start: u64, size: u64) -> SlotSettings {
        let backing = BackingId(1);
        SlotSettings { start: Ipa::new(start), size, backing, backing_offset: 0, flags: SlotFlags::default() }
    }

    fn slots() -> (MemorySlots<Recorder>, SlotId, SlotId) {
        let mut slots = MemorySlots::new(Recorder::default());
        let high = slots.create(settings(0x8000, 0x4000)).unwrap();
        let low = slots.create(settings(0x2000, 0x2000)).unwrap();
        (slots, low, high)
    }

    fn places(slots: &MemorySlots<Recorder>) -> Vec<(u64, u64)> {
        slots.iter().map(|slot| (slot.first().raw(), slot.pages())).collect()
    }

    #[test]
    fn a_page_is_found_in_its_slot_and_nowhere_else() {
        let (slots, low, high) = slots();
        let found = |frame| slots.find(Gfn::new(frame)).map(|(slot, page)| (slot.id(), page));
        assert_eq!([2, 3].map(found), [Some((low, 0)), Some((low, 1))]);
        assert_eq!([8, 11].map(found), [Some((high, 0)), Some((high, 3))]);
        assert_eq!([0, 1, 4, 7, 12, u64::MAX].map(found), [None; 6]);
    }

    #[test]
    fn alignment_overflow_and_overlap_are_refused() {
        let (mut slots, ..) = slots();
        let top = !(PAGE_SIZE - 1);
        for (start, size, error) in [
            (0x4001, 0x1000, SlotError::Unaligned),
            (0x4000, 0x1001, SlotError::Unaligned),
            (0x4000, 0, SlotError::BadRange),
            (top, 0x1000, SlotError::BadRange),
            (0x1000, top, SlotError::BadRange),
            (0x1000, 0x2000, SlotError::Overlap),
            (0x3000, 0x1000, SlotError::Overlap),
            (0xb000, 0x1000, SlotError::Overlap),
            (0x0, 0x2_0000, SlotError::Overlap),
        ] {
            assert_eq!(slots.create(settings(start, size)), Err(error), "{start:#x} {size:#x}");
        }
        let shifted = SlotSettings { backing_offset: 0x800, ..settings(0x4000, 0x1000) };
        assert_eq!(slots.create(shifted), Err(SlotError::Unaligned));
        let beyond = SlotSettings { backing_offset: top, ..settings(0x4000, 0x1000) };
        assert_eq!(slots.create(beyond), Err(SlotError::BadRange));
        assert_eq!(places(&slots), [(2, 2), (8, 4)]);
        assert!(slots.create(settings(0x4000, 0x4000)).is_ok());
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let mut slots = MemorySlots::new(Recorder::default());
        for index in 0..SLOTS_MAX as u64 {
            slots.create(settings(index * 0x2000, 0x1000)).unwrap();
        }
        assert_eq!(slots.create(settings(0x1000, 0x1000)), Err(SlotError::TooMany));
        let first = slots.iter().next().unwrap().id();
        slots.delete(first).unwrap();
        assert!(slots.create(settings(0x1000, 0x1000)).unwrap() > first);
    }

    #[test]
    fn a_slot_that_goes_or_moves_takes_its_pages_from_the_guest() {
        let (mut slots, low, high) = slots();
        assert_eq!(slots.move_to(low, Ipa::new(0x3000)), Ok(()));
        assert_eq!(slots.move_to(low, Ipa::new(0x7000)), Err(SlotError::Overlap));
        assert_eq!(slots.move_to(low, Ipa::new(0x3001)), Err(SlotError::Unaligned));
        assert_eq!(slots.move_to(low, Ipa::new(!0xfff)), Err(SlotError::BadRange));
        assert_eq!(places(&slots), [(3, 2), (8, 4)]);
        assert_eq!(slots.find(Gfn::new(4)).map(|(slot, page)| (slot.id(), page)), Some((low, 1)));
        assert_eq!(slots.delete(high), Ok(()));
        assert_eq!(slots.delete(high), Err(SlotError::NoSuchSlot));
        assert_eq!(slots.move_to(high, Ipa::new(0)), Err(SlotError::NoSuchSlot));
        assert_eq!(slots.driver().0, ["-2+2", "-8+4"]);
    }

    #[test]
    fn a_block_is_found_where_all_of_it_is_in_the_slot() {
        let mut slots = MemorySlots::new(Recorder::default());
        let offset = 7 * PAGE_SIZE;
        let settings = SlotSettings { backing_offset: offset, ..settings(0x3f_f000, 0x40_1000) };
        slots.create(settings).unwrap();
        let slot = slots.iter().next().unwrap();
        let block = |frame| slot.block_around(Gfn::new(frame)).map(Gfn::raw);
        assert_eq!(
            [0x3ff, 0x400, 0x5ff, 0x600, 0x7ff].map(block),
            [None, Some(0x400), Some(0x400), Some(0x600), Some(0x600)]
        );
        assert_eq!([0x3fe, 0x800, u64::MAX].map(block), [None; 3]);
        assert_eq!([0x3ff, 0x400, 0x7ff].map(|frame| slot.backing_page(Gfn::new(frame))), [7, 8, 0x407]);
        let (found, driver) = slots.find_with_driver(Gfn::new(0x400)).unwrap();
        driver.0.push(format!("{:x}", found.first().raw()));
        assert!(slots.find_with_driver(Gfn::new(0x800)).is_none());
        assert_eq!(slots.driver_mut().0, ["3ff"]);
    }

    #[test]
    fn what_the_guest_cannot_have_is_refused() {
        let (mut slots, low, _) = slots();
        assert_eq!(slots.create(settings(FORBIDDEN, 0x1000)), Err(SlotError::Unsupported));
        assert_eq!(slots.move_to(low, Ipa::new(FORBIDDEN)), Err(SlotError::Unsupported));
        let both = SlotFlags { read_only: true, dirty_logging: true };
        assert_eq!(slots.set_flags(low, both), Err(SlotError::Unsupported));
        let logged = settings(0x2000, 0x2000);
        let mut tree = crate::region::RegionTree::new();
        let region = tree.create("ram", 1, crate::region::Content::Container).unwrap();
        let content = FlatContent::Rom(logged.backing);
        let range =
            FlatRange { start: logged.start, size: logged.size, region, offset: 0, content, dirty_logging: true };
        let changes = Changes { logging_changed: Vec::from([range]), ..Changes::default() };
        assert_eq!(slots.check(&changes), Err(Refusal::Unsupported(logged.start)));
        assert_eq!(places(&slots), [(2, 2), (8, 4)]);
        assert!(slots.driver().0.is_empty());
    }

    #[test]
    fn what_is_written_is_noted_while_the_flag_says_so() {
        let (mut slots, low, high) = slots();
        assert!(!slots.mark_dirty(Gfn::new(2)));
        assert_eq!(slots.take_dirty(low), Ok(None));
        slots.set_flags(low, NOTED).unwrap();
        slots.set_flags(low, NOTED).unwrap();
        assert!(slots.mark_dirty(Gfn::new(3)));
        assert!(!slots.mark_dirty(Gfn::new(3)));
        assert!(!slots.mark_dirty(Gfn::new(8)), "the other slot's are not noted");
        slots.move_to(low, Ipa::new(0x4000)).unwrap();
        assert!(slots.mark_dirty(Gfn::new(4)));
        let written = slots.take_dirty(low).unwrap().unwrap();
        assert_eq!(written.iter().collect::<Vec<_>>(), [0, 1]);
        assert!(slots.mark_dirty(Gfn::new(4)), "noted anew");
        assert_eq!(slots.get(low).unwrap().dirty().unwrap().iter().count(), 1);
        slots.set_flags(low, SlotFlags::default()).unwrap();
        assert_eq!(slots.take_dirty(low), Ok(None));
        let told = &slots.driver().0;
        assert_eq!(told.len(), 4, "two changes of flags, a move and one that was asked: {told:?}");
        assert_eq!(told[2], "4 noted anew: [0, 1]");
        slots.delete(high).unwrap();
        assert_eq!(slots.set_flags(high, NOTED), Err(SlotError::NoSuchSlot));
        assert_eq!(slots.take_dirty(high), Err(SlotError::NoSuchSlot));
        let noted = slots.create(SlotSettings { flags: NOTED, ..settings(0x10_0000, 0x2000) }).unwrap();
        assert!(slots.mark_dirty(Gfn::new(0x101)));
        assert_eq!(slots.get(noted).unwrap().dirty().map(DirtyBitmap::pages), Some(2));
    }
}
