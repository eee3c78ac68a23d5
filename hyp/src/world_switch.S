// The last and first instructions of a guest's stay: general registers, PC, PSTATE and the vectors.

    .pushsection .text, "ax"

// x0 = GuestRegisters. Returns, when the guest comes back, the kind of its exception: 0 synchronous, 1 IRQ, 2 FIQ,
// 3 SError, 4 from AArch32.
    .global enter_vcpu
enter_vcpu:
    sub sp, sp, #112
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    str x0, [sp, #96]
    ldp x2, x3, [x0, #{PC}]
    msr elr_el2, x2
    msr spsr_el2, x3
    ldp x2, x3, [x0, #16]
    ldp x4, x5, [x0, #32]
    ldp x6, x7, [x0, #48]
    ldp x8, x9, [x0, #64]
    ldp x10, x11, [x0, #80]
    ldp x12, x13, [x0, #96]
    ldp x14, x15, [x0, #112]
    ldp x16, x17, [x0, #128]
    ldp x18, x19, [x0, #144]
    ldp x20, x21, [x0, #160]
    ldp x22, x23, [x0, #176]
    ldp x24, x25, [x0, #192]
    ldp x26, x27, [x0, #208]
    ldp x28, x29, [x0, #224]
    ldr x30, [x0, #240]
    ldp x0, x1, [x0, #0]
    eret
    dsb nsh
    isb

// From the vectors: x0 = kind, the guest's x0 and x1 on the stack, on top of what enter_vcpu has put there.
    .global guest_exit
guest_exit:
    ldr x1, [sp, #112]
    stp x2, x3, [x1, #16]
    stp x4, x5, [x1, #32]
    stp x6, x7, [x1, #48]
    stp x8, x9, [x1, #64]
    stp x10, x11, [x1, #80]
    stp x12, x13, [x1, #96]
    stp x14, x15, [x1, #112]
    stp x16, x17, [x1, #128]
    stp x18, x19, [x1, #144]
    stp x20, x21, [x1, #160]
    stp x22, x23, [x1, #176]
    stp x24, x25, [x1, #192]
    stp x26, x27, [x1, #208]
    stp x28, x29, [x1, #224]
    str x30, [x1, #240]
    ldp x2, x3, [sp], #16
    stp x2, x3, [x1, #0]
    mrs x2, elr_el2
    mrs x3, spsr_el2
    stp x2, x3, [x1, #{PC}]
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    add sp, sp, #112
    ret

// Takes a physical SError that is pending, with the guest's vectors in force. Returns its ESR_EL2; 0 where there was none.
    .global take_serror
take_serror:
    mov x0, xzr
    msr daifclr, #4
serror_window:
    isb
    msr daifset, #4
    ret

    .popsection
