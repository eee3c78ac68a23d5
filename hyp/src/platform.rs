//! What the monitor asks of the machine, on the calling CPU.

use crate::environment::{El2Environment, POOL};
use crate::frame_pool::FramePool;
use crate::{cache, cpu_data, firmware, fixmap, ghost, guest_switch};
use aarch64_cpu::registers::{CNTPCT_EL0, Readable};
use abi::run::{MAX_LIST_REGISTERS, RunPage};
use abi::{PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use core::ptr::NonNull;
use monitor::object::ObjectMemory;
use monitor::platform::{CpuIndex, GuestTrap, Next, Platform, RunEntry, RunExit};
use monitor::registers::VcpuContext;
use monitor::syndrome::Syndrome;
use ownership::Wipe;

unsafe extern "C" {
    /// In `entry.S`.
    static secondary_entry: u8;
}

impl Wipe for El2Environment {
    fn wipe(&mut self, page: Pfn) {
        let range = page.checked_address().and_then(|start| PhysRange::from_size(start, PAGE_SIZE));
        if let Some(range) = range {
            self.wipe_range(range);
        }
    }

    fn wipe_range(&mut self, range: PhysRange) {
        fixmap::for_each_piece(range, |mapped| {
            // SAFETY: the fixmap maps all of it writable for as long as this runs, and no reference leads there.
            unsafe { cache::zero(mapped) };
            cache::clean_and_invalidate_virtual(mapped);
        });
    }
}

/// The EL2 address of a page that hyp maps at its physical address. There is RAM at it, so the address does not overflow.
#[inline(always)]
fn mapped(page: Pfn) -> NonNull<u8> {
    let address = page.raw().wrapping_mul(PAGE_SIZE);
    NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
}

// SAFETY: hyp's stage 1 maps its pages at their physical address for as long as they are hyp's, on all CPUs.
unsafe impl ObjectMemory for El2Environment {
    fn object_memory(&self, first: Pfn, _count: u64) -> NonNull<u8> {
        mapped(first)
    }
}

impl Platform for El2Environment {
    fn cpu(&self) -> CpuIndex {
        CpuIndex(cpu_data::index())
    }

    fn firmware_call(&mut self, function: u32, arguments: [u64; 3]) -> [u64; 4] {
        if function == abi::psci::SYSTEM_OFF {
            ghost::report();
        }
        firmware::call(function, arguments)
    }

    fn firmware_entry(&self, cpu: CpuIndex) -> (PhysAddr, u64) {
        (PhysAddr::new((&raw const secondary_entry) as u64), cpu.0 as u64)
    }

    #[inline(always)]
    fn run_guest(
        &mut self,
        context: &mut VcpuContext,
        next: impl FnMut(Syndrome, &mut VcpuContext) -> Next,
    ) -> GuestTrap {
        guest_switch::run(context, next)
    }

    fn counter(&self) -> u64 {
        CNTPCT_EL0.get()
    }

    fn random(&mut self) -> Option<u64> {
        let (number, is_valid): (u64, u64);
        // SAFETY: the caller has made sure of FEAT_RNG, and reading RNDR (S3_3_C2_C4_0) changes the flags and nothing
        // else. It sets Z where it has no number.
        unsafe {
            core::arch::asm!(
                "mrs {number}, S3_3_C2_C4_0",
                "cset {is_valid}, ne",
                number = out(reg) number, is_valid = out(reg) is_valid,
                options(nomem, nostack)
            );
        }
        (is_valid != 0).then_some(number)
    }

    #[inline(always)]
    fn read_run_entry(&mut self, page: Pfn, list_registers: &mut [u64]) -> RunEntry {
        let run_page = mapped(page).cast::<RunPage>().as_ptr();
        // SAFETY: only an address is computed.
        let registers = unsafe { (&raw const (*run_page).list_registers).cast::<u64>() };
        let mut list_register_bits = 0;
        for (index, register) in list_registers.iter_mut().enumerate().take(MAX_LIST_REGISTERS) {
            // SAFETY: a pinned run page is mapped at EL2, and has so many words there. The host may write to it meanwhile,
            // hence the volatile read.
            *register = unsafe { registers.add(index).read_volatile() };
            list_register_bits |= *register;
        }
        // SAFETY: as above.
        unsafe {
            RunEntry {
                data: (&raw const (*run_page).data).read_volatile(),
                response: (&raw const (*run_page).response).read_volatile(),
                interrupt_control: (&raw const (*run_page).interrupt_control).read_volatile(),
                list_register_bits,
            }
        }
    }

    #[inline(always)]
    fn write_run_exit(&mut self, page: Pfn, exit: &RunExit, list_registers: &[u64]) {
        let run_page = mapped(page).cast::<RunPage>().as_ptr();
        macro_rules! write {
            ($($field:ident)*) => {
                // SAFETY: as for the read. Word by word: as a whole it would be copied by a loop.
                $(unsafe { (&raw mut (*run_page).$field).write_volatile(exit.$field) };)*
            };
        }
        write!(exit_reason ipa size write data peer timer_lines virtual_deadline physical_deadline);
        // SAFETY: only an address is computed.
        let registers = unsafe { (&raw mut (*run_page).list_registers).cast::<u64>() };
        for (index, register) in list_registers.iter().enumerate().take(MAX_LIST_REGISTERS) {
            // SAFETY: as for the read.
            unsafe { registers.add(index).write_volatile(*register) };
        }
    }

    fn free_frames(&self) -> u64 {
        POOL.lock().as_ref().map_or(0, FramePool::free_frames)
    }
}
