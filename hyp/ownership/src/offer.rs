//! What one guest offers to another, and what came of it.
//!
//! A share between guests takes the consent of both: the owner's, by an offer that names the page, the receiver and the
//! rights; and the receiver's, who accepts it by its number. The host carries the number from one to the other. It cannot
//! make an offer or accept one, and an offer is accepted once, so that nothing comes of a number that was made up, changed
//! or used before.

use crate::guest_memory::Rights;
use crate::page_range::PageRange;
use crate::state::VmSlot;
use abi::guest::MAX_OFFERS;
use abi::host::VmHandle;
use abi::{Error, Gfn};

/// One offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// By which it is accepted and ended; never used again by the same guest.
    pub number: u64,
    /// The page. It stays the owner's until the offer has ended.
    pub page: PageRange,
    /// Where the owner has it.
    pub gfn: Gfn,
    /// Whom it is for.
    pub receiver: VmHandle,
    /// What the receiver may do.
    pub rights: Rights,
    /// Who has accepted it, and where he has the page.
    pub accepted: Option<(VmSlot, Gfn)>,
}

/// The offers of one guest that have not ended.
#[derive(Debug, Default)]
pub struct Offers {
    open: [Option<Offer>; MAX_OFFERS],
    last_number: u64,
}

impl Offers {
    /// No offers.
    pub(crate) const fn new() -> Self {
        Self { open: [None; MAX_OFFERS], last_number: 0 }
    }

    /// Every offer that has not ended.
    pub fn iter(&self) -> impl Iterator<Item = &Offer> {
        self.open.iter().flatten()
    }

    /// The number of the newest offer; 0 where there has been none.
    pub const fn last_number(&self) -> u64 {
        self.last_number
    }

    /// The offer of that number.
    pub fn find(&self, number: u64) -> Option<&Offer> {
        self.iter().find(|offer| offer.number == number)
    }

    /// Refuses where there is no room for another offer.
    pub(crate) fn check_room(&self) -> Result<(), Error> {
        if self.open.contains(&None) && self.last_number != u64::MAX { Ok(()) } else { Err(Error::Limit) }
    }

    /// Adds an offer, for which there is room, and returns its number.
    pub(crate) fn add(&mut self, page: PageRange, gfn: Gfn, receiver: VmHandle, rights: Rights) -> u64 {
        self.last_number = self.last_number.saturating_add(1);
        let offer = Offer { number: self.last_number, page, gfn, receiver, rights, accepted: None };
        if let Some(place) = self.open.iter_mut().find(|place| place.is_none()) {
            *place = Some(offer);
        }
        offer.number
    }

    /// Notes who has accepted an offer.
    pub(crate) fn accept(&mut self, number: u64, by: VmSlot, gfn: Gfn) {
        if let Some(offer) = self.open.iter_mut().flatten().find(|offer| offer.number == number) {
            offer.accepted = Some((by, gfn));
        }
    }

    /// Forgets the offers for which `ended` holds.
    pub(crate) fn forget(&mut self, ended: impl Fn(&Offer) -> bool) {
        for place in &mut self.open {
            if place.as_ref().is_some_and(&ended) {
                *place = None;
            }
        }
    }
}
