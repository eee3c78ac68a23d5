// Where a CPU enters hyp: EL2, MMU and caches off, little endian.

    .pushsection .text.entry, "ax"

// The boot CPU, from the loader. x0 = physical address of BootInfo.
    .global hyp_entry
hyp_entry:
    mov x19, x0
    bl reset_controls
    adrp x1, early_stack_end
    add x1, x1, :lo12:early_stack_end
    mov sp, x1
    mov x29, xzr
    mov x0, x19
    bl {BUILD_TABLES}                     // -> x0 = this CPU's index
    mov x20, x0
    adrp x0, {BOOT_REGISTERS}
    add x0, x0, :lo12:{BOOT_REGISTERS}
    bl enable_mmu
    mov x0, x20
    bl select_stack
    mov x0, x19
    bl {BOOT_CPU_MAIN}
    b park

// Any other CPU, and a CPU back from a powered-down suspend, from PSCI. x0 = its index.
    .global secondary_entry
secondary_entry:
    mov x20, x0
    bl reset_controls
    adrp x0, {BOOT_REGISTERS}
    add x0, x0, :lo12:{BOOT_REGISTERS}
    bl enable_mmu
    mov x0, x20
    bl select_stack
    mov x0, x20
    bl {SECONDARY_CPU_MAIN}
    b park

park:
    wfe
    b park

// Exceptions masked, SP_EL2 in use, HCR_EL2 such that the other EL2 registers have their non-VHE meaning, and those that
// decide how EL2 itself runs at a known value: firmware may leave them at that of a reset, which is any.
reset_controls:
    msr daifset, #0xf
    msr spsel, #1
    mov x1, #(1 << 31)                  // HCR_EL2.RW
    msr hcr_el2, x1
    isb
    mov x1, #{SCTLR_MMU_OFF_LOW}
    movk x1, #{SCTLR_MMU_OFF_HIGH}, lsl #16
    msr sctlr_el2, x1
    mrs x1, S3_0_C0_C7_3                // ID_AA64MMFR3_EL1
    ubfx x2, x1, #0, #4                 // TCRX
    cbz x2, 1f
    msr S3_4_C2_C0_3, xzr               // TCR2_EL2
1:  ubfx x2, x1, #4, #4                 // SCTLRX
    cbz x2, 2f
    msr S3_4_C1_C0_3, xzr               // SCTLR2_EL2
2:  mrs x1, id_aa64pfr1_el1
    ubfx x2, x1, #44, #4                // GCS
    cbz x2, 3f
    msr S3_4_C2_C5_0, xzr               // GCSCR_EL2
3:  isb
    mov x1, xzr
    msr tpidr_el2, x1                   // no per-CPU data yet: a fault now uses the early stack
    adrp x1, host_vectors
    add x1, x1, :lo12:host_vectors
    msr vbar_el2, x1
    isb
    ret

// x0 = BootRegisters. Keeps x0 and x19 upwards.
enable_mmu:
    ldp x1, x2, [x0, #{MAIR}]
    ldp x3, x4, [x0, #{TTBR0}]
    msr mair_el2, x1
    msr tcr_el2, x2
    msr ttbr0_el2, x3
    isb
    tlbi alle2
    tlbi alle1
    ic iallu
    dsb nsh
    isb
    msr sctlr_el2, x4
    isb
    ret

// x0 = CPU index. Takes this CPU's stack and per-CPU data.
select_stack:
    adrp x1, {BOOT_REGISTERS}
    add x1, x1, :lo12:{BOOT_REGISTERS}
    ldr x1, [x1, #{CPU_BASE}]
    mov x2, #{CPU_STRIDE}
    madd x1, x0, x2, x1
    add x2, x1, #{STACK_TOP}
    mov sp, x2
    add x2, x1, #{CPU_DATA}
    msr tpidr_el2, x2
    mov x29, xzr
    ret

    .popsection

    .pushsection .bss.early_stack, "aw", @nobits
    .balign 16
    .space {EARLY_STACK_SIZE}
    .global early_stack_end
early_stack_end:
    .popsection
