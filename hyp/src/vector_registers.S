// FP/SIMD and SVE registers, as whole files. Hyp itself is compiled without any of them.

    .pushsection .text, "ax"
    .arch_extension fp
    .arch_extension simd
    .arch_extension sve

// void save_v_registers(x0 = 512 bytes); void load_v_registers(x0 = 512 bytes). 16-byte aligned.
    .global save_v_registers
save_v_registers:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    str q\n, [x0, #(\n * 16)]
    .endr
    ret

    .global load_v_registers
load_v_registers:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    ldr q\n, [x0, #(\n * 16)]
    .endr
    ret

// void save_sve_registers(x0 = area, x1 = with FFR), void load_sve_registers(the same): z0-z31, p0-p15 and, where x1 is
// not 0, FFR, at the vector length in force. 34 vector lengths and an eighth: 8,736 bytes at 2,048 bits.
    .global save_sve_registers
save_sve_registers:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    str z\n, [x0, #\n, mul vl]
    .endr
    addvl x2, x0, #31
    addvl x2, x2, #1
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    str p\n, [x2, #\n, mul vl]
    .endr
    cbz x1, 1f
    rdffr p0.b
    str p0, [x2, #16, mul vl]
    ldr p0, [x2]
1:  ret

    .global load_sve_registers
load_sve_registers:
    addvl x2, x0, #31
    addvl x2, x2, #1
    cbz x1, 1f
    ldr p0, [x2, #16, mul vl]
    wrffr p0.b
1:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    ldr z\n, [x0, #\n, mul vl]
    .endr
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    ldr p\n, [x2, #\n, mul vl]
    .endr
    ret

    .popsection
