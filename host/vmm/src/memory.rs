//! Which physical page backs which frame of a guest.

use abi::{Gfn, Pfn};
use alloc::collections::BTreeMap;

/// What the host gave to one guest: each guest frame at most once, each physical page at most once. Pages that follow
/// each other on both sides are kept as one run, so that a block is entered as fast as a page.
#[derive(Default, Debug)]
pub struct PageMap {
    /// By its first frame, the first page of each run and how many pages it has.
    by_frame: BTreeMap<Gfn, (Pfn, u64)>,
    /// By its first page, the first frame of each run and how many pages it has.
    by_page: BTreeMap<Pfn, (Gfn, u64)>,
    pages: u64,
}

/// Why a page cannot be entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// The guest frame has a page already.
    FrameTaken,
    /// The page backs another frame already.
    PageTaken,
    /// There are no pages to enter, or their numbers end beyond 64 bits.
    BadRange,
}

impl PageMap {
    /// A map of nothing.
    pub const fn new() -> Self {
        Self { by_frame: BTreeMap::new(), by_page: BTreeMap::new(), pages: 0 }
    }

    /// Enters `count` pages from `page` on, for as many frames from `frame` on.
    ///
    /// # Errors
    /// [`MapError`], and nothing is changed.
    pub fn insert(&mut self, frame: Gfn, page: Pfn, count: u64) -> Result<(), MapError> {
        let frame_end = end_of(frame.raw(), count).ok_or(MapError::BadRange)?;
        let page_end = end_of(page.raw(), count).ok_or(MapError::BadRange)?;
        let before = self.by_frame.range(..Gfn::new(frame_end)).next_back();
        let before = before.map(|(start, (page, count))| (*start, *page, *count));
        if before.is_some_and(|(start, _, count)| start.raw() + count > frame.raw()) {
            return Err(MapError::FrameTaken);
        }
        let last = self.by_page.range(..Pfn::new(page_end)).next_back();
        if last.is_some_and(|(start, (_, count))| start.raw() + count > page.raw()) {
            return Err(MapError::PageTaken);
        }
        self.pages += count;
        match before {
            Some((start, first, so_far))
                if (start.raw() + so_far, first.raw() + so_far) == (frame.raw(), page.raw()) =>
            {
                self.set_run(start, first, so_far + count);
            }
            _ => self.set_run(frame, page, count),
        }
        Ok(())
    }

    /// There are `count` pages in the run from `frame` and `page` on.
    fn set_run(&mut self, frame: Gfn, page: Pfn, count: u64) {
        self.by_frame.insert(frame, (page, count));
        self.by_page.insert(page, (frame, count));
    }

    /// The page behind `frame`.
    pub fn page_of(&self, frame: Gfn) -> Option<Pfn> {
        let (start, (page, count)) = self.by_frame.range(..=frame).next_back()?;
        let distance = frame.raw() - start.raw();
        (distance < *count).then(|| Pfn::new(page.raw() + distance))
    }

    /// True where one of `count` frames from `first` on has a page.
    pub fn has_any(&self, first: Gfn, count: u64) -> bool {
        let end = Gfn::new(first.raw().saturating_add(count));
        let last = self.by_frame.range(..end).next_back();
        count != 0 && last.is_some_and(|(start, (_, count))| start.raw() + count > first.raw())
    }

    /// How many pages there are.
    pub fn len(&self) -> u64 {
        self.pages
    }

    /// True where there is no page.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Takes out one page, and says which frame it backed.
    pub fn remove_page(&mut self, page: Pfn) -> Option<Gfn> {
        let (first, (start, count)) = self.by_page.range(..=page).next_back()?;
        let (first, start, count) = (*first, *start, *count);
        let before = page.raw() - first.raw();
        let after = count.checked_sub(before + 1)?;
        let frame = Gfn::new(start.raw() + before);
        self.by_page.remove(&first);
        self.by_frame.remove(&start);
        if before != 0 {
            self.set_run(start, first, before);
        }
        if after != 0 {
            self.set_run(Gfn::new(frame.raw() + 1), Pfn::new(page.raw() + 1), after);
        }
        self.pages -= 1;
        Some(frame)
    }

    /// The pages as runs of consecutive physical pages, lowest first: the first page and the count of each.
    pub fn runs(&self) -> impl Iterator<Item = (Pfn, u64)> + '_ {
        let mut runs = self.by_page.iter().map(|(page, (_, count))| (*page, *count)).peekable();
        core::iter::from_fn(move || {
            let (first, mut count) = runs.next()?;
            while let Some((_, more)) = runs.next_if(|(page, _)| Some(*page) == first.checked_add(count)) {
                count += more;
            }
            Some((first, count))
        })
    }
}

/// What follows the last of `count` from `first` on. `None` where there are none, or the numbers do not reach so far.
fn end_of(first: u64, count: u64) -> Option<u64> {
    first.checked_add(count).filter(|_| count != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn a_frame_or_a_page_is_entered_once() {
        let mut map = PageMap::new();
        assert_eq!(map.insert(Gfn::new(1), Pfn::new(10), 1), Ok(()));
        assert_eq!(map.insert(Gfn::new(1), Pfn::new(11), 1), Err(MapError::FrameTaken));
        assert_eq!(map.insert(Gfn::new(2), Pfn::new(10), 1), Err(MapError::PageTaken));
        assert_eq!(map.len(), 1);
        assert_eq!(map.page_of(Gfn::new(1)), Some(Pfn::new(10)));
        assert_eq!(map.page_of(Gfn::new(2)), None);
    }

    #[test]
    fn frames_with_pages_are_found_among_others() {
        let mut map = PageMap::new();
        map.insert(Gfn::new(5), Pfn::new(10), 1).unwrap();
        for (first, count, expected) in [(0, 5, false), (0, 6, true), (5, 1, true), (6, 10, false), (5, 0, false)] {
            assert_eq!(map.has_any(Gfn::new(first), count), expected, "{first} {count}");
        }
        assert!(map.has_any(Gfn::new(0), u64::MAX));
    }

    #[test]
    fn runs_follow_the_physical_order_and_break_at_gaps() {
        let mut map = PageMap::new();
        for (frame, page) in [(0, 30), (1, 12), (2, 11), (3, 10), (4, 31), (5, 50)] {
            map.insert(Gfn::new(frame), Pfn::new(page), 1).unwrap();
        }
        let runs: Vec<_> = map.runs().map(|(pfn, count)| (pfn.raw(), count)).collect();
        assert_eq!(runs, [(10, 3), (30, 2), (50, 1)]);
    }

    #[test]
    fn a_removed_page_frees_its_frame() {
        let mut map = PageMap::new();
        map.insert(Gfn::new(1), Pfn::new(10), 1).unwrap();
        assert_eq!(map.remove_page(Pfn::new(10)), Some(Gfn::new(1)));
        assert_eq!(map.remove_page(Pfn::new(10)), None);
        assert!(map.is_empty());
        assert_eq!(map.insert(Gfn::new(1), Pfn::new(10), 1), Ok(()));
    }

    #[test]
    fn a_run_is_refused_where_one_of_its_pages_or_frames_is_taken() {
        let mut map = PageMap::new();
        map.insert(Gfn::new(10), Pfn::new(100), 10).unwrap();
        for (frame, page, count, expected) in [
            (5, 200, 6, MapError::FrameTaken),
            (19, 200, 5, MapError::FrameTaken),
            (5, 200, 100, MapError::FrameTaken),
            (12, 200, 1, MapError::FrameTaken),
            (30, 95, 6, MapError::PageTaken),
            (30, 109, 1, MapError::PageTaken),
            (30, 95, 100, MapError::PageTaken),
            (30, 200, 0, MapError::BadRange),
            (u64::MAX, 200, 2, MapError::BadRange),
            (30, u64::MAX, 2, MapError::BadRange),
        ] {
            assert_eq!(map.insert(Gfn::new(frame), Pfn::new(page), count), Err(expected), "{frame} {page} {count}");
        }
        assert_eq!(map.len(), 10);
        assert_eq!(map.insert(Gfn::new(5), Pfn::new(95), 5), Ok(()));
        assert_eq!(map.insert(Gfn::new(20), Pfn::new(110), 1), Ok(()));
        assert_eq!(map.len(), 16);
        assert_eq!(map.runs().collect::<Vec<_>>(), [(Pfn::new(95), 16)]);
    }

    /// Against a map that has an element for each page.
    #[test]
    fn runs_say_what_single_pages_would() {
        let mut random = 1_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let (mut map, mut plain) = (PageMap::new(), BTreeMap::new());
        let (mut inserted, mut removed) = (0, 0);
        for _ in 0..6_000 {
            let (frame, page, count) = (draw(64), draw(64), draw(5) + 1);
            // Half of them where the one before may be carried on.
            let page = if draw(2) == 0 { frame } else { page };
            if draw(3) != 0 {
                let frame_taken = (frame..frame + count).any(|frame| plain.contains_key(&frame));
                let page_taken = (page..page + count).any(|page| plain.values().any(|other| *other == page));
                let expected = match (frame_taken, page_taken) {
                    (true, _) => Err(MapError::FrameTaken),
                    (_, true) => Err(MapError::PageTaken),
                    _ => Ok(()),
                };
                assert_eq!(map.insert(Gfn::new(frame), Pfn::new(page), count), expected);
                if expected.is_ok() {
                    plain.extend((0..count).map(|index| (frame + index, page + index)));
                    inserted += 1;
                }
            } else {
                let expected = plain.iter().find(|(_, other)| **other == page).map(|(frame, _)| *frame);
                assert_eq!(map.remove_page(Pfn::new(page)), expected.map(Gfn::new));
                removed += u64::from(expected.is_some_and(|frame| plain.remove(&frame).is_some()));
            }
            assert_eq!(map.len(), plain.len() as u64);
            let any = (frame..frame + count).any(|frame| plain.contains_key(&frame));
            assert_eq!(map.has_any(Gfn::new(frame), count), any);
            for frame in 0..70 {
                assert_eq!(map.page_of(Gfn::new(frame)), plain.get(&frame).copied().map(Pfn::new), "{frame}");
            }
            let mut pages: Vec<u64> = plain.values().copied().collect();
            pages.sort_unstable();
            let runs: Vec<u64> = map.runs().flat_map(|(first, count)| first.raw()..first.raw() + count).collect();
            assert_eq!(runs, pages);
        }
        assert!(inserted > 500 && removed > 500, "{inserted} {removed}");
    }
}
