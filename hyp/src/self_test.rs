//! Faults that hyp commits on request, so that a test sees each of its own protections at work.

use abi::boot::{BootInfo, SelfTest};
use core::hint::black_box;

/// An instruction in writable memory: RET. The section is named since nothing writes it.
#[unsafe(link_section = ".data.self_test")]
static mut DATA: u32 = 0xd65f_03c0;

unsafe extern "C" {
    /// In `entry.S`: the first byte of the image.
    static hyp_entry: u8;
}

/// Commits the fault. Returns only where the protection does not work.
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
    }
    log::error!("self-test: nothing stopped {test:?}");
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
