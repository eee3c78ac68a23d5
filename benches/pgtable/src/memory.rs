//! Plain memory for tables: frames of this process, whose "physical" addresses are their addresses, and maintenance
//! that does nothing.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::atomic::{AtomicU64, Ordering};

use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};

/// Bytes of a frame.
const FRAME: usize = PAGE_SIZE as usize;

/// A pool of zeroed frames. They are zeroed before anything is measured, and one that was freed is not handed out
/// again, so that what is counted is the work on tables and not that of an allocator.
#[derive(Debug)]
pub struct Memory {
    base: *mut u8,
    layout: Layout,
    next: usize,
    freed: usize,
}

impl Memory {
    /// A pool of `frames` frames.
    pub fn new(frames: usize) -> Self {
        let layout = Layout::from_size_align(frames * FRAME, FRAME).expect("a pool of a size that can be had");
        assert_ne!(layout.size(), 0);
        // SAFETY: The layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        // Frames are reached by their addresses from here on. Touching each brings it into memory now.
        base.expose_provenance();
        let memory = Self { base, layout, next: 0, freed: 0 };
        for frame in 0..frames {
            memory.write(PhysAddr::new((memory.base.addr() + frame * FRAME) as u64), 0);
        }
        memory
    }

    /// Takes a frame; the pool is made large enough for what is done with it.
    pub fn take(&mut self) -> Option<PhysAddr> {
        let offset = self.next.checked_mul(FRAME)?;
        if offset >= self.layout.size() {
            return None;
        }
        self.next += 1;
        Some(PhysAddr::new(self.base.addr() as u64 + offset as u64))
    }

    /// Frames that are taken and not given back.
    pub fn in_use(&self) -> usize {
        self.next - self.freed
    }

    /// Counts a frame that was given back.
    pub fn give_back(&mut self) {
        self.freed += 1;
    }

    fn cell(&self, descriptor: PhysAddr) -> &AtomicU64 {
        let pointer = std::ptr::with_exposed_provenance_mut::<u64>(descriptor.raw() as usize);
        // SAFETY: Descriptors that pgtable reaches lie in frames of this pool, 8-byte aligned, whose provenance was
        // exposed; they live as long as the pool, and are accessed as atomics only.
        unsafe { AtomicU64::from_ptr(pointer) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `new` allocated this block by this layout.
        unsafe { dealloc(self.base, self.layout) }
    }
}

impl TableFrames for Memory {
    #[inline]
    fn allocate(&mut self) -> Option<PhysAddr> {
        self.take()
    }

    #[inline]
    fn free(&mut self, _frame: PhysAddr) {
        self.give_back();
    }

    #[inline]
    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.cell(descriptor).load(Ordering::Acquire)
    }

    #[inline]
    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.cell(descriptor).store(value, Ordering::Release);
    }

    #[inline]
    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.cell(descriptor).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }
}

impl Maintenance for Memory {
    #[inline]
    fn dsb(&self, _kind: DsbKind) {}

    #[inline]
    fn isb(&self) {}

    #[inline]
    fn tlbi(&self, _operation: Tlbi) {}

    #[inline]
    fn load_vttbr(&self, vttbr: u64) -> u64 {
        vttbr
    }

    #[inline]
    fn clean_invalidate_to_poc(&self, _range: PhysRange) {}

    #[inline]
    fn clean_to_pou(&self, _range: PhysRange) {}

    #[inline]
    fn invalidate_instruction_cache(&self, _range: PhysRange) {}
}
