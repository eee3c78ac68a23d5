//! Access to system registers that `aarch64-cpu` does not name, and to lists of registers that are saved and loaded
//! together.

/// Reads a system register by the name that the assembler knows, `S<op0>_<op1>_C<n>_C<m>_<op2>` included.
macro_rules! mrs {
    ($register:literal) => {{
        #[inline(always)]
        fn read() -> u64 {
            let value: u64;
            // SAFETY: reading a system register of EL2 or below has no effect on memory, and every register that hyp
            // reads is one that EL2 may read on this CPU.
            unsafe {
                core::arch::asm!(
                    concat!("mrs {}, ", $register),
                    out(reg) value,
                    options(nomem, nostack, preserves_flags)
                )
            };
            value
        }
        read()
    }};
}

/// Writes a system register by the name that the assembler knows. The barrier, where one is due, is the caller's;
/// without one the compiler may also move accesses to memory past it, as it may with `aarch64_cpu`'s writes.
///
/// # Safety
/// The value must keep hyp's own execution and isolation intact.
macro_rules! msr {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags))
    }};
}

pub(crate) use {mrs, msr};
