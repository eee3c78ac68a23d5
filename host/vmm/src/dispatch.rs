//! Finding what lies at an address.

use abi::Ipa;
use alloc::vec::Vec;

/// Why a range cannot be entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError {
    /// It is empty, or ends beyond the address space.
    BadRange,
    /// Another has a byte of it.
    Overlap,
}

/// One range and what lies there; `end` is exclusive.
#[derive(Clone, Debug)]
struct Entry<T> {
    start: Ipa,
    end: Ipa,
    value: T,
}

/// Disjoint ranges of addresses and what lies in each, sorted. It remembers which of them was found last, because
/// consecutive accesses are mostly to the same.
#[derive(Clone, Debug)]
pub struct RangeTable<T> {
    entries: Vec<Entry<T>>,
    last: usize,
}

impl<T> Default for RangeTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> RangeTable<T> {
    /// A table of nothing.
    pub const fn new() -> Self {
        Self { entries: Vec::new(), last: 0 }
    }

    /// Enters `value` for `size` bytes from `start`.
    ///
    /// # Errors
    /// [`RangeError`], and nothing is changed.
    pub fn insert(&mut self, start: Ipa, size: u64, value: T) -> Result<(), RangeError> {
        let end = start.checked_add(size).filter(|_| size != 0).ok_or(RangeError::BadRange)?;
        let at = self.after(start);
        if self.entries.get(at).is_some_and(|next| next.start < end) {
            return Err(RangeError::Overlap);
        }
        self.entries.insert(at, Entry { start, end, value });
        Ok(())
    }

    /// Takes out the range that starts at `start`.
    pub fn remove(&mut self, start: Ipa) -> Option<T> {
        let at = self.after(start);
        self.entries.get(at).filter(|entry| entry.start == start)?;
        Some(self.entries.remove(at).value)
    }

    /// What lies at all `width` bytes from `address`, and how many bytes into its range they start.
    pub fn find(&mut self, address: Ipa, width: u64) -> Option<(&mut T, u64)> {
        let end = address.checked_add(width)?;
        let holds = |entry: &Entry<T>| entry.start <= address && end <= entry.end;
        if !self.entries.get(self.last).is_some_and(holds) {
            let at = self.after(address);
            self.entries.get(at).filter(|entry| holds(entry))?;
            self.last = at;
        }
        let entry = self.entries.get_mut(self.last)?;
        Some((&mut entry.value, address.offset_from(entry.start)?))
    }

    /// What lies at `address`, and how many bytes into its range that is. Nothing is remembered.
    pub fn get(&self, address: Ipa) -> Option<(&T, u64)> {
        let entry = self.entries.get(self.after(address))?;
        Some((&entry.value, address.offset_from(entry.start)?))
    }

    /// What there is, lowest first.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.value)
    }

    /// What there is, lowest first, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|entry| &mut entry.value)
    }

    /// The index of the first entry that ends above `address`.
    fn after(&self, address: Ipa) -> usize {
        self.entries.partition_point(|entry| entry.end <= address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> RangeTable<char> {
        let mut table = RangeTable::new();
        for (start, size, value) in [(0x3000, 0x1000, 'c'), (0x1000, 0x1000, 'a'), (0x2000, 0x800, 'b')] {
            table.insert(Ipa::new(start), size, value).unwrap();
        }
        table
    }

    #[test]
    fn ranges_are_sorted_found_and_removed() {
        let mut table = table();
        assert_eq!(table.values().collect::<alloc::string::String>(), "abc");
        assert_eq!(table.find(Ipa::new(0x27ff), 1), Some((&mut 'b', 0x7ff)));
        assert_eq!(table.get(Ipa::new(0x1234)), Some((&'a', 0x234)));
        assert_eq!(table.get(Ipa::new(0x2800)), None);
        assert_eq!(table.remove(Ipa::new(0x2001)), None);
        assert_eq!(table.remove(Ipa::new(0x2000)), Some('b'));
        assert_eq!(table.find(Ipa::new(0x27ff), 1), None);
        assert_eq!(table.find(Ipa::new(0x3000), 8), Some((&mut 'c', 0)));
        for value in table.values_mut() {
            *value = 'z';
        }
        assert_eq!(table.values().collect::<alloc::string::String>(), "zz");
    }

    #[test]
    fn a_range_that_is_gone_is_not_found_though_it_was_found_last() {
        let mut table = table();
        assert!(table.find(Ipa::new(0x3000), 4).is_some());
        table.remove(Ipa::new(0x3000));
        assert_eq!(table.find(Ipa::new(0x3000), 4), None);
        table.insert(Ipa::new(0x800), 0x10, 'd').unwrap();
        assert_eq!(table.find(Ipa::new(0x1000), 4), Some((&mut 'a', 0)));
    }

    #[test]
    fn overlaps_and_bad_ranges_are_refused() {
        let mut table = table();
        for (start, size) in [(0x800, 0x801), (0x1fff, 1), (0x0, 0x10000), (0x27ff, 0x100), (0x3800, 8)] {
            assert_eq!(table.insert(Ipa::new(start), size, 'x'), Err(RangeError::Overlap), "{start:#x}");
        }
        assert_eq!(table.insert(Ipa::new(0x8000), 0, 'x'), Err(RangeError::BadRange));
        assert_eq!(table.insert(Ipa::new(!0xfff), 0x1001, 'x'), Err(RangeError::BadRange));
        assert_eq!(table.insert(Ipa::new(0x2800), 0x800, 'x'), Ok(()));
    }
}
