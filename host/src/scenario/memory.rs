//! The host reaches all of its RAM, and its devices.

use super::Context;
use crate::cpu::Cpu;
use crate::frames::{self, Pages};
use crate::paging::{Window, WindowKind};
use crate::probe::{self, Access};
use crate::{report, smp};
use abi::{PAGE_SIZE, PhysAddr};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// Pages that are touched at most, unless the boot argument `all` asks for every one: 2 GiB, evenly spread.
const MOST_TOUCHED: u64 = 1 << 19;
/// 64-bit words of a page.
const WORDS: usize = (PAGE_SIZE / 8) as usize;

/// What is written to word `index` of the page at `address`.
const fn pattern(address: u64, index: usize) -> u64 {
    (address ^ 0x5aa5_0ff0_3cc3_9669).rotate_left(index as u32)
}

/// See the module.
pub fn run(context: &Context) {
    let cpus: Vec<&'static Cpu> = smp::online().collect();
    touch_all(&cpus, context.machine.argument("all").is_some());
    touch_devices(context);
}

/// Writes the first and the last word of every free page, or of every so manieth, then reads them back. The CPUs divide
/// the blocks among themselves.
fn touch_all(cpus: &[&'static Cpu], every_page: bool) {
    let blocks: Vec<Mutex<Pages>> = frames::all_free().into_iter().map(Mutex::new).collect();
    let pages: u64 = blocks.iter().map(|block| block.lock().count()).sum();
    let stride = if every_page { 1 } else { pages.div_ceil(MOST_TOUCHED).max(1) as usize };
    report::value("host-pages", pages);
    report::value("touched-one-in", stride as u64);
    let wrong = AtomicU64::new(0);
    let pass = |work: &(dyn Fn(u64, &mut [u64]) + Sync)| {
        let next = AtomicUsize::new(0);
        smp::run_on(cpus, || {
            while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut block = block.lock();
                let base = block.address().raw();
                for (index, page) in block.words().chunks_exact_mut(WORDS).enumerate().step_by(stride) {
                    work(base + index as u64 * PAGE_SIZE, page);
                }
            }
        });
    };
    pass(&|address, page| {
        for index in [0, WORDS - 1] {
            page[index] = pattern(address, index);
        }
    });
    pass(&|address, page| {
        let good = [0, WORDS - 1].iter().all(|index| page[*index] == pattern(address, *index));
        wrong.fetch_add(u64::from(!good), Ordering::Relaxed);
    });
    let wrong = wrong.load(Ordering::Relaxed);
    report::check("every-page-holds-its-pattern", wrong == 0 && pages != 0, format_args!("{wrong} of {pages} do not"));
}

/// Reads identification registers that QEMU's devices and every GIC and PL011 have.
fn touch_devices(context: &Context) {
    /// UARTPeriphID0 (Arm DDI 0183, section 3.3.16).
    const UART_ID0: u64 = 0xfe0;
    /// GICD_PIDR2 (Arm IHI 0069, section 12.9.29): ArchRev in bits 7:4.
    const GICD_PIDR2: u64 = 0xffe8;
    let uart = read_device(context.machine.uart.start, UART_ID0);
    report::check("uart-answers", uart == Some(0x11), format_args!("{uart:x?}"));
    let distributor = read_device(context.machine.distributor.start, GICD_PIDR2);
    let revision = distributor.map(|value| value >> 4 & 0xf);
    report::check("gic-answers", matches!(revision, Some(3 | 4)), format_args!("{distributor:x?}"));
}

/// The 32-bit register at `offset` of a device, read through a window; `None` where that aborts.
fn read_device(base: PhysAddr, offset: u64) -> Option<u64> {
    let address = base.checked_add(offset)?;
    let window = Window::open(address, WindowKind::Device);
    // SAFETY: reading an identification register has no effect.
    let value = unsafe { probe::attempt(Access::ReadRegister, window.address(address)) };
    value.ok()
}
