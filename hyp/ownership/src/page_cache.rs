//! Lists of pages that tables are made of: those that the host donated for a guest's, and frames that are put aside.
//!
//! The pages form a list through their own first words, so that it takes no memory besides them. Every page in it is hyp's
//! and mapped at EL2.

use crate::environment::Environment;
use crate::table_pages::TablePages;
use abi::{Pfn, PhysAddr, PhysRange};
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};

/// Bit of a page's first word that says that there is a next page, the address of which is in the other bits.
const LINKED: u64 = 1;

/// A list of donated pages.
#[derive(Debug, Default)]
pub struct PageCache {
    first: Option<PhysAddr>,
    count: u64,
}

impl PageCache {
    /// A cache without pages.
    pub const fn new() -> Self {
        Self { first: None, count: 0 }
    }

    /// How many pages there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Adds a page that is hyp's and in no other use.
    pub(crate) fn push<E: TableFrames>(&mut self, env: &E, page: PhysAddr) {
        env.write(page, self.first.map_or(0, |next| next.raw() | LINKED));
        self.first = Some(page);
        self.count = self.count.saturating_add(1);
    }

    /// Takes a page out; its contents are arbitrary.
    pub(crate) fn pop<E: TableFrames>(&mut self, env: &E) -> Option<PhysAddr> {
        let page = self.first?;
        let next = env.read(page);
        self.first = (next & LINKED != 0).then_some(PhysAddr::new(next & !LINKED));
        self.count = self.count.saturating_sub(1);
        Some(page)
    }
}

/// An environment whose table frames come from, and go to, the [`TablePages`] of a guest.
pub(crate) struct CachedFrames<'a, E> {
    env: &'a mut E,
    cache: &'a mut TablePages,
}

impl<'a, E: Environment> CachedFrames<'a, E> {
    pub(crate) fn new(env: &'a mut E, cache: &'a mut TablePages) -> Self {
        Self { env, cache }
    }
}

impl<E: Environment> TableFrames for CachedFrames<'_, E> {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let page = self.cache.take(self.env)?;
        self.env.wipe(Pfn::containing(page));
        Some(page)
    }

    fn free(&mut self, frame: PhysAddr) {
        self.cache.put_back(self.env, frame);
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.env.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.env.write(descriptor, value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.env.compare_exchange(descriptor, current, new)
    }
}

/// Forwards maintenance to the environment within.
macro_rules! forward_to_environment {
    ($name:ident) => {
        impl<E: Environment> Maintenance for $name<'_, E> {
            #[inline]
            fn dsb(&self, kind: DsbKind) {
                self.env.dsb(kind);
            }

            #[inline]
            fn isb(&self) {
                self.env.isb();
            }

            #[inline(always)]
            fn tlbi(&self, operation: Tlbi) {
                self.env.tlbi(operation);
            }

            fn load_vttbr(&self, vttbr: u64) -> u64 {
                self.env.load_vttbr(vttbr)
            }

            fn clean_invalidate_to_poc(&self, range: PhysRange) {
                self.env.clean_invalidate_to_poc(range);
            }

            fn clean_to_pou(&self, range: PhysRange) {
                self.env.clean_to_pou(range);
            }

            fn invalidate_instruction_cache(&self, range: PhysRange) {
                self.env.invalidate_instruction_cache(range);
            }
        }
    };
}
pub(crate) use forward_to_environment;

forward_to_environment!(CachedFrames);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Memory without tables.
    #[derive(Default)]
    pub(crate) struct Words(RefCell<BTreeMap<u64, u64>>);

    impl TableFrames for Words {
        fn allocate(&mut self) -> Option<PhysAddr> {
            None
        }

        fn free(&mut self, frame: PhysAddr) {
            unreachable!("{frame} is freed");
        }

        fn read(&self, descriptor: PhysAddr) -> u64 {
            self.0.borrow().get(&descriptor.raw()).copied().unwrap_or(u64::MAX)
        }

        fn write(&self, descriptor: PhysAddr, value: u64) {
            self.0.borrow_mut().insert(descriptor.raw(), value);
        }

        fn compare_exchange(&self, descriptor: PhysAddr, _current: u64, _new: u64) -> Result<u64, u64> {
            unreachable!("{descriptor} is exchanged");
        }
    }

    #[test]
    fn every_page_comes_out_once_even_the_one_at_address_zero() {
        let words = Words::default();
        let mut cache = PageCache::new();
        let pages = [0x4000_0000, 0, 0x8000_1000, 0xffff_ffff_f000].map(PhysAddr::new);
        for page in pages {
            cache.push(&words, page);
        }
        assert_eq!(cache.count(), 4);
        for page in pages.iter().rev() {
            assert_eq!(cache.pop(&words), Some(*page));
        }
        assert_eq!(cache.pop(&words), None);
        assert_eq!(cache.count(), 0);
    }
}
