//! Accesses that are expected to fault: the abort comes back as data.

use crate::exception::Syndrome;
use crate::vectors::Frame;
use aarch64_cpu::registers::{ID_AA64ISAR0_EL1, Readable};
use abi::VirtAddr;
use core::arch::global_asm;
use core::fmt;

/// ID_AA64ISAR0_EL1.Atomic.
const ATOMIC_SHIFT: u32 = 20;
/// Its value from which on there are CAS and LDADD (FEAT_LSE).
const ATOMIC_LSE: u64 = 2;

/// An abort that a probe met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// ESR_EL1.
    pub syndrome: Syndrome,
    /// FAR_EL1.
    pub address: VirtAddr,
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, FAR {:#x}", self.syndrome, self.address.raw())
    }
}

/// How a probe touches memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// LDR of 64 bits.
    Read,
    /// LDR of 32 bits, as device registers want it.
    ReadRegister,
    /// STR of zero.
    Write,
    /// LDP with write-back, which gives a trap no valid syndrome.
    ReadPair,
    /// LDXR, then STXR of the same value.
    Exclusive,
    /// CAS of zero for zero (FEAT_LSE).
    CompareAndSwap,
    /// LDADD of zero (FEAT_LSE).
    Add,
    /// DC ZVA.
    ZeroBlock,
    /// A call of the address. An undefined instruction there is as good as code that returns.
    Execute,
}

impl Access {
    /// Every kind.
    const ALL: [Access; 9] = [
        Access::Read,
        Access::ReadRegister,
        Access::Write,
        Access::ReadPair,
        Access::Exclusive,
        Access::CompareAndSwap,
        Access::Add,
        Access::ZeroBlock,
        Access::Execute,
    ];

    /// Every kind that this CPU has.
    pub fn available() -> impl Iterator<Item = Access> {
        let atomics = ID_AA64ISAR0_EL1.get() >> ATOMIC_SHIFT & 0xf >= ATOMIC_LSE;
        Self::ALL.into_iter().filter(move |access| atomics || !matches!(access, Access::CompareAndSwap | Access::Add))
    }

    /// One word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::ReadRegister => "read-register",
            Access::Write => "write",
            Access::ReadPair => "read-pair",
            Access::Exclusive => "exclusive",
            Access::CompareAndSwap => "compare-and-swap",
            Access::Add => "atomic-add",
            Access::ZeroBlock => "zero-block",
            Access::Execute => "execute",
        }
    }
}

/// What a probe's code returns in x0 and x1: zero and the value read, or ESR_EL1 and FAR_EL1.
#[repr(C)]
struct Outcome {
    syndrome: u64,
    value: u64,
}

impl Outcome {
    fn result(self) -> Result<u64, Abort> {
        match self.syndrome {
            0 => Ok(self.value),
            syndrome => Err(Abort { syndrome: Syndrome(syndrome), address: VirtAddr::new(self.value) }),
        }
    }
}

// Each function touches memory at the one instruction labelled `<name>_at`. Where it aborts there, `recover` makes it
// return the abort instead.
global_asm!(
    ".arch_extension lse",
    ".macro host_probe name, instruction:vararg",
    ".pushsection .text.\\name, \"ax\"",
    ".global \\name",
    ".global \\name\\()_at",
    "\\name:",
    "    mov x2, x0",
    "    mov x1, xzr",
    "\\name\\()_at:",
    "    \\instruction",
    "    mov x0, xzr",
    "    ret",
    ".popsection",
    ".endm",
    "host_probe host_probe_read, ldr x1, [x2]",
    "host_probe host_probe_read_register, ldr w1, [x2]",
    "host_probe host_probe_write, str xzr, [x2]",
    "host_probe host_probe_read_pair, ldp x1, x3, [x2], #16",
    "host_probe host_probe_compare_and_swap, cas x1, xzr, [x2]",
    "host_probe host_probe_add, ldadd xzr, x1, [x2]",
    "host_probe host_probe_zero_block, dc zva, x2",
    ".pushsection .text.host_probe_store, \"ax\"",
    ".global host_probe_store",
    ".global host_probe_store_at",
    "host_probe_store:",
    "host_probe_store_at:",
    "    str x1, [x0]",
    "    mov x0, xzr",
    "    ret",
    ".popsection",
    ".pushsection .text.host_probe_exclusive, \"ax\"",
    ".global host_probe_exclusive",
    ".global host_probe_exclusive_at",
    ".global host_probe_exclusive_store_at",
    "host_probe_exclusive:",
    "host_probe_exclusive_at:",
    "    ldxr x1, [x0]",
    "host_probe_exclusive_store_at:",
    "    stxr w2, x1, [x0]",
    "    mov x0, xzr",
    "    ret",
    ".popsection",
    ".pushsection .text.host_probe_execute, \"ax\"",
    ".global host_probe_execute",
    ".global host_probe_execute_return",
    ".global host_probe_execute_abort",
    "host_probe_execute:",
    "    stp x29, x30, [sp, #-16]!",
    "    mov x29, sp",
    "    blr x0",
    "host_probe_execute_return:",
    "    mov x0, xzr",
    "    mov x1, xzr",
    "host_probe_execute_abort:",
    "    ldp x29, x30, [sp], #16",
    "    ret",
    ".popsection",
);

unsafe extern "C" {
    fn host_probe_read(address: u64) -> Outcome;
    fn host_probe_read_register(address: u64) -> Outcome;
    fn host_probe_write(address: u64) -> Outcome;
    fn host_probe_store(address: u64, value: u64) -> Outcome;
    fn host_probe_read_pair(address: u64) -> Outcome;
    fn host_probe_exclusive(address: u64) -> Outcome;
    fn host_probe_compare_and_swap(address: u64) -> Outcome;
    fn host_probe_add(address: u64) -> Outcome;
    fn host_probe_zero_block(address: u64) -> Outcome;
    fn host_probe_execute(address: u64) -> Outcome;

    static host_probe_read_at: u8;
    static host_probe_read_register_at: u8;
    static host_probe_write_at: u8;
    static host_probe_store_at: u8;
    static host_probe_read_pair_at: u8;
    static host_probe_exclusive_at: u8;
    static host_probe_exclusive_store_at: u8;
    static host_probe_compare_and_swap_at: u8;
    static host_probe_add_at: u8;
    static host_probe_zero_block_at: u8;
    static host_probe_execute_return: u8;
    static host_probe_execute_abort: u8;
}

/// Touches `address`.
///
/// # Errors
/// The abort that the access met.
///
/// # Safety
/// Unless it aborts, the access must be one that the host may make: a write of zero, or of the value that is there, to
/// memory that holds nothing the host relies on; a call of code that returns and keeps to the AAPCS64.
pub unsafe fn attempt(access: Access, address: VirtAddr) -> Result<u64, Abort> {
    let probe = match access {
        Access::Read => host_probe_read,
        Access::ReadRegister => host_probe_read_register,
        Access::Write => host_probe_write,
        Access::ReadPair => host_probe_read_pair,
        Access::Exclusive => host_probe_exclusive,
        Access::CompareAndSwap => host_probe_compare_and_swap,
        Access::Add => host_probe_add,
        Access::ZeroBlock => host_probe_zero_block,
        Access::Execute => host_probe_execute,
    };
    // SAFETY: the code keeps to the AAPCS64 and touches nothing but the address, for which the caller vouches; an abort
    // there is caught by `recover`.
    unsafe { probe(address.raw()) }.result()
}

/// Stores `value`, 64 bits, at `address`.
///
/// # Errors
/// The abort that the access met.
///
/// # Safety
/// Unless it aborts, the store must be to memory that holds nothing the host relies on.
pub unsafe fn store(address: VirtAddr, value: u64) -> Result<(), Abort> {
    // SAFETY: as for `attempt`.
    unsafe { host_probe_store(address.raw(), value) }.result().map(drop)
}

/// If the exception of `frame` is an abort that a probe met, makes the probe return it, and returns true. An undefined
/// instruction that a probe was to execute is passed over.
pub fn recover(frame: &mut Frame) -> bool {
    const UNDEFINED: u64 = 0x00;
    const DATA_ABORT: u64 = 0x25;
    const INSTRUCTION_ABORT: u64 = 0x21;
    let called = frame.x[30] == &raw const host_probe_execute_return as u64;
    let resume = match Syndrome(frame.esr).class() {
        // The first instruction at the address was fetched.
        UNDEFINED if called && frame.elr == frame.x[0] => {
            frame.elr = frame.x[30];
            return true;
        }
        DATA_ABORT => {
            let accesses = [
                &raw const host_probe_read_at,
                &raw const host_probe_read_register_at,
                &raw const host_probe_write_at,
                &raw const host_probe_store_at,
                &raw const host_probe_read_pair_at,
                &raw const host_probe_exclusive_at,
                &raw const host_probe_exclusive_store_at,
                &raw const host_probe_compare_and_swap_at,
                &raw const host_probe_add_at,
                &raw const host_probe_zero_block_at,
            ];
            if !accesses.iter().any(|at| *at as u64 == frame.elr) {
                return false;
            }
            frame.x[30]
        }
        // A call of an address that cannot be fetched from: x30 is where it would have returned to.
        INSTRUCTION_ABORT if called => &raw const host_probe_execute_abort as u64,
        _ => return false,
    };
    frame.x[0] = frame.esr;
    frame.x[1] = frame.far;
    frame.elr = resume;
    true
}
