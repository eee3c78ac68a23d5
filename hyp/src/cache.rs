//! Cache maintenance by address (Arm ARM D7.5.9). Addresses are EL2 virtual ones, which for the carve-out and donated
//! pages equal the physical.

use crate::barrier;
use crate::system_register::mrs;
use abi::PhysRange;

/// Bytes of the smallest data cache line: 4 << CTR_EL0.DminLine.
fn data_line_size() -> u64 {
    4 << (mrs!("ctr_el0") >> 16 & 0xf)
}

/// Lines that a turn of the loop over lines takes, so that little of the time goes into the loop itself.
const LINES_A_TURN: u64 = 16;

/// Calls `operation` with the address of each line of `range`. `line` is a power of two, no more than a page.
#[inline(always)]
fn for_each_line(range: PhysRange, line: u64, operation: impl Fn(u64)) {
    let mut address = range.start.align_down(line).raw();
    let end = range.end.raw();
    let turn = line.wrapping_mul(LINES_A_TURN);
    // Below `end` nothing wraps; and what wraps past it, for a range at the top, ends the loop.
    while address < end && end.wrapping_sub(address) >= turn {
        for _ in 0..LINES_A_TURN {
            operation(address);
            address = address.wrapping_add(line);
        }
    }
    while address < end {
        operation(address);
        let Some(next) = address.checked_add(line) else { break };
        address = next;
    }
}

/// DC CIVAC over a range of EL2 virtual addresses, such as a fixmap slot, complete on return: what was written there is in
/// memory, and no cache holds a copy.
pub fn clean_and_invalidate_virtual(range: PhysRange) {
    for_each_line(range, data_line_size(), |address| {
        // SAFETY: cleaning and invalidating a line changes no value that a coherent observer sees.
        unsafe { core::arch::asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
    });
    barrier::dsb_sy();
}

/// True where instruction fetches see what the data caches hold, without a clean: CTR_EL0.IDC.
pub fn instructions_see_data() -> bool {
    mrs!("ctr_el0") & 1 << 28 != 0
}

/// DC CVAU over a range of EL2 virtual addresses, complete on return: instructions are fetched as they were written there.
pub fn clean_virtual_to_pou(range: PhysRange) {
    for_each_line(range, data_line_size(), |address| {
        // SAFETY: cleaning a line changes no value that a coherent observer sees.
        unsafe { core::arch::asm!("dc cvau, {}", in(reg) address, options(nostack, preserves_flags)) };
    });
    barrier::dsb_ish();
}

/// DC IVAC over the range, complete on return: drops stale lines over memory that was written with caches off.
///
/// # Safety
/// No cache may hold the only copy of anything in the range.
pub unsafe fn invalidate_to_poc(range: PhysRange) {
    for_each_line(range, data_line_size(), |address| {
        // SAFETY: the caller vouches that memory, not the cache, holds the truth.
        unsafe { core::arch::asm!("dc ivac, {}", in(reg) address, options(nostack, preserves_flags)) };
    });
    barrier::dsb_sy();
}

/// IC IALLUIS: no CPU keeps an instruction from before.
pub fn invalidate_all_instructions() {
    // SAFETY: dropping instruction lines only makes them be fetched again.
    unsafe { core::arch::asm!("ic ialluis", options(nostack, preserves_flags)) };
    barrier::dsb_ish();
}

/// Bytes that DC ZVA zeroes, or `None` where DCZID_EL0.DZP forbids it.
pub fn zero_block_size() -> Option<u64> {
    let dczid = mrs!("dczid_el0");
    (dczid & 1 << 4 == 0).then_some(4 << (dczid & 0xf))
}

/// Zeroes memory by DC ZVA where the CPU has it.
///
/// # Safety
/// `range`, in EL2 virtual addresses and 4 KiB aligned at both ends, must be mapped as writable normal memory that no
/// Rust reference covers.
pub unsafe fn zero(range: PhysRange) {
    match zero_block_size() {
        Some(block) => for_each_line(range, block, |address| {
            // SAFETY: the block lies in the range, since a block is at most 2 KiB and the range is page-aligned.
            unsafe { core::arch::asm!("dc zva, {}", in(reg) address, options(nostack, preserves_flags)) };
        }),
        None => for_each_line(range, 8, |address| {
            // SAFETY: an aligned doubleword of the range that the caller vouches for.
            unsafe { (address as *mut u64).write_volatile(0) };
        }),
    }
}
