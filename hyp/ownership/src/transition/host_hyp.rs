//! Between the host and hyp.

use super::locks::HostAndHyp;
use super::{Call, HostsAlone, Scene, must_be_done, wipe_all};
use crate::annotation::Holder;
use crate::environment::Environment;
use crate::ownership::{HostMemory, Ownership, host_ipa, table_error};
use crate::page_range::PageRange;
use crate::state::PageState;
use abi::{Error, Pfn, PhysRange, VirtAddr};
use pgtable::{El2Attributes, MapOptions, Stage2Attributes, Stage2Execute};

/// Pages that EL2 maps live are never part of a block: to split one, its mapping would have to be broken while other
/// CPUs use the pages beside.
const PAGES_ONLY: MapOptions = MapOptions { force_pages: true, replace_annotations: false, synchronise_caches: false };

/// Proof that the pages are the host's alone and that EL2 maps them already. Nothing can refuse the transition any more.
struct MappedByHyp(PageRange);

/// Proof that hyp owns the pages, or borrows them and does not rely on them.
struct TakenFromHyp(PageRange);

impl<E: Environment> Scene<'_, HostAndHyp<'_>, E> {
    /// Maps pages at EL2 where they lie; the last thing that a check does.
    fn map(&mut self, HostsAlone(pages): HostsAlone) -> Result<MappedByHyp, Error> {
        self.map_range(pages.bytes(), El2Attributes::data())?;
        Ok(MappedByHyp(pages))
    }

    /// Maps a range at EL2 where it lies. Where that fails, nothing is mapped.
    pub(super) fn map_range(&mut self, bytes: PhysRange, attributes: El2Attributes) -> Result<(), Error> {
        let address = VirtAddr::new(bytes.start.raw());
        let hyp = &mut self.locks.hyp;
        hyp.map(self.env.environment(), address, bytes.start, bytes.size(), attributes, PAGES_ONLY).map_err(table_error)
    }

    /// Unmaps a range at EL2.
    pub(super) fn unmap_range(&mut self, bytes: PhysRange) {
        let done = self.locks.hyp.unmap(self.env.environment(), VirtAddr::new(bytes.start.raw()), bytes.size());
        must_be_done(done);
    }
}

impl HostMemory {
    /// Leaves the host only the right to read, for as long as others have the pages; the last thing that a check does.
    /// Where it fails, the host has all its rights still. It is done by pages, so that it can be undone for each of them
    /// without a frame.
    pub(super) fn restrict<E: Environment>(&mut self, env: &mut E, bytes: PhysRange) -> Result<(), Error> {
        let read_only = Stage2Attributes { write: false, execute: Stage2Execute::None, ..Stage2Attributes::memory() };
        let start = host_ipa(bytes.start);
        self.stage2.remap(env, start, bytes.start, bytes.size(), read_only, PAGES_ONLY).map_err(table_error)
    }

    /// Gives the host all its rights again, at its next access.
    pub(super) fn lift_restriction<E: Environment>(&mut self, env: &mut E, bytes: PhysRange) {
        must_be_done(self.stage2.unmap(env, host_ipa(bytes.start), bytes.size()));
    }
}

/// True where the host may only read the page.
const fn is_restricted(state: PageState) -> bool {
    matches!(state, PageState::Host { restricted: true, .. })
}

impl Ownership {
    /// The host shares `count` pages with hyp, which maps them, readable and writable, at their physical addresses.
    /// Where it is `restricted`, the host itself may only read them from here on, until it takes them back.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::NotYours`] where a page is not the host's;
    /// [`Error::WrongState`] where it is shared already, [`Error::Busy`] where it is pinned; [`Error::OutOfMemory`]
    /// where there is no frame for a table.
    pub fn host_share_hyp<E: Environment>(
        &self,
        env: &mut E,
        first: Pfn,
        count: u64,
        restricted: bool,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostAndHyp::lock(self),
            |_| Call::HostShareHyp { first, count, restricted },
            |scene| {
                let alone = self.named_pages(first, count)?.check_hosts_alone()?;
                let mapped = scene.map(alone)?;
                if restricted {
                    let Scene { locks, env, .. } = scene;
                    let bytes = mapped.0.bytes();
                    locks.host.restrict(env.environment(), bytes).inspect_err(|_| scene.unmap_range(bytes))?;
                }
                Ok(mapped)
            },
            |_, MappedByHyp(pages)| {
                let shared = PageState::Host { hyp_borrows: true, restricted, pins: 0, guest_mappings: 0 };
                pages.set_run(shared);
            },
        )
    }

    /// The host takes back `count` pages that it shared with hyp, which can no longer reach them on return.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::NotYours`] where a page is not the host's;
    /// [`Error::WrongState`] where it is not shared with hyp, [`Error::Busy`] where hyp has it pinned.
    pub fn host_unshare_hyp<E: Environment>(&self, env: &mut E, first: Pfn, count: u64) -> Result<(), Error> {
        self.transition(
            env,
            HostAndHyp::lock(self),
            |_| Call::HostUnshareHyp { first, count },
            |_| {
                let pages = self.named_pages(first, count)?;
                pages.check(|state| match state {
                    PageState::Host { hyp_borrows: true, pins: 0, .. } => Ok(()),
                    PageState::Host { pins: 0, .. } | PageState::LentToGuest { .. } => Err(Error::WrongState),
                    PageState::Host { .. } => Err(Error::Busy),
                    PageState::Hyp | PageState::Guest { .. } => Err(Error::NotYours),
                })?;
                Ok(TakenFromHyp(pages))
            },
            |scene, TakenFromHyp(pages)| {
                scene.unmap_range(pages.bytes());
                let Scene { locks, env, .. } = scene;
                let lift = |run: PageRange| locks.host.lift_restriction(env.environment(), run.bytes());
                pages.each_run(is_restricted, lift);
                pages.set_run(PageState::HOST_ALONE);
            },
        )
    }

    /// The host gives `count` pages to hyp, which maps them, readable and writable, at their physical addresses. The
    /// host cannot reach them any more on return. They hold what the host left in them: wipe them before use.
    ///
    /// # Errors
    /// As [`host_share_hyp`](Self::host_share_hyp).
    pub fn host_donate_hyp<E: Environment>(&self, env: &mut E, first: Pfn, count: u64) -> Result<(), Error> {
        self.transition(
            env,
            HostAndHyp::lock(self),
            |_| Call::HostDonateHyp { first, count },
            |scene| {
                let alone = self.named_pages(first, count)?.check_hosts_alone()?;
                scene.env.reserve_for_host(&scene.locks.host, &alone.0.bytes())?;
                scene.map(alone)
            },
            |scene, MappedByHyp(pages)| {
                scene.locks.host.note_holder(&mut scene.env, pages.bytes(), Holder::Hyp);
                pages.set_run(PageState::Hyp);
            },
        )
    }

    /// Hyp gives `count` pages that were donated to it to the host, wiped. The caller has no use for them any more.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::NotYours`] where a page is not hyp's or belongs to the
    /// carve-out; [`Error::OutOfMemory`] where there is no frame for a table of the host's stage 2.
    pub fn hyp_donate_host<E: Environment>(&self, env: &mut E, first: Pfn, count: u64) -> Result<(), Error> {
        self.transition(
            env,
            HostAndHyp::lock(self),
            |_| Call::HypDonateHost { first, count },
            |scene| {
                let pages = self.named_pages(first, count)?;
                if pages.bytes().overlaps(&self.carve_out()) {
                    return Err(Error::NotYours);
                }
                pages.check(|state| match state {
                    PageState::Hyp => Ok(()),
                    _ => Err(Error::NotYours),
                })?;
                scene.env.reserve_for_host(&scene.locks.host, &pages.bytes())?;
                Ok(TakenFromHyp(pages))
            },
            |scene, TakenFromHyp(pages)| {
                scene.unmap_range(pages.bytes());
                wipe_all(scene.env.environment(), &pages);
                pages.set_run(PageState::HOST_ALONE);
                scene.locks.host.note_holder(&mut scene.env, pages.bytes(), Holder::Host);
            },
        )
    }
}
