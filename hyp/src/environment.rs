//! `pgtable`'s environment on the machine: descriptors by address, frames from hyp's pool, real maintenance.

use crate::frame_pool::FramePool;
use crate::{barrier, cache, tlb};
use aarch64_cpu::registers::{Readable, VTTBR_EL2, Writeable};
use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use core::sync::atomic::{AtomicU64, Ordering};
use ownership::lock::{Lock, Rank};
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};

/// Hyp's pool of table frames; empty until the boot CPU has its caches on.
pub static POOL: Lock<Option<FramePool>> = Lock::new(Rank::Leaf, None);

/// The descriptor at a physical address.
///
/// # Safety
/// `descriptor` must be 8-byte aligned and lie in a frame that is mapped at EL2 at its physical address, and that only
/// table code uses.
unsafe fn descriptor(descriptor: PhysAddr) -> &'static AtomicU64 {
    // SAFETY: the caller's word; `AtomicU64` has the layout of the descriptor, and every access is through it.
    unsafe { AtomicU64::from_ptr(descriptor.raw() as *mut u64) }
}

macro_rules! descriptor_access {
    () => {
        fn read(&self, address: PhysAddr) -> u64 {
            // SAFETY: `pgtable` reads only in roots and frames that it was given, all of which are mapped.
            unsafe { descriptor(address) }.load(Ordering::Acquire)
        }

        fn write(&self, address: PhysAddr, value: u64) {
            // SAFETY: as for `read`.
            unsafe { descriptor(address) }.store(value, Ordering::Release);
        }

        fn compare_exchange(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
            // SAFETY: as for `read`.
            unsafe { descriptor(address) }.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
        }
    };
}

/// The environment from the moment the MMU is on: the calling CPU. `platform.rs` makes it what the monitor asks for, too.
#[derive(Clone, Copy, Default)]
pub struct El2Environment;

impl TableFrames for El2Environment {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let frame = POOL.lock().as_mut()?.allocate()?;
        let range = PhysRange::from_size(frame, PAGE_SIZE)?;
        // SAFETY: the frame was just taken from the pool, which is mapped, and nothing refers to it yet.
        unsafe { cache::zero(range) };
        Some(frame)
    }

    fn free(&mut self, frame: PhysAddr) {
        let taken_back = POOL.lock().as_mut().is_some_and(|pool| pool.release(frame));
        if !taken_back {
            log::error!("a table frame was freed that is not out: {frame}");
        }
    }

    descriptor_access!();
}

impl Maintenance for El2Environment {
    fn dsb(&self, kind: DsbKind) {
        match kind {
            DsbKind::Ish => barrier::dsb_ish(),
            DsbKind::Ishst => barrier::dsb_ishst(),
            DsbKind::Nsh | DsbKind::Nshst => barrier::dsb_nsh(),
            DsbKind::Sy => barrier::dsb_sy(),
        }
    }

    fn isb(&self) {
        barrier::isb();
    }

    #[inline(always)]
    fn tlbi(&self, operation: Tlbi) {
        tlb::invalidate(operation);
    }

    fn load_vttbr(&self, vttbr: u64) -> u64 {
        let previous = VTTBR_EL2.get();
        // At EL2 the register only names the VMID of stage-2 maintenance; EL1 does not run until the caller has put the
        // previous value back.
        VTTBR_EL2.set(vttbr);
        previous
    }

    fn clean_invalidate_to_poc(&self, range: PhysRange) {
        crate::fixmap::for_each_piece(range, cache::clean_and_invalidate_virtual);
    }

    fn clean_to_pou(&self, range: PhysRange) {
        if cache::instructions_see_data() {
            barrier::dsb_ish();
        } else {
            crate::fixmap::for_each_piece(range, cache::clean_virtual_to_pou);
        }
    }

    fn invalidate_instruction_cache(&self, _range: PhysRange) {
        // By address would need the pages mapped executable or at least readable here; all of it needs nothing.
        cache::invalidate_all_instructions();
    }
}

/// The environment before the MMU is on: the tables are not live, so nothing needs maintenance, and with caches off
/// there are no locks.
pub struct EarlyEnvironment {
    /// Where the frames come from.
    pub pool: FramePool,
}

impl TableFrames for EarlyEnvironment {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let frame = self.pool.allocate()?;
        for offset in (0..PAGE_SIZE).step_by(8) {
            self.write(frame.checked_add(offset)?, 0);
        }
        Some(frame)
    }

    fn free(&mut self, frame: PhysAddr) {
        self.pool.release(frame);
    }

    descriptor_access!();
}

impl Maintenance for EarlyEnvironment {
    fn dsb(&self, _kind: DsbKind) {
        barrier::dsb_sy();
    }

    fn isb(&self) {
        barrier::isb();
    }

    fn tlbi(&self, _operation: Tlbi) {}

    fn load_vttbr(&self, vttbr: u64) -> u64 {
        vttbr
    }

    fn clean_invalidate_to_poc(&self, _range: PhysRange) {}

    fn clean_to_pou(&self, _range: PhysRange) {}

    fn invalidate_instruction_cache(&self, _range: PhysRange) {}
}
