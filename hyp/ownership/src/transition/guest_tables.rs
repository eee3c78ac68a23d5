//! What a change to a guest's stage 2 takes, counted before anything is changed, and the change itself.

use super::{check_numbers, must_be_done};
use crate::annotation::{Absence, is_device_mark};
use crate::environment::Environment;
use crate::guest_memory::{GuestMemory, Software};
use crate::ownership::table_error;
use crate::page_cache::CachedFrames;
use crate::reserve::missing_tables;
use abi::{Error, Gfn, Ipa, PAGE_SIZE, PhysAddr};
use core::ops::ControlFlow;
use pgtable::geometry::{LAST_LEVEL, entry_size};
use pgtable::{MapOptions, PageEntry, RawLeaf, Stage2Attributes, TableError, TableFrames};

/// What a guest gets of memory that was cleaned for it: its first accesses may be made with caches off. What was noted at a
/// frame that was found vacant is no more than a mark.
const FOR_GUESTS: MapOptions = MapOptions { force_pages: false, replace_annotations: true, synchronise_caches: true };

/// Devices have no caches.
const FOR_DEVICES: MapOptions = MapOptions { synchronise_caches: false, ..FOR_GUESTS };

/// A range of a guest's address space: whole pages, not empty, within the guest's address size.
#[derive(Clone, Copy)]
pub(super) struct Frames {
    start: Ipa,
    size: u64,
}

/// Proof that a guest has nothing at these frames, may get something there, and has the tables for it.
pub(super) struct VacantFrames {
    frames: Frames,
    /// The descriptor, where it is a single page's.
    entry: Option<PageEntry<Ipa>>,
}

/// Proof that a guest has something mapped at each of these frames, and the tables for taking it away.
pub(super) struct MappedFrames {
    frames: Frames,
    /// The descriptor, where it is a single page's.
    entry: Option<PageEntry<Ipa>>,
}

impl Frames {
    /// The first address.
    pub(super) const fn start(&self) -> Ipa {
        self.start
    }

    /// The part of a leaf that lies in the range: its first address and its size.
    fn within(&self, leaf: &RawLeaf<Ipa>) -> (u64, u64) {
        let start = self.start.raw().max(leaf.base.raw());
        let end = self.end().min(leaf.base.raw().saturating_add(leaf.size));
        (start, end.saturating_sub(start))
    }

    const fn end(&self) -> u64 {
        self.start.raw().saturating_add(self.size)
    }
}

impl GuestMemory {
    /// The guest frames that a call names.
    pub(super) fn named_frames(&self, first: Gfn, count: u64) -> Result<Frames, Error> {
        check_numbers(first.raw(), count, self.gfn_limit())?;
        let start = first.checked_address().ok_or(Error::BadRange)?;
        Ok(Frames { start, size: count.saturating_mul(PAGE_SIZE) })
    }

    /// Refuses where the guest has a page in the range already, or where its cache has too few pages for the tables
    /// that it takes to map the range to memory from `output`.
    #[inline(always)]
    pub(super) fn check_vacant<E: TableFrames>(
        &self,
        env: &E,
        frames: Frames,
        output: PhysAddr,
    ) -> Result<VacantFrames, Error> {
        let entry = self.entry_of(env, frames).filter(|entry| entry.leaf().is_vacant());
        if entry.is_none() {
            self.check_vacant_range(env, frames, output)?;
        }
        Ok(VacantFrames { frames, entry })
    }

    fn check_vacant_range<E: TableFrames>(&self, env: &E, frames: Frames, output: PhysAddr) -> Result<(), Error> {
        let mut tables = 0_u64;
        let outcome = self.stage2.visit_raw(env, frames.start, frames.size, |leaf| {
            if !leaf.is_vacant() && !leaf.annotation().is_some_and(is_device_mark) {
                return ControlFlow::Break(());
            }
            if leaf.level < LAST_LEVEL {
                let (start, size) = frames.within(&leaf);
                let output = output.raw().saturating_add(start.saturating_sub(frames.start.raw()));
                tables = tables.saturating_add(tables_below(leaf.level, start, size, output));
            }
            ControlFlow::Continue(())
        });
        match outcome.map_err(table_error)? {
            ControlFlow::Break(()) => Err(Error::WrongState),
            ControlFlow::Continue(()) if tables > self.cache.available() => Err(Error::OutOfMemory),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// Refuses where a page of the range is not mapped as `software` says, with `absent`, or where the cache has too
    /// few pages for the tables that it takes to change the range alone.
    #[inline(always)]
    pub(super) fn check_mapped<E: TableFrames>(
        &self,
        env: &E,
        frames: Frames,
        software: Software,
        absent: Error,
    ) -> Result<MappedFrames, Error> {
        let entry = self.entry_of(env, frames).filter(|entry| entry.leaf().software() == Some(software.bits()));
        if entry.is_none() {
            self.check_mapped_range(env, frames, software, absent)?;
        }
        Ok(MappedFrames { frames, entry })
    }

    fn check_mapped_range<E: TableFrames>(
        &self,
        env: &E,
        frames: Frames,
        software: Software,
        absent: Error,
    ) -> Result<(), Error> {
        let mut levels: Option<(u8, u8)> = None;
        let outcome = self.stage2.visit_raw(env, frames.start, frames.size, |leaf| {
            let first = levels.map_or(leaf.level, |(first, _)| first);
            levels = Some((first, leaf.level));
            if leaf.software() == Some(software.bits()) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if outcome.map_err(table_error)?.is_break() {
            return Err(absent);
        }
        let missing = levels.map_or(0, |(first, last)| missing_tables(frames.start.raw(), frames.end(), first, last));
        if missing as u64 > self.cache.available() { Err(Error::OutOfMemory) } else { Ok(()) }
    }

    /// The descriptor of a single page, where a table of pages decides for it.
    #[inline]
    fn entry_of<E: TableFrames>(&self, env: &E, frames: Frames) -> Option<PageEntry<Ipa>> {
        if frames.size == PAGE_SIZE { self.stage2.page_entry(env, frames.start) } else { None }
    }

    /// Which memory the guest has at a frame, its own or borrowed.
    pub(super) fn page_at<E: TableFrames>(&self, env: &E, frames: Frames) -> Result<PhysAddr, Error> {
        let leaf = self.stage2.find(env, frames.start).map_err(table_error)?;
        match leaf.software() {
            Some(software) if software != Software::Device.bits() => {
                leaf.output_of(frames.start).ok_or(Error::NotMemory)
            }
            None if leaf.annotation().is_some_and(|annotation| !is_device_mark(annotation)) => Err(Error::WrongState),
            _ => Err(Error::NotMemory),
        }
    }

    /// Calls `visitor` with each piece of memory that is mapped at the frames: its address, and its size in bytes.
    pub(super) fn for_each_piece<E: TableFrames>(
        &self,
        env: &mut E,
        mapped: &MappedFrames,
        mut visitor: impl FnMut(&mut E, PhysAddr, u64),
    ) {
        let frames = mapped.frames;
        if let Some(leaf) = mapped.entry.as_ref().map(PageEntry::leaf) {
            if let Some(output) = leaf.output_of(frames.start) {
                visitor(env, output, frames.size);
            }
            return;
        }
        let mut next = frames.start.raw();
        while next < frames.end() {
            let Ok(leaf) = self.stage2.find(env, Ipa::new(next)) else { return };
            let (start, size) = frames.within(&leaf);
            if let Some(output) = leaf.output_of(Ipa::new(start)) {
                visitor(env, output, size);
            }
            // A leaf has some size, so this ends.
            next = start.saturating_add(size.max(PAGE_SIZE));
        }
    }

    /// Maps a vacant range to memory.
    #[inline]
    pub(super) fn map<E: Environment>(
        &mut self,
        env: &mut E,
        frames: VacantFrames,
        output: PhysAddr,
        attributes: Stage2Attributes,
    ) {
        self.map_with(env, frames, output, attributes, FOR_GUESTS);
    }

    /// Maps a vacant range to a device.
    pub(super) fn map_device<E: Environment>(&mut self, env: &mut E, frames: VacantFrames, output: PhysAddr) {
        let attributes = Stage2Attributes::device().with_software(Software::Device.bits());
        self.map_with(env, frames, output, attributes, FOR_DEVICES);
    }

    #[inline(always)]
    fn map_with<E: Environment>(
        &mut self,
        env: &mut E,
        VacantFrames { frames, entry }: VacantFrames,
        output: PhysAddr,
        attributes: Stage2Attributes,
        options: MapOptions,
    ) {
        must_be_done(match entry {
            Some(entry) => self.stage2.map_entry(env, entry, output, attributes, options),
            None => self.map_range(env, frames, output, attributes, options),
        });
        self.pages_held = self.pages_held.saturating_add(frames.size / PAGE_SIZE);
    }

    #[inline(never)]
    fn map_range<E: Environment>(
        &mut self,
        env: &mut E,
        frames: Frames,
        output: PhysAddr,
        attributes: Stage2Attributes,
        options: MapOptions,
    ) -> Result<(), TableError> {
        let mut env = CachedFrames::new(env, &mut self.cache);
        self.stage2.map(&mut env, frames.start, output, frames.size, attributes, options)
    }

    /// Lets the guest have a page of its own again that it had lent. The annotation that stands in its place is in a table
    /// of pages, so that no frame is needed.
    pub(super) fn map_again<E: Environment>(&mut self, env: &mut E, gfn: Gfn, output: PhysAddr) {
        let Some(start) = gfn.checked_address() else { return };
        let attributes = Stage2Attributes::memory().with_software(Software::Owned.bits());
        must_be_done(self.stage2.map(env, start, output, PAGE_SIZE, attributes, FOR_GUESTS));
    }

    /// Leaves nothing at a range of the guest's but the reason, and lets nobody put anything there. There are enough cached
    /// pages for it. What was there no CPU can use on return.
    pub(super) fn make_absent<E: Environment>(&mut self, env: &mut E, start: Ipa, size: u64, why: Absence) {
        let mut env = CachedFrames::new(env, &mut self.cache);
        must_be_done(self.stage2.annotate(&mut env, start, size, why.annotation()));
    }

    /// Takes a range from the guest that it had mapped, for good; otherwise as [`make_absent`](Self::make_absent).
    pub(super) fn poison<E: Environment>(&mut self, env: &mut E, frames: Frames) {
        self.make_absent(env, frames.start, frames.size, Absence::Poisoned);
        self.pages_held = self.pages_held.saturating_sub(frames.size / PAGE_SIZE);
    }

    /// Unmaps a range, for which there are enough cached pages.
    pub(super) fn unmap<E: Environment>(&mut self, env: &mut E, frames: Frames) {
        self.forget_range(env, frames.start, frames.size);
        self.pages_held = self.pages_held.saturating_sub(frames.size / PAGE_SIZE);
    }

    /// Unmaps what was found mapped.
    #[inline(always)]
    pub(super) fn unmap_mapped<E: Environment>(&mut self, env: &mut E, mapped: MappedFrames) {
        match mapped.entry {
            Some(entry) => {
                let mut env = CachedFrames::new(env, &mut self.cache);
                must_be_done(self.stage2.unmap_entry(&mut env, entry));
                self.pages_held = self.pages_held.saturating_sub(1);
            }
            None => self.unmap(env, mapped.frames),
        }
    }

    /// Unmaps whole leaves, or a range for which there are enough cached pages.
    pub(super) fn forget_range<E: Environment>(&mut self, env: &mut E, start: Ipa, size: u64) {
        let mut env = CachedFrames::new(env, &mut self.cache);
        let done = self.stage2.unmap(&mut env, start, size);
        must_be_done(done);
    }
}

/// How many tables it takes below a vacant entry of `level` to map `size` bytes from `start`, which lie within the
/// entry, to `output`, with the largest leaves that fit.
fn tables_below(level: u8, start: u64, size: u64, output: u64) -> u64 {
    let entry = entry_size(level);
    let one_leaf = level >= 1 && size == entry && (start | output).is_multiple_of(entry);
    if level >= LAST_LEVEL || one_leaf {
        return 0;
    }
    let below = level.saturating_add(1);
    let mut tables = 1_u64;
    if below < LAST_LEVEL {
        let step = entry_size(below);
        let mut done = 0;
        while done < size {
            let at = start.saturating_add(done);
            let part = (step - at % step).min(size - done);
            tables = tables.saturating_add(tables_below(below, at, part, output.saturating_add(done)));
            done = done.saturating_add(part);
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::tables_below;

    const PAGE: u64 = 4 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn tables_are_counted_for_what_does_not_fit_a_block() {
        for (level, start, size, output, expected) in [
            (3, 0, PAGE, 0, 0),
            (2, 0, 2 * MIB, 2 * MIB, 0),
            (2, 0, 2 * MIB, PAGE, 1),
            (2, 0, PAGE, 0, 1),
            (1, 0, GIB, GIB, 0),
            (1, 0, GIB, 2 * MIB, 1),
            (1, 0, GIB, PAGE, 513),
            (1, 0, PAGE, 0, 2),
            (1, 2 * MIB - PAGE, 4 * MIB, 2 * MIB - PAGE, 3),
            (1, 2 * MIB - PAGE, 2 * MIB + 2 * PAGE, 2 * MIB - PAGE, 3),
            (0, GIB - PAGE, 2 * PAGE, GIB - PAGE, 5),
        ] {
            assert_eq!(tables_below(level, start, size, output), expected, "{level} {start:#x} {size:#x} {output:#x}");
        }
    }
}
