//! The ledger: 64 bits for each page of RAM, which say who owns it and who borrows it.
//!
//! The entries of all banks lie one behind the other in one slice. An entry that is zero is a page that the host owns
//! alone, so that fresh zeroed memory is a ledger in which everything is the host's. An entry changes only under the lock
//! of the page's owner, and when the owner changes under both locks; reading one without gives a value that was true a
//! moment ago.

use crate::page_range::PageRange;
use crate::state::PageState;
use abi::boot::MAX_MEMORY_BANKS;
use abi::{PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use core::fmt;
use core::sync::atomic::AtomicU64;

/// Why a ledger cannot be made, or is not the one that a boot must start from. Hyp's or the loader's fault, never the
/// host's: nobody else has run yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LedgerError {
    /// The banks are not sorted, overlap, are empty or not page aligned, or are too many.
    BadBanks,
    /// The storage has fewer entries than RAM has pages.
    TooSmall {
        /// Pages of RAM.
        pages: u64,
    },
    /// The carve-out is not page aligned or not wholly in one bank.
    BadCarveOut,
    /// This page's entry is not what the page's place inside or outside the carve-out asks for.
    Unexpected {
        /// The page.
        page: Pfn,
        /// Its entry.
        state: PageState,
    },
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LedgerError::BadBanks => f.write_str("banks of memory are malformed"),
            LedgerError::TooSmall { pages } => write!(f, "no room for {pages} pages of RAM"),
            LedgerError::BadCarveOut => f.write_str("the carve-out is not page-aligned RAM"),
            LedgerError::Unexpected { page, state } => write!(f, "page {page} does not start as it must: {state}"),
        }
    }
}

/// RAM without a hole in it, with its entries.
#[derive(Clone, Copy)]
struct Bank {
    first: Pfn,
    entries: &'static [AtomicU64],
}

impl Bank {
    const NONE: Self = Self { first: Pfn::new(0), entries: &[] };

    fn range(&self) -> PhysRange {
        PageRange::new(self.first, self.entries).map_or(PhysRange::default(), |pages| pages.bytes())
    }
}

/// Where a bank is, and where its entries begin.
#[derive(Clone, Copy, Default)]
struct Place {
    range: PhysRange,
    first_entry: usize,
}

impl Place {
    /// How many pages there are.
    const fn pages(&self) -> u64 {
        self.range.size() / PAGE_SIZE
    }
}

/// The ledger of all RAM.
pub struct Ledger {
    banks: [Bank; MAX_MEMORY_BANKS],
    bank_count: usize,
}

impl Ledger {
    /// Opens the ledger of a machine whose RAM is `memory` (sorted, disjoint, page aligned; banks that touch count as
    /// one), with `storage` for the entries: zeroed, one word a page. The pages of `carve_out` become hyp's. Then every
    /// entry is read back, which proves that every other page is the host's.
    pub fn new(memory: &[PhysRange], storage: &'static mut [u64], carve_out: PhysRange) -> Result<Self, LedgerError> {
        let mut places = [Place::default(); MAX_MEMORY_BANKS];
        let bank_count = lay_out(memory, &mut places)?;
        let places = places.get(..bank_count).unwrap_or(&[]);
        let pages: u64 = places.iter().map(Place::pages).sum();
        let length = usize::try_from(pages).map_err(|_| LedgerError::TooSmall { pages })?;
        let storage = storage.get_mut(..length).ok_or(LedgerError::TooSmall { pages })?;

        let bank = places.iter().find(|bank| bank.range.contains_range(&carve_out));
        let aligned = carve_out.start.is_aligned(PAGE_SIZE) && carve_out.end.is_aligned(PAGE_SIZE);
        let (Some(bank), true, false) = (bank, aligned, carve_out.is_empty()) else {
            return Err(LedgerError::BadCarveOut);
        };
        let offset = carve_out.start.raw() - bank.range.start.raw();
        let first_taken = bank.first_entry + (offset / PAGE_SIZE) as usize;
        let taken = (carve_out.size() / PAGE_SIZE) as usize;
        let hyps = storage.get_mut(first_taken..first_taken + taken).ok_or(LedgerError::BadCarveOut)?;
        hyps.fill(PageState::Hyp.encode());

        verify(storage, first_taken, taken).map_err(|(entry, bits)| LedgerError::Unexpected {
            page: page_of(places, entry),
            state: PageState::decode(bits),
        })?;

        // SAFETY: `storage` is the only reference to this memory, for all time, and is given up here. AtomicU64 has
        // the size, alignment and bit validity of u64 on every target that this crate is built for.
        let entries: &'static [AtomicU64] = unsafe { &*(core::ptr::from_mut(storage) as *const [AtomicU64]) };
        let mut banks = [Bank::NONE; MAX_MEMORY_BANKS];
        for (bank, place) in banks.iter_mut().zip(places) {
            let behind = entries.get(place.first_entry..).unwrap_or(&[]);
            let entries = behind.get(..place.pages() as usize).unwrap_or(&[]);
            *bank = Bank { first: Pfn::containing(place.range.start), entries };
        }
        Ok(Self { banks, bank_count })
    }

    /// RAM, bank by bank in rising order; banks that touch are one.
    pub fn banks(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.banks.iter().take(self.bank_count).map(Bank::range)
    }

    /// The bank of RAM that `address` lies in, or `None` where it is no RAM.
    pub fn bank_of(&self, address: PhysAddr) -> Option<PhysRange> {
        self.banks().find(|bank| bank.contains(address))
    }

    /// True where `range` has a byte of RAM in it.
    pub fn overlaps_memory(&self, range: &PhysRange) -> bool {
        self.banks().any(|bank| bank.overlaps(range))
    }

    /// Makes sure that `count` pages from `first` are all RAM, without a hole; `None` where one is not, where there is
    /// no page, or where the numbers wrap.
    pub fn pages(&self, first: Pfn, count: u64) -> Option<PageRange> {
        let count = usize::try_from(count).ok()?;
        self.banks.iter().take(self.bank_count).find_map(|bank| {
            // A page before the bank has an index far behind it.
            let index = usize::try_from(first.raw().wrapping_sub(bank.first.raw())).ok()?;
            PageRange::new(first, bank.entries.get(index..)?.get(..count)?)
        })
    }

    /// What the ledger says of one page; `None` where it is no RAM.
    pub fn state(&self, page: Pfn) -> Option<PageState> {
        self.pages(page, 1)?.states().next()
    }
}

/// Sorts the memory ranges into banks, joining those that touch; the number of banks.
fn lay_out(memory: &[PhysRange], banks: &mut [Place]) -> Result<usize, LedgerError> {
    let mut bank_count = 0_usize;
    let mut entry = 0_usize;
    let mut end = PhysAddr::new(0);
    for range in memory {
        let aligned = range.start.is_aligned(PAGE_SIZE) && range.end.is_aligned(PAGE_SIZE);
        if range.is_empty() || !aligned || range.start < end {
            return Err(LedgerError::BadBanks);
        }
        let last = bank_count.checked_sub(1).and_then(|last| banks.get_mut(last));
        match last {
            Some(bank) if bank.range.end == range.start => bank.range.end = range.end,
            _ => {
                let bank = banks.get_mut(bank_count).ok_or(LedgerError::BadBanks)?;
                *bank = Place { range: *range, first_entry: entry };
                bank_count += 1;
            }
        }
        end = range.end;
        let pages = usize::try_from(range.size() / PAGE_SIZE).map_err(|_| LedgerError::BadBanks)?;
        entry = entry.checked_add(pages).ok_or(LedgerError::BadBanks)?;
    }
    Ok(bank_count)
}

/// The page of an entry; page 0 for an entry that there is not.
fn page_of(banks: &[Place], entry: usize) -> Pfn {
    let bank = banks.iter().rev().find(|bank| bank.first_entry <= entry);
    bank.map_or(Pfn::new(0), |bank| {
        let index = (entry - bank.first_entry) as u64;
        Pfn::new(Pfn::containing(bank.range.start).raw() + index)
    })
}

/// Proves that the `taken` entries from `first_taken` are hyp's and all others zero; otherwise gives the first entry
/// that is not, with its bits.
fn verify(entries: &[u64], first_taken: usize, taken: usize) -> Result<(), (usize, u64)> {
    const HYP: u64 = PageState::Hyp.encode();
    const HOST: u64 = PageState::HOST_ALONE.encode();
    let (before, rest) = entries.split_at_checked(first_taken).unwrap_or((entries, &[]));
    let (hyps, after) = rest.split_at_checked(taken).unwrap_or((rest, &[]));
    let found = first_other::<HOST>(before, 0)
        .or_else(|| first_other::<HYP>(hyps, first_taken))
        .or_else(|| first_other::<HOST>(after, first_taken.saturating_add(taken)));
    found.map_or(Ok(()), Err)
}

/// The first of the entries that is not `EXPECTED`: its index, counted from `base`, and its bits.
///
/// Every boot runs this over the whole ledger, so it looks at sixteen words a step and asks only whether any of them
/// differs.
fn first_other<const EXPECTED: u64>(entries: &[u64], base: usize) -> Option<(usize, u64)> {
    const STEP: usize = 16;
    let steps = entries.chunks_exact(STEP);
    let rest = steps.remainder();
    let differs = |step: &[u64]| step.iter().fold(0, |difference, entry| difference | (entry ^ EXPECTED)) != 0;
    let skipped = match steps.clone().position(differs) {
        Some(step) => step * STEP,
        None if differs(rest) => entries.len() - rest.len(),
        None => return None,
    };
    let (index, bits) = entries.iter().copied().enumerate().skip(skipped).find(|(_, bits)| *bits != EXPECTED)?;
    Some((base.saturating_add(index), bits))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;
    use std::{format, vec};

    const CARVE_OUT: PhysRange = range(0x4010_0000, 0x4012_0000);

    const fn range(start: u64, end: u64) -> PhysRange {
        PhysRange { start: PhysAddr::new(start), end: PhysAddr::new(end) }
    }

    fn storage(pages: usize) -> &'static mut [u64] {
        Vec::leak(vec![0; pages])
    }

    fn page(address: u64) -> Pfn {
        Pfn::containing(PhysAddr::new(address))
    }

    #[test]
    fn everything_starts_as_the_hosts_but_the_carve_out() {
        let memory = [range(0x4000_0000, 0x4020_0000), range(0x8000_0000, 0x8001_0000)];
        let ledger = Ledger::new(&memory, storage(0x210), CARVE_OUT).unwrap();
        for (address, expected) in [
            (0x4000_0000, Some(PageState::HOST_ALONE)),
            (0x400f_f000, Some(PageState::HOST_ALONE)),
            (0x4010_0000, Some(PageState::Hyp)),
            (0x4011_f000, Some(PageState::Hyp)),
            (0x4012_0000, Some(PageState::HOST_ALONE)),
            (0x401f_f000, Some(PageState::HOST_ALONE)),
            (0x4020_0000, None),
            (0x7fff_f000, None),
            (0x8000_f000, Some(PageState::HOST_ALONE)),
            (0x8001_0000, None),
            (0x3fff_f000, None),
        ] {
            assert_eq!(ledger.state(page(address)), expected, "{address:#x}");
        }
    }

    #[test]
    fn the_walk_finds_a_single_wrong_entry_anywhere() {
        let memory = [range(0x4000_0000, 0x4020_7000)];
        for entry in 0..0x207_usize {
            let address = 0x4000_0000 + entry as u64 * PAGE_SIZE;
            if CARVE_OUT.contains(PhysAddr::new(address)) {
                continue;
            }
            let storage = storage(0x207);
            storage[entry] = PageState::Hyp.encode();
            let error = Ledger::new(&memory, storage, CARVE_OUT).err();
            assert_eq!(error, Some(LedgerError::Unexpected { page: page(address), state: PageState::Hyp }));
        }
        assert_eq!(verify(&[0, 1, 0, 0], 1, 2), Err((2, 0)));
        assert_eq!(verify(&[0, 1, 1, 4], 1, 2), Err((3, 4)));
    }

    #[test]
    fn wrong_entries_that_are_alike_do_not_hide_each_other() {
        let hyps = 20..24;
        let mut entries = [0; 40];
        entries[hyps.clone()].fill(PageState::Hyp.encode());
        let verify = |entries: &[u64]| verify(entries, hyps.start, hyps.len());
        assert_eq!(verify(&entries), Ok(()));
        for (first, second) in [(3, 9), (16, 19), (21, 22), (24, 39)] {
            let mut entries = entries;
            [entries[first], entries[second]] = [4; 2];
            assert_eq!(verify(&entries), Err((first, 4)));
        }
    }

    #[test]
    fn a_wrong_entry_is_named_by_its_page_whichever_bank_it_is_in() {
        let memory = [range(0x4000_0000, 0x4020_0000), range(0x8000_0000, 0x8001_0000)];
        let storage = storage(0x210);
        storage[0x203] = PageState::Hyp.encode();
        let error = Ledger::new(&memory, storage, CARVE_OUT).err().unwrap();
        assert_eq!(error, LedgerError::Unexpected { page: page(0x8000_3000), state: PageState::Hyp });
        assert_eq!(format!("{error}"), "page 0x80003 does not start as it must: hyp");
    }

    #[test]
    fn malformed_banks_are_refused() {
        for memory in [
            &[range(0x4000_0000, 0x4000_0000)][..],
            &[range(0x4000_0800, 0x4020_0000)],
            &[range(0x4000_0000, 0x4020_0800)],
            &[range(0x4000_0000, 0x4020_0000), range(0x401f_f000, 0x4030_0000)],
            &[range(0x5000_0000, 0x5020_0000), range(0x4000_0000, 0x4020_0000)],
        ] {
            assert_eq!(Ledger::new(memory, storage(0x400), CARVE_OUT).err(), Some(LedgerError::BadBanks));
        }
        let too_many: Vec<_> = (0..MAX_MEMORY_BANKS as u64 + 1).map(|i| range(i << 21, (i << 21) + 0x1000)).collect();
        assert_eq!(Ledger::new(&too_many, storage(0x400), CARVE_OUT).err(), Some(LedgerError::BadBanks));
    }

    #[test]
    fn storage_and_carve_out_must_fit() {
        let memory = [range(0x4000_0000, 0x4020_0000)];
        let error = |storage, carve_out| Ledger::new(&memory, storage, carve_out).err();
        assert_eq!(error(storage(0x1ff), CARVE_OUT), Some(LedgerError::TooSmall { pages: 0x200 }));
        for bad in [range(0x4010_0000, 0x4020_1000), range(0x3fff_f000, 0x4000_1000), range(0x4010_0800, 0x4011_0000)] {
            assert_eq!(error(storage(0x200), bad), Some(LedgerError::BadCarveOut));
        }
        assert_eq!(error(storage(0x200), range(0x4010_0000, 0x4010_0000)), Some(LedgerError::BadCarveOut));
    }

    #[test]
    fn holes_ends_and_wrapping_ranges_hold_no_pages() {
        let memory =
            [range(0x4000_0000, 0x4020_0000), range(0x4020_0000, 0x4040_0000), range(0x8000_0000, 0x8010_0000)];
        let ledger = Ledger::new(&memory, storage(0x500), CARVE_OUT).unwrap();
        assert!(ledger.pages(page(0x4000_0000), 0x400).is_some(), "banks that touch are one");
        for (first, count) in [
            (page(0x4000_0000), 0x401),
            (page(0x4000_0000), 0),
            (page(0x3fff_f000), 2),
            (page(0x403f_f000), 2),
            (page(0x4000_0000), u64::MAX),
            (page(0x4000_0000), 1 << 52),
            (page(0x4000_0000), (1 << 52) - 0x40000),
            (Pfn::new(u64::MAX), 1),
            (Pfn::new(u64::MAX), 2),
            (Pfn::new(1 << 52 | 0x40000), 1),
            (page(0x5000_0000), 1),
        ] {
            assert_eq!(ledger.pages(first, count), None, "{first} {count:#x}");
        }
    }

    #[test]
    fn a_change_touches_one_entry() {
        let memory = [range(0x4000_0000, 0x4020_0000)];
        let ledger = Ledger::new(&memory, storage(0x200), CARVE_OUT).unwrap();
        let pages = ledger.pages(page(0x4000_1000), 3).unwrap();
        pages.part(1, 1).set_run(PageState::Hyp);
        let states: Vec<_> = pages.states().map(|state| format!("{state}")).collect();
        assert_eq!(states, ["host", "hyp", "host"]);
        assert_eq!(pages.bytes(), range(0x4000_1000, 0x4000_4000));
    }
}
