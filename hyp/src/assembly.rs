//! The assembly sources, with the offsets that they share with Rust.

use crate::layout;
use crate::tables::{BOOT_REGISTERS, BootRegisters, SCTLR_EL2_MMU_OFF};
use core::arch::global_asm;
use core::mem::{offset_of, size_of};
use monitor::registers::{GuestRegisters, HostRegisters};

/// Bytes of the stack on which the boot CPU builds the tables, and on which a fault before there is per-CPU data is
/// reported.
const EARLY_STACK_SIZE: usize = 16 * 1024;

global_asm!(
    include_str!("entry.S"),
    BUILD_TABLES = sym crate::tables::build_tables,
    BOOT_CPU_MAIN = sym crate::start::boot_cpu_main,
    SECONDARY_CPU_MAIN = sym crate::start::secondary_cpu_main,
    BOOT_REGISTERS = sym BOOT_REGISTERS,
    MAIR = const offset_of!(BootRegisters, mair_el2),
    TTBR0 = const offset_of!(BootRegisters, ttbr0_el2),
    CPU_BASE = const offset_of!(BootRegisters, cpu_base),
    CPU_STRIDE = const layout::CPU_STRIDE,
    STACK_TOP = const layout::STACK_TOP,
    CPU_DATA = const layout::CPU_DATA,
    EARLY_STACK_SIZE = const EARLY_STACK_SIZE,
    SCTLR_MMU_OFF_LOW = const SCTLR_EL2_MMU_OFF & 0xffff,
    SCTLR_MMU_OFF_HIGH = const SCTLR_EL2_MMU_OFF >> 16,
);

global_asm!(
    include_str!("vectors.S"),
    EL2_FAULT = sym crate::fault::el2_fault,
    HOST_EXCEPTION = sym crate::exception::host_exception,
    FRAME_SIZE = const size_of::<HostRegisters>(),
    FRAME_ELR = const offset_of!(HostRegisters, elr),
    EMERGENCY_STACK_TOP = const layout::EMERGENCY_STACK_TOP,
);

global_asm!(
    include_str!("world_switch.S"),
    PC = const offset_of!(GuestRegisters, pc),
);

global_asm!(include_str!("vector_registers.S"));

const _: () = assert!(offset_of!(GuestRegisters, x) == 0);
const _: () = assert!(offset_of!(GuestRegisters, pstate) == offset_of!(GuestRegisters, pc) + 8);
const _: () = assert!(offset_of!(HostRegisters, x) == 0);
const _: () = assert!(offset_of!(HostRegisters, spsr) == offset_of!(HostRegisters, elr) + 8);
const _: () = assert!(size_of::<HostRegisters>().is_multiple_of(16));
const _: () = assert!(offset_of!(BootRegisters, tcr_el2) == offset_of!(BootRegisters, mair_el2) + 8);
const _: () = assert!(offset_of!(BootRegisters, sctlr_el2) == offset_of!(BootRegisters, ttbr0_el2) + 8);
