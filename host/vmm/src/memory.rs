//! Which physical page backs which frame of a guest.

use abi::{Gfn, Pfn};
use alloc::collections::BTreeMap;

/// What the host gave to one guest: each guest frame at most once, each physical page at most once.
#[derive(Default, Debug)]
pub struct PageMap {
    by_frame: BTreeMap<Gfn, Pfn>,
    by_page: BTreeMap<Pfn, Gfn>,
}

/// Why a page cannot be entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// The guest frame has a page already.
    FrameTaken,
    /// The page backs another frame already.
    PageTaken,
}

impl PageMap {
    /// A map of nothing.
    pub const fn new() -> Self {
        Self { by_frame: BTreeMap::new(), by_page: BTreeMap::new() }
    }

    /// Enters one page.
    ///
    /// # Errors
    /// [`MapError`], and nothing is changed.
    pub fn insert(&mut self, frame: Gfn, page: Pfn) -> Result<(), MapError> {
        if self.by_frame.contains_key(&frame) {
            return Err(MapError::FrameTaken);
        }
        if self.by_page.contains_key(&page) {
            return Err(MapError::PageTaken);
        }
        self.by_frame.insert(frame, page);
        self.by_page.insert(page, frame);
        Ok(())
    }

    /// The page behind `frame`.
    pub fn page_of(&self, frame: Gfn) -> Option<Pfn> {
        self.by_frame.get(&frame).copied()
    }

    /// True where one of `count` frames from `first` on has a page.
    pub fn has_any(&self, first: Gfn, count: u64) -> bool {
        let end = Gfn::new(first.raw().saturating_add(count));
        self.by_frame.range(first..end).next().is_some()
    }

    /// How many pages there are.
    pub fn len(&self) -> u64 {
        self.by_frame.len() as u64
    }

    /// True where there is no page.
    pub fn is_empty(&self) -> bool {
        self.by_frame.is_empty()
    }

    /// Takes out one page, and says which frame it backed.
    pub fn remove_page(&mut self, page: Pfn) -> Option<Gfn> {
        let frame = self.by_page.remove(&page)?;
        self.by_frame.remove(&frame);
        Some(frame)
    }

    /// The pages as runs of consecutive physical pages, lowest first: the first page and the count of each.
    pub fn runs(&self) -> impl Iterator<Item = (Pfn, u64)> + '_ {
        let mut pages = self.by_page.keys().copied().peekable();
        core::iter::from_fn(move || {
            let first = pages.next()?;
            let mut count = 1;
            while pages.next_if(|page| Some(*page) == first.checked_add(count)).is_some() {
                count += 1;
            }
            Some((first, count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn a_frame_or_a_page_is_entered_once() {
        let mut map = PageMap::new();
        assert_eq!(map.insert(Gfn::new(1), Pfn::new(10)), Ok(()));
        assert_eq!(map.insert(Gfn::new(1), Pfn::new(11)), Err(MapError::FrameTaken));
        assert_eq!(map.insert(Gfn::new(2), Pfn::new(10)), Err(MapError::PageTaken));
        assert_eq!(map.len(), 1);
        assert_eq!(map.page_of(Gfn::new(1)), Some(Pfn::new(10)));
        assert_eq!(map.page_of(Gfn::new(2)), None);
    }

    #[test]
    fn frames_with_pages_are_found_among_others() {
        let mut map = PageMap::new();
        map.insert(Gfn::new(5), Pfn::new(10)).unwrap();
        for (first, count, expected) in [(0, 5, false), (0, 6, true), (5, 1, true), (6, 10, false), (5, 0, false)] {
            assert_eq!(map.has_any(Gfn::new(first), count), expected, "{first} {count}");
        }
        assert!(map.has_any(Gfn::new(0), u64::MAX));
    }

    #[test]
    fn runs_follow_the_physical_order_and_break_at_gaps() {
        let mut map = PageMap::new();
        for (frame, page) in [(0, 30), (1, 12), (2, 11), (3, 10), (4, 31), (5, 50)] {
            map.insert(Gfn::new(frame), Pfn::new(page)).unwrap();
        }
        let runs: Vec<_> = map.runs().map(|(pfn, count)| (pfn.raw(), count)).collect();
        assert_eq!(runs, [(10, 3), (30, 2), (50, 1)]);
    }

    #[test]
    fn a_removed_page_frees_its_frame() {
        let mut map = PageMap::new();
        map.insert(Gfn::new(1), Pfn::new(10)).unwrap();
        assert_eq!(map.remove_page(Pfn::new(10)), Some(Gfn::new(1)));
        assert_eq!(map.remove_page(Pfn::new(10)), None);
        assert!(map.is_empty());
        assert_eq!(map.insert(Gfn::new(1), Pfn::new(10)), Ok(()));
    }
}
