//! The pool that table frames are allocated from, with failure on demand and every misuse noticed.

use std::collections::{BTreeSet, HashSet};

use abi::{PAGE_SIZE, Pfn, PhysAddr, PhysRange};

pub(crate) struct Frames {
    free: BTreeSet<u64>,
    allocated: HashSet<u64>,
    /// Allocations that still succeed; `None` for no limit.
    budget: Option<usize>,
    /// Frames handed out since the machine was made.
    pub(crate) handed_out: usize,
}

impl Frames {
    pub(crate) fn new(pool: PhysRange) -> Self {
        let first = pool.start.raw().div_ceil(PAGE_SIZE);
        let end = pool.end.raw() / PAGE_SIZE;
        Self { free: (first..end).collect(), allocated: HashSet::new(), budget: None, handed_out: 0 }
    }

    pub(crate) fn limit(&mut self, budget: Option<usize>) {
        self.budget = budget;
    }

    pub(crate) fn allocate(&mut self) -> Option<PhysAddr> {
        match &mut self.budget {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => {}
        }
        let pfn = self.free.pop_first()?;
        self.allocated.insert(pfn);
        self.handed_out += 1;
        Pfn::new(pfn).checked_address()
    }

    /// Takes `pages` frames in a row, aligned to their size, for a root; they are not counted as allocated.
    pub(crate) fn take_root(&mut self, pages: u64) -> Option<PhysAddr> {
        let first = self
            .free
            .iter()
            .copied()
            .find(|first| first % pages == 0 && (0..pages).all(|page| self.free.contains(&(first + page))))?;
        for page in 0..pages {
            self.free.remove(&(first + page));
        }
        Pfn::new(first).checked_address()
    }

    pub(crate) fn return_root(&mut self, root: PhysRange) {
        let first = Pfn::containing(root.start).raw();
        self.free.extend(first..first + root.size() / PAGE_SIZE);
    }

    /// Takes a frame back; false where it was not allocated.
    pub(crate) fn free(&mut self, frame: PhysAddr) -> bool {
        let pfn = Pfn::containing(frame).raw();
        frame.is_aligned(PAGE_SIZE) && self.allocated.remove(&pfn) && self.free.insert(pfn)
    }

    /// True where the pool holds the frame.
    pub(crate) fn is_free(&self, pfn: u64) -> bool {
        self.free.contains(&pfn)
    }

    pub(crate) fn allocated(&self) -> usize {
        self.allocated.len()
    }
}
