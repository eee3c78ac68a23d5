//! A guest that goes to AArch32 at EL0, which its ID registers say that there is not: once to come back at once, and
//! once to stay until somebody else comes for it.
//!
//! On a bare machine, and where the CPU has no AArch32 or does not let EL1 return to it, it says so and ends.
#![no_std]
#![no_main]

use aarch64_cpu::registers::{ID_AA64PFR0_EL1, Readable, TTBR0_EL1};
use abi::payloads::aarch32::FOR_GOOD;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use payloads::report::Report;
use payloads::vectors::{EC_ILLEGAL_STATE, Exception};
use payloads::{Machine, attempt, hypervisor, payload, println};

/// SPSR_EL1 of AArch32's User mode, A32, with everything masked (Arm ARM, SPSR_EL1, exception taken from AArch32).
const USER: u64 = 0x1d0;
/// A32: SVC #0.
const SVC: u32 = 0xef00_0000;
/// A32: a branch to itself.
const LOOP: u32 = 0xeaff_fffe;
/// Vector of a synchronous exception from a lower level that was in AArch32.
const FROM_AARCH32: u64 = 12;
/// ESR_EL1.EC: SVC from AArch32.
const EC_SVC32: u64 = 0x11;
/// A level-1 block's entry of the root: nothing of the payload's is in this GiB, which AArch32 reaches.
const SLOT: usize = 3;
/// A page that EL0 may execute: normal memory, inner shareable, read-only, not for EL1 to execute.
const EXECUTABLE: u64 = 1 << 53 | 1 << 11 | 1 << 10 | 0b11 << 8 | 0b11 << 6 | 0b11;
/// A table.
const TABLE: u64 = 0b11;

/// A page of instructions, and two of tables.
#[repr(C, align(4096))]
struct Code([AtomicU32; 1024]);
#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

static CODE: Code = Code([const { AtomicU32::new(0) }; 1024]);
static TABLES: [Table; 2] = [const { Table([const { AtomicU64::new(0) }; 512]) }; 2];

payload!(aarch32);

fn aarch32(_: &mut Machine) {
    println!("aarch32: to the other execution state");
    let mut report = Report::begin("aarch32");
    let guest = hypervisor::is_present();
    // ID_AA64PFR0_EL1.EL0 of 2 says that there is AArch32 at EL0.
    let told = ID_AA64PFR0_EL1.get() & 0xf == 2;
    report.check("aarch32.hidden", !(guest && told), format_args!("the ID registers tell of it"));
    let code = map();
    CODE.0[0].store(SVC, Ordering::Relaxed);
    CODE.0[1].store(LOOP, Ordering::Relaxed);
    synchronise();
    let exception = go(code);
    let entered = exception.is_some_and(|exception| exception.vector == FROM_AARCH32 && exception.class() == EC_SVC32);
    let refused = exception.is_some_and(|exception| exception.class() == EC_ILLEGAL_STATE);
    match exception {
        Some(exception) => report.check("aarch32.entered-or-illegal", entered || refused, format_args!("{exception}")),
        None => report.check("aarch32.entered-or-illegal", false, format_args!("nothing came of it")),
    }
    report.value("aarch32.entered", entered.into());
    report.end();
    if entered && guest {
        println!("aarch32: {FOR_GOOD}");
        let exception = go(code + 4);
        println!("aarch32: back, by {}", if exception.is_some() { "an exception" } else { "nothing" });
    }
}

/// Maps the page of instructions for EL0, and returns its address there.
fn map() -> u64 {
    let [level2, level3] = TABLES.each_ref().map(|table| table.0.as_ptr() as u64);
    TABLES[0].0[0].store(level3 | TABLE, Ordering::Relaxed);
    TABLES[1].0[0].store(CODE.0.as_ptr() as u64 | EXECUTABLE, Ordering::Relaxed);
    let root = (TTBR0_EL1.get() & 0xffff_ffff_f000) as *mut u64;
    // SAFETY: The root is mapped at its own address, and nothing of the payload's is behind the entry.
    unsafe { root.add(SLOT).write_volatile(level2 | TABLE) };
    (SLOT as u64) << 30
}

/// Makes instructions and tables count.
fn synchronise() {
    // SAFETY: Maintenance of a line that holds the instructions; barriers; the CPU walks the tables again.
    unsafe {
        asm!(
            "dc cvau, {line}",
            "dsb ish",
            "ic iallu",
            "tlbi vmalle1is",
            "dsb ish",
            "isb",
            line = in(reg) CODE.0.as_ptr(),
            options(nostack)
        );
    }
}

/// Goes to `code` in AArch32 at EL0, and returns what brought the CPU back.
fn go(code: u64) -> Option<Exception> {
    // SAFETY: What is there is a call to EL1, whose vectors resume here with the stack as it was, or a loop. AArch32's
    // registers are the lower halves of x0 to x14, of which the instructions change none.
    unsafe {
        attempt!(
            ["msr spsr_el1, {state}", "msr elr_el1, {code}", "isb", "eret"],
            state = in(reg) USER,
            code = in(reg) code
        )
    }
}
