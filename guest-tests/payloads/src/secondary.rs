//! Other CPUs, started by PSCI CPU_ON, with the payload's translation tables and vectors.
//!
//! The [console](crate::console), [probes](crate::probe) and tables are the first CPU's alone: the others only compute, make
//! calls and touch atomics and device registers.

use crate::hypervisor::call_status;
use crate::memory::{self, AddressSpace};
use crate::vectors;
use abi::{PhysAddr, PhysRange, psci};
use core::arch::global_asm;
use core::cell::UnsafeCell;

/// Most CPUs that a payload makes use of, by Aff0.
pub const MAX_CPUS: usize = 16;
/// Bytes of a secondary CPU's stack.
const STACK_SIZE: usize = 16 << 10;

/// What a secondary CPU runs: its argument, and SCTLR_EL1 as it was at the CPU's entry.
pub type Main = extern "C" fn(argument: u64, sctlr_at_entry: u64) -> !;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: Only the CPU whose stack it is touches it, through its stack pointer.
unsafe impl Sync for Stack {}

static STACKS: [Stack; MAX_CPUS] = [const { Stack(UnsafeCell::new([0; STACK_SIZE])) }; MAX_CPUS];

/// What the entry code loads, MMU off. The assembly knows the layout.
#[repr(C, align(64))]
struct Start {
    /// MAIR_EL1, TCR_EL1, TTBR0_EL1, SCTLR_EL1.
    translation: [u64; 4],
    vectors: u64,
    stack_top: u64,
    main: u64,
    argument: u64,
}

/// A CPU's [`Start`].
struct StartCell(UnsafeCell<Start>);

// SAFETY: Whoever starts the CPU writes it while the CPU is off, which reads it when it starts.
unsafe impl Sync for StartCell {}

impl StartCell {
    const fn new() -> Self {
        Self(UnsafeCell::new(Start { translation: [0; 4], vectors: 0, stack_top: 0, main: 0, argument: 0 }))
    }
}

static STARTS: [StartCell; MAX_CPUS] = [const { StartCell::new() }; MAX_CPUS];

global_asm!(
    ".pushsection .text.secondary, \"ax\"",
    ".global payload_secondary_entry",
    "payload_secondary_entry:",
    "    msr daifset, #0xf",
    "    msr spsel, #1",
    "    mrs x9, sctlr_el1",
    "    ldp x1, x2, [x0]",
    "    ldp x3, x4, [x0, #16]",
    "    ldp x5, x6, [x0, #32]",
    "    ldp x7, x8, [x0, #48]",
    "    msr mair_el1, x1",
    "    msr tcr_el1, x2",
    "    msr ttbr0_el1, x3",
    "    msr vbar_el1, x5",
    "    isb",
    "    tlbi vmalle1",
    "    dsb nsh",
    "    ic iallu",
    "    dsb nsh",
    "    isb",
    "    msr sctlr_el1, x4",
    "    isb",
    "    mov sp, x6",
    "    mov x29, xzr",
    "    mov x30, xzr",
    "    mov x0, x8",
    "    mov x1, x9",
    "    br x7",
    ".popsection",
);

unsafe extern "C" {
    static payload_secondary_entry: u8;
}

/// Where CPU_ON is to enter.
pub fn entry() -> u64 {
    &raw const payload_secondary_entry as u64
}

/// Turns the CPU of affinity `target` on, to run `main` with `argument`. Returns what PSCI does.
///
/// # Panics
/// Where Aff0 of `target` is [`MAX_CPUS`] or more.
///
/// # Safety
/// The CPU must be off, and nobody else may be about to turn it on by a call of this.
pub unsafe fn start(space: &AddressSpace, target: u64, main: Main, argument: u64) -> i64 {
    let index = (target & 0xff) as usize;
    let start = Start {
        translation: space.registers(),
        vectors: vectors::table(),
        stack_top: STACKS[index].0.get() as u64 + STACK_SIZE as u64,
        main: main as usize as u64,
        argument,
    };
    let place = STARTS[index].0.get();
    // SAFETY: By the caller's promise the CPU that reads it is off.
    unsafe { place.write(start) };
    let first = PhysAddr::new(place as u64);
    memory::clean(PhysRange { start: first, end: PhysAddr::new(first.raw() + size_of::<Start>() as u64) });
    call_status(psci::CPU_ON_64, [target, entry(), place as u64])
}
