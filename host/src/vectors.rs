//! The exception vector table (Arm ARM D1.3.1.5) and the frame that it saves.

use core::arch::global_asm;
use core::mem::offset_of;

/// The registers of interrupted code, as the vectors push them.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP before the exception.
    pub sp: u64,
    /// ELR_EL1: where the code goes on.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
}

const _: () = assert!(size_of::<Frame>() == FRAME_SIZE && FRAME_SIZE.is_multiple_of(16));
/// Bytes of a [`Frame`].
const FRAME_SIZE: usize = 36 * 8;

global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".macro host_vector index",
    "    .balign 0x80",
    "    sub sp, sp, #{size}",
    "    stp x0, x1, [sp]",
    "    mov x1, #\\index",
    "    b 8f",
    ".endm",
    ".balign 0x800",
    ".global host_vectors",
    "host_vectors:",
    "    host_vector 0",
    "    host_vector 1",
    "    host_vector 2",
    "    host_vector 3",
    "    host_vector 4",
    "    host_vector 5",
    "    host_vector 6",
    "    host_vector 7",
    "    host_vector 8",
    "    host_vector 9",
    "    host_vector 10",
    "    host_vector 11",
    "    host_vector 12",
    "    host_vector 13",
    "    host_vector 14",
    "    host_vector 15",
    "    .balign 0x80",
    "8:  stp x2, x3, [sp, #16]",
    "    stp x4, x5, [sp, #32]",
    "    stp x6, x7, [sp, #48]",
    "    stp x8, x9, [sp, #64]",
    "    stp x10, x11, [sp, #80]",
    "    stp x12, x13, [sp, #96]",
    "    stp x14, x15, [sp, #112]",
    "    stp x16, x17, [sp, #128]",
    "    stp x18, x19, [sp, #144]",
    "    stp x20, x21, [sp, #160]",
    "    stp x22, x23, [sp, #176]",
    "    stp x24, x25, [sp, #192]",
    "    stp x26, x27, [sp, #208]",
    "    stp x28, x29, [sp, #224]",
    "    add x2, sp, #{size}",
    "    stp x30, x2, [sp, #240]",
    "    mrs x2, elr_el1",
    "    mrs x3, spsr_el1",
    "    stp x2, x3, [sp, #{elr}]",
    "    mrs x2, esr_el1",
    "    mrs x3, far_el1",
    "    stp x2, x3, [sp, #{esr}]",
    "    mov x0, sp",
    "    bl {handler}",
    "    ldp x2, x3, [sp, #{elr}]",
    "    msr elr_el1, x2",
    "    msr spsr_el1, x3",
    "    ldp x2, x3, [sp, #16]",
    "    ldp x4, x5, [sp, #32]",
    "    ldp x6, x7, [sp, #48]",
    "    ldp x8, x9, [sp, #64]",
    "    ldp x10, x11, [sp, #80]",
    "    ldp x12, x13, [sp, #96]",
    "    ldp x14, x15, [sp, #112]",
    "    ldp x16, x17, [sp, #128]",
    "    ldp x18, x19, [sp, #144]",
    "    ldp x20, x21, [sp, #160]",
    "    ldp x22, x23, [sp, #176]",
    "    ldp x24, x25, [sp, #192]",
    "    ldp x26, x27, [sp, #208]",
    "    ldp x28, x29, [sp, #224]",
    "    ldr x30, [sp, #240]",
    "    ldp x0, x1, [sp]",
    "    add sp, sp, #{size}",
    "    eret",
    ".popsection",
    size = const FRAME_SIZE,
    elr = const offset_of!(Frame, elr),
    esr = const offset_of!(Frame, esr),
    handler = sym crate::exception::exception,
);

unsafe extern "C" {
    static host_vectors: u8;
}

/// Makes the table this CPU's.
pub fn install() {
    use aarch64_cpu::registers::{VBAR_EL1, Writeable};
    VBAR_EL1.set(&raw const host_vectors as u64);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}
