//! The registers that the host has and does not use: FP, SIMD and SVE, pointer-authentication keys, thread identifiers. A
//! scenario fills them before a guest runs, and looks whether they came back.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CPACR_EL1, Readable, Writeable};
use alloc::boxed::Box;
use core::arch::{asm, global_asm};

/// 64-bit words for z0 to z31, p0 to p15 and FFR at the architecture's longest vector, 2,048 bits.
const VECTOR_WORDS: usize = (32 * 256 + 17 * 32) / 8;
/// CPACR_EL1.FPEN and ZEN: neither FP and SIMD nor SVE trap.
const CPACR_NO_TRAPS: u64 = 0b11 << 20 | 0b11 << 16;
/// ZCR_EL1.LEN: the longest vector that EL2 allows.
const ZCR_LONGEST: u64 = 0xf;
/// FPCR.RMode: round towards zero.
const FPCR: u64 = 0b11 << 22;
/// FPSR.IXC and IOC.
const FPSR: u64 = 0b1_0001;

/// What the registers hold.
pub struct UserRegisters {
    /// z0 to z31, p0 to p15 and FFR one after the other, at the vector length that there is; or q0 to q31.
    vectors: Box<[u64; VECTOR_WORDS]>,
    fpcr: u64,
    fpsr: u64,
    keys: [u64; 10],
    threads: [u64; 3],
}

global_asm!(
    ".pushsection .text.user_registers, \"ax\"",
    ".arch_extension fp",
    ".arch_extension simd",
    ".arch_extension sve",
    ".macro host_all_registers operation, name",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    \\operation \\name\\n, [x0, #\\n, mul vl]",
    ".endr",
    ".endm",
    ".macro host_all_predicates operation",
    "    addvl x2, x0, #31",
    "    addvl x2, x2, #1",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "    \\operation p\\n, [x2, #\\n, mul vl]",
    ".endr",
    ".endm",
    ".macro host_all_simd operation",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "    \\operation q\\n, [x0, #(\\n * 16)]",
    ".endr",
    ".endm",
    "host_load_simd:",
    "    host_all_simd ldr",
    "    ret",
    "host_store_simd:",
    "    host_all_simd str",
    "    ret",
    // FFR has to be a run of ones from its low end: five here.
    "host_load_sve:",
    "    mov x1, #5",
    "    whilelo p0.b, xzr, x1",
    "    wrffr p0.b",
    "    host_all_registers ldr, z",
    "    host_all_predicates ldr",
    "    ret",
    "host_store_sve:",
    "    host_all_registers str, z",
    "    host_all_predicates str",
    "    rdffr p0.b",
    "    str p0, [x2, #16, mul vl]",
    "    ldr p0, [x2]",
    "    ret",
    ".popsection",
);

unsafe extern "C" {
    fn host_load_simd(area: *const u64);
    fn host_store_simd(area: *mut u64);
    fn host_load_sve(area: *const u64);
    fn host_store_sve(area: *mut u64);
}

/// Reads a system register by name.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading the registers that are named here has no effect.
        unsafe { asm!(concat!("mrs {0}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// Functions that read and write some registers together.
macro_rules! group {
    ($read:ident, $write:ident, $count:literal: $($name:literal),*) => {
        fn $read() -> [u64; $count] {
            [$(read!($name)),*]
        }

        fn $write(values: &[u64; $count]) {
            let mut values = values.iter().copied();
            // SAFETY: the host uses none of these registers.
            $(unsafe {
                asm!(concat!("msr ", $name, ", {0}"), in(reg) values.next().unwrap_or(0), options(nomem, nostack));
            })*
        }
    };
}

group!(read_keys, write_keys, 10:
    "S3_0_C2_C1_0", "S3_0_C2_C1_1", "S3_0_C2_C1_2", "S3_0_C2_C1_3", "S3_0_C2_C2_0", "S3_0_C2_C2_1", "S3_0_C2_C2_2",
    "S3_0_C2_C2_3", "S3_0_C2_C3_0", "S3_0_C2_C3_1"
);
group!(read_threads, write_threads, 3: "tpidr_el0", "tpidrro_el0", "sp_el0");

/// ID_AA64PFR0_EL1.SVE.
pub fn has_sve() -> bool {
    read!("id_aa64pfr0_el1") >> 32 & 0xf != 0
}

/// ID_AA64ISAR1_EL1.APA and API, ID_AA64ISAR2_EL1.APA3.
pub fn has_pointer_authentication() -> bool {
    read!("id_aa64isar1_el1") & 0xff0 != 0 || read!("S3_0_C0_C6_2") & 0xf000 != 0
}

/// Makes the registers accessible on the calling CPU.
pub fn enable() {
    CPACR_EL1.set(CPACR_EL1.get() | CPACR_NO_TRAPS);
    barrier::isb(barrier::SY);
    if has_sve() {
        // SAFETY: the vector length matters to no one but this module. S3_0_C1_C2_0 is ZCR_EL1.
        unsafe { asm!("msr S3_0_C1_C2_0, {0}", "isb", in(reg) ZCR_LONGEST, options(nomem, nostack)) };
    }
}

impl UserRegisters {
    /// Values that differ from register to register and from `seed` to seed, in those that the CPU has.
    pub fn from_seed(seed: u64) -> Self {
        let value = |index: usize| (seed ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let keys = if has_pointer_authentication() { core::array::from_fn(value) } else { [0; 10] };
        let vectors = Box::new(core::array::from_fn(value));
        Self { vectors, fpcr: FPCR, fpsr: FPSR, keys, threads: core::array::from_fn(value) }
    }

    /// Fills the calling CPU's registers, and returns what they hold then: not all of the values fit those of a CPU
    /// with shorter vectors.
    pub fn load(&self) -> Self {
        // SAFETY: the host is compiled to use none of these registers; the functions read as much as the longest
        // vectors take at most.
        unsafe {
            if has_sve() {
                host_load_sve(self.vectors.as_ptr());
            } else {
                host_load_simd(self.vectors.as_ptr());
            }
            asm!(
                ".arch_extension fp",
                "msr fpcr, {0}",
                "msr fpsr, {1}",
                in(reg) self.fpcr,
                in(reg) self.fpsr,
                options(nomem, nostack)
            );
        }
        if has_pointer_authentication() {
            write_keys(&self.keys);
        }
        write_threads(&self.threads);
        Self::of_this_cpu()
    }

    /// What the calling CPU's registers hold.
    pub fn of_this_cpu() -> Self {
        let mut vectors = Box::new([0; VECTOR_WORDS]);
        // SAFETY: the functions write as much as the longest vectors take at most, and keep the registers.
        unsafe {
            if has_sve() {
                host_store_sve(vectors.as_mut_ptr());
            } else {
                host_store_simd(vectors.as_mut_ptr());
            }
        }
        let (fpcr, fpsr): (u64, u64);
        // SAFETY: reads registers.
        unsafe {
            asm!(
                ".arch_extension fp",
                "mrs {0}, fpcr",
                "mrs {1}, fpsr",
                out(reg) fpcr,
                out(reg) fpsr,
                options(nomem, nostack)
            );
        }
        let keys = if has_pointer_authentication() { read_keys() } else { [0; 10] };
        Self { vectors, fpcr, fpsr, keys, threads: read_threads() }
    }

    /// How many 64-bit words differ from `other`'s.
    pub fn differences(&self, other: &Self) -> usize {
        let words = |all: &Self| [all.fpcr, all.fpsr].into_iter().chain(all.keys).chain(all.threads);
        let vectors = self.vectors.iter().zip(other.vectors.iter()).filter(|(one, other)| one != other).count();
        vectors + words(self).zip(words(other)).filter(|(one, other)| one != other).count()
    }
}
