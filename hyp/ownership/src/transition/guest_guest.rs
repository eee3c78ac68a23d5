//! What one protected guest lets another use, by consent of both; see [`offer`](crate::offer).

use super::guest_host::GuestsPage;
use super::guest_tables::VacantFrames;
use super::locks::{GuestOnly, TwoGuests};
use super::{Call, Scene};
use crate::environment::Environment;
use crate::guest_memory::{GuestAccount, GuestLock, GuestMemory, Rights, Software};
use crate::offer::Offer;
use crate::ownership::Ownership;
use crate::state::{GuestUse, PageState, VmSlot};
use abi::host::VmHandle;
use abi::{Error, Gfn};
use pgtable::Stage2Attributes;

/// Proof that the guest may borrow the page of this offer at these frames.
struct Acceptable {
    offer: Offer,
    frames: VacantFrames,
}

/// Proof that there is this offer, that it may end, and that who borrows by it is here.
struct Ending(Offer);

/// Who ends a share.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Borrower,
    Other,
}

impl<E: Environment> Scene<'_, TwoGuests<'_>, E> {
    /// The share that these two have by an offer.
    fn find_share(&self, number: u64) -> Result<Ending, Error> {
        let offer = self.locks.owner.offers.find(number).ok_or(Error::WrongState)?;
        match offer.accepted {
            Some((slot, _)) if slot == self.locks.borrower.slot() => Ok(Ending(*offer)),
            _ => Err(Error::WrongState),
        }
    }

    /// Ends a share: the borrower loses the page first. If it lives and did not ask for that, its frame is poisoned:
    /// else the host could put a page of its own there, in the other guest's name.
    fn end(&mut self, Ending(offer): Ending, asked_by: Side) {
        let Self { ownership, locks, env } = self;
        let TwoGuests { owner, borrower } = locks;
        if let Some((_, gfn)) = offer.accepted
            && let Ok(frames) = borrower.named_frames(gfn, 1)
        {
            if asked_by == Side::Borrower || borrower.is_dying() {
                borrower.unmap(env.environment(), frames);
            } else {
                borrower.poison(env.environment(), frames);
            }
        }
        ownership.forget_offer(owner, &offer);
    }
}

impl Ownership {
    /// Forgets an offer by which nobody borrows any more: the page is the guest's alone again.
    fn forget_offer(&self, owner: &mut GuestMemory, offer: &Offer) {
        let (slot, gfn) = (owner.slot(), offer.gfn);
        offer.page.set_run(PageState::Guest { slot, gfn, usage: GuestUse::Alone });
        owner.offers.forget(|other| other.number == offer.number);
    }

    /// A protected guest offers the page at `gfn` to the guest `receiver`, with `rights`. Returns the number of the offer.
    /// Until the offer ends, the guest can do nothing else with the page but use it.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] where it offers the page to itself; [`Error::BadRange`]; [`Error::VmGone`] where the
    /// guest is dying; [`Error::WrongState`] where it is not protected, the page is not its alone, or was taken from it;
    /// [`Error::NotMemory`] where it has no memory there (yet); [`Error::NotYours`] where it only borrows the page;
    /// [`Error::Limit`] where it has too many offers already.
    pub fn guest_offer<E: Environment>(
        &self,
        env: &mut E,
        guest: &GuestLock,
        gfn: Gfn,
        receiver: VmHandle,
        rights: Rights,
    ) -> Result<u64, Error> {
        self.transition(
            env,
            GuestOnly::lock(guest),
            |locks| Call::GuestOffer { slot: locks.guest.slot(), gfn, receiver, rights },
            |scene| {
                if receiver == scene.locks.guest.name() {
                    return Err(Error::InvalidParameter);
                }
                let found = scene.locks.guest.find_own(&scene.env, &self.ledger, gfn, GuestUse::Alone)?;
                scene.locks.guest.offers.check_room()?;
                Ok(found)
            },
            |scene, found: GuestsPage| {
                found.page.set_run(found.state(GuestUse::Offered));
                scene.locks.guest.offers.add(found.page, gfn, receiver, rights)
            },
        )
    }

    /// A protected guest accepts the offer `number` of another, and borrows its page at `gfn`. The rights must be those
    /// that were offered, so that nobody between the two can change what they agree on.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] where both are one guest; [`Error::BadRange`]; [`Error::VmGone`] where one of them is
    /// dying; [`Error::WrongState`] where one is not protected, where there is no such offer for this guest, it has been
    /// accepted, its rights are others, or the guest has something at `gfn` or may not get anything there;
    /// [`Error::OutOfMemory`] where the guest's cache is too small.
    pub fn guest_accept<'g, E: Environment>(
        &self,
        env: &mut E,
        guest: impl Into<GuestAccount<'g>>,
        owner: &GuestLock,
        number: u64,
        gfn: Gfn,
        rights: Rights,
    ) -> Result<(), Error> {
        self.transition(
            env,
            TwoGuests::lock(owner, guest.into())?,
            |locks| {
                let (slot, owner) = (locks.borrower.slot(), locks.owner.slot());
                Call::GuestAccept { slot, owner, number, gfn, rights }
            },
            |scene| {
                let TwoGuests { owner, borrower } = &scene.locks;
                let frames = borrower.named_frames(gfn, 1)?;
                if borrower.is_dying() || owner.is_dying() {
                    return Err(Error::VmGone);
                }
                borrower.check_kind(true)?;
                owner.check_kind(true)?;
                let offer = *owner.offers.find(number).ok_or(Error::WrongState)?;
                let meant = offer.receiver == borrower.name() && offer.rights == rights && offer.accepted.is_none();
                if !meant {
                    return Err(Error::WrongState);
                }
                let frames = borrower.check_vacant(&scene.env, frames, offer.page.bytes().start)?;
                Ok(Acceptable { offer, frames })
            },
            |scene, Acceptable { offer, frames }| {
                let Scene { locks: TwoGuests { owner, borrower }, env, .. } = scene;
                owner.offers.accept(offer.number, borrower.slot(), gfn);
                let (slot, usage) = (owner.slot(), GuestUse::SharedWithGuest(borrower.slot()));
                offer.page.set_run(PageState::Guest { slot, gfn: offer.gfn, usage });
                let attributes = Stage2Attributes::memory().with_software(Software::Borrowed.bits());
                borrower.map(env.environment(), frames, offer.page.bytes().start, rights.limit(attributes));
            },
        )
    }

    /// Who has accepted the offer `number` of a guest, if anybody has by now.
    pub fn acceptor(&self, guest: &GuestLock, number: u64) -> Option<VmSlot> {
        guest.lock().offers.find(number)?.accepted.map(|(slot, _)| slot)
    }

    /// A protected guest withdraws the offer `number`. Who has accepted it, and only he, is the `borrower`, who cannot
    /// reach the page any more on return: its frame is poisoned, unless it is dying.
    ///
    /// # Errors
    /// [`Error::VmGone`] where the guest is dying; [`Error::WrongState`] where it is not protected or there is no such
    /// offer; [`Error::Busy`] where the borrower, or that there is none, is not the truth (any more);
    /// [`Error::InvalidParameter`] where the borrower is the guest.
    pub fn guest_withdraw<E: Environment>(
        &self,
        env: &mut E,
        guest: &GuestLock,
        borrower: Option<&GuestLock>,
        number: u64,
    ) -> Result<(), Error> {
        let Some(borrower) = borrower else { return self.withdraw_unaccepted(env, guest, number) };
        self.transition(
            env,
            TwoGuests::lock(guest, borrower.into())?,
            |locks| Call::GuestWithdraw { slot: locks.owner.slot(), number },
            |scene| {
                scene.locks.owner.check_living(true)?;
                if scene.locks.owner.offers.find(number).is_none() {
                    return Err(Error::WrongState);
                }
                scene.find_share(number).map_err(|_| Error::Busy)
            },
            |scene, ending| scene.end(ending, Side::Other),
        )
    }

    fn withdraw_unaccepted<E: Environment>(&self, env: &mut E, guest: &GuestLock, number: u64) -> Result<(), Error> {
        self.transition(
            env,
            GuestOnly::lock(guest),
            |locks| Call::GuestWithdraw { slot: locks.guest.slot(), number },
            |scene| {
                scene.locks.guest.check_living(true)?;
                let offer = *scene.locks.guest.offers.find(number).ok_or(Error::WrongState)?;
                if offer.accepted.is_some() { Err(Error::Busy) } else { Ok(Ending(offer)) }
            },
            |scene, Ending(offer)| {
                self.forget_offer(&mut scene.locks.guest, &offer);
            },
        )
    }

    /// A protected guest gives up what it borrows by the offer `number` of another.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] where both are one guest; [`Error::VmGone`] where the borrower is dying;
    /// [`Error::WrongState`] where it is not protected, or borrows nothing by that offer.
    pub fn guest_drop<E: Environment>(
        &self,
        env: &mut E,
        guest: &GuestLock,
        owner: &GuestLock,
        number: u64,
    ) -> Result<(), Error> {
        self.transition(
            env,
            TwoGuests::lock(owner, guest.into())?,
            |locks| Call::GuestDrop { slot: locks.borrower.slot(), owner: locks.owner.slot(), number },
            |scene| {
                scene.locks.borrower.check_living(true)?;
                scene.find_share(number)
            },
            |scene, ending| scene.end(ending, Side::Borrower),
        )
    }

    /// The host ends what one guest borrows of another, of which at least one is dying. The frame of a borrower that
    /// lives is poisoned.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] where both are one guest; [`Error::Busy`] where none of them is dying;
    /// [`Error::WrongState`] where the borrower has not accepted that offer.
    pub fn host_end_share<E: Environment>(
        &self,
        env: &mut E,
        owner: &GuestLock,
        borrower: &GuestLock,
        number: u64,
    ) -> Result<(), Error> {
        self.transition(
            env,
            TwoGuests::lock(owner, borrower.into())?,
            |locks| Call::HostEndShare { owner: locks.owner.slot(), borrower: locks.borrower.slot(), number },
            |scene| {
                if !scene.locks.owner.is_dying() && !scene.locks.borrower.is_dying() {
                    return Err(Error::Busy);
                }
                scene.find_share(number)
            },
            |scene, ending| scene.end(ending, Side::Other),
        )
    }
}
