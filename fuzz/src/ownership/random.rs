//! Inputs without a fuzzer.

use super::case::{Case, Seed};

/// Numbers that look random, the same every time for the same seed (xorshift64*, Vigna 2014).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// A sequence of its own for each seed.
    pub const fn new(seed: u64) -> Self {
        // The state must not be zero.
        Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// An input of so many steps.
    pub fn case(&mut self, steps: usize) -> Case {
        let setup = (self.next() >> 32) as u8;
        let steps = (0..steps).map(|_| -> Seed { self.next().to_le_bytes() }).collect();
        Case { setup, steps }
    }
}
