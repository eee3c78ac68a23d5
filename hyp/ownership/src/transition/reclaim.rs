//! What the host takes back from a guest that does not give it: from a dying one its pages, the pages donated for its
//! tables, and the tables; and from a living one pages by force.

use super::locks::HostAndGuest;
use super::{Call, Scene, wipe_all};
use crate::annotation::{Absence, Holder};
use crate::environment::Environment;
use crate::guest_memory::{GuestAccount, GuestLock, GuestMemory};
use crate::ownership::{Ownership, table_error};
use crate::page_range::PageRange;
use crate::reserve::missing_tables;
use crate::state::{GuestUse, PageState, VmSlot};
use abi::{Error, Gfn, Ipa, PAGE_SIZE, Pfn};
use core::ops::Range;
use pgtable::TableFrames;
use pgtable::geometry::LAST_LEVEL;

/// Proof that the host may take these pages from the guest.
struct ToBeTaken(PageRange);

/// Refuses a page that the guest in `slot` neither owns nor has on loan, or that another guest borrows of it.
fn check_taking(state: PageState, from: VmSlot) -> Result<(), Error> {
    match state {
        PageState::Guest { slot, usage: GuestUse::SharedWithGuest(_), .. } if slot == from => Err(Error::Busy),
        PageState::Guest { slot, .. } | PageState::LentToGuest { slot, .. } if slot == from => Ok(()),
        _ => Err(Error::NotYours),
    }
}

/// Where a guest has a page that is its own or lent to it.
const fn frame_of(state: PageState) -> Option<Gfn> {
    match state {
        PageState::Guest { gfn, .. } | PageState::LentToGuest { gfn, .. } => Some(gfn),
        PageState::Host { .. } | PageState::Hyp => None,
    }
}

/// Calls `visit` with the address and size of each run of frames that follow each other as the pages do.
fn for_each_run(pages: &PageRange, mut visit: impl FnMut(Ipa, u64)) {
    let mut run = 0..0_u64;
    for ipa in pages.states().filter_map(frame_of).filter_map(Gfn::checked_address) {
        if ipa.raw() == run.end && !run.is_empty() {
            run.end = run.end.saturating_add(PAGE_SIZE);
        } else {
            if !run.is_empty() {
                visit(Ipa::new(run.start), run.end.saturating_sub(run.start));
            }
            run = ipa.raw()..ipa.raw().saturating_add(PAGE_SIZE);
        }
    }
    if !run.is_empty() {
        visit(Ipa::new(run.start), run.end.saturating_sub(run.start));
    }
}

impl Ownership {
    /// The host takes `count` pages of a dying protected guest, wiped, whoever has them by its will: all but what another
    /// guest borrows. Pages that the host lent to the guest come back so too.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::Busy`] where the guest is not dying, or another guest borrows a
    /// page; [`Error::NotYours`] where a page is not the guest's; [`Error::OutOfMemory`] where there is no frame for a
    /// table of the host's stage 2.
    pub fn reclaim<E: Environment>(&self, env: &mut E, guest: &GuestLock, first: Pfn, count: u64) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::Reclaim { slot: locks.guest.slot(), first, count },
            |scene| {
                let pages = self.named_pages(first, count)?;
                if !scene.locks.guest.is_dying() {
                    return Err(Error::Busy);
                }
                scene.check_taking(pages)
            },
            |scene, taken| {
                let Scene { locks, env, .. } = scene;
                locks.guest.unmap_dying(env.environment(), &taken.0);
                scene.take(taken);
            },
        )
    }

    /// The host takes `count` pages of a living protected guest by force, wiped. The guest never sees that as memory full
    /// of zeroes: its frames stay unusable, and an access to one of them is reported.
    ///
    /// # Errors
    /// As [`reclaim`](Self::reclaim), but [`Error::VmGone`] where the guest is dying, [`Error::WrongState`] where it is
    /// not protected; [`Error::OutOfMemory`] also where the guest's cache is too small to split its blocks.
    pub fn force_reclaim<E: Environment>(
        &self,
        env: &mut E,
        guest: &GuestLock,
        first: Pfn,
        count: u64,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::ForceReclaim { slot: locks.guest.slot(), first, count },
            |scene| {
                let pages = self.named_pages(first, count)?;
                scene.locks.guest.check_living(true)?;
                let taken = scene.check_taking(pages)?;
                scene.locks.guest.check_splitting(&scene.env, &taken.0)?;
                Ok(taken)
            },
            |scene, taken| {
                let Scene { locks, env, .. } = scene;
                for_each_run(&taken.0, |start, size| {
                    locks.guest.make_absent(env.environment(), start, size, Absence::Poisoned);
                });
                scene.take(taken);
            },
        )
    }

    /// The host gives `count` pages to hyp for the tables of a guest, dying or not: to the vCPU that pays.
    ///
    /// # Errors
    /// As [`host_donate_hyp`](Self::host_donate_hyp).
    pub fn top_up<'g, E: Environment>(
        &self,
        env: &mut E,
        guest: impl Into<GuestAccount<'g>>,
        first: Pfn,
        count: u64,
    ) -> Result<(), Error> {
        self.host_donate_hyp(env, first, count)?;
        let mut guest = guest.into().lock();
        for page in (0..count).filter_map(|index| first.checked_add(index)?.checked_address()) {
            guest.cache.add(env, page);
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
            let Some(page) = GuestAccount::from(guest).lock().cache.take(env) else { return Ok(drained) };
            if let Err(error) = self.hyp_donate_host(env, Pfn::containing(page), 1) {
                guest.lock().cache.put_back(env, page);
                return Err(error);
            }
            drained = drained.saturating_add(1);
        }
    }
}

impl<E: Environment> Scene<'_, HostAndGuest<'_>, E> {
    fn check_taking(&mut self, pages: PageRange) -> Result<ToBeTaken, Error> {
        let from = self.locks.guest.slot();
        pages.check(|state| check_taking(state, from))?;
        self.env.reserve_for_host(&self.locks.host, &pages.bytes())?;
        Ok(ToBeTaken(pages))
    }

    /// Gives pages to the host that the guest cannot reach any more, wiped.
    fn take(&mut self, ToBeTaken(pages): ToBeTaken) {
        let Self { locks: HostAndGuest { host, guest }, env, .. } = self;
        // What the guest shared with the host, or lent it, goes too, before it is wiped.
        host.note_holder(env, pages.bytes(), Holder::Guest(guest.slot()));
        wipe_all(env.environment(), &pages);
        guest.offers.forget(|offer| pages.contains(offer.page.first()));
        pages.set_run(PageState::HOST_ALONE);
        host.note_holder(env, pages.bytes(), Holder::Host);
        guest.pages_held = guest.pages_held.saturating_sub(pages.count());
    }
}

impl GuestMemory {
    /// Unmaps pages from their dying owner, with the whole of every leaf that they are in: the guest does not run any
    /// more, and so no block has to be split. Leaves that follow each other go together.
    fn unmap_dying<E: Environment>(&mut self, env: &mut E, pages: &PageRange) {
        let mut run = 0..0_u64;
        for ipa in pages.states().filter_map(frame_of).filter_map(Gfn::checked_address) {
            if run.contains(&ipa.raw()) {
                continue;
            }
            let Ok(leaf) = self.stage2.find(env, ipa) else { continue };
            if !leaf.is_valid() {
                continue;
            }
            let (start, end) = (leaf.base.raw(), leaf.base.raw().saturating_add(leaf.size));
            if start == run.end && !run.is_empty() {
                run.end = end;
            } else {
                self.forget_run(env, &run);
                run = start..end;
            }
        }
        self.forget_run(env, &run);
    }

    fn forget_run<E: Environment>(&mut self, env: &mut E, run: &Range<u64>) {
        if !run.is_empty() {
            self.forget_range(env, Ipa::new(run.start), run.end.saturating_sub(run.start));
        }
    }

    /// Refuses where the cache may be too small for the tables that it takes to change the frames of these pages alone. A
    /// block of 2 MiB that is cut in several places counts once, if they come one after the other.
    fn check_splitting<F: TableFrames>(&self, env: &F, pages: &PageRange) -> Result<(), Error> {
        let mut tables = 0_usize;
        let mut last_cut: Option<Ipa> = None;
        let mut count = |start: u64, end: u64| {
            let mut next = start;
            while next < end {
                let leaf = self.stage2.find(env, Ipa::new(next))?;
                let rest = leaf.base.raw().saturating_add(leaf.size);
                let missing = missing_tables(next, end.min(rest), leaf.level, leaf.level);
                if missing != 0 && last_cut != Some(leaf.base) {
                    tables = tables.saturating_add(missing);
                    // A larger block may lack a table at each cut.
                    last_cut = (leaf.level.saturating_add(1) == LAST_LEVEL).then_some(leaf.base);
                }
                next = rest;
            }
            Ok(())
        };
        let mut outcome = Ok(());
        for_each_run(pages, |start, size| {
            if outcome.is_ok() {
                outcome = count(start.raw(), start.raw().saturating_add(size));
            }
        });
        outcome.map_err(table_error)?;
        if tables as u64 > self.cache.available() { Err(Error::OutOfMemory) } else { Ok(()) }
    }
}
