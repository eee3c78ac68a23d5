//! Pages that the host donated for a guest's tables: each vCPU's own, and those that are anyone's.
//!
//! The host gives pages to a vCPU. What is done in the name of that vCPU may be paid with them, and no other vCPU can use
//! them up. Pages that come out of tables again are anyone's, since nobody knows any more whose they were; they go first.

use crate::page_cache::PageCache;
use abi::PhysAddr;
use abi::host::MAX_VCPUS;
use pgtable::TableFrames;

/// Whose pages the tables of a call are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payer {
    /// Those that are anyone's, then those of the vCPU of this index.
    Vcpu(u64),
    /// All there are: for calls that name no vCPU.
    Anyone,
}

/// The pages of one guest, and who pays for the call that is being made.
#[derive(Debug)]
pub(crate) struct TablePages {
    vcpus: [PageCache; MAX_VCPUS as usize],
    anyones: PageCache,
    count: u64,
    payer: Payer,
}

impl TablePages {
    /// No pages.
    pub(crate) const fn new() -> Self {
        Self {
            vcpus: [const { PageCache::new() }; MAX_VCPUS as usize],
            anyones: PageCache::new(),
            count: 0,
            payer: Payer::Anyone,
        }
    }

    /// From here on `payer` pays.
    pub(crate) const fn charge(&mut self, payer: Payer) {
        self.payer = payer;
    }

    /// How many pages there are.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// How many pages who pays can use.
    pub(crate) fn available(&self) -> u64 {
        match self.payer {
            Payer::Vcpu(index) => {
                let own = self.vcpus.get(index as usize).map_or(0, PageCache::count);
                own.saturating_add(self.anyones.count())
            }
            Payer::Anyone => self.count,
        }
    }

    /// Adds a page that is hyp's and in no other use, for who pays.
    pub(crate) fn add<E: TableFrames>(&mut self, env: &E, page: PhysAddr) {
        let own = match self.payer {
            Payer::Vcpu(index) => self.vcpus.get_mut(index as usize),
            Payer::Anyone => None,
        };
        own.unwrap_or(&mut self.anyones).push(env, page);
        self.count = self.count.saturating_add(1);
    }

    /// Adds a page that was a table, for anyone.
    pub(crate) fn put_back<E: TableFrames>(&mut self, env: &E, page: PhysAddr) {
        self.anyones.push(env, page);
        self.count = self.count.saturating_add(1);
    }

    /// Takes a page that who pays can use; its contents are arbitrary.
    pub(crate) fn take<E: TableFrames>(&mut self, env: &E) -> Option<PhysAddr> {
        let page = self.anyones.pop(env).or_else(|| match self.payer {
            Payer::Vcpu(index) => self.vcpus.get_mut(index as usize)?.pop(env),
            Payer::Anyone => self.vcpus.iter_mut().find_map(|own| own.pop(env)),
        })?;
        self.count = self.count.saturating_sub(1);
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_cache::tests::Words;

    const PAGES: [PhysAddr; 4] =
        [PhysAddr::new(0x1000), PhysAddr::new(0x2000), PhysAddr::new(0x3000), PhysAddr::new(0x4000)];

    /// Pages for vCPUs 0, 15 and anyone, and one that was a table.
    fn filled(words: &Words) -> TablePages {
        let mut pages = TablePages::new();
        for (payer, page) in [Payer::Vcpu(0), Payer::Vcpu(15), Payer::Anyone].into_iter().zip(PAGES) {
            pages.charge(payer);
            pages.add(words, page);
        }
        pages.charge(Payer::Vcpu(0));
        pages.put_back(words, PAGES[3]);
        pages
    }

    fn take_all(pages: &mut TablePages, words: &Words) -> Vec<PhysAddr> {
        core::iter::from_fn(|| pages.take(words)).collect()
    }

    #[test]
    fn a_vcpu_pays_with_anyones_pages_and_then_with_its_own_but_never_with_anothers() {
        let words = Words::default();
        let mut pages = filled(&words);
        assert_eq!((pages.count(), pages.available()), (4, 3));
        assert_eq!(take_all(&mut pages, &words), [PAGES[3], PAGES[2], PAGES[0]]);
        assert_eq!((pages.count(), pages.available()), (1, 0));
        pages.charge(Payer::Vcpu(1));
        assert_eq!(pages.available(), 0);
        assert_eq!(pages.take(&words), None);
        pages.charge(Payer::Vcpu(15));
        assert_eq!(pages.available(), 1);
        assert_eq!(take_all(&mut pages, &words), [PAGES[1]]);
        assert_eq!(pages.count(), 0);
    }

    #[test]
    fn who_names_no_vcpu_can_use_all() {
        let words = Words::default();
        let mut pages = filled(&words);
        pages.charge(Payer::Anyone);
        assert_eq!(pages.available(), 4);
        assert_eq!(take_all(&mut pages, &words), [PAGES[3], PAGES[2], PAGES[0], PAGES[1]]);
        assert_eq!((pages.count(), pages.available()), (0, 0));
    }

    #[test]
    fn a_vcpu_that_cannot_be_has_what_is_anyones() {
        let words = Words::default();
        let mut pages = filled(&words);
        for index in [MAX_VCPUS, u64::MAX] {
            pages.charge(Payer::Vcpu(index));
            assert_eq!(pages.available(), 2, "{index}");
        }
        pages.add(&words, PhysAddr::new(0x5000));
        assert_eq!(take_all(&mut pages, &words).len(), 3);
        assert_eq!(pages.count(), 2);
    }
}
