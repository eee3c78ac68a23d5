//! From the host to guests, and back where it is the host who takes or gives back.

use super::guest_tables::{MappedFrames, VacantFrames};
use super::locks::HostAndGuest;
use super::{Call, HostsAlone, Scene, page_at};
use crate::annotation::Holder;
use crate::environment::Environment;
use crate::guest_memory::{GuestAccount, GuestLock, GuestMemory, Rights, Software};
use crate::ownership::Ownership;
use crate::page_range::PageRange;
use crate::state::{GuestUse, MAX_COUNT, PageState};
use abi::{Error, Gfn, PAGE_SIZE, Pfn, PhysAddr};
use pgtable::{Stage2Attributes, Stage2Memory};

/// What a guest has of memory that the host uses at the same time. Where the CPU can force it (FEAT_S2FWB), the guest's
/// accesses go through the caches as the host's do, so that nothing needs to be cleaned for it.
const SHARED: Stage2Attributes =
    Stage2Attributes { memory: Stage2Memory::NormalWriteBack, ..Stage2Attributes::memory() };

impl GuestMemory {
    /// Refuses unless the guest lives and is protected, or not, as the transition wants it.
    pub(super) fn check_living(&self, protected: bool) -> Result<(), Error> {
        if self.is_dying() {
            return Err(Error::VmGone);
        }
        self.check_kind(protected)
    }

    pub(super) fn check_kind(&self, protected: bool) -> Result<(), Error> {
        if self.is_protected() == protected { Ok(()) } else { Err(Error::WrongState) }
    }
}

/// Proof that the host may let the guest have these pages at these frames, and that there are frames for the tables.
struct ToBeGiven {
    pages: PageRange,
    frames: VacantFrames,
}

/// Proof that the host may take what is at these frames out of a guest that borrows it.
struct ToBeTaken(MappedFrames);

/// Proof that the host has these pages on loan from the guest.
struct ToBeReturned(PageRange);

impl<E: Environment> Scene<'_, HostAndGuest<'_>, E> {
    /// Checks what donating and lending have in common.
    fn check_giving(&mut self, first: Pfn, gfn: Gfn, count: u64) -> Result<ToBeGiven, Error> {
        let pages = self.ownership.named_pages(first, count)?;
        let frames = self.locks.guest.named_frames(gfn, count)?;
        self.locks.guest.check_living(true)?;
        let HostsAlone(pages) = pages.check_hosts_alone()?;
        let frames = self.locks.guest.check_vacant(&self.env, frames, pages.bytes().start)?;
        self.env.reserve_for_host(&self.locks.host, &pages.bytes())?;
        Ok(ToBeGiven { pages, frames })
    }

    /// Lets the guest have pages, which the host loses first; the first of them is then in this state.
    fn give(&mut self, given: ToBeGiven, software: Software, first: PageState) {
        let ToBeGiven { pages, frames } = given;
        let holder = Holder::Guest(self.locks.guest.slot());
        self.locks.host.note_holder(&mut self.env, pages.bytes(), holder);
        pages.set_run(first);
        let attributes = Stage2Attributes::memory().with_software(software.bits());
        self.locks.guest.map(self.env.environment(), frames, pages.bytes().start, attributes);
    }

    /// Leaves the host only the right to read those of the pages that nobody else uses yet; the last thing that a check
    /// does. Where it fails, the host has all its rights still.
    fn restrict_those_alone(&mut self, pages: &PageRange) -> Result<(), Error> {
        let alone = |state| state == PageState::HOST_ALONE;
        let Self { locks, env, .. } = self;
        let mut failed = None;
        let all = pages.try_each_run(alone, |run| {
            locks.host.restrict(env.environment(), run.bytes()).inspect_err(|_| failed = Some(run))
        });
        if let Some(failed) = failed {
            pages.each_run(alone, |run| {
                if run.first() < failed.first() {
                    locks.host.lift_restriction(env.environment(), run.bytes());
                }
            });
        }
        all
    }
}

impl Ownership {
    /// The host gives `count` pages to a protected guest, which has them from `gfn` on with all rights. What is in
    /// them the guest finds there. The host cannot reach them any more on return, nor from the moment on when the
    /// guest can.
    ///
    /// # Errors
    /// [`Error::BadRange`], also for guest frames beyond the guest's address size; [`Error::NotMemory`];
    /// [`Error::VmGone`] where the guest is dying; [`Error::WrongState`] where it is not protected, a page is shared or
    /// lent, or the guest has something at one of the frames or may not get anything there; [`Error::NotYours`] where a
    /// page is not the host's; [`Error::Busy`] where it is pinned; [`Error::OutOfMemory`] where the guest's cache is too
    /// small or the host's stage 2 needs a frame that there is not.
    pub fn host_donate_guest<'g, E: Environment>(
        &self,
        env: &mut E,
        guest: impl Into<GuestAccount<'g>>,
        first: Pfn,
        gfn: Gfn,
        count: u64,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::HostDonateGuest { slot: locks.guest.slot(), first, gfn, count },
            |scene| scene.check_giving(first, gfn, count),
            |scene, given| {
                let slot = scene.locks.guest.slot();
                scene.give(given, Software::Owned, PageState::Guest { slot, gfn, usage: GuestUse::Alone });
            },
        )
    }

    /// The host lends `count` pages to a protected guest, which has them from `gfn` on with all rights. They stay the
    /// host's, who has no access until the guest returns them or is dead.
    ///
    /// # Errors
    /// As [`host_donate_guest`](Self::host_donate_guest).
    pub fn host_lend_guest<'g, E: Environment>(
        &self,
        env: &mut E,
        guest: impl Into<GuestAccount<'g>>,
        first: Pfn,
        gfn: Gfn,
        count: u64,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::HostLendGuest { slot: locks.guest.slot(), first, gfn, count },
            |scene| scene.check_giving(first, gfn, count),
            |scene, given| {
                let slot = scene.locks.guest.slot();
                scene.give(given, Software::Borrowed, PageState::LentToGuest { slot, gfn });
            },
        )
    }

    /// The host gives `count` pages back to the guest that lent them: the guest has them again where it had
    /// them before, with what the host left in them.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::VmGone`] where the guest is dying; [`Error::NotYours`] where a
    /// page is not the guest's; [`Error::WrongState`] where it has not lent the page; [`Error::OutOfMemory`] where there is
    /// no frame for a table of the host's stage 2.
    pub fn host_return_guest<E: Environment>(
        &self,
        env: &mut E,
        guest: &GuestLock,
        first: Pfn,
        count: u64,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::HostReturnGuest { slot: locks.guest.slot(), first, count },
            |scene| {
                let pages = self.named_pages(first, count)?;
                if scene.locks.guest.is_dying() {
                    return Err(Error::VmGone);
                }
                let lender = scene.locks.guest.slot();
                pages.check(|state| match state {
                    PageState::Guest { slot, usage: GuestUse::LentToHost, .. } if slot == lender => Ok(()),
                    PageState::Guest { slot, .. } if slot == lender => Err(Error::WrongState),
                    _ => Err(Error::NotYours),
                })?;
                scene.env.reserve_for_host(&scene.locks.host, &pages.bytes())?;
                Ok(ToBeReturned(pages))
            },
            |scene, ToBeReturned(pages)| {
                let slot = scene.locks.guest.slot();
                scene.locks.host.note_holder(&mut scene.env, pages.bytes(), Holder::Guest(slot));
                for (index, state) in (0..).zip(pages.states()) {
                    let PageState::Guest { gfn, .. } = state else { continue };
                    let page = pages.part(index, 1);
                    page.set_run(PageState::Guest { slot, gfn, usage: GuestUse::Alone });
                    scene.locks.guest.map_again(scene.env.environment(), gfn, page.bytes().start);
                }
            },
        )
    }

    /// The host shares `count` pages with a non-protected guest, which has them from `gfn` on with `rights`. Other
    /// guests, and other frames of this one, may have them too. Where it is `restricted`, the host itself may only read
    /// them from here on, until the last share of them ends.
    ///
    /// # Errors
    /// As [`host_donate_guest`](Self::host_donate_guest), but [`Error::WrongState`] where the guest is protected, hyp
    /// borrows a page, or a page is shared already with the other restriction, and [`Error::Limit`] where a page has too
    /// many mappings.
    #[allow(clippy::too_many_arguments, reason = "each is a number of the call")]
    pub fn host_share_guest<'g, E: Environment>(
        &self,
        env: &mut E,
        guest: impl Into<GuestAccount<'g>>,
        first: Pfn,
        gfn: Gfn,
        count: u64,
        rights: Rights,
        restricted: bool,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::HostShareGuest { slot: locks.guest.slot(), first, gfn, count, rights, restricted },
            |scene| {
                let pages = self.named_pages(first, count)?;
                let frames = scene.locks.guest.named_frames(gfn, count)?;
                scene.locks.guest.check_living(false)?;
                pages.check(|state| check_shareable(state, restricted))?;
                let frames = scene.locks.guest.check_vacant(&scene.env, frames, pages.bytes().start)?;
                if restricted {
                    scene.restrict_those_alone(&pages)?;
                }
                Ok(ToBeGiven { pages, frames })
            },
            |scene, ToBeGiven { pages, frames }| {
                pages.change_each(|state| match state {
                    PageState::Host { hyp_borrows, pins, guest_mappings, .. } => {
                        let guest_mappings = guest_mappings.saturating_add(1);
                        PageState::Host { hyp_borrows, restricted, pins, guest_mappings }
                    }
                    other => other,
                });
                let attributes = rights.limit(Stage2Attributes { software: Software::Borrowed.bits(), ..SHARED });
                scene.locks.guest.map(scene.env.environment(), frames, pages.bytes().start, attributes);
            },
        )
    }

    /// The host takes the pages at `count` frames from `gfn` out of a non-protected guest, dying or not, which cannot
    /// reach them any more on return.
    ///
    /// # Errors
    /// [`Error::BadRange`]; [`Error::WrongState`] where the guest is protected or borrows nothing at one of the frames;
    /// [`Error::OutOfMemory`] where a block must be split and the guest's cache is empty.
    pub fn host_unshare_guest<E: Environment>(
        &self,
        env: &mut E,
        guest: &GuestLock,
        gfn: Gfn,
        count: u64,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::HostUnshareGuest { slot: locks.guest.slot(), gfn, count },
            |scene| {
                let frames = scene.locks.guest.named_frames(gfn, count)?;
                scene.locks.guest.check_kind(false)?;
                let guest = &scene.locks.guest;
                let mapped = guest.check_mapped(&scene.env, frames, Software::Borrowed, Error::WrongState)?;
                Ok(ToBeTaken(mapped))
            },
            |scene, ToBeTaken(mapped)| {
                let Scene { locks, env, .. } = scene;
                let HostAndGuest { host, guest } = locks;
                guest.for_each_piece(env, &mapped, |env, address, size| {
                    if let Some(pages) = self.piece(address, size) {
                        let lift = |run: PageRange| host.lift_restriction(env.environment(), run.bytes());
                        pages.each_run(loses_its_restriction, lift);
                        drop_mapping(&pages);
                    }
                });
                guest.unmap_mapped(env.environment(), mapped);
            },
        )
    }

    /// A piece of what a guest has mapped, as pages of RAM.
    fn piece(&self, address: PhysAddr, size: u64) -> Option<PageRange> {
        let pages = self.ledger.pages(page_at(address), size / PAGE_SIZE);
        debug_assert!(pages.is_some(), "a guest borrows what is no memory");
        pages
    }
}

/// Refuses a page that the host may not share with a non-protected guest.
fn check_shareable(state: PageState, restricted: bool) -> Result<(), Error> {
    match state {
        PageState::Host { pins: 1.., .. } => Err(Error::Busy),
        PageState::Host { hyp_borrows: true, .. } | PageState::LentToGuest { .. } => Err(Error::WrongState),
        PageState::Host { guest_mappings: 1.., restricted: already, .. } if already != restricted => {
            Err(Error::WrongState)
        }
        PageState::Host { guest_mappings: MAX_COUNT, .. } => Err(Error::Limit),
        PageState::Host { .. } => Ok(()),
        PageState::Hyp | PageState::Guest { .. } => Err(Error::NotYours),
    }
}

/// True of a page that the host may write again when the next share with a guest ends.
const fn loses_its_restriction(state: PageState) -> bool {
    matches!(state, PageState::Host { restricted: true, guest_mappings: 1, .. })
}

/// Counts one mapping less of each page of the host's.
fn drop_mapping(pages: &PageRange) {
    pages.change_each(|state| match state {
        PageState::Host { hyp_borrows, restricted, pins, guest_mappings } => {
            let guest_mappings = guest_mappings.saturating_sub(1);
            let restricted = restricted && guest_mappings != 0;
            PageState::Host { hyp_borrows, restricted, pins, guest_mappings }
        }
        other => other,
    });
}
