//! Random numbers for guests: which calls there are, how a number lies in the registers, and what it comes of.

use crate::guest_calls::{NOT_SUPPORTED, call, result};
use crate::world::{Firmware, Options, RAM, TestVm, World, hvc};
use abi::boot::PsciConduit;
use abi::smccc::{TRNG_FEATURES, TRNG_GET_UUID, TRNG_RND32, TRNG_RND64, TRNG_VERSION};
use std::collections::BTreeSet;
use std::sync::Arc;

const INVALID_PARAMETERS: u64 = -2_i64 as u64;

/// A firmware without TRNG.
fn plain_firmware() -> Firmware {
    Arc::new(|_, function, _| match function {
        TRNG_VERSION..=TRNG_RND32 | TRNG_RND64 => [NOT_SUPPORTED, 0, 0, 0],
        _ => [0; 4],
    })
}

/// A firmware whose random numbers count up from `first`.
fn random_firmware(first: u64) -> Firmware {
    Arc::new(move |_, function, [bits, ..]| match function {
        TRNG_VERSION => [0x1_0000, 0, 0, 0],
        TRNG_RND64 if bits == 192 => [0, first, first + 1, first + 2],
        TRNG_RND64 if bits == 64 => [0, 0, 0, first + 3],
        _ => [NOT_SUPPORTED, 0, 0, 0],
    })
}

fn options(firmware: Firmware, seed: &[u8], random: &[u64]) -> Options {
    Options { firmware, seed: seed.into(), random: random.into(), ..Options::default() }
}

fn numbers(world: &mut World, vm: TestVm, function: u32, bits: u64) -> [u64; 3] {
    let x = call(world, vm, hvc(0), u64::from(function), &[bits]).x;
    assert_eq!(x[0], 0, "{function:#x} {bits}");
    [x[1], x[2], x[3]]
}

/// The first numbers that a guest of such a machine gets.
fn first_numbers(options: Options) -> [u64; 3] {
    let mut world = World::with(options);
    let vm = world.protected_vm();
    numbers(&mut world, vm, TRNG_RND64, 192)
}

#[test]
fn the_calls_are_those_of_version_1_0() {
    for protected in [true, false] {
        let mut world = World::new();
        let vm = world.vm(RAM, protected, 1);
        assert_eq!(result(&mut world, vm, TRNG_VERSION, &[]), 0x1_0000);
        for function in [TRNG_VERSION, TRNG_FEATURES, TRNG_GET_UUID, TRNG_RND32, TRNG_RND64] {
            assert_eq!(result(&mut world, vm, TRNG_FEATURES, &[u64::from(function)]), 0, "{function:#x}");
        }
        for function in [0, 0x8400_0000, 0x8400_0054, 0xc400_0050] {
            assert_eq!(result(&mut world, vm, TRNG_FEATURES, &[function]), NOT_SUPPORTED, "{function:#x}");
        }
        let uuid = call(&mut world, vm, hvc(0), u64::from(TRNG_GET_UUID), &[]).x;
        assert_eq!(uuid[..4], [0x316a_6bd0, 0x0e4a_c152, 0x4c7f_3b9d, 0x5890_2a1e]);
        assert!(world.take_firmware_calls().is_empty(), "the firmware is not asked");
    }
}

#[test]
fn as_many_bits_come_as_were_asked_for_with_the_lowest_in_x3() {
    let mut world = World::new();
    let vm = world.protected_vm();
    for (function, width) in [(TRNG_RND32, 32), (TRNG_RND64, 64)] {
        let mask = |bits: u64| if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        for bits in 1..=3 * width {
            let mut seen = [0; 3];
            for _ in 0..20 {
                let new = numbers(&mut world, vm, function, bits);
                seen.iter_mut().zip(new).for_each(|(seen, new)| *seen |= new);
            }
            let allowed = [bits.saturating_sub(2 * width), bits.saturating_sub(width).min(width), bits.min(width)];
            // That a bit is clear in all 20 has a chance of one in a million, and the seed is always the same.
            let allowed = allowed.map(mask);
            assert!(seen.iter().zip(allowed).all(|(seen, allowed)| seen & !allowed == 0), "{bits}: {seen:x?}");
            let missing: u32 = seen.iter().zip(allowed).map(|(seen, allowed)| (allowed & !seen).count_ones()).sum();
            assert!(missing <= 1, "{bits}: {seen:x?}");
        }
        for bits in [0, 3 * width + 1, u64::MAX] {
            let x = call(&mut world, vm, hvc(0), u64::from(function), &[bits]).x;
            assert_eq!(x[..4], [INVALID_PARAMETERS, 0, 0, 0], "{bits}");
        }
    }
    assert_eq!(result(&mut world, vm, TRNG_RND32, &[1 << 32 | 96]), 0, "a 32-bit call takes 32 bits");
    assert_eq!(result(&mut world, vm, TRNG_RND64, &[1 << 32 | 96]), INVALID_PARAMETERS);
}

#[test]
fn no_number_comes_twice_to_whichever_guest() {
    let mut world = World::new();
    let vms = [world.vm(RAM, true, 1), world.vm(RAM + 32, true, 1)];
    let mut seen = BTreeSet::new();
    for round in 0..100 {
        for number in numbers(&mut world, vms[round % 2], TRNG_RND64, 192) {
            assert!(seen.insert(number), "{number:#x} in round {round}");
        }
    }
}

#[test]
fn without_a_seed_there_are_no_numbers_rather_than_known_ones() {
    let without = [
        options(plain_firmware(), &[], &[]),
        // RNDR has no number, nor has the firmware an SMC.
        options(plain_firmware(), &[], &[1]),
        Options {
            conduit: PsciConduit::None,
            psci_version: 0,
            firmware: Arc::new(|_, function, _| panic!("SMC {function:#x} is undefined")),
            ..options(plain_firmware(), &[], &[])
        },
        // A version before 1.0, or a source that fails.
        options(Arc::new(|_, _, _| [0; 4]), &[], &[]),
        options(
            Arc::new(|_, function, _| if function == TRNG_VERSION { [0x1_0000, 0, 0, 0] } else { [NOT_SUPPORTED; 4] }),
            &[],
            &[],
        ),
    ];
    for (number, options) in without.into_iter().enumerate() {
        let mut world = World::with(options);
        let vm = world.protected_vm();
        for function in [TRNG_VERSION, TRNG_FEATURES, TRNG_GET_UUID, TRNG_RND32, TRNG_RND64] {
            let answer = result(&mut world, vm, function, &[u64::from(TRNG_VERSION)]);
            assert_eq!(answer, NOT_SUPPORTED, "{number}: {function:#x}");
        }
    }
}

#[test]
fn every_source_counts() {
    let (seed, other_seed) = (&[1; 16], &[2; 16]);
    let outcomes = [
        options(plain_firmware(), seed, &[]),
        options(plain_firmware(), other_seed, &[]),
        options(plain_firmware(), &seed[..15], &[]),
        options(random_firmware(1), &[], &[]),
        options(random_firmware(2), &[], &[]),
        options(random_firmware(1), seed, &[]),
        options(random_firmware(1), seed, &[1, 2, 3, 4]),
        options(random_firmware(1), seed, &[1, 2, 3, 5]),
        options(plain_firmware(), &[], &[11, 12, 13, 14]),
        options(plain_firmware(), &[], &[11, 12, 13, 14, 15, 16, 17, 18]),
    ];
    let distinct: BTreeSet<_> = outcomes.map(first_numbers).into_iter().collect();
    assert_eq!(distinct.len(), 10);
    let same = || first_numbers(options(plain_firmware(), seed, &[]));
    assert_eq!(same(), same(), "it is made of these alone");
}
