//! Memory as loom models it: each word is an atomic of loom's, so that every order in which the CPUs' accesses may take
//! effect is tried, stale values included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use loom::sync::atomic::{AtomicU64, Ordering};
use pgtable::{DsbKind, Maintenance, Stage2, Stage2Config, TableFrames, Tlbi};

/// Where the root is: four pages, for 32 bits of IPA.
const ROOT: u64 = 0x10_0000;
/// The first of the frames.
const FIRST_FRAME: u64 = 0x20_0000;

/// The orderings by which a CPU writes and reads descriptors.
#[derive(Clone, Copy)]
pub struct Orderings {
    pub read: Ordering,
    pub write: Ordering,
    pub exchange: Ordering,
}

/// Those that the contract of [`TableFrames`] asks for.
pub const CONTRACT: Orderings =
    Orderings { read: Ordering::Acquire, write: Ordering::Release, exchange: Ordering::AcqRel };

/// A word of memory. Loom remembers only the last access to an atomic when it looks for accesses that might have come in
/// another order, so that a load hides behind another CPU's. Each access therefore first changes a second atomic: a change
/// is never hidden, and relaxed it orders nothing.
struct Word {
    turn: AtomicU64,
    value: AtomicU64,
}

impl Word {
    fn new() -> Self {
        Self { turn: AtomicU64::new(0), value: AtomicU64::new(0) }
    }

    fn access(&self) -> &AtomicU64 {
        self.turn.fetch_add(1, Ordering::Relaxed);
        &self.value
    }
}

/// What all CPUs share. The locks are not loom's: they stand for what is atomic in the model itself.
pub struct World {
    words: HashMap<u64, Word>,
    frames: Mutex<Frames>,
    orderings: Orderings,
}

struct Frames {
    free: Vec<u64>,
    taken: Vec<u64>,
}

impl World {
    /// A world with this many frames, none of which was used before. Of each, and of the root, the first `words` are there:
    /// a word has to exist before two CPUs may come to it, and many make the search slow.
    pub fn new(frames: u64, words: u64, orderings: Orderings) -> Arc<Self> {
        let free: Vec<u64> = (0..frames).rev().map(|frame| FIRST_FRAME + frame * PAGE_SIZE).collect();
        let tables = free.iter().copied().chain([ROOT]);
        let addresses = tables.flat_map(|table| (0..words).map(move |word| table + word * 8));
        let words = addresses.map(|address| (address, Word::new())).collect();
        Arc::new(Self { words, frames: Mutex::new(Frames { free, taken: Vec::new() }), orderings })
    }

    /// An empty table over this world's memory.
    pub fn table(&self) -> Stage2 {
        Stage2::new(PhysAddr::new(ROOT), Stage2Config::new(32, 36), 1).unwrap()
    }

    pub fn frames_taken(&self) -> usize {
        self.frames.lock().unwrap().taken.len()
    }

    fn word(&self, address: PhysAddr) -> &AtomicU64 {
        let word = self.words.get(&address.raw());
        word.unwrap_or_else(|| panic!("{address} is not one of this world's words")).access()
    }
}

/// One CPU. Its TLB is not modelled here: that is memsim's part.
#[derive(Clone)]
pub struct Cpu(pub Arc<World>);

impl TableFrames for Cpu {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let mut frames = self.0.frames.lock().unwrap();
        let frame = frames.free.pop()?;
        frames.taken.push(frame);
        Some(PhysAddr::new(frame))
    }

    fn free(&mut self, frame: PhysAddr) {
        let mut frames = self.0.frames.lock().unwrap();
        let place = frames.taken.iter().position(|taken| *taken == frame.raw()).expect("freed, but not taken");
        // Not used again: whoever still walks it is seen to find it changed.
        frames.taken.swap_remove(place);
        drop(frames);
        for offset in (0..PAGE_SIZE).step_by(8) {
            if let Some(word) = self.0.words.get(&(frame.raw() + offset)) {
                word.access().store(u64::MAX, Ordering::Relaxed);
            }
        }
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.0.word(descriptor).load(self.0.orderings.read)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.0.word(descriptor).store(value, self.0.orderings.write);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.0.word(descriptor).compare_exchange(current, new, self.0.orderings.exchange, self.0.orderings.read)
    }
}

impl Maintenance for Cpu {
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
