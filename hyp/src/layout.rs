//! Where things lie in EL2's virtual address space.
//!
//! The carve-out, and host pages donated to or pinned by hyp, are mapped at their physical address. What must not
//! touch its neighbours (stacks, fixmap slots) and devices lie in a private range at the top of the 48-bit space,
//! above all physical memory:
//!
//! ```text
//! PRIVATE_BASE + n * CPU_STRIDE     CPU n
//!     +  0x0000 ..  0x8000          guard: a stack that overflows faults here
//!     +  0x8000 .. 0x10000          stack
//!     + 0x10000 .. 0x11000          guard
//!     + 0x11000 .. 0x17000          per-CPU data: record, emergency stack, vector registers
//!     + 0x1f000 .. 0x20000          fixmap slot
//! DEVICE_BASE                       the console's registers
//! BLOCK_BASE + n * 2 MiB            fixmap slot of CPU n for blocks
//! ```

use abi::boot::MAX_CPUS;
use abi::carve_out::{CPU_DATA_PAGES, STACK_PAGES};
use abi::{PAGE_SIZE, VirtAddr};

/// Bits of an EL2 virtual address: TCR_EL2.T0SZ = 16.
pub const VIRTUAL_ADDRESS_BITS: u32 = 48;
/// First byte of the private range.
pub const PRIVATE_BASE: u64 = 0xff00_0000_0000;
/// Private bytes of each CPU.
pub const CPU_STRIDE: u64 = 0x2_0000;
/// Offset of a CPU's stack.
pub const STACK_BOTTOM: u64 = 0x8000;
/// Offset of the first byte above a CPU's stack.
pub const STACK_TOP: u64 = STACK_BOTTOM + STACK_PAGES * PAGE_SIZE;
/// Offset of a CPU's data.
pub const CPU_DATA: u64 = STACK_TOP + PAGE_SIZE;
/// Offset, within a CPU's data, of the first byte above its emergency stack.
pub const EMERGENCY_STACK_TOP: u64 = 3 * PAGE_SIZE;
/// Offset, within a CPU's data, of its vector register area.
pub const VECTOR_REGISTERS: u64 = EMERGENCY_STACK_TOP;
/// Offset of a CPU's fixmap slot.
pub const FIXMAP: u64 = CPU_STRIDE - PAGE_SIZE;
/// Where devices are mapped.
pub const DEVICE_BASE: u64 = PRIVATE_BASE + MAX_CPUS as u64 * CPU_STRIDE;
/// Bytes of a fixmap slot for blocks.
const BLOCK_SIZE: u64 = 2 << 20;
/// The first CPU's fixmap slot for blocks. It is in the same GiB as the stacks, which keep the table of level 2.
const BLOCK_BASE: u64 = PRIVATE_BASE + (512 << 20);

const _: () = assert!(DEVICE_BASE + BLOCK_SIZE <= BLOCK_BASE);
const _: () = assert!(BLOCK_BASE + MAX_CPUS as u64 * BLOCK_SIZE <= PRIVATE_BASE + (1 << 30));
const _: () = assert!(CPU_DATA + CPU_DATA_PAGES * PAGE_SIZE <= FIXMAP);
const _: () = assert!(VECTOR_REGISTERS < CPU_DATA_PAGES * PAGE_SIZE);

/// First private byte of a CPU.
pub fn cpu_base(cpu: usize) -> VirtAddr {
    VirtAddr::new(PRIVATE_BASE.saturating_add((cpu as u64).saturating_mul(CPU_STRIDE)))
}

/// A CPU's fixmap slot for blocks.
pub fn block_slot(cpu: usize) -> VirtAddr {
    VirtAddr::new(BLOCK_BASE.saturating_add((cpu as u64).saturating_mul(BLOCK_SIZE)))
}
