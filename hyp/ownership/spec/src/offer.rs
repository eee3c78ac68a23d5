//! Shares between guests: one offers, the other accepts, and either ends it.

use crate::guest::Vm;
use crate::page::{Borrower, Owner, Page, Rights};
use crate::state::{Next, Specification};
use abi::host::VmHandle;
use abi::{Error, Gfn, Pfn};
use core::fmt;

/// What one guest offers to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Offer {
    /// Where the owner has the page.
    pub gfn: Gfn,
    /// What the receiver may do.
    pub rights: Rights,
    /// For whom it is. There need be no such VM.
    pub receiver: VmHandle,
    /// Who has accepted it, and where he has the page.
    pub accepted: Option<(Vm, Gfn)>,
}

impl Specification {
    /// A guest offers a page that it has to itself to another guest. Returns the offer's number too.
    ///
    /// # Errors
    /// Where there is no next state, the refusal.
    pub fn guest_offer(&self, vm: Vm, gfn: Gfn, receiver: VmHandle, rights: Rights) -> Result<(Self, u64), Error> {
        rights.valid()?;
        if self.guest(vm)?.name == receiver {
            return Err(Error::InvalidParameter);
        }
        let next = self.with_own_page(vm, gfn, |page| Ok(Page { offer: true, ..page.alone()? }))?;
        let guest = self.guest(vm)?;
        if guest.offers.len() >= self.machine.most_offers {
            return Err(Error::Limit);
        }
        let number = guest.last_number.checked_add(1).ok_or(Error::Limit)?;
        let next = next.with_guest(vm, |guest| {
            guest.last_number = number;
            guest.offers.insert(number, Offer { gfn, rights, receiver, accepted: None });
        });
        Ok((next, number))
    }

    /// A guest accepts what `owner` has offered to it, with just those rights, at a frame that is vacant.
    pub fn guest_accept(&self, vm: Vm, owner: Vm, number: u64, gfn: Gfn, rights: Rights) -> Next {
        rights.valid()?;
        not_the_same(vm, owner)?;
        self.frames(vm, gfn, 1)?;
        self.living(vm)?;
        self.living(owner)?;
        let receiver = self.living_protected(vm)?.name;
        let offer = self.living_protected(owner)?.offers.get(&number).ok_or(Error::WrongState)?;
        if offer.receiver != receiver || offer.rights != rights || offer.accepted.is_some() {
            return Err(Error::WrongState);
        }
        self.vacant(vm, gfn, 1)?;
        let (pfn, page) = self.offered_page(owner, offer)?;
        let mut next = self.clone();
        next.set_page(pfn, Page { offer: false, ..page.shared_with(Borrower::Guest(vm, gfn), rights) });
        Ok(next.with_guest(owner, |guest| {
            guest.offers.entry(number).and_modify(|offer| offer.accepted = Some((vm, gfn)));
        }))
    }

    /// A guest ends an offer of its own, accepted or not.
    pub fn guest_withdraw(&self, vm: Vm, number: u64) -> Next {
        self.living_protected(vm)?;
        Ok(self.without_offer(vm, number, |_| true)?.poisoned_for_borrower(self, vm, number))
    }

    /// A guest ends borrowing what it accepted from `owner`, dying or not.
    pub fn guest_drop(&self, vm: Vm, owner: Vm, number: u64) -> Next {
        not_the_same(vm, owner)?;
        self.living(vm)?;
        self.guest(owner)?;
        self.living_protected(vm)?;
        self.without_offer(owner, number, |offer| offer.accepted.is_some_and(|(borrower, _)| borrower == vm))
    }

    /// The host ends what two guests share, one of which is dying.
    pub fn host_end_share(&self, owner: Vm, borrower: Vm, number: u64) -> Next {
        not_the_same(owner, borrower)?;
        let (owner_dies, borrower_dies) = (self.guest(owner)?.dying, self.guest(borrower)?.dying);
        if !owner_dies && !borrower_dies {
            return Err(Error::Busy);
        }
        let next =
            self.without_offer(owner, number, |offer| offer.accepted.is_some_and(|(guest, _)| guest == borrower))?;
        Ok(next.poisoned_for_borrower(self, owner, number))
    }

    /// With the frame poisoned at which a living guest borrowed by an offer that was there `before`: the guest does not
    /// expect to lose it, and nobody may put anything else there.
    fn poisoned_for_borrower(self, before: &Self, owner: Vm, number: u64) -> Self {
        let offer = before.guests.get(&owner).and_then(|guest| guest.offers.get(&number));
        match offer.and_then(|offer| offer.accepted) {
            Some((vm, gfn)) if self.guests.get(&vm).is_some_and(|guest| !guest.dying) => self.with_guest(vm, |guest| {
                guest.poisoned.insert(gfn);
            }),
            _ => self,
        }
    }

    /// The page of an offer.
    fn offered_page(&self, owner: Vm, offer: &Offer) -> Result<(Pfn, Page), Error> {
        let its = |page: &Page| page.owner == Owner::Guest(owner) && page.at == Some(offer.gfn);
        let found = self.changed_pages().find(|(_, page)| its(page));
        found.map(|(pfn, page)| (pfn, page.clone())).ok_or(Error::WrongState)
    }

    /// The state without an offer that `suits`, in which the owner has the page to itself again.
    fn without_offer(&self, owner: Vm, number: u64, suits: impl Fn(&Offer) -> bool) -> Next {
        let offer = self.guest(owner)?.offers.get(&number).filter(|offer| suits(offer)).ok_or(Error::WrongState)?;
        let (pfn, page) = self.offered_page(owner, offer)?;
        let mut next = self.clone();
        next.set_page(pfn, page.taken_back());
        Ok(next.with_guest(owner, |guest| {
            guest.offers.remove(&number);
        }))
    }
}

/// Refuses a share of a guest with itself.
fn not_the_same(one: Vm, other: Vm) -> Result<(), Error> {
    if one == other { Err(Error::InvalidParameter) } else { Ok(()) }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {} {} to VM {:#x}", self.gfn, self.rights, self.receiver.0)?;
        match self.accepted {
            Some((vm, gfn)) => write!(f, ", accepted by guest {vm} at frame {gfn}"),
            None => Ok(()),
        }
    }
}
