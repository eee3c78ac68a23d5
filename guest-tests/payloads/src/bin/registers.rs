//! A guest that fills every register it has, leaves the CPU by a call and by interrupts, and looks whether they came back
//! as they were. At its start it looks for what somebody else left in them.
//!
//! Interrupts come from a host that counts them in a page which is shared with it. Where there is none, the call alone
//! is made.
#![no_std]
#![no_main]

use abi::{Ipa, PAGE_SIZE, psci};
use core::arch::{asm, global_asm};
use core::sync::atomic::AtomicU64;
use payloads::hypervisor::KvmCalls;
use payloads::probe::enable_simd;
use payloads::report::Report;
use payloads::{Machine, payload, println};

/// How often the registers are filled and compared, for each way to leave.
const ROUNDS: u64 = 8;
/// What the registers are filled with.
const PATTERN: u64 = 0x6e57_1dea_d0c5_1b29;
/// FPCR: round towards zero, flush to zero.
const FPCR: u64 = 0b11 << 22 | 1 << 24;
/// FPSR: the cumulative flags.
const FPSR: u64 = 1 << 27 | 0x9f;

/// x0 to x30, x31 unused; q0 to q31 as low and high half; FPCR and FPSR. The assembly knows the layout.
#[repr(C, align(16))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct File {
    x: [u64; 32],
    q: [u64; 64],
    fpcr: u64,
    fpsr: u64,
}

/// A page that the host counts interrupts in.
#[repr(C, align(4096))]
struct Counter([AtomicU64; PAGE_SIZE as usize / 8]);

static COUNTER: Counter = Counter([const { AtomicU64::new(0) }; PAGE_SIZE as usize / 8]);

global_asm!(
    ".pushsection .text.registers, \"ax\"",
    ".arch_extension fp",
    ".arch_extension simd",
    // x0 = file to load, x1 = file to store, x2 = word to watch or 0, x3 = what to wait for there, or the call to be made.
    // x0 to x3 are not loaded.
    "payload_hold_registers:",
    "    stp x29, x30, [sp, #-112]!",
    "    stp x19, x20, [sp, #16]",
    "    stp x21, x22, [sp, #32]",
    "    stp x23, x24, [sp, #48]",
    "    stp x25, x26, [sp, #64]",
    "    stp x27, x28, [sp, #80]",
    "    str x1, [sp, #96]",
    "    add x4, x0, #256",
    "    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    ldr q\\n, [x4, #(\\n * 16)]",
    "    .endr",
    "    ldr x4, [x0, #768]",
    "    msr fpcr, x4",
    "    ldr x4, [x0, #776]",
    "    msr fpsr, x4",
    "    .irp n, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
    "    ldr x\\n, [x0, #(\\n * 8)]",
    "    .endr",
    "    cbz x2, 2f",
    "1:  ldr x0, [x2]",
    "    cmp x0, x3",
    "    b.lo 1b",
    "    b 3f",
    "2:  mov x0, x3",
    "    mov x1, xzr",
    "    mov x3, xzr",
    "    hvc #0",
    "3:  ldr x0, [sp, #96]",
    "    .irp n, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
    "    str x\\n, [x0, #(\\n * 8)]",
    "    .endr",
    "    add x4, x0, #256",
    "    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    str q\\n, [x4, #(\\n * 16)]",
    "    .endr",
    "    mrs x4, fpcr",
    "    str x4, [x0, #768]",
    "    mrs x4, fpsr",
    "    str x4, [x0, #776]",
    "    ldp x19, x20, [sp, #16]",
    "    ldp x21, x22, [sp, #32]",
    "    ldp x23, x24, [sp, #48]",
    "    ldp x25, x26, [sp, #64]",
    "    ldp x27, x28, [sp, #80]",
    "    ldp x29, x30, [sp], #112",
    "    ret",
    ".popsection",
);

unsafe extern "C" {
    fn payload_hold_registers(load: *const File, store: *mut File, watch: *const AtomicU64, until: u64);
}

/// Reads a system register.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: Reading the registers that are named here has no effect.
        unsafe { asm!(concat!("mrs {0}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// A list of system registers, read and written together.
macro_rules! system_registers {
    ($read:ident, $write:ident, $count:literal: $($name:literal),*) => {
        fn $read() -> [u64; $count] {
            [$(read!($name)),*]
        }

        /// Writes the pattern of `round`, and returns it.
        fn $write(round: u64) -> [u64; $count] {
            let values: [u64; $count] = core::array::from_fn(|index| (PATTERN ^ round).rotate_right(index as u32));
            let mut value = values.iter();
            // SAFETY: Nothing in the payload uses these registers.
            $(unsafe {
                asm!(concat!("msr ", $name, ", {0}"), in(reg) *value.next().unwrap_or(&0), options(nomem, nostack));
            })*
            values
        }
    };
}

system_registers!(read_threads, write_threads, 5:
    "tpidr_el0", "tpidrro_el0", "tpidr_el1", "sp_el0", "contextidr_el1"
);
system_registers!(read_keys, write_keys, 10:
    "S3_0_C2_C1_0", "S3_0_C2_C1_1", "S3_0_C2_C1_2", "S3_0_C2_C1_3", "S3_0_C2_C2_0", "S3_0_C2_C2_1", "S3_0_C2_C2_2",
    "S3_0_C2_C2_3", "S3_0_C2_C3_0", "S3_0_C2_C3_1"
);

payload!(registers);

/// True where the CPU has pointer authentication (ID_AA64ISAR1_EL1.APA and API, ID_AA64ISAR2_EL1.APA3).
fn has_pointer_authentication() -> bool {
    read!("id_aa64isar1_el1") & 0xff0 != 0 || read!("S3_0_C0_C6_2") & 0xf000 != 0
}

/// A code over two words by the generic key (PACGA).
fn generic_code() -> u64 {
    let code: u64;
    // SAFETY: The CPU has the instruction, which changes nothing but its register.
    unsafe {
        asm!(".arch_extension pauth", "pacga {0}, {1}, {1}", out(reg) code, in(reg) PATTERN, options(nomem, nostack));
    }
    code
}

/// True where the CPU has that instruction (ID_AA64ISAR1_EL1.GPA and GPI, ID_AA64ISAR2_EL1.GPA3).
fn has_generic_code() -> bool {
    read!("id_aa64isar1_el1") >> 24 & 0xff != 0 || read!("S3_0_C0_C6_2") >> 8 & 0xf != 0
}

fn registers(_: &mut Machine) {
    println!("registers: filling them all");
    let mut report = Report::begin("registers");
    enable_simd();
    let keys = has_pointer_authentication();
    let blank = File { x: [0; 32], q: [0; 64], fpcr: 0, fpsr: 0 };
    found(&mut report, keys);

    let calls = KvmCalls::find();
    report.value("registers.host", calls.is_some().into());
    let counter = &COUNTER.0[0];
    if let Some(calls) = calls {
        let status = calls.share(Ipa::new(counter.as_ptr() as u64));
        report.check("registers.share", status == 0, format_args!("{status}"));
    } else {
        println!("registers: no pKVM here; nobody counts interrupts");
    }
    // Without a host there is nobody who would go on after a standby.
    let call = if calls.is_some() { psci::CPU_SUSPEND_64 } else { psci::PSCI_VERSION };
    let ways = [("call", core::ptr::null()), ("interrupt", counter as *const AtomicU64)];
    for (name, watch) in ways.into_iter().filter(|(_, watch)| watch.is_null() || calls.is_some()) {
        let mut different = 0;
        for round in 1..=ROUNDS {
            let pattern = |index: usize| (PATTERN ^ round).rotate_left(index as u32);
            let mut expected = File { q: core::array::from_fn(pattern), fpcr: FPCR, fpsr: FPSR, ..blank };
            expected.x = core::array::from_fn(|index| if (4..31).contains(&index) { !pattern(index) } else { 0 });
            let mut seen = blank;
            let threads = write_threads(round);
            let expected_keys = if keys { write_keys(round) } else { [0; 10] };
            let until = if watch.is_null() { call.into() } else { 2 * round };
            // SAFETY: The function keeps to the procedure call standard, but for registers that nothing here is
            // compiled to use, and touches the two files and the word alone.
            unsafe { payload_hold_registers(&raw const expected, &raw mut seen, watch, until) };
            different += expected.x.iter().zip(seen.x).filter(|(expected, seen)| **expected != *seen).count();
            different += expected.q.iter().zip(seen.q).filter(|(expected, seen)| **expected != *seen).count();
            different += usize::from((seen.fpcr, seen.fpsr) != (FPCR, FPSR));
            different += usize::from(threads != read_threads());
            different += usize::from(keys && expected_keys != read_keys());
        }
        report.check_in("registers.kept-by", name, different == 0, format_args!("{different} changed"));
    }
    report.end();
}

/// Registers hold nothing of the host's or of another guest's when a guest starts.
fn found(report: &mut Report, keys: bool) {
    let mut q = [0u64; 64];
    // SAFETY: Stores registers to the array, which is as large as they are.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "str q\\n, [{0}, #(\\n * 16)]",
            ".endr",
            in(reg) q.as_mut_ptr(),
            options(nostack)
        );
    }
    let found = q.iter().filter(|half| **half != 0).count();
    report.check("registers.simd-blank", found == 0, format_args!("{found} halves of registers hold something"));
    let threads = read_threads();
    report.check("registers.threads-blank", threads.iter().all(|value| *value == 0), format_args!("{threads:x?}"));
    if keys {
        // The instruction comes first: until then a guest may have no keys in the CPU.
        let code = if has_generic_code() { Some(generic_code()) } else { None };
        let keys = read_keys();
        report.check("registers.keys-blank", keys.iter().all(|value| *value == 0), format_args!("{keys:x?}"));
        if let Some(code) = code {
            // SAFETY: Nothing in the payload uses these registers.
            unsafe { asm!("msr S3_0_C2_C3_0, xzr", "msr S3_0_C2_C3_1, xzr", "isb", options(nomem, nostack)) };
            let by_blank_key = generic_code();
            let is_same = code == by_blank_key;
            report.check("registers.first-code-by-own-key", is_same, format_args!("{code:#x}, {by_blank_key:#x}"));
        }
    }
}
