//! Faults that hyp commits on request, so that a test sees each of its own protections at work.

use crate::tables;
use abi::boot::{BootInfo, SelfTest};
use abi::{PAGE_SIZE, PhysRange};
use core::hint::black_box;

/// An instruction in writable memory: RET. The section is named since nothing writes it.
#[unsafe(link_section = ".data.self_test")]
static mut DATA: u32 = 0xd65f_03c0;

unsafe extern "C" {
    /// In `entry.S`: the first byte of the image.
    static hyp_entry: u8;
}

/// Commits the fault. Returns where the protection does not work, and where the fault is one that shows later.
pub fn commit(test: SelfTest, boot: &BootInfo) {
    log::warn!("self-test: {test:?}");
    match test {
        SelfTest::StackOverflow => {
            black_box(descend(0));
        }
        SelfTest::WriteCode => {
            let code = (&raw const hyp_entry).cast_mut();
            // SAFETY: the write is to fault. If it does not, it puts back what it found.
            unsafe { code.write_volatile(code.read_volatile()) };
        }
        SelfTest::ExecuteData => {
            let data = &raw const DATA;
            // SAFETY: the jump is to fault. If it does not, the instruction there returns.
            let function: extern "C" fn() = unsafe { core::mem::transmute(data) };
            function();
        }
        SelfTest::ReadHost => {
            let host = boot.host_entry.raw() as *const u64;
            // SAFETY: the read is to fault. If it does not, it reads RAM.
            black_box(unsafe { host.read_volatile() });
        }
        SelfTest::ArithmeticOverflow => {
            black_box(black_box(u64::MAX) + black_box(1));
        }
        SelfTest::WrongLedger => return write_ledger(boot),
    }
    log::error!("self-test: nothing stopped {test:?}");
}

/// Notes in the ledger that the page at which the host starts is hyp's.
fn write_ledger(boot: &BootInfo) {
    let before = |bank: &&PhysRange| bank.end <= boot.host_entry;
    let Some(plan) = tables::carve_out(boot) else { return };
    let Some(bank) = boot.memory().iter().find(|bank| bank.contains(boot.host_entry)) else { return };
    let bytes_before: u64 = boot.memory().iter().take_while(before).map(PhysRange::size).sum();
    let offset = bytes_before.saturating_add(boot.host_entry.raw().saturating_sub(bank.start.raw()));
    let entry = plan.ledger.start.raw().saturating_add(offset / PAGE_SIZE * size_of::<u64>() as u64);
    // SAFETY: the ledger has one word for each page of RAM, in the order of the banks, and is mapped for good. No other
    // CPU runs, and whoever reads the entry takes what is there.
    unsafe { (entry as *mut u64).write_volatile(ownership::PageState::Hyp.encode()) };
}

/// Takes a piece of stack for each level, without end.
fn descend(level: u64) -> u64 {
    let piece = black_box([level; 64]);
    if level == u64::MAX {
        return 0;
    }
    let below = descend(level + 1);
    piece.iter().fold(below, |sum, &word| sum ^ word)
}
