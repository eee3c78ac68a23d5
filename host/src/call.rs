//! HVC and SMC as the instructions are, for calls that no well-behaved caller makes.

use core::arch::global_asm;

/// x0 to x3 of a call.
pub type Registers = [u64; 4];

/// The instruction that makes the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// HVC #0.
    Hvc,
    /// HVC #1.
    HvcOne,
    /// HVC #0xffff.
    HvcMax,
    /// SMC #0.
    Smc,
    /// SMC #1.
    SmcOne,
    /// SMC #0xffff.
    SmcMax,
}

impl Instruction {
    /// HVC and SMC with an immediate other than 0.
    pub const WITH_IMMEDIATE: [Instruction; 4] =
        [Instruction::HvcOne, Instruction::HvcMax, Instruction::SmcOne, Instruction::SmcMax];
}

global_asm!(
    ".macro host_call name, instruction",
    ".pushsection .text.\\name, \"ax\"",
    ".global \\name",
    "\\name:",
    "    stp x29, x30, [sp, #-32]!",
    "    mov x29, sp",
    "    str x0, [sp, #16]",
    "    ldp x2, x3, [x0, #16]",
    "    ldp x0, x1, [x0]",
    "    mov x4, xzr",
    "    mov x5, xzr",
    "    mov x6, xzr",
    "    mov x7, xzr",
    "    \\instruction",
    "    ldr x9, [sp, #16]",
    "    stp x0, x1, [x9]",
    "    stp x2, x3, [x9, #16]",
    "    ldp x29, x30, [sp], #32",
    "    ret",
    ".popsection",
    ".endm",
    ".pushsection .text.host_call_all, \"ax\"",
    ".global host_call_all",
    "host_call_all:",
    "    stp x29, x30, [sp, #-32]!",
    "    mov x29, sp",
    "    str x0, [sp, #16]",
    "    ldp x2, x3, [x0, #16]",
    "    ldp x4, x5, [x0, #32]",
    "    ldp x6, x7, [x0, #48]",
    "    ldp x0, x1, [x0]",
    "    hvc #0",
    "    ldr x9, [sp, #16]",
    "    stp x0, x1, [x9]",
    "    stp x2, x3, [x9, #16]",
    "    ldp x29, x30, [sp], #32",
    "    ret",
    ".popsection",
    "host_call host_call_hvc, \"hvc #0\"",
    "host_call host_call_hvc_one, \"hvc #1\"",
    "host_call host_call_hvc_max, \"hvc #0xffff\"",
    "host_call host_call_smc, \"smc #0\"",
    "host_call host_call_smc_one, \"smc #1\"",
    "host_call host_call_smc_max, \"smc #0xffff\"",
);

unsafe extern "C" {
    fn host_call_all(registers: *mut u64);
    fn host_call_hvc(registers: *mut u64);
    fn host_call_hvc_one(registers: *mut u64);
    fn host_call_hvc_max(registers: *mut u64);
    fn host_call_smc(registers: *mut u64);
    fn host_call_smc_one(registers: *mut u64);
    fn host_call_smc_max(registers: *mut u64);
}

/// Makes a call with x0 to x3 as given and x4 to x7 zero, and returns x0 to x3 as they are afterwards. x0 is the whole
/// register, bits 63:32 of the function identifier included.
///
/// # Safety
/// The call must not take memory away that the host goes on using.
pub unsafe fn raw(instruction: Instruction, mut registers: Registers) -> Registers {
    let function = match instruction {
        Instruction::Hvc => host_call_hvc,
        Instruction::HvcOne => host_call_hvc_one,
        Instruction::HvcMax => host_call_hvc_max,
        Instruction::Smc => host_call_smc,
        Instruction::SmcOne => host_call_smc_one,
        Instruction::SmcMax => host_call_smc_max,
    };
    // SAFETY: the function reads and writes the four registers behind the pointer and nothing else, keeps the stack,
    // and the call itself is as the caller vouches. HVC and SMC keep x18 to x30 (SMCCC, section 2.6).
    unsafe { function(registers.as_mut_ptr()) };
    registers
}

/// Makes a call by HVC #0 with x0, the whole register, and x1 to x7, and returns x0 to x3 as they are afterwards.
///
/// # Safety
/// The call must not take memory away that the host goes on using.
pub unsafe fn raw_with_all(function: u64, arguments: [u64; 7]) -> Registers {
    let [a1, a2, a3, a4, a5, a6, a7] = arguments;
    let mut registers = [function, a1, a2, a3, a4, a5, a6, a7];
    // SAFETY: the function reads the eight registers behind the pointer, writes the first four and nothing else, keeps the
    // stack, and the call itself is as the caller vouches. HVC keeps x18 to x30 (SMCCC, section 2.6).
    unsafe { host_call_all(registers.as_mut_ptr()) };
    let [x0, x1, x2, x3, ..] = registers;
    [x0, x1, x2, x3]
}
