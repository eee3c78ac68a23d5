//! Pages of RAM that a transition is about, and what the ledger says of them.

use crate::state::PageState;
use abi::{PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// Entries that a loop over many looks at in one turn.
const STEP: usize = 16;

/// Pages of RAM that follow each other without a hole, none of them twice, with their entries in the ledger.
#[derive(Clone, Copy)]
pub struct PageRange {
    first: Pfn,
    entries: &'static [AtomicU64],
}

impl PageRange {
    /// The pages from `first` on whose entries these are; `None` where there is none.
    pub(crate) fn new(first: Pfn, entries: &'static [AtomicU64]) -> Option<Self> {
        if entries.is_empty() { None } else { Some(Self { first, entries }) }
    }

    /// The first page.
    pub const fn first(&self) -> Pfn {
        self.first
    }

    /// How many pages there are; at least one.
    pub const fn count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// True for a page that is one of these.
    pub const fn contains(&self, page: Pfn) -> bool {
        page.raw() >= self.first.raw() && page.raw() - self.first.raw() < self.count()
    }

    /// `count` of the pages, from the one at `index`; all of them are among these.
    pub(crate) fn part(&self, index: u64, count: u64) -> Self {
        let part = self.entries.get(index as usize..).and_then(|rest| rest.get(..count as usize));
        debug_assert!(part.is_some(), "{count} pages from {index} of {self:?}");
        Self { first: Pfn::new(self.first.raw().saturating_add(index)), entries: part.unwrap_or(&[]) }
    }

    /// What the ledger says of each page, in rising order.
    pub fn states(&self) -> impl Iterator<Item = PageState> + use<> {
        self.entries.iter().map(|entry| PageState::decode(entry.load(Ordering::Relaxed)))
    }

    /// True where the ledger says `state` of every page.
    #[inline]
    pub(crate) fn all_are(&self, state: PageState) -> bool {
        let expected = state.encode();
        let differs = |entries: &[AtomicU64]| {
            entries.iter().fold(0, |difference, entry| difference | (entry.load(Ordering::Relaxed) ^ expected)) != 0
        };
        match self.entries {
            [entry] => entry.load(Ordering::Relaxed) == expected,
            entries => {
                let steps = entries.chunks_exact(STEP);
                !differs(steps.remainder()) && !steps.into_iter().any(differs)
            }
        }
    }

    /// Writes the entry of each page: `first` is the first page's, and where a guest has the pages, each is at the
    /// frame behind that of the page before. The caller holds the lock of each page's owner, and that of the new one.
    #[inline]
    pub(crate) fn set_run(&self, first: PageState) {
        match self.entries {
            [entry] => entry.store(first.encode(), Ordering::Relaxed),
            entries => write_run(entries, first.encode(), first.step()),
        }
    }

    /// Changes the entry of each page, as [`set_run`](Self::set_run).
    pub(crate) fn change_each(&self, change: impl Fn(PageState) -> PageState) {
        for entry in self.entries {
            let old = PageState::decode(entry.load(Ordering::Relaxed));
            entry.store(change(old).encode(), Ordering::Relaxed);
        }
    }

    /// The pages as a range of bytes.
    pub const fn bytes(&self) -> PhysRange {
        // RAM, so that nothing overflows.
        let start = self.first.raw().wrapping_mul(PAGE_SIZE);
        let end = start.wrapping_add(self.count().wrapping_mul(PAGE_SIZE));
        PhysRange { start: PhysAddr::new(start), end: PhysAddr::new(end) }
    }
}

impl PartialEq for PageRange {
    fn eq(&self, other: &Self) -> bool {
        (self.first, self.count()) == (other.first, other.count())
    }
}

impl Eq for PageRange {}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages from {}", self.count(), self.first)
    }
}

/// Writes `first` and what follows it by steps of `difference`.
fn write_run(entries: &[AtomicU64], first: u64, difference: u64) {
    let mut bits = first;
    let mut write = |entry: &AtomicU64| {
        entry.store(bits, Ordering::Relaxed);
        bits = bits.wrapping_add(difference);
    };
    let steps = entries.chunks_exact(STEP);
    let rest = steps.remainder();
    for step in steps {
        step.iter().for_each(&mut write);
    }
    rest.iter().for_each(write);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// Pages of the host's from a number on.
    fn pages(first: u64, count: usize) -> PageRange {
        let entries = (0..count).map(|_| AtomicU64::new(PageState::HOST_ALONE.encode())).collect();
        PageRange::new(Pfn::new(first), Vec::leak(entries)).unwrap()
    }

    #[test]
    fn pages_in_another_state_are_seen_wherever_they_are_and_however_many() {
        for count in [1, 2, 15, 16, 17, 40] {
            let pages = pages(0x40000, count as usize);
            for (state, other) in [(PageState::HOST_ALONE, PageState::Hyp), (PageState::Hyp, PageState::HOST_ALONE)] {
                for (one, another) in (0..count).flat_map(|one| (one..count).map(move |another| (one, another))) {
                    pages.set_run(state);
                    assert!(pages.all_are(state));
                    [one, another].into_iter().for_each(|index| pages.part(index, 1).set_run(other));
                    assert!(!pages.all_are(state), "{one} and {another} of {count} are {other}");
                }
            }
        }
    }

    #[test]
    fn a_range_is_its_first_page_and_how_many_there_are() {
        let range = pages(0x40000, 3);
        assert_eq!(range, pages(0x40000, 3));
        for other in [pages(0x40001, 3), pages(0x40000, 2), range.part(0, 2), range.part(1, 2)] {
            assert_ne!(range, other);
        }
        assert_eq!(std::format!("{range:?}"), "3 pages from 0x40000");
    }
}
