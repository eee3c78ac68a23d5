//! What a protected guest does with a page that it has, by a call of its own, and that concerns the host.

use super::guest_tables::Frames;
use super::locks::HostAndGuest;
use super::{Call, Scene, must_be_done, page_at, wipe_all};
use crate::annotation::{Absence, Holder};
use crate::environment::Environment;
use crate::guest_memory::{GuestAccount, GuestLock, GuestMemory, Software};
use crate::ledger::Ledger;
use crate::ownership::{HostMemory, Ownership, host_ipa};
use crate::page_range::PageRange;
use crate::reserve::ReservedFrames;
use crate::state::{GuestUse, PageState, VmSlot};
use abi::{Error, Gfn, PAGE_SIZE, Pfn, PhysRange};
use pgtable::{MapOptions, Stage2Attributes, Stage2Execute, TableFrames};

/// Proof that a guest has this page at this frame, and may do with it what it asks for.
pub(super) struct GuestsPage {
    pub(super) frames: Frames,
    pub(super) page: PageRange,
    pub(super) slot: VmSlot,
    pub(super) gfn: Gfn,
}

impl GuestsPage {
    /// The page's state with the guest as its owner.
    pub(super) fn state(&self, usage: GuestUse) -> PageState {
        PageState::Guest { slot: self.slot, gfn: self.gfn, usage }
    }
}

impl GuestMemory {
    /// The memory that this guest, living and protected, has at a frame, with what the ledger says of it.
    pub(super) fn find<F: TableFrames>(
        &self,
        env: &F,
        ledger: &Ledger,
        gfn: Gfn,
    ) -> Result<(GuestsPage, PageState), Error> {
        let frames = self.named_frames(gfn, 1)?;
        self.check_living(true)?;
        let address = self.page_at(env, frames)?;
        let page = ledger.pages(page_at(address), 1).ok_or(Error::NotMemory)?;
        let state = page.states().next().ok_or(Error::NotMemory)?;
        Ok((GuestsPage { frames, page, slot: self.slot(), gfn }, state))
    }

    /// The page of this guest's own at a frame, which must be used as the transition wants it.
    pub(super) fn find_own<F: TableFrames>(
        &self,
        env: &F,
        ledger: &Ledger,
        gfn: Gfn,
        wanted: GuestUse,
    ) -> Result<GuestsPage, Error> {
        match self.find(env, ledger, gfn)? {
            (found, PageState::Guest { slot, gfn: at, usage }) if slot == found.slot && at == gfn => {
                if usage == wanted { Ok(found) } else { Err(Error::WrongState) }
            }
            _ => Err(Error::NotYours),
        }
    }
}

impl HostMemory {
    /// Maps what the host borrows. The frames for it were put aside.
    fn borrow<E: Environment>(
        &mut self,
        env: &mut ReservedFrames<'_, E>,
        bytes: PhysRange,
        attributes: Stage2Attributes,
    ) {
        let attributes = attributes.with_software(Software::Borrowed.bits());
        let over_annotation = MapOptions { replace_annotations: true, ..MapOptions::default() };
        let start = host_ipa(bytes.start);
        must_be_done(self.stage2.map(env, start, bytes.start, bytes.size(), attributes, over_annotation));
    }
}

impl<E: Environment> Scene<'_, HostAndGuest<'_>, E> {
    /// The guest's own page at a frame, with the frames put aside that it takes to change the host's stage 2 for it.
    fn find_own(&mut self, gfn: Gfn, wanted: GuestUse) -> Result<GuestsPage, Error> {
        let found = self.locks.guest.find_own(&self.env, &self.ownership.ledger, gfn, wanted)?;
        self.env.reserve_for_host(&self.locks.host, &found.page.bytes())?;
        Ok(found)
    }

    /// Refuses where the guest's cache is too small to change the page's frame alone.
    fn check_frame(&self, found: &GuestsPage, software: Software) -> Result<(), Error> {
        self.locks.guest.check_mapped(&self.env, found.frames, software, Error::NotMemory).map(drop)
    }

    /// Takes a page out of the guest and gives it to the host, wiped.
    fn give_back(&mut self, found: &GuestsPage) -> Pfn {
        let Self { locks, env, .. } = self;
        locks.guest.unmap(env.environment(), found.frames);
        wipe_all(env.environment(), &found.page);
        found.page.set_run(PageState::HOST_ALONE);
        locks.host.note_holder(env, found.page.bytes(), Holder::Host);
        found.page.first()
    }
}

impl Ownership {
    /// A protected guest lets the host read and write, but not execute, the page at `gfn`.
    ///
    /// # Errors
    /// [`Error::BadRange`]; [`Error::NotMemory`] where the guest has no memory there (yet); [`Error::VmGone`] where it
    /// is dying; [`Error::WrongState`] where it is not protected, the page is not the guest's alone, or was taken from it;
    /// [`Error::NotYours`] where it only borrows the page; [`Error::OutOfMemory`] where there is no frame for a table of
    /// the host's stage 2.
    pub fn guest_share_host<E: Environment>(&self, env: &mut E, guest: &GuestLock, gfn: Gfn) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::GuestShareHost { slot: locks.guest.slot(), gfn },
            |scene| scene.find_own(gfn, GuestUse::Alone),
            |scene, found| {
                found.page.set_run(found.state(GuestUse::SharedWithHost));
                let data = Stage2Attributes { execute: Stage2Execute::None, ..Stage2Attributes::memory() };
                scene.locks.host.borrow(&mut scene.env, found.page.bytes(), data);
            },
        )
    }

    /// A protected guest takes the page at `gfn` back, which the host cannot reach any more on return.
    ///
    /// # Errors
    /// As [`guest_share_host`](Self::guest_share_host), but [`Error::WrongState`] where the page is not shared.
    pub fn guest_unshare_host<E: Environment>(&self, env: &mut E, guest: &GuestLock, gfn: Gfn) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::GuestUnshareHost { slot: locks.guest.slot(), gfn },
            |scene| scene.find_own(gfn, GuestUse::SharedWithHost),
            |scene, found| {
                scene.locks.host.note_holder(&mut scene.env, found.page.bytes(), Holder::Guest(found.slot));
                found.page.set_run(found.state(GuestUse::Alone));
            },
        )
    }

    /// A protected guest lends the page at `gfn` to the host, which may do all with it until it gives it back; the guest
    /// may do nothing.
    ///
    /// # Errors
    /// As [`guest_share_host`](Self::guest_share_host); [`Error::OutOfMemory`] also where a block must be split and the
    /// guest's cache is empty.
    pub fn guest_lend_host<'g, E: Environment>(
        &self,
        env: &mut E,
        guest: impl Into<GuestAccount<'g>>,
        gfn: Gfn,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::GuestLendHost { slot: locks.guest.slot(), gfn },
            |scene| {
                let found = scene.find_own(gfn, GuestUse::Alone)?;
                scene.check_frame(&found, Software::Owned)?;
                Ok(found)
            },
            |scene, found| {
                let Scene { locks, env, .. } = scene;
                let lent = Absence::LentToHost(found.page.first());
                locks.guest.make_absent(env.environment(), found.frames.start(), PAGE_SIZE, lent);
                found.page.set_run(found.state(GuestUse::LentToHost));
                locks.host.borrow(env, found.page.bytes(), Stage2Attributes::memory());
            },
        )
    }

    /// A protected guest returns the page at `gfn` to the host, which had lent it, wiped. Returns the page.
    ///
    /// # Errors
    /// As [`guest_lend_host`](Self::guest_lend_host), but [`Error::WrongState`] for every page that is not on loan from
    /// the host.
    pub fn guest_return<'g, E: Environment>(
        &self,
        env: &mut E,
        guest: impl Into<GuestAccount<'g>>,
        gfn: Gfn,
    ) -> Result<Pfn, Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::GuestReturn { slot: locks.guest.slot(), gfn },
            |scene| {
                let (found, state) = scene.locks.guest.find(&scene.env, &self.ledger, gfn)?;
                if state != (PageState::LentToGuest { slot: found.slot, gfn }) {
                    return Err(Error::WrongState);
                }
                scene.check_frame(&found, Software::Borrowed)?;
                scene.env.reserve_for_host(&scene.locks.host, &found.page.bytes())?;
                Ok(found)
            },
            |scene, found| scene.give_back(&found),
        )
    }

    /// A protected guest gives the page at `gfn` to the host, wiped. Returns the page.
    ///
    /// # Errors
    /// As [`guest_lend_host`](Self::guest_lend_host).
    pub fn guest_relinquish<'g, E: Environment>(
        &self,
        env: &mut E,
        guest: impl Into<GuestAccount<'g>>,
        gfn: Gfn,
    ) -> Result<Pfn, Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::GuestRelinquish { slot: locks.guest.slot(), gfn },
            |scene| {
                let found = scene.find_own(gfn, GuestUse::Alone)?;
                scene.check_frame(&found, Software::Owned)?;
                Ok(found)
            },
            |scene, found| scene.give_back(&found),
        )
    }
}
