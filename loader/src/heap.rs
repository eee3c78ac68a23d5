//! The loader's heap: a buddy allocator over the memory that `linker/loader.ld` sets aside behind the stack.

use buddy_system_allocator::Heap;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};

/// Block sizes of the allocator: powers of two below 2^32.
const ORDERS: usize = 32;

unsafe extern "C" {
    static mut __heap_start: u8;
    static mut __heap_end: u8;
}

/// The allocator. The crate's own locked form is of no use here: its lock needs exclusive accesses, which Device memory,
/// as all of it is with the MMU off, need not support.
struct LoaderHeap(UnsafeCell<Heap<ORDERS>>);

#[global_allocator]
static HEAP: LoaderHeap = LoaderHeap(UnsafeCell::new(Heap::empty()));

// SAFETY: one CPU runs the loader, with interrupts masked, so that no two threads of execution reach the heap.
unsafe impl Sync for LoaderHeap {}

// SAFETY: the buddy allocator returns blocks that are disjoint and as large and as aligned as the layout asks.
unsafe impl GlobalAlloc for LoaderHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: nothing else holds a reference: the loader is one thread, and the allocator does not call back.
        let heap = unsafe { &mut *self.0.get() };
        heap.alloc(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        let heap = unsafe { &mut *self.0.get() };
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller's contract: `block` came from `alloc` with this layout.
            unsafe { heap.dealloc(block, layout) };
        }
    }
}

/// Gives the allocator its memory. Until then every allocation fails; a second call does nothing.
pub fn initialise() {
    let (start, end) = (&raw mut __heap_start as usize, &raw mut __heap_end as usize);
    // SAFETY: as in `alloc`.
    let heap = unsafe { &mut *HEAP.0.get() };
    if heap.stats_total_bytes() == 0 {
        // SAFETY: the linker script sets this memory aside for the heap alone.
        unsafe { heap.init(start, end - start) };
    }
}
