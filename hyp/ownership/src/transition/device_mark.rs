//! Frames that a guest takes for a device's. The marks are the guest's own notes, kept where it has nothing: no page changes
//! hands by them, and whatever comes to a frame replaces its mark.

use super::must_be_done;
use crate::annotation::{device_mark, is_device_mark};
use crate::environment::Environment;
use crate::guest_memory::{GuestMemory, Software};
use crate::ownership::table_error;
use crate::page_cache::CachedFrames;
use crate::reserve::missing_tables;
use abi::{Error, Gfn, Ipa, PAGE_SIZE};
use pgtable::{RawLeaf, TableFrames};

/// What a frame is to marks.
enum Frame {
    Vacant,
    Marked,
    /// A device is there already, which needs no mark.
    Device,
}

impl Frame {
    fn of(leaf: &RawLeaf<Ipa>) -> Result<Self, Error> {
        match leaf.annotation() {
            Some(annotation) if is_device_mark(annotation) => Ok(Frame::Marked),
            _ if leaf.is_vacant() => Ok(Frame::Vacant),
            _ if leaf.software() == Some(Software::Device.bits()) => Ok(Frame::Device),
            _ => Err(Error::WrongState),
        }
    }
}

impl GuestMemory {
    /// Marks a frame as a device's, which it may be already.
    ///
    /// # Errors
    /// [`Error::BadRange`]; [`Error::WrongState`] where memory is at the frame, or nothing may come there;
    /// [`Error::OutOfMemory`] where the cache has too few pages for tables.
    pub fn mark_device<E: Environment>(&mut self, env: &mut E, gfn: Gfn) -> Result<(), Error> {
        let (start, leaf) = self.leaf_of(env, gfn)?;
        let Frame::Vacant = Frame::of(&leaf)? else { return Ok(()) };
        let end = start.raw().saturating_add(PAGE_SIZE);
        if missing_tables(start.raw(), end, leaf.level, leaf.level) as u64 > self.cache.available() {
            return Err(Error::OutOfMemory);
        }
        let mut env = CachedFrames::new(env, &mut self.cache);
        must_be_done(self.stage2.annotate(&mut env, start, PAGE_SIZE, device_mark()));
        Ok(())
    }

    /// Removes the mark of a frame. One at which a device is has none any more, and keeps its device.
    ///
    /// # Errors
    /// [`Error::BadRange`]; [`Error::WrongState`] where the frame is not marked.
    pub fn unmark_device<E: Environment>(&mut self, env: &mut E, gfn: Gfn) -> Result<(), Error> {
        let (start, leaf) = self.leaf_of(env, gfn)?;
        match Frame::of(&leaf)? {
            Frame::Vacant => return Err(Error::WrongState),
            Frame::Marked => self.forget_range(env, start, PAGE_SIZE),
            Frame::Device => {}
        }
        Ok(())
    }

    fn leaf_of<E: TableFrames>(&self, env: &E, gfn: Gfn) -> Result<(Ipa, RawLeaf<Ipa>), Error> {
        let start = self.named_frames(gfn, 1)?.start();
        Ok((start, self.stage2.find(env, start).map_err(table_error)?))
    }
}
