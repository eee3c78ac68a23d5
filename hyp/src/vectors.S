// Exception vectors of EL2 (Arm ARM D1.4.1): one table for while the host runs, one for while a guest does. They differ
// only in who an exception from a lower level belongs to.

// An exception of EL2 itself is never resumed, so its entry may use up the EL1 thread registers as scratch: what it
// needs first is a stack, and SP_EL2 may be what is broken.
    .macro from_el2 kind
    .balign 128
    msr tpidr_el0, x0
    msr tpidrro_el0, x1
    mov x1, #\kind
    b el2_exception
    .endm

    .macro from_host kind
    .balign 128
    sub sp, sp, #{FRAME_SIZE}
    stp x0, x1, [sp, #0]
    mov x1, #\kind
    b host_exception
    .endm

    .macro from_guest kind
    .balign 128
    stp x0, x1, [sp, #-16]!
    mov x0, #\kind
    b guest_exit
    .endm

// To the frame that SP points to, with ELR_EL2 and SPSR_EL2. Keeps x0 and x1, and uses x2 and x3 up.
    .macro save_x2_to_x30
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x19, [sp, #144]
    stp x20, x21, [sp, #160]
    stp x22, x23, [sp, #176]
    stp x24, x25, [sp, #192]
    stp x26, x27, [sp, #208]
    stp x28, x29, [sp, #224]
    str x30, [sp, #240]
    mrs x2, elr_el2
    mrs x3, spsr_el2
    stp x2, x3, [sp, #{FRAME_ELR}]
    .endm

    .pushsection .text.vectors, "ax"
    .balign 2048
    .global host_vectors
host_vectors:
    .irp kind, 0, 1, 2, 3, 4, 5, 6, 7
    from_el2 \kind
    .endr
    .irp kind, 0, 1, 2, 3, 0, 1, 2, 3
    from_host \kind
    .endr

    .balign 2048
    .global guest_vectors
guest_vectors:
    .irp kind, 0, 1, 2, 3, 4, 5, 6
    from_el2 \kind
    .endr
    .balign 128
    b serror_of_el2
    .irp kind, 0, 1, 2, 3, 4, 4, 4, 4
    from_guest \kind
    .endr

// An SError is let in at one place (`take_serror`), where x0 to x2 are free: there it comes back in x0. Anywhere else it is as fatal
// as any exception of EL2's.
serror_of_el2:
    mrs x1, elr_el2
    adr x2, serror_window
    sub x1, x1, x2
    cmp x1, #4
    b.hi 1f
    mrs x0, esr_el2
    eret
    dsb nsh
    isb
1:  msr tpidr_el0, x0
    msr tpidrro_el0, x1
    mov x1, #7

el2_exception:
    msr tpidr_el1, x1
    mov x0, sp
    mrs x1, tpidr_el2
    cbz x1, 2f
    add x1, x1, #{EMERGENCY_STACK_TOP}
    b 3f
2:  adrp x1, early_stack_end
    add x1, x1, :lo12:early_stack_end
3:  mov sp, x1
    sub sp, sp, #{FRAME_SIZE}
    save_x2_to_x30
    mrs x2, tpidr_el0
    mrs x3, tpidrro_el0
    stp x2, x3, [sp, #0]
    mov x1, x0                          // the stack pointer that was
    mov x0, sp
    mrs x2, tpidr_el1
    mov x29, xzr
    bl {EL2_FAULT}
4:  wfe
    b 4b

host_exception:
    save_x2_to_x30
    mov x0, sp
    mov x29, xzr
    bl {HOST_EXCEPTION}

// To EL1 with the frame that SP points to; the frame is popped.
    .global return_to_host
return_to_host:
    ldp x2, x3, [sp, #{FRAME_ELR}]
    msr elr_el2, x2
    msr spsr_el2, x3
    ldp x2, x3, [sp, #16]
    ldp x4, x5, [sp, #32]
    ldp x6, x7, [sp, #48]
    ldp x8, x9, [sp, #64]
    ldp x10, x11, [sp, #80]
    ldp x12, x13, [sp, #96]
    ldp x14, x15, [sp, #112]
    ldp x16, x17, [sp, #128]
    ldp x18, x19, [sp, #144]
    ldp x20, x21, [sp, #160]
    ldp x22, x23, [sp, #176]
    ldp x24, x25, [sp, #192]
    ldp x26, x27, [sp, #208]
    ldp x28, x29, [sp, #224]
    ldr x30, [sp, #240]
    ldp x0, x1, [sp, #0]
    add sp, sp, #{FRAME_SIZE}
    eret
    dsb nsh
    isb

// The first entry to the host on this CPU. x0 = frame, x1 = top of the stack to leave behind.
    .global start_host
start_host:
    sub x1, x1, #{FRAME_SIZE}
    mov x2, #0
5:  ldr x3, [x0, x2]
    str x3, [x1, x2]
    add x2, x2, #8
    cmp x2, #{FRAME_SIZE}
    b.lo 5b
    mov sp, x1
    b return_to_host
    .popsection
