//! Frames set aside before a change begins, so that the change itself cannot run out of them.

use abi::PhysAddr;

use crate::environment::TableFrames;
use crate::error::TableError;

/// A list of zeroed frames; the first word of each holds the address of the next, plus one so that no address is the
/// list's end.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    head: Option<PhysAddr>,
}

impl Reserve {
    /// Allocates `count` frames, or none.
    pub(crate) fn allocate<F: TableFrames + ?Sized>(frames: &mut F, count: u64) -> Result<Self, TableError> {
        let mut reserve = Self::default();
        for _ in 0..count {
            let Some(frame) = frames.allocate() else {
                reserve.release(frames);
                return Err(TableError::OutOfFrames);
            };
            if let Some(next) = reserve.head {
                frames.write(frame, next.raw() + 1);
            }
            reserve.head = Some(frame);
        }
        Ok(reserve)
    }

    /// Takes one zeroed frame.
    pub(crate) fn take<F: TableFrames + ?Sized>(&mut self, frames: &F) -> Option<PhysAddr> {
        let frame = self.head?;
        let next = frames.read(frame);
        self.head = next.checked_sub(1).map(PhysAddr::new);
        if next != 0 {
            frames.write(frame, 0);
        }
        Some(frame)
    }

    /// Gives back what was not taken.
    pub(crate) fn release<F: TableFrames + ?Sized>(mut self, frames: &mut F) {
        while let Some(frame) = self.take(frames) {
            frames.free(frame);
        }
    }
}
