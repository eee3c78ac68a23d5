//! Exceptions in the loader: each is a mistake, or an address in the device tree that is none. They are reported, and end
//! the boot.

use crate::console::say;
use crate::processor::{self, ExceptionLevel};
use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    ELR_EL1, ELR_EL2, ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, Readable, VBAR_EL1, VBAR_EL2, Writeable,
};
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};

global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".balign 0x800",
    "loader_vectors:",
    ".rept 16",
    ".balign 0x80",
    "b {handler}",
    ".endr",
    ".popsection",
    handler = sym report,
);

/// An exception is being reported, or was. Plain loads and stores only.
static REPORTED: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    /// 16 vectors, 2 KiB aligned (Arm ARM D1.3.1).
    static loader_vectors: u8;
}

/// Sends exceptions that are taken to `level` here. At EL3 they stay firmware's.
pub fn install(level: ExceptionLevel) {
    let vectors = &raw const loader_vectors as u64;
    match level {
        ExceptionLevel::El1 => VBAR_EL1.set(vectors),
        ExceptionLevel::El2 => VBAR_EL2.set(vectors),
        ExceptionLevel::El3 => {}
    }
    barrier::isb(barrier::SY);
}

/// Where every vector leads. Nothing is returned to, so that nothing is saved.
extern "C" fn report() -> ! {
    // The console may be what raises the exception.
    if REPORTED.load(Ordering::Relaxed) {
        processor::wait_forever();
    }
    REPORTED.store(true, Ordering::Relaxed);
    let (syndrome, address, place) = match processor::exception_level() {
        ExceptionLevel::El1 => (ESR_EL1.get(), FAR_EL1.get(), ELR_EL1.get()),
        _ => (ESR_EL2.get(), FAR_EL2.get(), ELR_EL2.get()),
    };
    say!("exception: syndrome {syndrome:#x}, address {address:#x}, at {place:#x}");
    processor::wait_forever()
}
