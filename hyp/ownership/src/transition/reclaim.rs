//! What the host takes back from a dying guest: its pages, the pages donated for its tables, and the tables.

use super::guest::Parts;
use super::wipe_all;
use crate::annotation;
use crate::environment::Environment;
use crate::guest_memory::GuestLock;
use crate::ledger::PageRange;
use crate::ownership::Ownership;
use crate::state::{Component, PageState};
use abi::{Error, Ipa, Pfn};
use core::ops::Range;

/// Proof that the host may take these pages of a dying guest.
#[must_use]
pub struct Reclaim<'a, E: Environment> {
    parts: Parts<'a, E>,
    pages: PageRange,
}

impl Ownership {
    /// Checks [`reclaim`](Self::reclaim).
    ///
    /// # Errors
    /// As there.
    pub fn check_reclaim<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        guest: &'a GuestLock,
        first: Pfn,
        count: u64,
    ) -> Result<Reclaim<'a, E>, Error> {
        let pages = self.named_pages(first, count)?;
        let mut parts = Parts::lock(self, env, guest);
        if !parts.guest.is_dying() {
            return Err(Error::Busy);
        }
        let dying = parts.guest.slot();
        parts.ledger.check(&pages, |state| match state {
            PageState::Guest { slot, .. } if slot == dying => Ok(()),
            _ => Err(Error::NotYours),
        })?;
        parts.env.reserve_for_host(&parts.host, &pages)?;
        Ok(Reclaim { parts, pages })
    }

    /// The host takes `count` pages of a dying protected guest, wiped, whether the guest shared them with it or not.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::Busy`] where the guest is not dying; [`Error::NotYours`]
    /// where a page is not the guest's; [`Error::OutOfMemory`] where there is no frame for a table of the host's
    /// stage 2.
    pub fn reclaim<E: Environment>(&self, env: &mut E, guest: &GuestLock, first: Pfn, count: u64) -> Result<(), Error> {
        self.check_reclaim(env, guest, first, count)?.commit();
        Ok(())
    }

    /// The host gives `count` pages to hyp for the tables of a guest, dying or not.
    ///
    /// # Errors
    /// As [`host_donate_hyp`](Self::host_donate_hyp).
    pub fn top_up<E: Environment>(&self, env: &mut E, guest: &GuestLock, first: Pfn, count: u64) -> Result<(), Error> {
        self.host_donate_hyp(env, first, count)?;
        let mut guest = guest.lock();
        for page in (0..count).filter_map(|index| first.checked_add(index)?.checked_address()) {
            guest.cache.push(env, page);
        }
        Ok(())
    }

    /// Takes down the tables of a dying guest that holds no page any more, and gives every page that was donated for
    /// them to the host, wiped; only the root is left. Returns how many pages went back. The caller makes sure that
    /// nobody tops the guest up meanwhile.
    ///
    /// # Errors
    /// [`Error::Busy`] where the guest is not dying or holds a page; [`Error::OutOfMemory`] where there is no frame for
    /// a table of the host's stage 2: what has not gone back yet is still in the cache, and the call may be made again.
    pub fn drain<E: Environment>(&self, env: &mut E, guest: &GuestLock) -> Result<u64, Error> {
        {
            let mut guest = guest.lock();
            if !guest.is_dying() || guest.pages_held() != 0 {
                return Err(Error::Busy);
            }
            let size = guest.stage2.geometry().input_size();
            guest.forget_range(env, Ipa::new(0), size);
        }
        let mut drained = 0_u64;
        loop {
            let Some(page) = guest.lock().cache.pop(env) else { return Ok(drained) };
            if let Err(error) = self.hyp_donate_host(env, Pfn::containing(page), 1) {
                guest.lock().cache.push(env, page);
                return Err(error);
            }
            drained = drained.saturating_add(1);
        }
    }
}

impl<E: Environment> Reclaim<'_, E> {
    /// Takes the pages.
    pub fn commit(self) {
        let Self { mut parts, pages } = self;
        parts.unmap_dying(&pages);
        // What the guest shared with the host goes too, before it is wiped.
        let owner = annotation::of_owner(Component::Guest(parts.guest.slot()));
        parts.host.note_owner(&mut parts.env, &pages, owner);
        wipe_all(&mut parts.env, &pages);
        parts.ledger.set_each(&pages, |_| PageState::HOST_ALONE);
        parts.host.note_owner(&mut parts.env, &pages, None);
        parts.guest.pages_held = parts.guest.pages_held.saturating_sub(pages.count());
    }
}

impl<E: Environment> Parts<'_, E> {
    /// Unmaps pages from their dying owner, with the whole of every leaf that they are in: the guest does not run any
    /// more, and so no block has to be split. Leaves that follow each other go together.
    fn unmap_dying(&mut self, pages: &PageRange) {
        let mut run = 0..0_u64;
        for state in self.ledger.states(pages) {
            let PageState::Guest { gfn, .. } = state else { continue };
            let Some(ipa) = gfn.checked_address() else { continue };
            if run.contains(&ipa.raw()) {
                continue;
            }
            let Ok(leaf) = self.guest.stage2.lookup(&self.env, ipa) else { continue };
            if !leaf.is_valid() {
                continue;
            }
            let (start, end) = (leaf.base.raw(), leaf.base.raw().saturating_add(leaf.size));
            if start == run.end && !run.is_empty() {
                run.end = end;
            } else {
                self.unmap_run(&run);
                run = start..end;
            }
        }
        self.unmap_run(&run);
    }

    fn unmap_run(&mut self, run: &Range<u64>) {
        if !run.is_empty() {
            self.guest.forget_range(self.env.environment(), Ipa::new(run.start), run.end - run.start);
        }
    }
}
