//! The locks that transitions take: those of the components that take part, and no other.
//!
//! A set of locks can be made by its `lock` function alone, which takes them in the order of [`Rank`](crate::Rank). So the
//! order is wrong nowhere, and a transition that holds the locks of some components cannot be written that changes another.

use super::HostMemory;
use crate::guest_memory::{GuestAccount, GuestLock, GuestMemory};
use crate::ledger::Ledger;
use crate::lock::{Guard, Lock};
use crate::ownership::Ownership;
use crate::shared_lock::ExclusiveGuard;
use crate::table_pages::Payer;
use abi::{Error, PhysRange};
use pgtable::{El2Stage1, Stage2};

/// The memory of the components whose locks are held, to read.
#[derive(Clone, Copy)]
pub struct LockedMemory<'a> {
    /// The ledger; entries of pages of the components here do not change.
    pub ledger: &'a Ledger,
    /// The pages that the boot gave to hyp.
    pub carve_out: PhysRange,
    /// Pages below this one exist, in the host's address space.
    pub pfn_limit: u64,
    /// The host's stage 2.
    pub host: Option<&'a Stage2>,
    /// Hyp's stage 1.
    pub hyp: Option<&'a El2Stage1>,
    /// The guest, or the two: the owner of what is shared first.
    pub guests: [Option<&'a GuestMemory>; 2],
}

/// What a set of locks gives access to.
pub(crate) trait Locks {
    /// All of it, to read: host, hyp and guests.
    fn memory(&self) -> Held<'_>;
}

/// The parts of [`LockedMemory`] that locks stand for.
pub(crate) type Held<'a> = (Option<&'a HostMemory>, Option<&'a El2Stage1>, [Option<&'a GuestMemory>; 2]);

/// The host's.
pub(crate) struct HostOnly<'a> {
    pub(crate) host: ExclusiveGuard<'a, HostMemory>,
}

/// The host's and hyp's.
pub(crate) struct HostAndHyp<'a> {
    pub(crate) host: ExclusiveGuard<'a, HostMemory>,
    pub(crate) hyp: Guard<'a, El2Stage1>,
}

/// The host's and a guest's.
pub(crate) struct HostAndGuest<'a> {
    pub(crate) host: ExclusiveGuard<'a, HostMemory>,
    pub(crate) guest: Guard<'a, GuestMemory>,
}

/// A guest's.
pub(crate) struct GuestOnly<'a> {
    pub(crate) guest: Guard<'a, GuestMemory>,
}

/// Those of two guests, of which one lets the other use its memory.
pub(crate) struct TwoGuests<'a> {
    pub(crate) owner: Guard<'a, GuestMemory>,
    pub(crate) borrower: Guard<'a, GuestMemory>,
}

impl<'a> HostOnly<'a> {
    pub(crate) fn lock(ownership: &'a Ownership) -> Self {
        Self { host: ownership.lock_host() }
    }
}

impl<'a> HostAndHyp<'a> {
    pub(crate) fn lock(ownership: &'a Ownership) -> Self {
        let host = ownership.lock_host();
        Self { host, hyp: ownership.hyp().lock() }
    }
}

impl<'a> HostAndGuest<'a> {
    pub(crate) fn lock(ownership: &'a Ownership, guest: GuestAccount<'a>) -> Self {
        let host = ownership.lock_host();
        Self { host, guest: guest.lock() }
    }
}

impl<'a> GuestOnly<'a> {
    pub(crate) fn lock(guest: &'a GuestLock) -> Self {
        Self { guest: GuestAccount::from(guest).lock() }
    }
}

impl<'a> TwoGuests<'a> {
    /// # Errors
    /// [`Error::InvalidParameter`] where they are one and the same.
    pub(crate) fn lock(owner: &'a GuestLock, borrower: GuestAccount<'a>) -> Result<Self, Error> {
        let payer = borrower.payer;
        let (mut owner, mut borrower) = Lock::lock_two(owner, borrower.memory).ok_or(Error::InvalidParameter)?;
        owner.cache.charge(Payer::Anyone);
        borrower.cache.charge(payer);
        Ok(Self { owner, borrower })
    }
}

impl Locks for HostOnly<'_> {
    fn memory(&self) -> Held<'_> {
        (Some(&self.host), None, [None, None])
    }
}

impl Locks for HostAndHyp<'_> {
    fn memory(&self) -> Held<'_> {
        (Some(&self.host), Some(&self.hyp), [None, None])
    }
}

impl Locks for HostAndGuest<'_> {
    fn memory(&self) -> Held<'_> {
        (Some(&self.host), None, [Some(&self.guest), None])
    }
}

impl Locks for GuestOnly<'_> {
    fn memory(&self) -> Held<'_> {
        (None, None, [Some(&self.guest), None])
    }
}

impl Locks for TwoGuests<'_> {
    fn memory(&self) -> Held<'_> {
        (None, None, [Some(&self.owner), Some(&self.borrower)])
    }
}
