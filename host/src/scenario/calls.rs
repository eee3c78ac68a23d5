//! SMCs and HVCs that are no calls of anybody's.

use crate::call::{self, Instruction, Registers};
use crate::{psci, report};
use abi::host::HostCall;
use abi::smccc::{ARCH_FEATURES, VERSION};
use alloc::format;

/// Bit 31: fast call.
const FAST: u64 = 1 << 31;
/// Bit 30: 64-bit call.
const WIDE: u64 = 1 << 30;

/// True where w0 is NOT_SUPPORTED: a 32-bit call may leave the upper half as it likes.
fn is_not_supported([x0, ..]: Registers) -> bool {
    x0 as u32 == abi::smccc::NOT_SUPPORTED as u32
}

/// Makes a call that no one implements.
fn attempt(instruction: Instruction, function: u64) -> Registers {
    // SAFETY: the function is none that exists; should it be one after all, the arguments name no memory of the host's.
    unsafe { call::raw(instruction, [function, 1 << 63, 1 << 63, 1 << 63]) }
}

/// See the module.
pub fn run() {
    immediates();
    upper_halves();
    unknown_functions();
    discovery();
}

/// A known, harmless call with an immediate other than 0 is refused.
fn immediates() {
    for instruction in Instruction::WITH_IMMEDIATE {
        for function in [HostCall::Version as u64, abi::psci::PSCI_VERSION.into(), VERSION.into()] {
            let result = attempt(instruction, function);
            report::check(
                &format!("immediate.{instruction:?}.{function:#x}"),
                is_not_supported(result),
                format_args!("{result:x?}"),
            );
        }
    }
}

/// A known, harmless call with anything in bits 63:32 of x0 is refused.
fn upper_halves() {
    for instruction in [Instruction::Hvc, Instruction::Smc] {
        for function in [HostCall::Version as u64, abi::psci::PSCI_VERSION.into(), VERSION.into()] {
            for bit in [32, 47, 63] {
                let result = attempt(instruction, function | 1 << bit);
                report::check(
                    &format!("bit-{bit}.{instruction:?}.{function:#x}"),
                    is_not_supported(result),
                    format_args!("{result:x?}"),
                );
            }
        }
    }
}

/// Functions that no one has, in every owner's range, fast and yielding, 32-bit and 64-bit.
fn unknown_functions() {
    for instruction in [Instruction::Hvc, Instruction::Smc] {
        let mut wrong = None;
        let mut tried = 0;
        for owner in 0..64u64 {
            for convention in [0, WIDE, FAST, FAST | WIDE] {
                for number in [0x7e, 0x0eed, 0x7ffe, 0xeffe] {
                    let function = convention | owner << 24 | number;
                    let result = attempt(instruction, function);
                    tried += 1;
                    if !is_not_supported(result) {
                        wrong = wrong.or(Some((function, result)));
                    }
                }
            }
        }
        report::check(
            &format!("unknown-functions.{instruction:?}"),
            wrong.is_none() && tried == 1024,
            format_args!("{wrong:x?}"),
        );
    }
}

/// What is there says so, by both instructions.
fn discovery() {
    for instruction in [Instruction::Hvc, Instruction::Smc] {
        // SAFETY: a query.
        let [version, ..] = unsafe { call::raw(instruction, psci::registers(VERSION, 0)) };
        report::check(&format!("smccc-version.{instruction:?}"), version >= 0x1_0001, format_args!("{version:#x}"));
        // SAFETY: a query.
        let [features, ..] = unsafe { call::raw(instruction, psci::registers(ARCH_FEATURES, 0x8000_7ffe)) };
        report::check(
            &format!("arch-features-unknown.{instruction:?}"),
            features as u32 == abi::smccc::NOT_SUPPORTED as u32,
            format_args!("{features:#x}"),
        );
    }
}
