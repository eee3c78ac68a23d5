//! Random seeds for guests' kernels, made from those that the host has.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};

/// Bytes of the generator's key.
const KEY_SIZE: usize = 32;
/// Fewest random bytes to begin with: a key of 128 bits.
const FEWEST_BYTES: usize = 16;
/// Bytes for a kernel's random number generator: more than it needs.
const RNG_SEED_SIZE: usize = 64;

/// What a guest's device tree tells its kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seeds {
    /// Where it runs is derived from this: `kaslr-seed`.
    pub kaslr: u64,
    /// What its random numbers are: `rng-seed`.
    pub rng: [u8; RNG_SEED_SIZE],
}

/// The generator. Its key is another one after each use, so that who learns it knows nothing of the seeds before.
pub struct Entropy {
    key: [u8; KEY_SIZE],
}

impl Entropy {
    /// A generator that is seeded with all of `sources`, which may be of any size; `None` where they are too short
    /// together to make unpredictable numbers from.
    pub fn new(sources: &[&[u8]]) -> Option<Self> {
        let mut entropy = Self { key: [0; KEY_SIZE] };
        for block in sources.iter().flat_map(|source| source.chunks(KEY_SIZE)) {
            entropy.key.iter_mut().zip(block).for_each(|(byte, new)| *byte ^= new);
            entropy.stream();
        }
        let size = sources.iter().fold(0, |size: usize, source| size.saturating_add(source.len()));
        (size >= FEWEST_BYTES).then_some(entropy)
    }

    /// Seeds for a guest, unlike those of any other.
    pub fn seeds(&mut self) -> Seeds {
        let mut stream = self.stream();
        let mut seeds = Seeds { kaslr: stream.next_u64(), rng: [0; RNG_SEED_SIZE] };
        stream.fill_bytes(&mut seeds.rng);
        seeds
    }

    /// What follows the next key in the stream of this one.
    fn stream(&mut self) -> ChaCha20Rng {
        let mut stream = ChaCha20Rng::from_seed(self.key);
        stream.fill_bytes(&mut self.key);
        stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn no_two_guests_have_a_number_in_common_nor_does_one_show_the_key() {
        let mut entropy = Entropy::new(&[&[7; 16]]).unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            let Seeds { kaslr, rng } = entropy.seeds();
            let words = rng.chunks_exact(8).chain(entropy.key.chunks_exact(8));
            let words = words.map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            assert!(words.chain([kaslr]).all(|word| seen.insert(word)));
        }
    }

    #[test]
    fn every_bit_of_every_source_counts() {
        let mut seen = BTreeSet::new();
        for bit in 0..80 * 8 {
            let mut sources = [0; 80];
            sources[bit / 8] = 1 << (bit % 8);
            let (first, second) = sources.split_at(20);
            assert!(seen.insert(Entropy::new(&[first, second]).unwrap().seeds().kaslr), "{bit}");
        }
    }

    #[test]
    fn with_too_little_to_begin_with_there_is_nothing() {
        assert!(Entropy::new(&[]).is_none());
        assert!(Entropy::new(&[&[1; 8], &[2; 7]]).is_none());
        assert!(Entropy::new(&[&[1; 8], &[2; 8]]).is_some());
    }
}
