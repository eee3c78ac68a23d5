//! Which of the host's pages a guest that is not protected has, where, and with what rights.

use abi::host::MAX_PAGES_PER_CALL;
use abi::{Gfn, Pfn};
use alloc::collections::BTreeMap;

/// Pages that follow each other on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loan {
    /// The first frame.
    pub first: Gfn,
    /// The page behind it.
    pub page: Pfn,
    /// How many there are.
    pub count: u64,
    /// Whether the guest may write them.
    pub is_writable: bool,
    /// Whether the guest, where it may not, is to be allowed to when it tries.
    pub awaits_write: bool,
}

impl Loan {
    /// The frame that comes after it.
    const fn end(&self) -> u64 {
        self.first.raw().saturating_add(self.count)
    }

    /// The part of it from `first` up to `end`, which it must reach.
    const fn part(&self, first: u64, end: u64) -> Self {
        let distance = first.saturating_sub(self.first.raw());
        let page = Pfn::new(self.page.raw().saturating_add(distance));
        Self { first: Gfn::new(first), page, count: end.saturating_sub(first), ..*self }
    }

    /// True where `next` goes on where this one ends, and a call takes both.
    fn goes_on(&self, next: &Self) -> bool {
        let alike = (self.is_writable, self.awaits_write) == (next.is_writable, next.awaits_write);
        let count = self.count.saturating_add(next.count);
        let page = self.page.raw().saturating_add(self.count);
        alike && self.end() == next.first.raw() && page == next.page.raw() && count <= MAX_PAGES_PER_CALL
    }
}

/// The loans of a guest. No two have a frame in common; a page may be behind several frames. Those that follow each
/// other are one, so that there are few.
#[derive(Default, Debug)]
pub struct Loans(BTreeMap<Gfn, Loan>);

impl Loans {
    /// No loans.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Enters a loan. False, and nothing is entered, where one of its frames is lent already, where it is empty, or where it
    /// ends beyond the last number.
    pub fn insert(&mut self, loan: Loan) -> bool {
        let ends = loan.first.checked_add(loan.count).is_some() && loan.page.checked_add(loan.count).is_some();
        if !ends || loan.count == 0 {
            return false;
        }
        match self.0.range_mut(..Gfn::new(loan.end())).next_back() {
            Some((_, before)) if before.end() > loan.first.raw() => return false,
            Some((_, before)) if before.goes_on(&loan) => before.count += loan.count,
            _ => {
                self.0.insert(loan.first, loan);
            }
        }
        true
    }

    /// Takes `count` frames from `first` on out of all loans.
    pub fn remove(&mut self, first: Gfn, count: u64) {
        let (start, end) = (first.raw(), first.raw().saturating_add(count));
        while let Some((key, loan)) = self.0.range(..Gfn::new(end)).next_back().map(|(key, loan)| (*key, *loan)) {
            if loan.end() <= start {
                break;
            }
            self.0.remove(&key);
            if key.raw() < start {
                self.0.insert(key, loan.part(key.raw(), start));
            }
            if end < loan.end() {
                self.0.insert(Gfn::new(end), loan.part(end, loan.end()));
            }
        }
    }

    /// The loan that has `frame`.
    pub fn find(&self, frame: Gfn) -> Option<&Loan> {
        let (_, loan) = self.0.range(..=frame).next_back()?;
        (frame.raw() < loan.end()).then_some(loan)
    }

    /// The page behind `frame`.
    pub fn page_of(&self, frame: Gfn) -> Option<Pfn> {
        let loan = self.find(frame)?;
        Some(loan.part(frame.raw(), loan.end()).page)
    }

    /// True where one of `count` frames from `first` on is lent.
    pub fn has_any(&self, first: Gfn, count: u64) -> bool {
        self.within(first, count).next().is_some()
    }

    /// What is lent of `count` frames from `first` on, highest first.
    pub fn within(&self, first: Gfn, count: u64) -> impl Iterator<Item = Loan> {
        let (start, end) = (first.raw(), first.raw().saturating_add(count));
        let loans = self.0.range(..Gfn::new(end)).rev().map(|(_, loan)| loan);
        let reach = loans.take_while(move |loan| loan.end() > start && start < end);
        reach.map(move |loan| loan.part(loan.first.raw().max(start), loan.end().min(end)))
    }

    /// The lowest.
    pub fn lowest(&self) -> Option<Loan> {
        self.0.values().next().copied()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn loan(first: u64, page: u64, count: u64) -> Loan {
        Loan { first: Gfn::new(first), page: Pfn::new(page), count, is_writable: true, awaits_write: false }
    }

    fn loans() -> Loans {
        let mut loans = Loans::new();
        assert!(loans.insert(loan(10, 100, 5)) && loans.insert(loan(20, 100, 1)), "one page behind two frames");
        loans
    }

    #[test]
    fn a_page_is_found_by_each_of_its_frames() {
        let loans = loans();
        let pages = [9, 10, 14, 15, 19, 20, 21].map(|frame| loans.page_of(Gfn::new(frame)).map(Pfn::raw));
        assert_eq!(pages, [None, Some(100), Some(104), None, None, Some(100), None]);
        assert_eq!(loans.find(Gfn::new(12)), Some(&loan(10, 100, 5)));
    }

    #[test]
    fn a_frame_is_lent_once() {
        let mut loans = loans();
        let bad = [(9, 2), (14, 1), (5, 100), (12, 1), (19, 2), (0, 0), (u64::MAX, 1)];
        for (first, count) in bad {
            assert!(!loans.insert(loan(first, 200, count)), "{first} {count}");
        }
        assert!(!loans.insert(loan(30, u64::MAX, 1)));
        assert_eq!(loans.within(Gfn::new(0), u64::MAX).count(), 2);
        assert!(loans.insert(loan(15, 200, 5)));
    }

    #[test]
    fn what_follows_on_both_sides_and_is_alike_is_one() {
        let mut loans = loans();
        assert!(loans.insert(loan(15, 105, 2)) && loans.insert(loan(17, 108, 1)));
        assert!(loans.insert(Loan { is_writable: false, ..loan(18, 109, 1) }));
        let runs: Vec<_> = loans.within(Gfn::new(0), u64::MAX).map(|loan| (loan.first.raw(), loan.count)).collect();
        assert_eq!(runs, [(20, 1), (18, 1), (17, 1), (10, 7)]);
        assert!(loans.insert(loan(100, 1000, MAX_PAGES_PER_CALL)) && loans.insert(loan(99, 999, 1)));
        let next = 100 + MAX_PAGES_PER_CALL;
        assert!(loans.insert(loan(next, 1000 + MAX_PAGES_PER_CALL, 1)));
        assert_eq!(loans.find(Gfn::new(next)).map(|loan| loan.count), Some(1), "a call takes no more");
    }

    #[test]
    fn frames_are_free_again_when_they_are_taken_back() {
        let mut loans = loans();
        loans.remove(Gfn::new(11), 2);
        let runs: Vec<_> = loans.within(Gfn::new(0), 20).collect();
        assert_eq!(runs, [loan(13, 103, 2), loan(10, 100, 1)]);
        assert!(!loans.has_any(Gfn::new(11), 2) && loans.has_any(Gfn::new(11), 3) && !loans.has_any(Gfn::new(13), 0));
        assert_eq!(loans.within(Gfn::new(14), 100).collect::<Vec<_>>(), [loan(20, 100, 1), loan(14, 104, 1)]);
        loans.remove(Gfn::new(0), 14);
        assert_eq!(loans.lowest(), Some(loan(14, 104, 1)));
        loans.remove(Gfn::new(0), u64::MAX);
        assert!(loans.is_empty());
    }
}
