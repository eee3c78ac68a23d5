//! Accesses that may fail: each returns what it read, or the exception that it ran into.
//!
//! Every probe is one instruction that touches memory, of a form that a hypervisor must be ready for: those with a valid
//! syndrome, which it can emulate, and those without.

use crate::vectors::Exception;
use abi::VirtAddr;
use core::arch::asm;
use core::fmt;

/// Runs assembly and returns the exception that it ran into, as `Option<Exception>`. Takes the lines of assembly in
/// brackets, then operands as `asm!` does. x16 and x17 are clobbered. On an exception the lines that follow are skipped, and
/// outputs hold what they held.
#[macro_export]
macro_rules! attempt {
    ([$($line:expr),+ $(,)?] $(, $($operands:tt)*)?) => {{
        let record = $crate::vectors::arm();
        ::core::arch::asm!(
            "adr x17, 77f",
            "str x17, [{record}]",
            $($line,)+
            "77:",
            record = in(reg) record,
            out("x16") _,
            out("x17") _,
            $($($operands)*)?
        );
        $crate::vectors::disarm()
    }};
}

/// Width of a single access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// A byte.
    Byte = 1,
    /// Two bytes.
    Halfword = 2,
    /// Four bytes.
    Word = 4,
    /// Eight bytes.
    Doubleword = 8,
}

impl Width {
    /// Every width.
    pub const ALL: [Width; 4] = [Width::Byte, Width::Halfword, Width::Word, Width::Doubleword];

    /// All ones of this width: what a bus without a device answers.
    pub const fn all_ones(self) -> u64 {
        u64::MAX >> (64 - 8 * self as u32)
    }
}

/// What a probe of memory does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Loads by one register.
    Load(Width),
    /// A sign-extending load of a byte.
    LoadSigned,
    /// A load that moves its base register; no valid syndrome.
    LoadPostIndex,
    /// LDP; no valid syndrome.
    LoadPair,
    /// LDR of a SIMD register; no valid syndrome.
    LoadVector,
    /// LDXR; no valid syndrome.
    LoadExclusive,
    /// Stores a given value from one register.
    Store(Width),
    /// STP; no valid syndrome.
    StorePair,
    /// LDXR and, where that loads, STXR.
    Exclusive,
    /// LDADD of FEAT_LSE; no valid syndrome.
    AtomicAdd,
    /// CAS of FEAT_LSE; no valid syndrome.
    CompareAndSwap,
    /// DC ZVA.
    ZeroBlock,
    /// DC CIVAC.
    CleanLine,
    /// IC IVAU.
    InvalidateInstructions,
    /// A branch to the address.
    Execute,
}

impl Access {
    /// Every access.
    pub const ALL: [Access; 21] = [
        Access::Load(Width::Byte),
        Access::Load(Width::Halfword),
        Access::Load(Width::Word),
        Access::Load(Width::Doubleword),
        Access::LoadSigned,
        Access::LoadPostIndex,
        Access::LoadPair,
        Access::LoadVector,
        Access::LoadExclusive,
        Access::Store(Width::Byte),
        Access::Store(Width::Halfword),
        Access::Store(Width::Word),
        Access::Store(Width::Doubleword),
        Access::StorePair,
        Access::Exclusive,
        Access::AtomicAdd,
        Access::CompareAndSwap,
        Access::ZeroBlock,
        Access::CleanLine,
        Access::InvalidateInstructions,
        Access::Execute,
    ];

    /// A word for it, for the names of checks.
    pub const fn name(self) -> &'static str {
        match self {
            Access::Load(Width::Byte) => "load8",
            Access::Load(Width::Halfword) => "load16",
            Access::Load(Width::Word) => "load32",
            Access::Load(Width::Doubleword) => "load64",
            Access::LoadSigned => "load-signed",
            Access::LoadPostIndex => "load-post-index",
            Access::LoadPair => "load-pair",
            Access::LoadVector => "load-vector",
            Access::LoadExclusive => "load-exclusive",
            Access::Store(Width::Byte) => "store8",
            Access::Store(Width::Halfword) => "store16",
            Access::Store(Width::Word) => "store32",
            Access::Store(Width::Doubleword) => "store64",
            Access::StorePair => "store-pair",
            Access::Exclusive => "exclusive",
            Access::AtomicAdd => "atomic-add",
            Access::CompareAndSwap => "compare-and-swap",
            Access::ZeroBlock => "zero-block",
            Access::CleanLine => "clean-line",
            Access::InvalidateInstructions => "invalidate-instructions",
            Access::Execute => "execute",
        }
    }

    /// True where a hypervisor can emulate the access from its syndrome (ESR_EL2.ISS.ISV is 1).
    pub const fn has_syndrome(self) -> bool {
        matches!(self, Access::Load(_) | Access::LoadSigned | Access::Store(_))
    }

    /// True for cache maintenance, which need not fault where it touches nothing.
    pub const fn is_maintenance(self) -> bool {
        matches!(self, Access::CleanLine | Access::InvalidateInstructions)
    }

    /// True where the instruction is there only with FEAT_LSE.
    pub const fn needs_lse(self) -> bool {
        matches!(self, Access::AtomicAdd | Access::CompareAndSwap)
    }
}

/// What a probe came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, and read this (0 where it reads nothing).
    Done(u64),
    /// It ended in an exception.
    Exception(Exception),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done(value) => write!(f, "it was done, and read {value:#x}"),
            Outcome::Exception(exception) => write!(f, "{exception}"),
        }
    }
}

/// Probes `address`, which need not be mapped.
///
/// # Safety
/// What the access does if it succeeds must be harmless: nothing of the payload's own lies at `address`, unless it may be
/// overwritten by anything; for [`Access::Execute`] what lies there must fault or return.
pub unsafe fn probe(access: Access, address: VirtAddr) -> Outcome {
    let address = address.raw();
    let mut read: u64 = 0;
    macro_rules! load {
        ($($line:expr),+) => {
            attempt!([$($line),+], address = in(reg) address, read = inout(reg) read)
        };
    }
    macro_rules! store {
        ($($line:expr),+) => {
            attempt!([$($line),+], address = in(reg) address, value = in(reg) 0x5a5a_5a5a_5a5a_5a5a_u64)
        };
    }
    macro_rules! maintain {
        ($($line:expr),+) => {
            attempt!([$($line),+], address = in(reg) address)
        };
    }
    // SAFETY: The caller vouches for what the accesses do. Each block declares the registers that it changes; none
    // touches the stack. An exception is recorded by the vectors, which keep every register.
    let exception = unsafe {
        match access {
            Access::Load(Width::Byte) => load!("ldrb {read:w}, [{address}]"),
            Access::Load(Width::Halfword) => load!("ldrh {read:w}, [{address}]"),
            Access::Load(Width::Word) => load!("ldr {read:w}, [{address}]"),
            Access::Load(Width::Doubleword) => load!("ldr {read}, [{address}]"),
            Access::LoadSigned => load!("ldrsb {read}, [{address}]"),
            Access::LoadPostIndex => {
                attempt!(["ldr {read}, [{address}], #8"], address = inout(reg) address => _, read = inout(reg) read)
            }
            Access::LoadPair => load!("ldp {read}, x16, [{address}]", "orr {read}, {read}, x16"),
            Access::LoadVector => load!(".arch_extension fp", "ldr d0, [{address}]", "fmov {read}, d0"),
            Access::LoadExclusive => load!("ldxr {read}, [{address}]", "clrex"),
            Access::Store(Width::Byte) => store!("strb {value:w}, [{address}]"),
            Access::Store(Width::Halfword) => store!("strh {value:w}, [{address}]"),
            Access::Store(Width::Word) => store!("str {value:w}, [{address}]"),
            Access::Store(Width::Doubleword) => store!("str {value}, [{address}]"),
            Access::StorePair => store!("stp {value}, {value}, [{address}]"),
            Access::Exclusive => load!("ldxr {read}, [{address}]", "stxr w16, {read}, [{address}]"),
            Access::AtomicAdd => load!(".arch_extension lse", "ldadd {read}, {read}, [{address}]"),
            Access::CompareAndSwap => load!(".arch_extension lse", "cas {read}, {read}, [{address}]"),
            Access::ZeroBlock => maintain!("dc zva, {address}"),
            Access::CleanLine => maintain!("dc civac, {address}", "dsb sy"),
            Access::InvalidateInstructions => maintain!("ic ivau, {address}", "dsb sy"),
            Access::Execute => execute(address),
        }
    };
    exception.map_or(Outcome::Done(read), Outcome::Exception)
}

/// Calls the code at `address`.
///
/// # Safety
/// What lies there must fault or return, and keep to the procedure call standard.
unsafe fn execute(address: u64) -> Option<Exception> {
    // SAFETY: By the caller's promise. x30 is the way back, for code that returns.
    unsafe { attempt!(["mov x30, x17", "br {address}"], address = in(reg) address, clobber_abi("C")) }
}

/// CPACR_EL1.FPEN: FP and SIMD are not trapped.
const CPACR_FPEN: u64 = 0b11 << 20;

/// Gives EL1 the FP and SIMD registers, for [`Access::LoadVector`] and for probes of the registers themselves. The
/// payload is compiled without them, so they are nobody's.
pub fn enable_simd() {
    // SAFETY: What was trapped is not any more, and no one relies on the trap.
    unsafe {
        asm!(
            "mrs {t}, cpacr_el1",
            "orr {t}, {t}, {fpen}",
            "msr cpacr_el1, {t}",
            "isb",
            t = out(reg) _,
            fpen = in(reg) CPACR_FPEN,
            options(nomem, nostack)
        );
    }
}

/// True where the CPU has FEAT_LSE (ID_AA64ISAR0_EL1.Atomic).
pub fn has_lse() -> bool {
    let features: u64;
    // SAFETY: Reading an ID register has no effect.
    unsafe { asm!("mrs {features}, id_aa64isar0_el1", features = out(reg) features, options(nomem, nostack)) };
    features >> 20 & 0xf != 0
}
