//! Random numbers for guests: a generator that is seeded at boot, and that takes in what the CPU has with each call.
//!
//! The state is a key of ChaCha20. Each call makes a stream of it, of which the first part is the next key and the rest
//! is the output: who sees outputs, or the state later on, learns neither the state before nor anybody else's output
//! ("fast key erasure").

use crate::platform::Platform;
use abi::boot::{BootInfo, PsciConduit};
use abi::smccc;
use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use ownership::{Lock, Rank};

/// Bytes of the key.
const KEY_SIZE: usize = 32;
/// Words of the key.
const KEY_WORDS: usize = KEY_SIZE / 8;
/// Words that one call gives at most: 192 bits.
pub const OUTPUT_WORDS: usize = 3;
/// The first version of TRNG (Arm DEN0098, section 2.1).
const TRNG_VERSION_1_0: u64 = 0x1_0000;
/// How often RNDR is read for one number: it may have none for a while (Arm ARM, RNDR).
const ATTEMPTS: usize = 10;

/// The generator.
pub struct Entropy {
    /// `None` where there was nothing to seed it with: then there are no random numbers, rather than predictable ones.
    key: Option<Lock<Key>>,
    /// The CPUs have FEAT_RNG.
    has_rng: bool,
}

/// The state.
struct Key([u8; KEY_SIZE]);

impl Key {
    /// Mixes a block in. Neither who knows all blocks but one, nor who chose them, knows the key that comes of it.
    fn absorb(&mut self, block: &[u8; KEY_SIZE]) {
        for (byte, new) in self.0.iter_mut().zip(block) {
            *byte ^= new;
        }
        self.output();
    }

    /// The next output. The key is another one then.
    fn output(&mut self) -> [u64; OUTPUT_WORDS] {
        let mut stream = ChaCha20Rng::from_seed(self.0);
        stream.fill_bytes(&mut self.0);
        [(); OUTPUT_WORDS].map(|()| stream.next_u64())
    }
}

impl Entropy {
    /// A generator that is seeded with what there is: the loader's seed, the CPU's random numbers, the firmware's.
    pub fn new<P: Platform>(platform: &mut P, boot_info: &BootInfo, has_rng: bool) -> Self {
        let mut key = Key([0; KEY_SIZE]);
        let from_loader = boot_info.seed().map(|seed| {
            let mut block = [0; KEY_SIZE];
            block.iter_mut().zip(seed).for_each(|(byte, seed)| *byte = *seed);
            block
        });
        let from_cpu = if has_rng { from_cpu(platform) } else { None };
        let from_firmware = match boot_info.psci_conduit {
            PsciConduit::Smc => from_firmware(platform),
            PsciConduit::None => None,
        };
        let mut is_seeded = false;
        for block in [from_loader, from_cpu, from_firmware].into_iter().flatten() {
            key.absorb(&block);
            is_seeded = true;
        }
        Self { key: is_seeded.then(|| Lock::new(Rank::Leaf, key)), has_rng }
    }

    /// True where there are random numbers.
    pub const fn is_seeded(&self) -> bool {
        self.key.is_some()
    }

    /// The next random numbers; `None` where there are none.
    pub fn next<P: Platform>(&self, platform: &mut P) -> Option<[u64; OUTPUT_WORDS]> {
        let key = self.key.as_ref()?;
        let fresh = if self.has_rng { from_cpu(platform) } else { None };
        let mut key = key.lock();
        if let Some(block) = fresh {
            key.absorb(&block);
        }
        Some(key.output())
    }
}

/// Four of the CPU's random numbers.
fn from_cpu<P: Platform>(platform: &mut P) -> Option<[u8; KEY_SIZE]> {
    let mut words = [0; KEY_WORDS];
    for word in &mut words {
        *word = (0..ATTEMPTS).find_map(|_| platform.random())?;
    }
    Some(bytes(words))
}

/// 256 bits of the firmware's (DEN0098, section 2.4).
fn from_firmware<P: Platform>(platform: &mut P) -> Option<[u8; KEY_SIZE]> {
    let [version, ..] = platform.firmware_call(smccc::TRNG_VERSION, [0; 3]);
    if (version as i32) < 0 || version & 0xffff_ffff < TRNG_VERSION_1_0 {
        return None;
    }
    let mut random = |bits: u64| {
        let [status, first, second, third] = platform.firmware_call(smccc::TRNG_RND64, [bits, 0, 0]);
        (status == 0).then_some([first, second, third])
    };
    let [first, second, third] = random(192)?;
    let [.., fourth] = random(64)?;
    Some(bytes([first, second, third, fourth]))
}

fn bytes(words: [u64; KEY_WORDS]) -> [u8; KEY_SIZE] {
    let mut bytes = [0; KEY_SIZE];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_differ_and_do_not_show_the_key() {
        let mut key = Key([7; KEY_SIZE]);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let output = key.output();
            assert!(output.iter().all(|word| seen.insert(*word)));
            assert!(key.0.chunks_exact(8).all(|part| seen.insert(u64::from_le_bytes(part.try_into().unwrap()))));
        }
    }

    #[test]
    fn every_bit_of_a_block_counts() {
        let outputs = (0..KEY_SIZE * 8).map(|bit| {
            let (mut key, mut block) = (Key([0; KEY_SIZE]), [0; KEY_SIZE]);
            block[bit / 8] = 1 << (bit % 8);
            key.absorb(&block);
            key.output()
        });
        assert_eq!(outputs.collect::<std::collections::BTreeSet<_>>().len(), KEY_SIZE * 8);
    }

    /// RFC 8439, section 2.3.2, has the block function; this is its first block for a key and nonce of zeroes (appendix
    /// A.1).
    #[test]
    fn the_stream_is_chacha20s() {
        let mut key = Key([0; KEY_SIZE]);
        key.output();
        assert_eq!(key.0[..8], [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]);
    }
}
