//! The filter over the host's SMC and HVC calls (Arm DEN0028). What it does not know is NOT_SUPPORTED; nothing reaches
//! the firmware that is not listed here or in [`psci`](crate::psci).

use abi::boot::PsciConduit;
use abi::smccc::{self, NOT_SUPPORTED};

/// By which instruction a call came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// HVC.
    Hvc,
    /// SMC.
    Smc,
}

/// A call that a well-formed instruction made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// The function identifier: a fast call's.
    pub function: u32,
    /// x1 to x7.
    pub arguments: [u64; 7],
}

/// NOT_SUPPORTED, as x0 returns it.
pub const NOT_SUPPORTED_REGISTER: u64 = NOT_SUPPORTED as u64;

/// SMCCC_ARCH_FEATURES of a workaround that the CPU does not need.
const NOT_REQUIRED: u64 = 1;

impl Call {
    /// Decodes a call from the immediate and the registers; `None` where it is to be refused: the immediate is not 0,
    /// x0 has bits above 31, or the call is a yielding one.
    #[inline]
    pub fn decode(immediate: u16, x: &[u64; 31]) -> Option<Self> {
        Self::function(immediate, x).map(|function| Self::of(function, x))
    }

    /// The function alone.
    #[inline]
    pub fn function(immediate: u16, x: &[u64; 31]) -> Option<u32> {
        let [x0, ..] = *x;
        u32::try_from(x0).ok().filter(|function| immediate == 0 && smccc::is_fast(*function))
    }

    /// The call of a function that has been decoded.
    #[inline]
    pub const fn of(function: u32, x: &[u64; 31]) -> Self {
        let [_, x1, x2, x3, x4, x5, x6, x7, ..] = *x;
        Self { function, arguments: [x1, x2, x3, x4, x5, x6, x7] }
    }
}

/// What becomes of a call of the Arm Architecture or TRNG ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchitectureCall {
    /// The answer is known: x0.
    Answer(u64),
    /// The firmware answers, for the same function and these arguments (x1 to x3).
    Firmware([u64; 3]),
}

/// The answer to a call of the Arm Architecture or TRNG ranges that is allowed, from host or guest; `None` where it is
/// not one. Where there is no firmware to take an SMC, the instruction is UNDEFINED at EL2 too: nothing is passed on.
pub fn architecture_call(call: &Call, firmware: PsciConduit) -> Option<ArchitectureCall> {
    match (listed_call(call)?, firmware) {
        (ArchitectureCall::Firmware(_), PsciConduit::None) => Some(ArchitectureCall::Answer(NOT_SUPPORTED_REGISTER)),
        (answer, _) => Some(answer),
    }
}

/// The same for a guest, which the identity of the machine is none of the business of, nor a mitigation that is a state
/// of the CPU: what it switched off would be off for the host and for other guests.
pub fn guest_architecture_call(call: &Call, firmware: PsciConduit) -> Option<ArchitectureCall> {
    let [asked, ..] = call.arguments;
    match call.function {
        smccc::ARCH_SOC_ID => Some(ArchitectureCall::Answer(NOT_SUPPORTED_REGISTER)),
        smccc::ARCH_FEATURES if asked == u64::from(smccc::ARCH_SOC_ID) => {
            Some(ArchitectureCall::Answer(NOT_SUPPORTED_REGISTER))
        }
        smccc::ARCH_WORKAROUND_2 => Some(ArchitectureCall::Answer(smccc::SUCCESS as u64)),
        _ => architecture_call(call, firmware),
    }
}

/// What a guest hears where the firmware has answered its call with `result`: where there is SMCCC_ARCH_WORKAROUND_2 to
/// switch, that nothing needs to be switched (DEN0028, section 7.6).
pub fn guest_result(call: &Call, result: u64) -> u64 {
    let [asked, ..] = call.arguments;
    let is_about_workaround_2 = call.function == smccc::ARCH_FEATURES && asked == u64::from(smccc::ARCH_WORKAROUND_2);
    if is_about_workaround_2 && result as i32 >= 0 { NOT_REQUIRED } else { result }
}

/// The answer as the list has it.
fn listed_call(call: &Call) -> Option<ArchitectureCall> {
    let [first, second, third, ..] = call.arguments;
    match call.function {
        smccc::VERSION => Some(ArchitectureCall::Answer(smccc::VERSION_1_2)),
        smccc::ARCH_FEATURES => Some(architecture_features(first)),
        smccc::ARCH_SOC_ID
        | smccc::ARCH_WORKAROUND_1
        | smccc::ARCH_WORKAROUND_2
        | smccc::ARCH_WORKAROUND_3
        | smccc::TRNG_VERSION
        | smccc::TRNG_FEATURES
        | smccc::TRNG_GET_UUID
        | smccc::TRNG_RND32
        | smccc::TRNG_RND64 => Some(ArchitectureCall::Firmware([first, second, third])),
        _ => None,
    }
}

/// SMCCC_ARCH_FEATURES (DEN0028, section 7.3): asked about what is allowed, and nothing else.
fn architecture_features(asked: u64) -> ArchitectureCall {
    match u32::try_from(asked) {
        Ok(smccc::VERSION | smccc::ARCH_FEATURES) => ArchitectureCall::Answer(smccc::SUCCESS as u64),
        Ok(smccc::ARCH_SOC_ID | smccc::ARCH_WORKAROUND_1 | smccc::ARCH_WORKAROUND_2 | smccc::ARCH_WORKAROUND_3) => {
            ArchitectureCall::Firmware([asked, 0, 0])
        }
        _ => ArchitectureCall::Answer(NOT_SUPPORTED_REGISTER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(x0: u64) -> [u64; 31] {
        let mut x = core::array::from_fn(|index| index as u64);
        x[0] = x0;
        x
    }

    #[test]
    fn a_fast_call_decodes_to_its_arguments() {
        let call = Call::decode(0, &registers(0xc600_0100)).unwrap();
        assert_eq!((call.function, call.arguments), (0xc600_0100, [1, 2, 3, 4, 5, 6, 7]));
    }

    #[test]
    fn anything_else_is_no_call() {
        for x0 in [0, 0x0400_0000, 0x4600_0100, 0x7fff_ffff] {
            assert_eq!(Call::decode(0, &registers(x0)), None, "yielding: {x0:#x}");
        }
        for x0 in [1 << 32 | 0x8000_0000, 0xffff_ffff_8000_0000] {
            assert_eq!(Call::decode(0, &registers(x0)), None, "high bits: {x0:#x}");
        }
        for immediate in [1, 0x100, 0xffff] {
            assert_eq!(Call::decode(immediate, &registers(0x8000_0000)), None, "immediate {immediate:#x}");
        }
    }
}
