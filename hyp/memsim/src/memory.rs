//! RAM, by frame; a frame that was never written reads as zero.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use abi::{PAGE_SIZE, Pfn, PhysAddr};

use crate::outputs::AddressHasher;

/// Descriptors, or 64-bit words, in a frame.
pub(crate) const WORDS: usize = 512;

#[derive(Default)]
pub(crate) struct Memory {
    /// The place of each frame that holds something.
    places: HashMap<u64, usize, BuildHasherDefault<AddressHasher>>,
    frames: Vec<Box<[u64; WORDS]>>,
    /// Places without a frame of their own.
    vacant: Vec<usize>,
    /// The frame that was read last, and its place: who walks a table reads all of it.
    last: Cell<Option<(u64, usize)>>,
}

impl Memory {
    /// The 64-bit word at `address`, which is 8-byte aligned.
    pub(crate) fn read(&self, address: PhysAddr) -> u64 {
        assert!(address.is_aligned(8), "read of a misaligned descriptor at {address}");
        let word = (address.page_offset() / 8) as usize;
        self.words(Pfn::containing(address)).map_or(0, |frame| frame[word])
    }

    /// Stores the 64-bit word at `address`, which is 8-byte aligned.
    pub(crate) fn write(&mut self, address: PhysAddr, value: u64) {
        assert!(address.is_aligned(8), "write of a misaligned descriptor at {address}");
        let word = (address.page_offset() / 8) as usize;
        self.frame(Pfn::containing(address))[word] = value;
    }

    pub(crate) fn frame(&mut self, pfn: Pfn) -> &mut [u64; WORDS] {
        let place = *self.places.entry(pfn.raw()).or_insert_with(|| match self.vacant.pop() {
            Some(place) => {
                self.frames[place].fill(0);
                place
            }
            None => {
                self.frames.push(Box::new([0; WORDS]));
                self.frames.len() - 1
            }
        });
        &mut self.frames[place]
    }

    /// The words of a frame, `None` where all are zero.
    pub(crate) fn words(&self, pfn: Pfn) -> Option<&[u64; WORDS]> {
        let place = match self.last.get() {
            Some((last, place)) if last == pfn.raw() => place,
            _ => {
                let place = *self.places.get(&pfn.raw())?;
                self.last.set(Some((pfn.raw(), place)));
                place
            }
        };
        Some(&self.frames[place])
    }

    pub(crate) fn zero(&mut self, pfn: Pfn) {
        if let Some(place) = self.places.remove(&pfn.raw()) {
            self.vacant.push(place);
            self.last.set(None);
        }
    }

    /// The contents of a frame, little-endian.
    pub(crate) fn bytes(&self, pfn: Pfn) -> [u8; PAGE_SIZE as usize] {
        let mut bytes = [0; PAGE_SIZE as usize];
        if let Some(frame) = self.words(pfn) {
            for (chunk, word) in bytes.chunks_exact_mut(8).zip(frame.iter()) {
                chunk.copy_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    pub(crate) fn set_bytes(&mut self, pfn: Pfn, bytes: &[u8; PAGE_SIZE as usize]) {
        let frame = self.frame(pfn);
        for (word, chunk) in frame.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut value = [0; 8];
            value.copy_from_slice(chunk);
            *word = u64::from_le_bytes(value);
        }
    }
}
