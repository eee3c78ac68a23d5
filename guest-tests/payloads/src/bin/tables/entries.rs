//! Descriptors (Arm ARM, section D8.3), and the slot of the payload's own root that the attacks use.

use aarch64_cpu::registers::{Readable, TTBR0_EL1};
use abi::{Ipa, PAGE_SIZE, VirtAddr};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::probe::Outcome;

/// Descriptors in a table.
pub const ENTRIES: usize = PAGE_SIZE as usize / 8;
/// A table, or a page at level 3.
pub const TABLE: u64 = 0b11;
/// A block at level 1 or 2.
pub const BLOCK: u64 = 0b01;
/// The access flag.
pub const AF: u64 = 1 << 10;
/// AP\[2\]: read-only.
pub const READ_ONLY: u64 = 1 << 7;
/// The contiguous bit.
pub const CONTIGUOUS: u64 = 1 << 52;
/// DBM: the dirty state is the hardware's to set.
pub const DBM: u64 = 1 << 51;
/// Normal memory (MAIR_EL1's first attribute), inner shareable, for EL1 to read and write and nobody to execute.
pub const DATA: u64 = 1 << 54 | 1 << 53 | 1 << 11 | 0b11 << 8 | AF;
/// The same to execute and not to write.
pub const CODE: u64 = 1 << 54 | 1 << 11 | 0b11 << 8 | AF | READ_ONLY;
/// Bits of a descriptor that are its output address, for tables and pages.
pub const OUTPUT: u64 = 0xffff_ffff_f000;

/// The entry of the root that the attacks fill. What is beyond the payload's own addresses begins at entry 2, and its
/// window is in the last.
const SLOT: usize = 0x40;
/// First virtual address behind that entry.
pub const REGION: u64 = (SLOT as u64) << 30;

/// A page for a table of the payload's own, at its own address.
#[repr(C, align(4096))]
pub struct Table(pub [AtomicU64; ENTRIES]);

impl Table {
    /// All entries invalid.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; ENTRIES])
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// The descriptor that points to it.
    pub fn descriptor(&self) -> u64 {
        self.address() | TABLE
    }

    /// Writes every entry of `range`, entry n with what `make` makes of n. The caller [flushes](flush).
    pub fn fill(&self, range: core::ops::Range<usize>, make: impl Fn(u64) -> u64) {
        for index in range {
            self.0[index].store(make(index as u64), Ordering::Relaxed);
        }
    }

    /// Writes one entry, and nothing else. The caller [flushes](flush).
    pub fn only(&self, index: usize, descriptor: u64) {
        self.fill(0..ENTRIES, |_| 0);
        self.0[index].store(descriptor, Ordering::Relaxed);
    }
}

/// Address of the root.
pub fn root() -> u64 {
    TTBR0_EL1.get() & OUTPUT
}

/// Puts a descriptor into the attacks' slot of the root, and forgets what was known of it.
pub fn enter(descriptor: u64) {
    let slot = (root() + 8 * SLOT as u64) as *mut u64;
    for descriptor in [0, descriptor] {
        // SAFETY: The root is mapped at its own address for reading and writing, and nothing of the payload's is behind
        // the slot.
        unsafe { slot.write_volatile(descriptor) };
        flush();
    }
}

/// Makes what was written into tables count, and forgets what was cached of them.
pub fn flush() {
    // SAFETY: The CPU walks the tables again.
    unsafe { asm!("dsb ish", "tlbi vmalle1is", "dsb ish", "isb", options(nostack)) };
}

/// The virtual address behind these entries of a table of level 2 and one of level 3, some bytes in.
pub const fn behind(level2: u64, level3: u64, offset: u64) -> VirtAddr {
    VirtAddr::new(REGION + (level2 << 21) + (level3 << 12) + offset)
}

/// A descriptor for a table at an address.
pub const fn table_at(address: Ipa) -> u64 {
    address.raw() & OUTPUT | TABLE
}

/// FSC of an exception, where it is an abort at `address`.
pub fn abort_status(outcome: &Outcome, address: VirtAddr) -> Option<u64> {
    match outcome {
        Outcome::Exception(exception) if exception.is_abort() && exception.far == address.raw() => {
            Some(exception.esr & 0x3f)
        }
        _ => None,
    }
}

/// FSC of an address size fault at a level of stage 1.
pub const fn address_size_fault(level: u64) -> u64 {
    level
}

/// FSC of a translation fault at a level of stage 1.
pub const fn translation_fault(level: u64) -> u64 {
    0x04 + level
}

/// FSC of an access flag fault at a level of stage 1.
pub const fn access_flag_fault(level: u64) -> u64 {
    0x08 + level
}

/// FSC of a permission fault at a level of stage 1.
pub const fn permission_fault(level: u64) -> u64 {
    0x0c + level
}

/// True for an external abort on the walk at a level: where a hypervisor cannot tell, also one of which the level is
/// not said.
pub const fn is_external_on_walk(status: u64, level: u64) -> bool {
    status == 0x14 + level || status == 0x10
}
