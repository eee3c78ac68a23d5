//! Hyp's own page frames, for translation tables. Free frames form a list through their first words; a bitmap at the
//! start of the pool says which are out, so that a frame freed twice or never given out is refused.

use abi::{PAGE_SIZE, PhysAddr, PhysRange};

/// A pool over a range of the carve-out that is mapped at its physical address.
pub struct FramePool {
    /// The frames that are given out; the bitmap's own pages lie before them.
    frames: PhysRange,
    bitmap: *mut u64,
    /// First frame of the list of those that were given back; zero where there is none.
    returned: u64,
    /// First frame that was never given out.
    fresh: PhysAddr,
    free: u64,
}

// SAFETY: the pool owns its memory; the pointer goes where the pool goes.
unsafe impl Send for FramePool {}

impl FramePool {
    /// A pool over `range`, 4 KiB aligned at both ends.
    ///
    /// # Safety
    /// Nothing else may use the range from here on. It must be accessible at its physical address.
    pub unsafe fn new(range: PhysRange) -> Self {
        let bitmap_bytes = (range.size() / PAGE_SIZE).div_ceil(8).next_multiple_of(PAGE_SIZE);
        let start = range.start.checked_add(bitmap_bytes).unwrap_or(range.end);
        let frames = PhysRange { start, end: range.end };
        let bitmap = range.start.raw() as *mut u64;
        for word in 0..bitmap_bytes / 8 {
            // SAFETY: the word lies in the range, which is ours by the caller's word.
            unsafe { bitmap.add(word as usize).write_volatile(0) };
        }
        Self { frames, bitmap, returned: 0, fresh: start, free: frames.size() / PAGE_SIZE }
    }

    /// Frames that are left.
    pub fn free_frames(&self) -> u64 {
        self.free
    }

    /// All memory that frames were ever taken from: what was written if the caches were off.
    pub fn touched(&self) -> PhysRange {
        PhysRange { start: PhysAddr::new(self.bitmap as u64), end: self.fresh }
    }

    /// A frame of unspecified content.
    pub fn allocate(&mut self) -> Option<PhysAddr> {
        let frame = if self.returned != 0 {
            let frame = PhysAddr::new(self.returned);
            // SAFETY: a frame on the list is free, so it holds the link that `release` wrote.
            self.returned = unsafe { (frame.raw() as *const u64).read_volatile() };
            frame
        } else if self.fresh < self.frames.end {
            let frame = self.fresh;
            self.fresh = frame.checked_add(PAGE_SIZE)?;
            frame
        } else {
            return None;
        };
        self.flip(frame);
        self.free = self.free.saturating_sub(1);
        Some(frame)
    }

    /// Takes a frame back. `false`, and nothing changed, where it is not one that is out.
    pub fn release(&mut self, frame: PhysAddr) -> bool {
        if !self.frames.contains(frame) || !frame.is_aligned(PAGE_SIZE) || !self.is_out(frame) {
            return false;
        }
        self.flip(frame);
        // SAFETY: the frame is the pool's, was out, and came back: nobody else uses it.
        unsafe { (frame.raw() as *mut u64).write_volatile(self.returned) };
        self.returned = frame.raw();
        self.free = self.free.saturating_add(1);
        true
    }

    fn position(&self, frame: PhysAddr) -> (usize, u64) {
        let index = frame.raw().saturating_sub(self.frames.start.raw()) / PAGE_SIZE;
        ((index / 64) as usize, 1 << (index % 64))
    }

    fn is_out(&self, frame: PhysAddr) -> bool {
        let (word, bit) = self.position(frame);
        // SAFETY: `frame` is one of the pool's, so the word lies in the bitmap.
        unsafe { self.bitmap.add(word).read_volatile() & bit != 0 }
    }

    fn flip(&mut self, frame: PhysAddr) {
        let (word, bit) = self.position(frame);
        // SAFETY: as in `is_out`.
        unsafe {
            let word = self.bitmap.add(word);
            word.write_volatile(word.read_volatile() ^ bit);
        }
    }
}
