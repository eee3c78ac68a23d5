//! Between the host and hyp.

use super::{check_host_alone, must_be_done, wipe_all};
use crate::annotation;
use crate::environment::Environment;
use crate::ledger::{Ledger, PageRange};
use crate::lock::Guard;
use crate::ownership::{HostMemory, Ownership, table_error};
use crate::reserve::ReservedFrames;
use crate::shared_lock::ExclusiveGuard;
use crate::state::{Component, PageState};
use abi::{Error, Pfn, VirtAddr};
use pgtable::{El2Attributes, El2Stage1, MapOptions};

/// Pages that EL2 maps live are never part of a block: to split one, its mapping would have to be broken while other
/// CPUs use the pages beside.
const PAGES_ONLY: MapOptions = MapOptions { force_pages: true, replace_annotations: false, synchronise_caches: false };

/// What all transitions between host and hyp hold.
struct Parts<'a, E: Environment> {
    ledger: &'a Ledger,
    host: ExclusiveGuard<'a, HostMemory>,
    hyp: Guard<'a, El2Stage1>,
    env: ReservedFrames<'a, E>,
    pages: PageRange,
}

impl<'a, E: Environment> Parts<'a, E> {
    fn lock(ownership: &'a Ownership, env: &'a mut E, first: Pfn, count: u64) -> Result<Self, Error> {
        let pages = ownership.named_pages(first, count)?;
        let host = ownership.lock_host();
        let hyp = ownership.hyp().lock();
        Ok(Self { ledger: &ownership.ledger, host, hyp, env: ReservedFrames::new(env), pages })
    }

    /// Where EL2 has the pages: at their physical addresses.
    fn address(&self) -> VirtAddr {
        VirtAddr::new(self.pages.bytes().start.raw())
    }

    fn unmap(&mut self) {
        let (address, size) = (self.address(), self.pages.bytes().size());
        let done = self.hyp.unmap(self.env.environment(), address, size);
        must_be_done(done);
    }
}

/// Pages that EL2 maps already, on trial. Hyp does not touch them before the transition is committed; if it is not,
/// they are unmapped.
struct Mapped<'a, E: Environment> {
    parts: Parts<'a, E>,
    keep: bool,
}

impl<'a, E: Environment> Mapped<'a, E> {
    fn map(mut parts: Parts<'a, E>) -> Result<Self, Error> {
        let (address, bytes) = (parts.address(), parts.pages.bytes());
        let attributes = El2Attributes::data();
        parts
            .hyp
            .map(parts.env.environment(), address, bytes.start, bytes.size(), attributes, PAGES_ONLY)
            .map_err(table_error)?;
        Ok(Self { parts, keep: false })
    }
}

impl<E: Environment> Drop for Mapped<'_, E> {
    fn drop(&mut self) {
        if !self.keep {
            self.parts.unmap();
        }
    }
}

/// Proof that the host may share these pages with hyp.
#[must_use]
pub struct HostShareHyp<'a, E: Environment>(Mapped<'a, E>);

/// Proof that the host may take these pages back that it shared with hyp.
#[must_use]
pub struct HostUnshareHyp<'a, E: Environment>(Parts<'a, E>);

/// Proof that the host may give these pages to hyp.
#[must_use]
pub struct HostDonateHyp<'a, E: Environment>(Mapped<'a, E>);

/// Proof that hyp may give these pages to the host.
#[must_use]
pub struct HypDonateHost<'a, E: Environment>(Parts<'a, E>);

impl Ownership {
    /// Checks [`host_share_hyp`](Self::host_share_hyp).
    ///
    /// # Errors
    /// As there.
    pub fn check_host_share_hyp<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        first: Pfn,
        count: u64,
    ) -> Result<HostShareHyp<'a, E>, Error> {
        let parts = Parts::lock(self, env, first, count)?;
        parts.ledger.check(&parts.pages, check_host_alone)?;
        Ok(HostShareHyp(Mapped::map(parts)?))
    }

    /// The host shares `count` pages with hyp, which maps them, readable and writable, at their physical addresses.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::NotYours`] where a page is not the host's;
    /// [`Error::WrongState`] where it is shared already, [`Error::Busy`] where it is pinned; [`Error::OutOfMemory`]
    /// where hyp has no frame for a table.
    pub fn host_share_hyp<E: Environment>(&self, env: &mut E, first: Pfn, count: u64) -> Result<(), Error> {
        self.check_host_share_hyp(env, first, count)?.commit();
        Ok(())
    }

    /// Checks [`host_unshare_hyp`](Self::host_unshare_hyp).
    ///
    /// # Errors
    /// As there.
    pub fn check_host_unshare_hyp<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        first: Pfn,
        count: u64,
    ) -> Result<HostUnshareHyp<'a, E>, Error> {
        let parts = Parts::lock(self, env, first, count)?;
        parts.ledger.check(&parts.pages, |state| match state {
            PageState::Host { hyp_borrows: true, pins: 0, .. } => Ok(()),
            PageState::Host { pins: 0, .. } => Err(Error::WrongState),
            PageState::Host { .. } => Err(Error::Busy),
            PageState::Hyp | PageState::Guest { .. } => Err(Error::NotYours),
        })?;
        Ok(HostUnshareHyp(parts))
    }

    /// The host takes back `count` pages that it shared with hyp, which can no longer reach them on return.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::NotYours`] where a page is not the host's;
    /// [`Error::WrongState`] where it is not shared with hyp, [`Error::Busy`] where hyp has it pinned.
    pub fn host_unshare_hyp<E: Environment>(&self, env: &mut E, first: Pfn, count: u64) -> Result<(), Error> {
        self.check_host_unshare_hyp(env, first, count)?.commit();
        Ok(())
    }

    /// Checks [`host_donate_hyp`](Self::host_donate_hyp).
    ///
    /// # Errors
    /// As there.
    pub fn check_host_donate_hyp<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        first: Pfn,
        count: u64,
    ) -> Result<HostDonateHyp<'a, E>, Error> {
        let mut parts = Parts::lock(self, env, first, count)?;
        parts.ledger.check(&parts.pages, check_host_alone)?;
        parts.env.reserve_for_host(&parts.host, &parts.pages)?;
        Ok(HostDonateHyp(Mapped::map(parts)?))
    }

    /// The host gives `count` pages to hyp, which maps them, readable and writable, at their physical addresses. The
    /// host cannot reach them any more on return. They hold what the host left in them: wipe them before use.
    ///
    /// # Errors
    /// As [`host_share_hyp`](Self::host_share_hyp).
    pub fn host_donate_hyp<E: Environment>(&self, env: &mut E, first: Pfn, count: u64) -> Result<(), Error> {
        self.check_host_donate_hyp(env, first, count)?.commit();
        Ok(())
    }

    /// Checks [`hyp_donate_host`](Self::hyp_donate_host).
    ///
    /// # Errors
    /// As there.
    pub fn check_hyp_donate_host<'a, E: Environment>(
        &'a self,
        env: &'a mut E,
        first: Pfn,
        count: u64,
    ) -> Result<HypDonateHost<'a, E>, Error> {
        let mut parts = Parts::lock(self, env, first, count)?;
        if parts.pages.bytes().overlaps(&self.carve_out()) {
            return Err(Error::NotYours);
        }
        parts.ledger.check(&parts.pages, |state| match state {
            PageState::Hyp => Ok(()),
            PageState::Host { .. } | PageState::Guest { .. } => Err(Error::NotYours),
        })?;
        parts.env.reserve_for_host(&parts.host, &parts.pages)?;
        Ok(HypDonateHost(parts))
    }

    /// Hyp gives `count` pages that were donated to it to the host, wiped. The caller has no use for them any more.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::NotYours`] where a page is not hyp's or belongs to the
    /// carve-out; [`Error::OutOfMemory`] where there is no frame for a table of the host's stage 2.
    pub fn hyp_donate_host<E: Environment>(&self, env: &mut E, first: Pfn, count: u64) -> Result<(), Error> {
        self.check_hyp_donate_host(env, first, count)?.commit();
        Ok(())
    }
}

impl<E: Environment> HostShareHyp<'_, E> {
    /// Shares the pages.
    pub fn commit(mut self) {
        let parts = &self.0.parts;
        let shared = PageState::Host { hyp_borrows: true, pins: 0, guest_mappings: 0 };
        parts.ledger.set_each(&parts.pages, |_| shared);
        self.0.keep = true;
    }
}

impl<E: Environment> HostUnshareHyp<'_, E> {
    /// Takes the pages back.
    pub fn commit(mut self) {
        self.0.unmap();
        self.0.ledger.set_each(&self.0.pages, |_| PageState::HOST_ALONE);
    }
}

impl<E: Environment> HostDonateHyp<'_, E> {
    /// Gives the pages away.
    pub fn commit(mut self) {
        let parts = &mut self.0.parts;
        parts.host.note_owner(&mut parts.env, &parts.pages, annotation::of_owner(Component::Hyp));
        parts.ledger.set_each(&parts.pages, |_| PageState::Hyp);
        self.0.keep = true;
    }
}

impl<E: Environment> HypDonateHost<'_, E> {
    /// Gives the pages back.
    pub fn commit(mut self) {
        let parts = &mut self.0;
        parts.unmap();
        wipe_all(&mut parts.env, &parts.pages);
        parts.ledger.set_each(&parts.pages, |_| PageState::HOST_ALONE);
        parts.host.note_owner(&mut parts.env, &parts.pages, None);
    }
}
