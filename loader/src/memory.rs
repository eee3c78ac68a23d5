//! Physical memory, which with the MMU off is all there is.

use abi::{PhysAddr, PhysRange};
use core::arch::asm;
use core::ops::Range;
use core::ptr;
use core::slice;

/// First address that no CPU without FEAT_LPA2 has (Arm ARM D8.2).
const ADDRESS_LIMIT: PhysAddr = PhysAddr::new(1 << 48);

unsafe extern "C" {
    static image_head: u8;
    static __image_end: u8;
}

/// The running loader, with its stack and heap.
pub fn loader_range() -> PhysRange {
    PhysRange { start: PhysAddr::new(&raw const image_head as u64), end: PhysAddr::new(&raw const __image_end as u64) }
}

/// The `N` bytes at `start`, or `None` where that is no address.
pub fn read<const N: usize>(start: PhysAddr) -> Option<[u8; N]> {
    PhysRange::from_size(start, N as u64).filter(|range| range.end <= ADDRESS_LIMIT)?;
    let mut bytes = [0; N];
    for (address, byte) in (start.raw()..).zip(&mut bytes) {
        // SAFETY: a byte cannot be misaligned; where the address is not memory after all, the exception is reported.
        *byte = unsafe { (address as *const u8).read_volatile() };
    }
    Some(bytes)
}

/// The memory in `range`.
///
/// # Safety
/// `range` must be memory that nothing writes while the slice lives.
pub unsafe fn bytes<'a>(range: &PhysRange) -> &'a [u8] {
    // SAFETY: the caller's contract; bytes have no invalid values.
    unsafe { slice::from_raw_parts(range.start.raw() as *const u8, range.size() as usize) }
}

/// The memory in `range`, to be written.
///
/// # Safety
/// `range` must be memory that nothing else reads or writes while the slice lives.
pub unsafe fn bytes_mut<'a>(range: &PhysRange) -> &'a mut [u8] {
    // SAFETY: the caller's contract; bytes have no invalid values.
    unsafe { slice::from_raw_parts_mut(range.start.raw() as *mut u8, range.size() as usize) }
}

/// Copies `source` to `target`, and publishes it.
///
/// # Safety
/// Both must be memory, without overlap, and nothing else may use the target's.
pub unsafe fn copy(source: &PhysRange, target: PhysAddr) {
    // SAFETY: the caller's contract.
    unsafe {
        ptr::copy_nonoverlapping(source.start.raw() as *const u8, target.raw() as *mut u8, source.size() as usize);
    }
    publish(&PhysRange { start: target, end: PhysAddr::new(target.raw() + source.size()) });
}

/// Copies `bytes` to `target`, and publishes them.
///
/// # Safety
/// The target must be memory that nothing else uses.
pub unsafe fn write(target: PhysAddr, bytes: &[u8]) {
    let Range { start, end } = bytes.as_ptr_range();
    let source = PhysRange { start: PhysAddr::new(start as u64), end: PhysAddr::new(end as u64) };
    // SAFETY: the caller's contract.
    unsafe { copy(&source, target) };
}

/// Overwrites `bytes` with zeroes, and publishes that.
///
/// # Safety
/// They must be memory, and nobody reads them through this slice or another any more.
pub unsafe fn erase(bytes: &[u8]) {
    let Range { start, end } = bytes.as_ptr_range();
    // SAFETY: the caller's contract.
    unsafe { ptr::write_bytes(start.cast_mut(), 0, bytes.len()) };
    publish(&PhysRange { start: PhysAddr::new(start as u64), end: PhysAddr::new(end as u64) });
}

/// Writes `value` to `target`, and publishes it.
///
/// # Safety
/// The target must be memory that nothing else uses, and aligned for a `T`.
pub unsafe fn write_value<T>(target: PhysAddr, value: T) {
    // SAFETY: the caller's contract.
    unsafe { (target.raw() as *mut T).write(value) };
    publish(&PhysRange { start: target, end: PhysAddr::new(target.raw() + size_of::<T>() as u64) });
}

/// Makes what was written to `range` visible to whoever reads it later with caches on, or executes it. The writes went
/// past the caches, the MMU being off, so that what may be stale is what the caches hold: clean lines, since the boot
/// stage before us cleaned them as the boot protocol asks, and speculative fetches. They are dropped.
pub fn publish(range: &PhysRange) {
    let cache_type: u64;
    // SAFETY: CTR_EL0 can be read at any exception level that the loader runs at, and reading it changes nothing.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) cache_type, options(nomem, nostack, preserves_flags)) };
    // CTR_EL0.DminLine, bits 19:16: log2 of the words in the smallest data cache line.
    let line = 4u64 << (cache_type >> 16 & 0xf);
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
    let mut address = range.start.align_down(line).raw();
    while address < range.end.raw() {
        // SAFETY: invalidates lines of memory that the loader wrote past the caches, and at the ends lines of which the
        // rest is clean.
        unsafe { asm!("dc ivac, {}", in(reg) address, options(nostack, preserves_flags)) };
        address += line;
    }
    // SAFETY: barriers, and the invalidation of all instruction caches, which hold no modified data.
    unsafe { asm!("dsb sy", "ic iallu", "dsb sy", "isb", options(nostack, preserves_flags)) };
}
