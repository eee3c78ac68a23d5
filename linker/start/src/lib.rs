//! How an image starts that is loaded by the arm64 Linux boot protocol (Linux, `Documentation/arch/arm64/booting.rst`):
//! the 64-byte `Image` header, self-relocation, zeroed BSS, a stack, and the call of a Rust function.
//!
//! Loader, reference host and payloads share it; [`entry!`] emits the code into the image, `linker/image.ld` lays the
//! sections out. The image runs at whatever 4 KiB aligned address it was put at, with the MMU off.
#![no_std]

use core::ops::Range;

/// Emits the header and the entry code, which calls `$main` with x0 as it was at entry (the device tree's physical
/// address) and CNTVCT_EL0 as read by the first instruction.
///
/// `$main` is an `extern "C" fn(u64, u64) -> !`. It runs at the exception level of entry, on a 64 KiB stack, with
/// interrupts masked and the MMU off.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        ::core::arch::global_asm!(
            ".pushsection .head, \"ax\"",
            ".global image_head",
            "image_head:",
            "    b image_entry",
            "    .long 0",
            "    .quad 0",                           // text_offset
            "    .quad __image_end - image_head",    // image_size
            "    .quad 0xa",                         // little endian, 4 KiB pages, anywhere in memory
            "    .quad 0, 0, 0",
            "    .ascii \"ARM\\x64\"",
            "    .long 0",
            "image_entry:",
            "    mrs x20, cntvct_el0",
            "    mov x19, x0",
            "    msr daifset, #0xf",
            "    msr spsel, #1",
            "    adrp x2, image_head",
            "    add x2, x2, :lo12:image_head",
            "    adrp x3, __rela_start",
            "    add x3, x3, :lo12:__rela_start",
            "    adrp x4, __rela_end",
            "    add x4, x4, :lo12:__rela_end",
            "2:  cmp x3, x4",
            "    b.hs 4f",
            "    ldp x5, x6, [x3], #16",
            "    ldr x7, [x3], #8",
            "    cmp x6, #{relative}",
            "    b.ne 3f",
            "    add x7, x7, x2",
            "    str x7, [x2, x5]",
            "    b 2b",
            "3:  wfe",                               // a relocation that the linker should not have left
            "    b 3b",
            "4:  adrp x3, __bss_start",
            "    add x3, x3, :lo12:__bss_start",
            "    adrp x4, __bss_end",
            "    add x4, x4, :lo12:__bss_end",
            "5:  cmp x3, x4",
            "    b.hs 6f",
            "    stp xzr, xzr, [x3], #16",
            "    b 5b",
            "6:  adrp x3, __stack_end",
            "    add x3, x3, :lo12:__stack_end",
            "    mov sp, x3",
            "    mov x29, xzr",
            "    mov x30, xzr",
            "    isb",
            "    mov x0, x19",
            "    mov x1, x20",
            "    bl {main}",
            "    b 3b",
            ".popsection",
            main = sym $main,
            relative = const $crate::R_AARCH64_RELATIVE,
        );
    };
}

/// The one relocation type of a position-independent image (ELF for the Arm 64-bit Architecture, section 5.7.16).
pub const R_AARCH64_RELATIVE: u64 = 1027;

unsafe extern "C" {
    static image_head: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __image_end: u8;
}

/// Where the running image's sections lie, in bytes; each 4 KiB aligned at both ends.
#[derive(Clone, Debug)]
pub struct Sections {
    /// Executable, never written.
    pub text: Range<u64>,
    /// Constants, never written once relocated.
    pub rodata: Range<u64>,
    /// Data, BSS and the boot stack.
    pub data: Range<u64>,
}

/// The running image's sections.
pub fn sections() -> Sections {
    let address = |symbol: *const u8| symbol as u64;
    Sections {
        text: address(&raw const image_head)..address(&raw const __text_end),
        rodata: address(&raw const __rodata_start)..address(&raw const __rodata_end),
        data: address(&raw const __data_start)..address(&raw const __image_end),
    }
}
