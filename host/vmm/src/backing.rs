//! The host's memory behind the RAM and ROM of a guest that is not protected. It stays what it is when the guest's address
//! space is arranged anew.

use crate::region::BackingId;
use abi::Pfn;
use alloc::collections::BTreeMap;

/// Pages that lie one after the other.
pub trait Stretch {
    /// The first of them.
    fn first(&self) -> Pfn;
    /// How many there are.
    fn count(&self) -> u64;
}

/// What there is of each backing, by its number and the first of its pages.
#[derive(Debug)]
pub struct Backings<S>(BTreeMap<(u32, u64), S>);

impl<S> Default for Backings<S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<S: Stretch> Backings<S> {
    /// Puts `stretch` behind the pages from `page` on of `backing`.
    ///
    /// # Errors
    /// The stretch, where there is something behind one of the pages, or their numbers end beyond 64 bits.
    pub fn insert(&mut self, backing: BackingId, page: u64, stretch: S) -> Result<(), S> {
        if page.checked_add(stretch.count()).is_none() || !self.is_free(backing, page, stretch.count()) {
            return Err(stretch);
        }
        self.0.insert((backing.0, page), stretch);
        Ok(())
    }

    /// Takes out the stretch that starts at `page`.
    pub fn remove(&mut self, backing: BackingId, page: u64) -> Option<S> {
        self.0.remove(&(backing.0, page))
    }

    /// What is behind `page`, and how many pages there are from there to the end of the stretch.
    pub fn find(&self, backing: BackingId, page: u64) -> Option<(Pfn, u64)> {
        let ((_, first), stretch) = self.0.range((backing.0, 0)..=(backing.0, page)).next_back()?;
        let distance = page - first;
        let rest = stretch.count().checked_sub(distance).filter(|rest| *rest != 0)?;
        Some((stretch.first().checked_add(distance)?, rest))
    }

    /// True where there is nothing behind `count` pages from `page` on.
    pub fn is_free(&self, backing: BackingId, page: u64, count: u64) -> bool {
        let end = page.saturating_add(count);
        let last = self.0.range((backing.0, 0)..(backing.0, end)).next_back();
        last.is_none_or(|((_, first), stretch)| first.saturating_add(stretch.count()) <= page)
    }

    /// All that there is, to be looked at.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.0.values_mut()
    }

    /// Takes out all that there is.
    pub fn take_all(&mut self) -> impl Iterator<Item = S> {
        core::mem::take(&mut self.0).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(PartialEq, Eq, Debug)]
    struct Pages(u64, u64);

    impl Stretch for Pages {
        fn first(&self) -> Pfn {
            Pfn::new(self.0)
        }
        fn count(&self) -> u64 {
            self.1
        }
    }

    const RAM: BackingId = BackingId(1);
    const ROM: BackingId = BackingId(2);

    fn backings() -> Backings<Pages> {
        let mut backings = Backings::default();
        assert_eq!(backings.insert(RAM, 4, Pages(100, 3)), Ok(()));
        assert_eq!(backings.insert(ROM, 0, Pages(200, 1)), Ok(()));
        backings
    }

    #[test]
    fn each_page_is_found_with_what_follows_it() {
        let backings = backings();
        let found = [3, 4, 6, 7].map(|page| backings.find(RAM, page).map(|(page, rest)| (page.raw(), rest)));
        assert_eq!(found, [None, Some((100, 3)), Some((102, 1)), None]);
        assert_eq!(backings.find(ROM, 0), Some((Pfn::new(200), 1)));
        assert_eq!((backings.find(ROM, 4), backings.find(BackingId(0), 4)), (None, None));
    }

    #[test]
    fn a_page_is_entered_once() {
        let mut backings = backings();
        for (page, count, is_free) in [(0, 4, true), (0, 5, false), (6, 1, false), (7, 9, true), (0, u64::MAX, false)] {
            assert_eq!(backings.is_free(RAM, page, count), is_free, "{page} {count}");
        }
        assert_eq!(backings.insert(RAM, 6, Pages(300, 2)), Err(Pages(300, 2)));
        assert_eq!(backings.insert(RAM, u64::MAX, Pages(300, 2)), Err(Pages(300, 2)));
        assert_eq!(backings.insert(RAM, 7, Pages(300, 2)), Ok(()));
    }

    #[test]
    fn what_is_taken_out_is_gone() {
        let mut backings = backings();
        assert_eq!(backings.remove(RAM, 5), None, "a stretch is taken out as a whole");
        assert_eq!(backings.remove(RAM, 4), Some(Pages(100, 3)));
        assert!(backings.is_free(RAM, 0, 100));
        backings.iter_mut().for_each(|pages| pages.0 += 1);
        assert!(backings.take_all().eq([Pages(201, 1)]));
        assert!(backings.is_free(ROM, 0, 1));
    }
}
