//! Registers of FP and SIMD, held by every CPU at once for longer than any of them is left alone.

use crate::Bench;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::cpus::current;
use payloads::probe::enable_simd;
use payloads::timer;

/// Microseconds for which they are held: several ticks of a host that has more virtual CPUs than CPUs.
const HELD: u64 = 150_000;
/// What they hold: this, times the number of the register, plus that of the CPU.
const PATTERN: u64 = 0x0101_0101_0101_0101;

/// A bit for each CPU that found something else in its registers, and the number of CPUs that have looked.
static WRONG: AtomicU64 = AtomicU64::new(0);
static LOOKED: AtomicU64 = AtomicU64::new(0);

pub fn run(bench: &mut Bench) {
    let count = bench.cpus.count;
    (1..count).for_each(|cpu| bench.cpus.post(cpu, hold, 0));
    hold(0);
    let done = (1..count).all(|cpu| bench.cpus.wait(cpu));
    bench.expect(
        "interrupts",
        "fp-held-on-all-cpus",
        LOOKED.load(Ordering::Acquire),
        if done { count as u64 } else { 0 },
    );
    bench.expect("interrupts", "fp-kept", WRONG.load(Ordering::Acquire), 0);
}

/// Fills the registers, spins, and looks at them.
fn hold(_: u64) {
    enable_simd();
    let cpu = current();
    let mut values: [u64; 32] = core::array::from_fn(|number| PATTERN.wrapping_mul(number as u64 + 1) + cpu as u64);
    let expected = values;
    let until = timer::now() + timer::ticks(HELD);
    // SAFETY: Loads and stores the array, which is as large as the registers' low halves; nothing here is compiled to use them,
    // interrupt handlers included.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "ldr d\\n, [{values}, #(\\n * 8)]",
            ".endr",
            "2: isb",
            "mrs {now}, cntvct_el0",
            "cmp {now}, {until}",
            "b.lo 2b",
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "str d\\n, [{values}, #(\\n * 8)]",
            ".endr",
            values = in(reg) values.as_mut_ptr(),
            until = in(reg) until,
            now = out(reg) _,
            options(nostack)
        );
    }
    if values != expected {
        WRONG.fetch_or(1 << cpu, Ordering::AcqRel);
    }
    LOOKED.fetch_add(1, Ordering::AcqRel);
}
