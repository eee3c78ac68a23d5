//! Whole pages of RAM. [`Pages`] are the host's own to read and write; donated ones are [`Given`] until they come back.

use abi::{PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use alloc::vec::Vec;
use buddy_system_allocator::FrameAllocator;
use core::arch::asm;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// Orders of the allocator's blocks: up to 16 GiB.
const ORDERS: usize = 23;

static FRAMES: Mutex<FrameAllocator<ORDERS>> = Mutex::new(FrameAllocator::new());
/// Pages under the allocator.
static TOTAL: AtomicU64 = AtomicU64::new(0);
/// Pages that are handed out, rounded up to powers of two as the allocator does.
static IN_USE: AtomicU64 = AtomicU64::new(0);

/// Puts a stretch of free RAM under the allocator.
///
/// # Safety
/// `memory` must be mapped, writable, page aligned, and used by nothing else from here on.
pub unsafe fn add(memory: PhysRange) {
    let frame = |address: PhysAddr| Pfn::containing(address).raw() as usize;
    FRAMES.lock().add_frame(frame(memory.start), frame(memory.end));
    TOTAL.fetch_add(memory.size() / PAGE_SIZE, Ordering::Relaxed);
}

/// Pages that are free.
pub fn free_count() -> u64 {
    TOTAL.load(Ordering::Relaxed) - IN_USE.load(Ordering::Relaxed)
}

/// Pages that lie one after the other and belong to whoever holds the value.
#[derive(Debug)]
pub struct Pages {
    first: Pfn,
    count: u64,
}

impl Pages {
    /// `count` pages, the first at a multiple of `count` rounded up to a power of two. Their content is undefined.
    /// `None` where there are none left.
    pub fn allocate(count: u64) -> Option<Self> {
        let first = FRAMES.lock().alloc(usize::try_from(count).ok().filter(|count| *count != 0)?)?;
        IN_USE.fetch_add(count.next_power_of_two(), Ordering::Relaxed);
        Some(Self { first: Pfn::new(first as u64), count })
    }

    /// `count` pages of zeroes.
    pub fn zeroed(count: u64) -> Option<Self> {
        let mut pages = Self::allocate(count)?;
        zero(pages.bytes());
        Some(pages)
    }

    /// The first page.
    pub const fn pfn(&self) -> Pfn {
        self.first
    }

    /// How many there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// First byte.
    pub const fn address(&self) -> PhysAddr {
        PhysAddr::new(self.first.raw() * PAGE_SIZE)
    }

    /// Their content.
    pub fn bytes(&mut self) -> &mut [u8] {
        let length = (self.count * PAGE_SIZE) as usize;
        // SAFETY: the pages are this value's alone, RAM, and mapped at their physical address; any byte is a `u8`.
        unsafe { core::slice::from_raw_parts_mut(self.address().raw() as *mut u8, length) }
    }

    /// Their content as 64-bit words.
    pub fn words(&mut self) -> &mut [u64] {
        let length = (self.count * PAGE_SIZE / 8) as usize;
        // SAFETY: as for `bytes`; a page is aligned for `u64`.
        unsafe { core::slice::from_raw_parts_mut(self.address().raw() as *mut u64, length) }
    }

    /// Marks the pages as no longer accessible; to be called when they have been given away.
    pub fn given(self) -> Given {
        Given(ManuallyDrop::new(self))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        FRAMES.lock().dealloc(self.first.raw() as usize, self.count as usize);
        IN_USE.fetch_sub(self.count.next_power_of_two(), Ordering::Relaxed);
    }
}

/// Pages that hyp or a guest holds. Dropping the value leaks them: the allocator never sees a page that is not the
/// host's.
#[derive(Debug)]
pub struct Given(ManuallyDrop<Pages>);

impl Given {
    /// First byte.
    pub fn address(&self) -> PhysAddr {
        self.0.address()
    }

    /// The first page.
    pub fn pfn(&self) -> Pfn {
        self.0.pfn()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.count()
    }

    /// Takes the pages back.
    ///
    /// # Safety
    /// All of them must be the host's again.
    pub unsafe fn returned(self) -> Pages {
        ManuallyDrop::into_inner(self.0)
    }
}

/// Lines that [`zero`] zeroes between two looks at where it is.
const LINES_AT_ONCE: usize = 16;

/// Fills whole pages with zeroes: by DC ZVA (Arm ARM, section C5.3), where the CPU lets EL1 have it.
fn zero(pages: &mut [u8]) {
    let dczid: usize;
    // SAFETY: reading DCZID_EL0 has no effect.
    unsafe { asm!("mrs {0}, dczid_el0", out(reg) dczid, options(nomem, nostack, preserves_flags)) };
    let is_prohibited = dczid & 1 << 4 != 0;
    let line = 4 << (dczid & 0xf);
    if is_prohibited || !pages.len().is_multiple_of(line * LINES_AT_ONCE) {
        return pages.fill(0);
    }
    let Range { start, end } = pages.as_mut_ptr_range();
    if start == end {
        return;
    }
    // SAFETY: the lines are those of the slice, which is aligned to a page and thus to a line, and is normal memory.
    unsafe {
        asm!(
            "2:",
            ".rept {count}",
            "dc zva, {place}",
            "add {place}, {place}, {line}",
            ".endr",
            "cmp {place}, {end}",
            "b.lo 2b",
            place = inout(reg) start => _, line = in(reg) line, end = in(reg) end, count = const LINES_AT_ONCE,
            options(nostack),
        );
    }
}

/// Every free page in blocks as large as they come, for whoever wants to touch all memory.
pub fn all_free() -> Vec<Pages> {
    let mut blocks = Vec::new();
    for order in (0..ORDERS).rev() {
        while let Some(block) = Pages::allocate(1 << order) {
            blocks.push(block);
        }
    }
    blocks
}
