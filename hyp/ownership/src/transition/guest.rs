//! From the host to guests.

use super::guest_tables::{Frames, SOFTWARE_BORROWED, SOFTWARE_OWNED};
use super::{check_host_alone, page_at};
use crate::annotation;
use crate::environment::Environment;
use crate::guest_memory::{GuestLock, GuestMemory, Rights};
use crate::ledger::{Ledger, PageRange};
use crate::lock::Guard;
use crate::ownership::{HostMemory, Ownership};
use crate::reserve::ReservedFrames;
use crate::shared_lock::ExclusiveGuard;
use crate::state::{Component, MAX_COUNT, PageState};
use abi::{Error, Gfn, PAGE_SIZE, Pfn};
use pgtable::{Stage2Attributes, Stage2Execute};

/// What all transitions between the host and a guest hold.
pub(super) struct Parts<'a, E: Environment> {
    pub(super) ledger: &'a Ledger,
    pub(super) host: ExclusiveGuard<'a, HostMemory>,
    pub(super) guest: Guard<'a, GuestMemory>,
    pub(super) env: ReservedFrames<'a, E>,
}

impl<'a, E: Environment> Parts<'a, E> {
    pub(super) fn lock(ownership: &'a Ownership, env: &'a mut E, guest: &'a GuestLock) -> Self {
        let host = ownership.lock_host();
        let guest = guest.lock();
        Self { ledger: &ownership.ledger, host, guest, env: ReservedFrames::new(env) }
    }

    /// Refuses unless the guest lives and is protected, or not, as the transition wants it.
    pub(super) fn check_living(&self, protected: bool) -> Result<(), Error> {
        if self.guest.is_dying() {
            return Err(Error::VmGone);
        }
        self.check_kind(protected)
    }

    fn check_kind(&self, protected: bool) -> Result<(), Error> {
        if self.guest.is_protected() == protected { Ok(()) } else { Err(Error::WrongState) }
    }
}

/// Proof that the host may give these pages to the guest.
#[must_use]
pub struct HostDonateGuest<'a, E: Environment> {
    parts: Parts<'a, E>,
    pages: PageRange,
    frames: Frames,
    gfn: Gfn,
}

/// Proof that the host may share these pages with the guest.
#[must_use]
pub struct HostShareGuest<'a, E: Environment> {
    parts: Parts<'a, E>,
    pages: PageRange,
    frames: Frames,
    rights: Rights,
}

/// Proof that the host may take these pages out of the guest.
#[must_use]
pub struct HostUnshareGuest<'a, E: Environment> {
    parts: Parts<'a, E>,
    frames: Frames,
}

impl Ownership {
    /// Checks [`host_donate_guest`](Self::host_donate_guest).
    ///
    /// # Errors
    /// As there.
    pub fn check_host_donate_guest<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        guest: &'a GuestLock,
        first: Pfn,
        gfn: Gfn,
        count: u64,
    ) -> Result<HostDonateGuest<'a, E>, Error> {
        let pages = self.named_pages(first, count)?;
        let mut parts = Parts::lock(self, env, guest);
        let frames = parts.guest.named_frames(gfn, count)?;
        parts.check_living(true)?;
        parts.ledger.check(&pages, check_host_alone)?;
        parts.guest.check_vacant(&parts.env, frames, pages.bytes().start)?;
        parts.env.reserve_for_host(&parts.host, &pages)?;
        Ok(HostDonateGuest { parts, pages, frames, gfn })
    }

    /// The host gives `count` pages to a protected guest, which has them from `gfn` on with all rights. What is in
    /// them the guest finds there. The host cannot reach them any more on return, nor from the moment on when the
    /// guest can.
    ///
    /// # Errors
    /// [`Error::BadRange`], also for guest frames beyond the guest's address size; [`Error::NotMemory`];
    /// [`Error::VmGone`] where the guest is dying; [`Error::WrongState`] where it is not protected, a page is shared,
    /// or the guest has something at one of the frames; [`Error::NotYours`] where a page is not the host's;
    /// [`Error::Busy`] where it is pinned; [`Error::OutOfMemory`] where the guest's cache is too small or the host's
    /// stage 2 needs a frame that there is not.
    pub fn host_donate_guest<E: Environment>(
        &self,
        env: &mut E,
        guest: &GuestLock,
        first: Pfn,
        gfn: Gfn,
        count: u64,
    ) -> Result<(), Error> {
        self.check_host_donate_guest(env, guest, first, gfn, count)?.commit();
        Ok(())
    }

    /// Checks [`host_share_guest`](Self::host_share_guest).
    ///
    /// # Errors
    /// As there.
    pub fn check_host_share_guest<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        guest: &'a GuestLock,
        first: Pfn,
        gfn: Gfn,
        count: u64,
        rights: Rights,
    ) -> Result<HostShareGuest<'a, E>, Error> {
        let pages = self.named_pages(first, count)?;
        let parts = Parts::lock(self, env, guest);
        let frames = parts.guest.named_frames(gfn, count)?;
        parts.check_living(false)?;
        parts.ledger.check(&pages, |state| match state {
            PageState::Host { guest_mappings: MAX_COUNT, .. } => Err(Error::Limit),
            PageState::Host { hyp_borrows: false, .. } => Ok(()),
            PageState::Host { pins: 0, .. } => Err(Error::WrongState),
            PageState::Host { .. } => Err(Error::Busy),
            PageState::Hyp | PageState::Guest { .. } => Err(Error::NotYours),
        })?;
        parts.guest.check_vacant(&parts.env, frames, pages.bytes().start)?;
        Ok(HostShareGuest { parts, pages, frames, rights })
    }

    /// The host shares `count` pages with a non-protected guest, which has them from `gfn` on with `rights`. Other
    /// guests, and other frames of this one, may have them too.
    ///
    /// # Errors
    /// As [`host_donate_guest`](Self::host_donate_guest), but [`Error::WrongState`] where the guest is protected or hyp
    /// borrows a page, and [`Error::Limit`] where a page has too many mappings.
    pub fn host_share_guest<E: Environment>(
        &self,
        env: &mut E,
        guest: &GuestLock,
        first: Pfn,
        gfn: Gfn,
        count: u64,
        rights: Rights,
    ) -> Result<(), Error> {
        self.check_host_share_guest(env, guest, first, gfn, count, rights)?.commit();
        Ok(())
    }

    /// Checks [`host_unshare_guest`](Self::host_unshare_guest).
    ///
    /// # Errors
    /// As there.
    pub fn check_host_unshare_guest<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        guest: &'a GuestLock,
        gfn: Gfn,
        count: u64,
    ) -> Result<HostUnshareGuest<'a, E>, Error> {
        let parts = Parts::lock(self, env, guest);
        let frames = parts.guest.named_frames(gfn, count)?;
        parts.check_kind(false)?;
        parts.guest.check_mapped(&parts.env, frames, Error::WrongState)?;
        Ok(HostUnshareGuest { parts, frames })
    }

    /// The host takes the pages at `count` frames from `gfn` out of a non-protected guest, dying or not, which cannot
    /// reach them any more on return.
    ///
    /// # Errors
    /// [`Error::BadRange`]; [`Error::WrongState`] where the guest is protected or has nothing at one of the frames;
    /// [`Error::OutOfMemory`] where a block must be split and the guest's cache is empty.
    pub fn host_unshare_guest<E: Environment>(
        &self,
        env: &mut E,
        guest: &GuestLock,
        gfn: Gfn,
        count: u64,
    ) -> Result<(), Error> {
        self.check_host_unshare_guest(env, guest, gfn, count)?.commit();
        Ok(())
    }
}

impl<E: Environment> HostDonateGuest<'_, E> {
    /// Gives the pages away.
    pub fn commit(self) {
        let Self { mut parts, pages, frames, gfn } = self;
        let slot = parts.guest.slot();
        parts.host.note_owner(&mut parts.env, &pages, annotation::of_owner(Component::Guest(slot)));
        parts.ledger.set_each(&pages, |index| PageState::Guest {
            slot,
            gfn: Gfn::new(gfn.raw().saturating_add(index)),
            host_borrows: false,
        });
        let attributes = Stage2Attributes::memory().with_software(SOFTWARE_OWNED);
        parts.guest.map(parts.env.environment(), frames, pages.bytes().start, attributes);
    }
}

impl<E: Environment> HostShareGuest<'_, E> {
    /// Shares the pages.
    pub fn commit(self) {
        let Self { mut parts, pages, frames, rights } = self;
        change_mappings(parts.ledger, &pages, |mappings| mappings.saturating_add(1));
        let attributes = Stage2Attributes {
            write: rights.write,
            execute: if rights.execute { Stage2Execute::All } else { Stage2Execute::None },
            ..Stage2Attributes::memory().with_software(SOFTWARE_BORROWED)
        };
        parts.guest.map(parts.env.environment(), frames, pages.bytes().start, attributes);
    }
}

impl<E: Environment> HostUnshareGuest<'_, E> {
    /// Takes the pages back.
    pub fn commit(self) {
        let Self { mut parts, frames } = self;
        let ledger = parts.ledger;
        parts.guest.for_each_piece(&parts.env, frames, |address, size| {
            let pages = ledger.pages(page_at(address), size / PAGE_SIZE);
            debug_assert!(pages.is_some(), "a guest has something mapped that is no memory");
            if let Some(pages) = pages {
                change_mappings(ledger, &pages, |mappings| mappings.saturating_sub(1));
            }
        });
        parts.guest.unmap(parts.env.environment(), frames);
    }
}

/// Changes how often guests map each page of a range of the host's. The host's lock is held.
fn change_mappings(ledger: &Ledger, pages: &PageRange, change: impl Fn(u16) -> u16) {
    for (index, state) in (0..).zip(ledger.states(pages)) {
        if let PageState::Host { hyp_borrows, pins, guest_mappings } = state {
            let guest_mappings = change(guest_mappings);
            ledger.set(pages, index, PageState::Host { hyp_borrows, pins, guest_mappings });
        }
    }
}
