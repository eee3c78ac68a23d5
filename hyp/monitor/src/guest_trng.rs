//! TRNG 1.0 for guests (Arm DEN0098), from hyp's own generator. Where that has no seed, there are none of these calls.

use crate::entropy::{Entropy, OUTPUT_WORDS};
use crate::platform::Platform;
use crate::registers::GuestRegisters;
use crate::smccc::{Call, NOT_SUPPORTED_REGISTER};
use abi::guest::TRNG_UUID;
use abi::smccc::{self, SUCCESS};

/// INVALID_PARAMETERS (section 2.5).
const INVALID_PARAMETERS: u64 = -2_i64 as u64;
/// NO_ENTROPY.
const NO_ENTROPY: u64 = -3_i64 as u64;
/// Version 1.0.
const VERSION: u64 = 0x1_0000;

/// True for the functions of TRNG.
pub(crate) const fn is_trng(function: u32) -> bool {
    matches!(
        function,
        smccc::TRNG_VERSION | smccc::TRNG_FEATURES | smccc::TRNG_GET_UUID | smccc::TRNG_RND32 | smccc::TRNG_RND64
    )
}

/// Answers a call of TRNG but for random numbers; false for those, which take [`random`].
pub(crate) fn answer_at_once(entropy: &Entropy, registers: &mut GuestRegisters, call: &Call) -> bool {
    if !entropy.is_seeded() {
        registers.set_x(0, NOT_SUPPORTED_REGISTER);
        return true;
    }
    match call.function {
        smccc::TRNG_VERSION => registers.set_x(0, VERSION),
        smccc::TRNG_FEATURES => {
            let [asked, ..] = call.arguments;
            let is_there = is_trng(asked as u32);
            registers.set_x(0, if is_there { SUCCESS as u64 } else { NOT_SUPPORTED_REGISTER });
        }
        smccc::TRNG_GET_UUID => registers.set_results(smccc::uuid_words(TRNG_UUID).map(u64::from)),
        _ => return false,
    }
    true
}

/// TRNG_RND: as many bits as were asked for, right-aligned over x1 to x3, of which x3 has the lowest.
pub(crate) fn random<P: Platform>(entropy: &Entropy, platform: &mut P, call: &Call) -> [u64; 4] {
    let [bits, ..] = call.arguments;
    let (bits, width) = if smccc::is_64_bit(call.function) { (bits, 64) } else { (bits & 0xffff_ffff, 32) };
    if bits == 0 || bits > width * OUTPUT_WORDS as u64 {
        return [INVALID_PARAMETERS, 0, 0, 0];
    }
    let Some(numbers) = entropy.next(platform) else { return [NO_ENTROPY, 0, 0, 0] };
    let mut left = bits;
    let [low, middle, high] = numbers.map(|number| {
        let here = left.min(width);
        left = left.saturating_sub(here);
        number & low_bits(here)
    });
    [SUCCESS as u64, high, middle, low]
}

/// A mask of the lowest `count` bits, of 64 at most.
const fn low_bits(count: u64) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}
