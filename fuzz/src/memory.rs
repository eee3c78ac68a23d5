//! Plain memory: every address holds a word, nobody watches, and maintenance does nothing.

use std::cell::RefCell;
use std::collections::HashMap;

use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};

use crate::walk::Words;

/// Words of a frame.
const WORDS: usize = 512;

/// Memory that holds the same word wherever nothing else was written.
pub struct Memory {
    frames: RefCell<HashMap<u64, Box<[u64; WORDS]>>>,
    elsewhere: u64,
    next: u64,
    end: u64,
}

impl Memory {
    /// Memory that holds `elsewhere` in every word but those of `zeroed`, from which frames are allocated, and which hold 0.
    pub fn new(elsewhere: u64, zeroed: PhysRange, first_frame: PhysAddr) -> Self {
        let pages = zeroed.start.raw() / PAGE_SIZE..zeroed.end.raw() / PAGE_SIZE;
        let frames = pages.map(|page| (page, Box::new([0; WORDS]))).collect();
        Self { frames: RefCell::new(frames), elsewhere, next: first_frame.raw(), end: zeroed.end.raw() }
    }
}

impl TableFrames for Memory {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let frame = self.next;
        self.next += PAGE_SIZE;
        (frame < self.end).then(|| PhysAddr::new(frame))
    }

    fn free(&mut self, _frame: PhysAddr) {}

    fn read(&self, descriptor: PhysAddr) -> u64 {
        let (page, word) = (descriptor.raw() / PAGE_SIZE, descriptor.page_offset() / 8);
        self.frames.borrow().get(&page).map_or(self.elsewhere, |frame| frame[word as usize])
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        let (page, word) = (descriptor.raw() / PAGE_SIZE, descriptor.page_offset() / 8);
        let mut frames = self.frames.borrow_mut();
        frames.entry(page).or_insert_with(|| Box::new([self.elsewhere; WORDS]))[word as usize] = value;
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.read(descriptor);
        if found != current {
            return Err(found);
        }
        self.write(descriptor, new);
        Ok(found)
    }
}

impl Maintenance for Memory {
    fn dsb(&self, _kind: DsbKind) {}
    fn isb(&self) {}
    fn tlbi(&self, _operation: Tlbi) {}
    fn load_vttbr(&self, vttbr: u64) -> u64 {
        vttbr
    }
    fn clean_invalidate_to_poc(&self, _range: PhysRange) {}
    fn clean_to_pou(&self, _range: PhysRange) {}
    fn invalidate_instruction_cache(&self, _range: PhysRange) {}
}

impl Words for Memory {
    fn words(&self, address: u64) -> [u64; WORDS] {
        let frames = self.frames.borrow();
        frames.get(&(address / PAGE_SIZE)).map_or([self.elsewhere; WORDS], |frame| **frame)
    }
}
