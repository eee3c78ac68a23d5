//! What a protected guest does with a page of its own, by a call of its own.

use super::guest::Parts;
use super::guest_tables::{Frames, SOFTWARE_BORROWED};
use super::{must_be_done, page_at, wipe_all};
use crate::annotation;
use crate::environment::Environment;
use crate::guest_memory::GuestLock;
use crate::ledger::PageRange;
use crate::ownership::{Ownership, host_ipa};
use crate::state::{Component, PageState};
use abi::{Error, Gfn, Pfn};
use pgtable::{MapOptions, Stage2Attributes, Stage2Execute};

/// A guest's own page, under the locks.
struct GuestsPage<'a, E: Environment> {
    parts: Parts<'a, E>,
    frames: Frames,
    page: PageRange,
    gfn: Gfn,
    host_borrows: bool,
}

impl<'a, E: Environment> GuestsPage<'a, E> {
    fn find(ownership: &'a Ownership, env: &'a mut E, guest: &'a GuestLock, gfn: Gfn) -> Result<Self, Error> {
        let parts = Parts::lock(ownership, env, guest);
        let frames = parts.guest.named_frames(gfn, 1)?;
        parts.check_living(true)?;
        let address = parts.guest.page_at(&parts.env, frames)?;
        let page = parts.ledger.pages(page_at(address), 1).ok_or(Error::NotMemory)?;
        match parts.ledger.states(&page).next() {
            Some(PageState::Guest { slot, gfn: at, host_borrows }) if slot == parts.guest.slot() && at == gfn => {
                Ok(Self { parts, frames, page, gfn, host_borrows })
            }
            _ => Err(Error::NotYours),
        }
    }

    /// The page's state with the guest as its owner.
    fn state(&self, host_borrows: bool) -> PageState {
        PageState::Guest { slot: self.parts.guest.slot(), gfn: self.gfn, host_borrows }
    }

    fn reserve_for_host(&mut self) -> Result<(), Error> {
        self.parts.env.reserve_for_host(&self.parts.host, &self.page)
    }
}

/// Proof that the guest may share this page with the host.
#[must_use]
pub struct GuestShareHost<'a, E: Environment>(GuestsPage<'a, E>);

/// Proof that the guest may take this page back from the host.
#[must_use]
pub struct GuestUnshareHost<'a, E: Environment>(GuestsPage<'a, E>);

/// Proof that the guest may give this page to the host.
#[must_use]
pub struct GuestRelinquish<'a, E: Environment>(GuestsPage<'a, E>);

impl Ownership {
    /// Checks [`guest_share_host`](Self::guest_share_host).
    ///
    /// # Errors
    /// As there.
    pub fn check_guest_share_host<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        guest: &'a GuestLock,
        gfn: Gfn,
    ) -> Result<GuestShareHost<'a, E>, Error> {
        let mut page = GuestsPage::find(self, env, guest, gfn)?;
        if page.host_borrows {
            return Err(Error::WrongState);
        }
        page.reserve_for_host()?;
        Ok(GuestShareHost(page))
    }

    /// A protected guest lets the host read and write, but not execute, the page at `gfn`.
    ///
    /// # Errors
    /// [`Error::BadRange`]; [`Error::NotMemory`] where the guest has nothing there (yet); [`Error::VmGone`] where it
    /// is dying; [`Error::WrongState`] where it is not protected or the page is shared already;
    /// [`Error::OutOfMemory`] where there is no frame for a table of the host's stage 2.
    pub fn guest_share_host<E: Environment>(&self, env: &mut E, guest: &GuestLock, gfn: Gfn) -> Result<(), Error> {
        self.check_guest_share_host(env, guest, gfn)?.commit();
        Ok(())
    }

    /// Checks [`guest_unshare_host`](Self::guest_unshare_host).
    ///
    /// # Errors
    /// As there.
    pub fn check_guest_unshare_host<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        guest: &'a GuestLock,
        gfn: Gfn,
    ) -> Result<GuestUnshareHost<'a, E>, Error> {
        let mut page = GuestsPage::find(self, env, guest, gfn)?;
        if !page.host_borrows {
            return Err(Error::WrongState);
        }
        page.reserve_for_host()?;
        Ok(GuestUnshareHost(page))
    }

    /// A protected guest takes the page at `gfn` back, which the host cannot reach any more on return.
    ///
    /// # Errors
    /// As [`guest_share_host`](Self::guest_share_host), but [`Error::WrongState`] where the page is not shared.
    pub fn guest_unshare_host<E: Environment>(&self, env: &mut E, guest: &GuestLock, gfn: Gfn) -> Result<(), Error> {
        self.check_guest_unshare_host(env, guest, gfn)?.commit();
        Ok(())
    }

    /// Checks [`guest_relinquish`](Self::guest_relinquish).
    ///
    /// # Errors
    /// As there.
    pub fn check_guest_relinquish<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        guest: &'a GuestLock,
        gfn: Gfn,
    ) -> Result<GuestRelinquish<'a, E>, Error> {
        let mut page = GuestsPage::find(self, env, guest, gfn)?;
        if page.host_borrows {
            return Err(Error::WrongState);
        }
        page.parts.guest.check_mapped(&page.parts.env, page.frames, Error::NotMemory)?;
        page.reserve_for_host()?;
        Ok(GuestRelinquish(page))
    }

    /// A protected guest gives the page at `gfn` to the host, wiped. Returns the page.
    ///
    /// # Errors
    /// As [`guest_share_host`](Self::guest_share_host); [`Error::OutOfMemory`] also where a block must be split and
    /// the guest's cache is empty.
    pub fn guest_relinquish<E: Environment>(&self, env: &mut E, guest: &GuestLock, gfn: Gfn) -> Result<Pfn, Error> {
        Ok(self.check_guest_relinquish(env, guest, gfn)?.commit())
    }
}

impl<E: Environment> GuestShareHost<'_, E> {
    /// Shares the page.
    pub fn commit(self) {
        let shared = self.0.state(true);
        let GuestsPage { mut parts, page, .. } = self.0;
        parts.ledger.set_each(&page, |_| shared);
        let attributes = Stage2Attributes {
            execute: Stage2Execute::None,
            ..Stage2Attributes::memory().with_software(SOFTWARE_BORROWED)
        };
        let over_annotation = MapOptions { replace_annotations: true, ..MapOptions::default() };
        let bytes = page.bytes();
        let start = host_ipa(bytes.start);
        let done = parts.host.stage2.map(&mut parts.env, start, bytes.start, bytes.size(), attributes, over_annotation);
        must_be_done(done);
    }
}

impl<E: Environment> GuestUnshareHost<'_, E> {
    /// Takes the page back.
    pub fn commit(self) {
        let alone = self.0.state(false);
        let GuestsPage { mut parts, page, .. } = self.0;
        let owner = annotation::of_owner(Component::Guest(parts.guest.slot()));
        parts.host.note_owner(&mut parts.env, &page, owner);
        parts.ledger.set_each(&page, |_| alone);
    }
}

impl<E: Environment> GuestRelinquish<'_, E> {
    /// Gives the page to the host, and says which it was.
    pub fn commit(self) -> Pfn {
        let GuestsPage { mut parts, frames, page, .. } = self.0;
        parts.guest.unmap(parts.env.environment(), frames);
        wipe_all(&mut parts.env, &page);
        parts.ledger.set_each(&page, |_| PageState::HOST_ALONE);
        parts.host.note_owner(&mut parts.env, &page, None);
        page.first()
    }
}
