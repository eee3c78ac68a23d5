//! What never changes: where RAM is, and how large things may get.

use abi::Pfn;
use alloc::vec::Vec;
use core::ops::Range;

/// A machine, and the limits of the implementation on it.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Machine {
    /// Pages of RAM. What is none is devices.
    pub ram: Vec<Range<Pfn>>,
    /// Pages of RAM that the boot gave to hyp.
    pub placed: Vec<Range<Pfn>>,
    /// Pages below this one exist.
    pub pfn_limit: u64,
    /// The most pages that a call takes.
    pub longest: u64,
    /// The largest count of pins or of guests' mappings that can be kept.
    pub most: u64,
    /// The most offers of one guest at a time.
    pub most_offers: usize,
}

impl Machine {
    /// A machine with the limits of hyp.
    pub fn new(ram: &[Range<Pfn>], placed: &[Range<Pfn>], pfn_limit: u64) -> Self {
        Self {
            ram: ram.to_vec(),
            placed: placed.to_vec(),
            pfn_limit,
            longest: abi::host::MAX_PAGES_PER_CALL,
            most: u64::from(u16::MAX),
            most_offers: abi::guest::MAX_OFFERS,
        }
    }

    /// True where a page is RAM.
    pub fn is_ram(&self, page: Pfn) -> bool {
        self.ram.iter().any(|bank| bank.contains(&page))
    }

    /// True where the boot gave a page to hyp.
    pub fn is_placed(&self, page: Pfn) -> bool {
        self.placed.iter().any(|part| part.contains(&page))
    }
}
