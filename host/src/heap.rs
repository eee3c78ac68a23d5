//! Small objects: a buddy heap over a stretch of RAM set apart at boot.

use abi::PhysRange;
use buddy_system_allocator::LockedHeap;

/// Bytes of RAM that the heap gets.
pub const HEAP_SIZE: u64 = 8 << 20;

/// Orders of the heap's blocks: up to 16 MiB.
const ORDERS: usize = 25;

#[global_allocator]
static HEAP: LockedHeap<ORDERS> = LockedHeap::empty();

/// Gives the heap its memory.
///
/// # Safety
/// `memory` must be mapped, writable, and used by nothing else from here on.
pub unsafe fn init(memory: PhysRange) {
    // SAFETY: the caller gives the memory away; the identity map makes its physical address its virtual one.
    unsafe { HEAP.lock().init(memory.start.raw() as usize, memory.size() as usize) };
}
