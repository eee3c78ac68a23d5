//! What each CPU keeps for itself at EL2, found through TPIDR_EL2.

use crate::layout;
use aarch64_cpu::registers::{Readable, TPIDR_EL2};
use core::cell::Cell;
use core::sync::atomic::AtomicBool;

/// One CPU's record: the first page of its data.
#[repr(C)]
pub struct CpuData {
    /// Index in [`BootInfo::cpus`](abi::boot::BootInfo::cpus).
    pub index: Cell<usize>,
    /// A fault of EL2 is being reported: another one stops silently.
    pub faulting: AtomicBool,
}

/// This CPU's record, or `None` before the CPU has one.
pub fn try_current() -> Option<&'static CpuData> {
    let pointer = TPIDR_EL2.get() as *const CpuData;
    // SAFETY: TPIDR_EL2 is zero, or points to this CPU's data pages, which are mapped for good, zero-initialised (a valid
    // `CpuData`), and used as this type by this CPU alone. Its fields are cells, so sharing the reference is sound.
    unsafe { pointer.as_ref() }
}

/// This CPU's index; 0 before the CPU has a record, when only the boot CPU runs.
pub fn index() -> usize {
    try_current().map_or(0, |data| data.index.get())
}

/// The address of this CPU's private range.
pub fn private_base() -> u64 {
    layout::cpu_base(index()).raw()
}
