//! TRNG (Arm DEN0098): what it says of itself, every number of bits, wrong numbers of bits, and that no draw is like
//! another.

use abi::smccc::{NOT_SUPPORTED, TRNG_FEATURES, TRNG_GET_UUID, TRNG_RND32, TRNG_RND64, TRNG_VERSION, uuid_words};
use payloads::hypervisor::{call, call_status};
use payloads::println;
use payloads::report::Report;

/// Version 1.0.
const VERSION: i64 = 0x1_0000;
/// INVALID_PARAMETERS (section 2.5).
const INVALID_PARAMETERS: i64 = -2;
/// NO_ENTROPY, after which one asks again.
const NO_ENTROPY: i64 = -3;
/// How often one asks.
const PATIENCE: u32 = 1000;
/// Draws of the whole width, and how many ones each of their bits may have had at least and at most: 8 deviations from
/// the mean.
const DRAWS: u32 = 400;
const ONES: core::ops::RangeInclusive<u32> = DRAWS / 2 - 80..=DRAWS / 2 + 80;

/// The two calls: their number, the bits that a register holds, and a word for the names of checks.
const CALLS: [(u32, u64, &str); 2] = [(TRNG_RND64, 64, "rnd64"), (TRNG_RND32, 32, "rnd32")];

pub fn run(report: &mut Report) {
    let version = call_status(TRNG_VERSION, [0; 3]);
    // A 32-bit number, in a register of any width.
    let is_there = version as i32 != NOT_SUPPORTED as i32;
    report.value("calls.trng", is_there.into());
    if !is_there {
        println!("calls: no TRNG here");
        return;
    }
    report.check("calls.trng.version", version >= VERSION, format_args!("{version:#x}"));
    for function in [TRNG_VERSION, TRNG_FEATURES, TRNG_GET_UUID, TRNG_RND32, TRNG_RND64] {
        let answer = call_status(TRNG_FEATURES, [function.into(), 0, 0]);
        report.check("calls.trng.feature", answer >= 0, format_args!("{function:#x}: {answer}"));
    }
    for function in [0, TRNG_RND64 + 1, 0x8400_0000, 0xffff_ffff] {
        let answer = call_status(TRNG_FEATURES, [function.into(), 0, 0]);
        report.check(
            "calls.trng.no-feature",
            answer as i32 == NOT_SUPPORTED as i32,
            format_args!("{function:#x}: {answer}"),
        );
    }
    let uuid = call(TRNG_GET_UUID, [0; 3]).map(|word| word as u32);
    // Not what "not supported" looks like, and the same whenever it is asked for.
    let again = call(TRNG_GET_UUID, [0; 3]).map(|word| word as u32);
    let right = uuid[0] != u32::MAX && uuid != uuid_words(0) && uuid == again;
    report.check("calls.trng.uuid", right, format_args!("{uuid:x?}, then {again:x?}"));
    for (function, width, name) in CALLS {
        every_length(report, function, width, name);
        wrong_lengths(report, function, width, name);
        no_two_alike(report, function, width, name);
    }
}

/// So many bits: x1 to x3, of which x3 has the lowest. `None` where there is no entropy for very long, or another answer.
fn draw(function: u32, bits: u64) -> Option<[u64; 3]> {
    for _ in 0..PATIENCE {
        let [status, high, middle, low] = call(function, [bits, 0, 0]);
        match status as i32 as i64 {
            NO_ENTROPY => {}
            0 => return Some([high, middle, low]),
            _ => return None,
        }
    }
    None
}

/// Bits beyond those that were asked for are zero.
fn every_length(report: &mut Report, function: u32, width: u64, name: &str) {
    let (mut refused, mut beyond, mut last) = (0, 0, 0);
    for bits in 1..=3 * width {
        let Some([high, middle, low]) = draw(function, bits) else {
            refused += 1;
            continue;
        };
        for (index, word) in [low, middle, high].into_iter().enumerate() {
            let here = bits.saturating_sub(index as u64 * width).min(width);
            if here < 64 && word >> here != 0 {
                beyond += 1;
                last = bits;
            }
        }
    }
    let seen = format_args!("{refused} lengths were refused; {beyond} words had more, lastly of {last} bits");
    report.check_in("calls.trng.no-bit-beyond", name, refused == 0 && beyond == 0, seen);
}

/// Lengths that there are not.
fn wrong_lengths(report: &mut Report, function: u32, width: u64, name: &str) {
    let mut wrong = 0;
    // The upper half of a register is no part of a 32-bit call.
    let wide = if width == 64 { [1 << 32, u64::MAX, 1 << 63] } else { [u64::from(u32::MAX), 1 << 31, 1 << 16] };
    for bits in [0, 3 * width + 1, 4 * width, 1000].into_iter().chain(wide) {
        let [status, rest @ ..] = call(function, [bits, 0, 0]);
        wrong += u64::from(status as i32 as i64 != INVALID_PARAMETERS || rest != [0; 3]);
    }
    report.check_in("calls.trng.wrong-lengths", name, wrong == 0, format_args!("{wrong} were not refused"));
}

/// Draws differ from each other in all of their words, and each bit is one about as often as zero.
fn no_two_alike(report: &mut Report, function: u32, width: u64, name: &str) {
    let mut ones = [[0u32; 64]; 3];
    let mut before = [0; 3];
    let (mut alike, mut refused) = (0, 0);
    for _ in 0..DRAWS {
        let Some(words) = draw(function, 3 * width) else {
            refused += 1;
            continue;
        };
        alike += words.iter().zip(before).filter(|(word, before)| **word == *before).count();
        for (counts, word) in ones.iter_mut().zip(words) {
            for (bit, count) in counts.iter_mut().enumerate() {
                *count += (word >> bit & 1) as u32;
            }
        }
        before = words;
    }
    // Of 32 bits, two words in a row are the same once in some three million such runs.
    report.check_in(
        "calls.trng.differ",
        name,
        alike == 0 && refused == 0,
        format_args!("{alike} alike, {refused} refused"),
    );
    let uneven = ones.iter().flat_map(|counts| &counts[..width as usize]).filter(|count| !ONES.contains(count)).count();
    report.check_in("calls.trng.even", name, uneven == 0, format_args!("{uneven} bits are not"));
}
