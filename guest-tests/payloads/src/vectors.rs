//! Exception vectors. An exception that a [probe](crate::probe) provokes is noted and passed over, and an interrupt
//! goes to the [handler](set_interrupt_handler), if there is one; any other exception ends the payload with a message.

use crate::{hypervisor, println};
use abi::report::Line;
use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// PSTATE to go on with after a probe: EL1 with SP_EL1, everything masked (Arm ARM, SPSR_EL1).
const SPSR_EL1H_MASKED: u64 = 0x3c5;

/// What the vector of an interrupt from EL1 with SP_EL1 puts into x0.
const VECTOR_INTERRUPT: u64 = 6;

/// What the vectors and a probe tell each other. The assembly knows the layout.
#[repr(C)]
struct Recovery {
    /// Where to go on after an exception; 0 outside a probe.
    resume: AtomicU64,
    /// Vector number + 1 of the exception that came; 0 if none did.
    taken: AtomicU64,
    esr: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
}

/// Who takes interrupts: a `fn()`, or 0. The assembly reads it.
static INTERRUPT_HANDLER: AtomicU64 = AtomicU64::new(0);

/// Has `handler` called for each interrupt from EL1 with SP_EL1, on whichever CPU it comes, with interrupts masked. It
/// must not use FP.
pub fn set_interrupt_handler(handler: extern "C" fn()) {
    INTERRUPT_HANDLER.store(handler as usize as u64, Ordering::Release);
}

static RECOVERY: Recovery = Recovery {
    resume: AtomicU64::new(0),
    taken: AtomicU64::new(0),
    esr: AtomicU64::new(0),
    far: AtomicU64::new(0),
    elr: AtomicU64::new(0),
};

global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".balign 2048",
    "payload_vectors:",
    ".set vector, 1",
    ".rept 16",
    "    stp x0, x1, [sp, #-32]!",
    "    mov x0, #vector",
    "    b payload_exception",
    "    .set vector, vector + 1",
    "    .balign 128",
    ".endr",
    "payload_exception:",
    "    str x2, [sp, #16]",
    "    sub x1, x0, #{interrupt}",
    "    cbnz x1, 1f",
    "    adrp x1, {handler}",
    "    ldr x1, [x1, :lo12:{handler}]",
    "    cbnz x1, payload_interrupt",
    "1:  adrp x1, {recovery}",
    "    add x1, x1, :lo12:{recovery}",
    "    ldr x2, [x1]",
    "    cbz x2, 2f",
    "    stp xzr, x0, [x1]",
    "    mrs x0, esr_el1",
    "    str x0, [x1, #16]",
    "    mrs x0, far_el1",
    "    str x0, [x1, #24]",
    "    mrs x0, elr_el1",
    "    str x0, [x1, #32]",
    "    msr elr_el1, x2",
    "    mov x0, #{spsr}",
    "    msr spsr_el1, x0",
    "    ldr x2, [sp, #16]",
    "    ldp x0, x1, [sp], #32",
    "    eret",
    "2:  mrs x1, esr_el1",
    "    mrs x2, far_el1",
    "    mrs x3, elr_el1",
    "    b {unexpected}",
    "payload_interrupt:",
    "    sub sp, sp, #160",
    "    stp x3, x4, [sp]",
    "    stp x5, x6, [sp, #16]",
    "    stp x7, x8, [sp, #32]",
    "    stp x9, x10, [sp, #48]",
    "    stp x11, x12, [sp, #64]",
    "    stp x13, x14, [sp, #80]",
    "    stp x15, x16, [sp, #96]",
    "    stp x17, x18, [sp, #112]",
    "    stp x29, x30, [sp, #128]",
    "    mrs x2, elr_el1",
    "    mrs x3, spsr_el1",
    "    stp x2, x3, [sp, #144]",
    "    blr x1",
    "    ldp x2, x3, [sp, #144]",
    "    msr elr_el1, x2",
    "    msr spsr_el1, x3",
    "    ldp x3, x4, [sp]",
    "    ldp x5, x6, [sp, #16]",
    "    ldp x7, x8, [sp, #32]",
    "    ldp x9, x10, [sp, #48]",
    "    ldp x11, x12, [sp, #64]",
    "    ldp x13, x14, [sp, #80]",
    "    ldp x15, x16, [sp, #96]",
    "    ldp x17, x18, [sp, #112]",
    "    ldp x29, x30, [sp, #128]",
    "    add sp, sp, #160",
    "    ldr x2, [sp, #16]",
    "    ldp x0, x1, [sp], #32",
    "    eret",
    ".popsection",
    recovery = sym RECOVERY,
    handler = sym INTERRUPT_HANDLER,
    interrupt = const VECTOR_INTERRUPT,
    spsr = const SPSR_EL1H_MASKED,
    unexpected = sym unexpected,
);

unsafe extern "C" {
    static payload_vectors: u8;
}

/// Where the vectors are, for VBAR_EL1.
pub fn table() -> u64 {
    &raw const payload_vectors as u64
}

/// Makes the vectors the CPU's.
pub fn install() {
    // SAFETY: The address is that of a vector table, 2 KiB aligned, which stays.
    unsafe {
        asm!("msr vbar_el1, {table}", "isb", table = in(reg) table(), options(nostack));
    }
}

/// A recorded exception.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Which of the 16 vectors, in the order of the table (Arm ARM D1.3.1.5).
    pub vector: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// ELR_EL1.
    pub elr: u64,
}

/// ESR_EL1.EC: unknown reason, which is how an UNDEFINED instruction is reported.
pub const EC_UNKNOWN: u64 = 0x00;
/// ESR_EL1.EC: Advanced SIMD or floating-point access, trapped by CPACR_EL1.
pub const EC_FP: u64 = 0x07;
/// ESR_EL1.EC: illegal execution state.
pub const EC_ILLEGAL_STATE: u64 = 0x0e;
/// ESR_EL1.EC: trapped system instruction or register access.
pub const EC_SYSTEM_REGISTER: u64 = 0x18;
/// ESR_EL1.EC: SVE access, trapped by CPACR_EL1.
pub const EC_SVE: u64 = 0x19;
/// ESR_EL1.EC: SME access, trapped by CPACR_EL1.
pub const EC_SME: u64 = 0x1d;
/// ESR_EL1.EC: instruction abort from EL0.
pub const EC_INSTRUCTION_ABORT_LOWER: u64 = 0x20;
/// ESR_EL1.EC: instruction abort from EL1.
pub const EC_INSTRUCTION_ABORT: u64 = 0x21;
/// ESR_EL1.EC: PC alignment fault.
pub const EC_PC_ALIGNMENT: u64 = 0x22;
/// ESR_EL1.EC: data abort from EL1.
pub const EC_DATA_ABORT: u64 = 0x25;

impl Exception {
    /// ESR_EL1.EC, the exception class (Arm ARM, ESR_EL1).
    pub const fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// True for a data or instruction abort taken from EL1.
    pub const fn is_abort(&self) -> bool {
        matches!(self.class(), EC_DATA_ABORT | EC_INSTRUCTION_ABORT)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, esr, far, elr } = self;
        let class = self.class();
        write!(f, "vector {vector} ESR_EL1={esr:#x} (EC={class:#x}) FAR_EL1={far:#x} ELR_EL1={elr:#x}")
    }
}

/// Readies the record for a probe, and returns its address: the probe stores at it where to go on.
pub fn arm() -> *mut u64 {
    RECOVERY.taken.store(0, Ordering::Relaxed);
    RECOVERY.resume.as_ptr()
}

/// Ends a probe: the exception that it ran into, if any.
pub fn disarm() -> Option<Exception> {
    RECOVERY.resume.store(0, Ordering::Relaxed);
    let vector = RECOVERY.taken.load(Ordering::Relaxed).checked_sub(1)?;
    Some(Exception {
        vector,
        esr: RECOVERY.esr.load(Ordering::Relaxed),
        far: RECOVERY.far.load(Ordering::Relaxed),
        elr: RECOVERY.elr.load(Ordering::Relaxed),
    })
}

extern "C" fn unexpected(vector: u64, esr: u64, far: u64, elr: u64) -> ! {
    println!("unexpected exception: {}", Exception { vector: vector - 1, esr, far, elr });
    println!("{}", Line::Fail("payload", "unexpected exception"));
    hypervisor::power_off()
}
