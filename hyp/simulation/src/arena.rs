//! Memory behind the pages of RAM, for what is more than tables: the objects that hyp keeps in donated pages.

use abi::{PAGE_SIZE, Pfn};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

/// As many bytes as there are pages; given back when the last clone goes.
#[derive(Clone)]
pub struct Arena {
    memory: Arc<Memory>,
}

struct Memory {
    /// More than is needed by a page, so that there are whole pages in it.
    base: NonNull<u8>,
    layout: Layout,
    first: u64,
    pages: u64,
}

// SAFETY: the memory is plain bytes that live as long as the value; who uses which part of it is the monitor's business, as
// it is on the machine.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Arena {
    /// Memory for `pages` pages from `first` on, zeroed.
    ///
    /// # Panics
    /// Where there is not so much memory.
    pub fn new(first: u64, pages: u64) -> Self {
        // Zeroed memory of a great alignment would be written at once; that of none comes from the kernel as it is touched.
        let layout = Layout::array::<[u8; PAGE_SIZE as usize]>(pages as usize + 1).expect("a size of memory");
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        Self { memory: Arc::new(Memory { base, layout, first, pages }) }
    }

    /// Where the bytes of `count` pages from `page` on are.
    ///
    /// # Panics
    /// Where one of them is none of the arena's.
    pub fn pages(&self, page: Pfn, count: u64) -> NonNull<u8> {
        let Memory { base, first, pages, .. } = *self.memory;
        let index = page.raw().checked_sub(first).filter(|index| *index < pages && count <= pages - index);
        let index = index.expect("pages of RAM");
        let start = base.as_ptr().align_offset(PAGE_SIZE as usize);
        // SAFETY: the offset is less than a page, and the page is one of the arena's, so that all of it is within the
        // memory, which is larger than the arena's pages by one.
        unsafe { base.add(start + (index * PAGE_SIZE) as usize) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout, and the last that could name it goes.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
