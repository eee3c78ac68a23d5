//! The CPU's own state: exception returns into nonsense, cache maintenance by set and way, and registers that must come
//! through an exit to the host unharmed.

use core::arch::asm;
use payloads::report::Report;
use payloads::vectors::EC_UNKNOWN;
use payloads::{Machine, attempt, println};

/// What the SIMD registers are filled with.
const PATTERN: u64 = 0x0123_4567_89ab_cdef;

/// Return states that are illegal, reserved, or lead where nothing can run (Arm ARM, SPSR_EL1): EL2, EL3, EL0 with and
/// without AArch32, EL1 with SP_EL0, AArch32 modes, a reserved mode, illegal execution, all ones.
const RETURN_STATES: [u64; 12] =
    [0x3c9, 0x3c8, 0x3cd, 0x3c0, 0x3c4, 0x3c7, 0x1d3, 0x1da, 0x1d0, 1 << 20 | 0x3c5, 0xffff_ffff, u64::MAX];

/// Every attack by state.
pub fn attack(_: &mut Machine, report: &mut Report) {
    exception_returns(report);
    set_and_way(report);
    floating_point(report);
}

/// ERET to an undefined instruction, so that whatever state it leads to ends in an exception that comes back here.
fn exception_returns(report: &mut Report) {
    let mut silent = None;
    for state in RETURN_STATES {
        // SAFETY: The return ends at `udf`, or faults on the way; the vectors resume at EL1 with the stack as it was.
        let exception = unsafe {
            attempt!(
                ["msr spsr_el1, {state}", "adr x16, 78f", "msr elr_el1, x16", "eret", "78:", "udf #0"],
                state = in(reg) state
            )
        };
        if exception.is_none() {
            silent = Some(state);
        }
    }
    report.check(
        "state.eret",
        silent.is_none(),
        format_args!("SPSR_EL1={:#x} led to no exception", silent.unwrap_or(0)),
    );
}

/// Set and way operations: done harmlessly, or undefined.
fn set_and_way(report: &mut Report) {
    macro_rules! operation {
        ($name:literal) => {{
            // SAFETY: Cleaning and invalidating a cache line changes nothing that software sees.
            let exception = unsafe { attempt!([concat!("dc ", $name, ", xzr"), "dsb sy"]) };
            let right = exception.is_none_or(|exception| exception.class() == EC_UNKNOWN);
            let esr = exception.map_or(0, |exception| exception.esr);
            report.check_in("state.dc", $name, right, format_args!("ESR_EL1={esr:#x}"));
        }};
    }
    operation!("csw");
    operation!("cisw");
}

/// SIMD registers across exits to the host, which the printing makes.
fn floating_point(report: &mut Report) {
    let mut different = 0;
    macro_rules! each {
        ($macro:ident) => {
            $macro!(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            $macro!(16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
        };
    }
    macro_rules! fill {
        ($($n:literal),+) => {$(
            // SAFETY: The payload is compiled without SIMD, so that the register is nobody's.
            unsafe {
                asm!(
                    ".arch_extension fp",
                    ".arch_extension simd",
                    concat!("fmov d", $n, ", {value}"),
                    concat!("mov v", $n, ".d[1], {value}"),
                    value = in(reg) PATTERN.rotate_left($n),
                    options(nomem, nostack)
                );
            }
        )+};
    }
    macro_rules! compare {
        ($($n:literal),+) => {$(
            let (low, high): (u64, u64);
            // SAFETY: Reads a register.
            unsafe {
                asm!(
                    ".arch_extension fp",
                    ".arch_extension simd",
                    concat!("fmov {low}, d", $n),
                    concat!("mov {high}, v", $n, ".d[1]"),
                    low = out(reg) low,
                    high = out(reg) high,
                    options(nomem, nostack)
                );
            }
            if [low, high] != [PATTERN.rotate_left($n); 2] {
                different += 1;
            }
        )+};
    }
    each!(fill);
    println!("attacker: SIMD registers are filled while this line is printed");
    each!(compare);
    report.check("state.simd-kept", different == 0, format_args!("{different} of 32 registers changed"));
}
