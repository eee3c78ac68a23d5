//! Which pages a guest has written.

use alloc::vec;
use alloc::vec::Vec;

/// One bit for each 4 KiB page of a memory slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirtyBitmap {
    words: Vec<u64>,
    pages: u64,
}

impl DirtyBitmap {
    /// A bitmap for `pages` pages, of which none was written. It takes a bit of memory for each.
    pub fn new(pages: u64) -> Self {
        Self { words: vec![0; pages.div_ceil(64) as usize], pages }
    }

    /// How many pages there are.
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Takes note that `page` was written; true where that is news. What is beyond the last page is none.
    pub fn mark(&mut self, page: u64) -> bool {
        let Some((word, bit)) = self.place(page) else { return false };
        let news = self.words[word] & bit == 0;
        self.words[word] |= bit;
        news
    }

    /// True where `page` was written.
    pub fn is_dirty(&self, page: u64) -> bool {
        self.place(page).is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }

    /// The pages that were written, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().zip(0u64..).flat_map(|(word, index)| {
            let mut rest = *word;
            core::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(index * 64 + u64::from(bit))
            })
        })
    }

    /// Gives what was noted until now, and starts anew.
    pub fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new(self.pages))
    }

    fn place(&self, page: u64) -> Option<(usize, u64)> {
        let word = usize::try_from(page / 64).ok()?;
        (page < self.pages).then_some((word, 1 << (page % 64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_noted_once_and_told_in_order() {
        let mut bitmap = DirtyBitmap::new(130);
        for page in [129, 0, 63, 64] {
            assert!(bitmap.mark(page));
            assert!(!bitmap.mark(page), "no news");
            assert!(bitmap.is_dirty(page));
        }
        assert!(!bitmap.is_dirty(1));
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert_eq!(bitmap.take().iter().count(), 4);
        assert_eq!((bitmap.iter().count(), bitmap.pages()), (0, 130));
        assert!(bitmap.mark(63));
    }

    #[test]
    fn what_is_beyond_the_last_page_is_none() {
        let mut bitmap = DirtyBitmap::new(65);
        for page in [65, 127, 128, u64::MAX] {
            assert!(!bitmap.mark(page));
            assert!(!bitmap.is_dirty(page));
        }
        assert_eq!(bitmap.iter().count(), 0);
    }
}
