//! Random numbers for what the host makes up for its guests.

use crate::device_tree::Machine;
use aarch64_cpu::registers::{ID_AA64ISAR0_EL1, Readable};
use core::arch::asm;
use spin::Mutex;
use vmm::entropy::{Entropy, Seeds};

/// ID_AA64ISAR0_EL1.RNDR.
const RNDR_SHIFT: u32 = 60;
/// Random numbers that are taken from the CPU.
const FROM_CPU: usize = 4;
/// How often RNDR is read for one number: it may have none for a while (Arm ARM, RNDR).
const ATTEMPTS: usize = 10;

static ENTROPY: Mutex<Option<Entropy>> = Mutex::new(None);

/// Gathers what there is: the seeds of the host's device tree, and the CPU's random numbers.
pub fn init(machine: &Machine) {
    let words = from_cpu();
    let cpu = words.as_ref().map_or(&[][..], |words| words.as_flattened());
    *ENTROPY.lock() = Entropy::new(&[machine.rng_seed, machine.kaslr_seed, cpu]);
}

/// Seeds for a guest; `None` where there is nothing to make them from.
pub fn seeds() -> Option<Seeds> {
    ENTROPY.lock().as_mut().map(Entropy::seeds)
}

/// Some of the CPU's random numbers, where it has FEAT_RNG.
fn from_cpu() -> Option<[[u8; 8]; FROM_CPU]> {
    if ID_AA64ISAR0_EL1.get() >> RNDR_SHIFT & 0xf == 0 {
        return None;
    }
    let mut words = [[0; 8]; FROM_CPU];
    for word in &mut words {
        *word = (0..ATTEMPTS).find_map(|_| random())?.to_le_bytes();
    }
    Some(words)
}

/// RNDR, which only a CPU with FEAT_RNG has. `None` where there is no number now.
fn random() -> Option<u64> {
    let (value, is_there): (u64, u64);
    // SAFETY: reading RNDR touches no memory; PSTATE.Z, which it sets where there is no number, is read at once. The
    // caller has seen that the register is there.
    unsafe {
        asm!("mrs {0}, s3_3_c2_c4_0", "cset {1}, ne", out(reg) value, out(reg) is_there, options(nomem, nostack));
    }
    (is_there != 0).then_some(value)
}
