//! Registers of FP and SIMD, held by every CPU at once for longer than any of them is left alone; and instructions of
//! SVE among them, where the CPU is said to have none.

use crate::Bench;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::attempt;
use payloads::cpus::current;
use payloads::probe::enable_simd;
use payloads::timer;
use payloads::vectors::EC_UNKNOWN;

/// Microseconds for which they are held: several ticks of a host that has more virtual CPUs than CPUs.
const HELD: u64 = 150_000;
/// What they hold: this, times the number of the half of a register, plus that of the CPU.
const PATTERN: u64 = 0x0101_0101_0101_0101;
/// FPCR.RMode, and the cumulative flags of FPSR that are held.
const FPCR_ROUNDING_SHIFT: u32 = 22;
const FPSR_FLAGS: u64 = 1 << 27 | 0x9f;
/// CPACR_EL1.ZEN: EL1 does not trap SVE to itself.
const CPACR_ZEN: u64 = 0b11 << 16;
/// ID_AA64PFR0_EL1.SVE.
const SVE_SHIFT: u32 = 32;

/// A bit for each CPU that found something else in its registers, and the number of CPUs that have looked.
static WRONG: AtomicU64 = AtomicU64::new(0);
static LOOKED: AtomicU64 = AtomicU64::new(0);

/// q0 to q31 as low and high half, FPCR, FPSR. The assembly knows the layout.
#[repr(C, align(16))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct File {
    q: [u64; 64],
    fpcr: u64,
    fpsr: u64,
}

impl File {
    /// What a CPU holds.
    fn of(cpu: usize) -> Self {
        Self {
            q: core::array::from_fn(|half| PATTERN.wrapping_mul(half as u64 + 1).wrapping_add(cpu as u64)),
            fpcr: (cpu as u64 & 0b11) << FPCR_ROUNDING_SHIFT,
            fpsr: FPSR_FLAGS & !(cpu as u64 & 0xf),
        }
    }

    /// Fills the registers.
    fn load(&self) {
        // SAFETY: Loads the file, which is as large as the registers; nothing here is compiled to use them, interrupt
        // handlers included.
        unsafe {
            asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                "ldr q\\n, [{file}, #(\\n * 16)]",
                ".endr",
                "msr fpcr, {fpcr}",
                "msr fpsr, {fpsr}",
                file = in(reg) self,
                fpcr = in(reg) self.fpcr,
                fpsr = in(reg) self.fpsr,
                options(nostack, readonly)
            );
        }
    }

    /// What the registers hold.
    fn store() -> Self {
        let mut file = Self { q: [0; 64], fpcr: 0, fpsr: 0 };
        // SAFETY: Stores to the file, which is as large as the registers.
        unsafe {
            asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                "str q\\n, [{file}, #(\\n * 16)]",
                ".endr",
                "mrs {fpcr}, fpcr",
                "mrs {fpsr}, fpsr",
                file = in(reg) &raw mut file,
                fpcr = out(reg) file.fpcr,
                fpsr = out(reg) file.fpsr,
                options(nostack)
            );
        }
        file
    }
}

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
    without_sve(bench);
}

/// Fills the registers, spins, and looks at them.
fn hold(_: u64) {
    enable_simd();
    let cpu = current();
    let expected = File::of(cpu);
    let until = timer::now() + timer::ticks(HELD);
    expected.load();
    while timer::now() < until {}
    if File::store() != expected {
        WRONG.fetch_or(1 << cpu, Ordering::AcqRel);
    }
    LOOKED.fetch_add(1, Ordering::AcqRel);
}

/// The first CPU executes instructions of SVE, while all others hold their registers: each is UNDEFINED, and changes
/// nothing.
fn without_sve(bench: &mut Bench) {
    let features: u64;
    // SAFETY: Reading the register has no effect.
    unsafe { asm!("mrs {0}, id_aa64pfr0_el1", out(reg) features, options(nomem, nostack)) };
    let has_sve = features >> SVE_SHIFT & 0xf != 0;
    bench.report.value("interrupts.with-sve", has_sve.into());
    if has_sve {
        return;
    }
    let count = bench.cpus.count;
    LOOKED.store(1, Ordering::Release);
    (1..count).for_each(|cpu| bench.cpus.post(cpu, hold, 0));
    let expected = File::of(0);
    // SAFETY: What EL1 traps changes nothing else; without SVE nobody looks at the field.
    unsafe {
        asm!("mrs {0}, cpacr_el1", "orr {0}, {0}, {1}", "msr cpacr_el1, {0}", "isb", out(reg) _, in(reg) CPACR_ZEN,
            options(nomem, nostack));
    }
    let until = timer::now() + timer::ticks(HELD);
    expected.load();
    let (mut tried, mut done, mut other) = (0, 0, 0);
    while timer::now() < until {
        // SAFETY: The instructions touch registers of SVE alone, of which the CPU has none.
        let outcomes = unsafe {
            [
                attempt!([".inst 0x04bf5020"], out("x0") _), // RDVL x0, #1
                attempt!([".inst 0x2538c020"]),              // DUP z0.b, #1
                attempt!([".inst 0x2518e3e0"]),              // PTRUE p0.b
            ]
        };
        for outcome in outcomes {
            tried += 1;
            match outcome {
                None => done += 1,
                Some(exception) if exception.class() != EC_UNKNOWN => other += 1,
                Some(_) => {}
            }
        }
    }
    let kept = File::store() == expected;
    let held = (1..count).all(|cpu| bench.cpus.wait(cpu));
    let seen = format_args!("of {tried}, {done} were done and {other} ended otherwise");
    bench.report.check("interrupts.sve-undefined", tried != 0 && done == 0 && other == 0, seen);
    let wrong = WRONG.load(Ordering::Acquire);
    bench.report.check("interrupts.fp-kept-beside-sve", kept && held && wrong == 0, format_args!("{wrong:#x}, {kept}"));
}
