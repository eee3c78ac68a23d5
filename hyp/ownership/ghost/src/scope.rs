//! What a transition is about: the pages, frames and offers that it names, and what they lead to.

use crate::disagreement::Disagreement;
use crate::guest::SeenGuest;
use crate::judge::{Judge, Seen};
use crate::translate;
use abi::{Gfn, Ipa, Pfn};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use ownership::annotation::Holder;
use ownership::{GuestMemory, LockedMemory, PageState};
use ownership_spec::{Call, Machine, Specification, Substitute, Vm};
use pgtable::TableFrames;

/// Pages, and guests' frames.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Scope {
    pages: BTreeSet<Pfn>,
    frames: BTreeMap<Vm, BTreeSet<Gfn>>,
}

/// What a call names.
struct Names {
    /// The first page, where it names any.
    first: Option<Pfn>,
    /// The first frame and its guest, where it names any.
    frame: Option<(Vm, Gfn)>,
    /// How many of each.
    count: u64,
}

impl Names {
    fn of(call: &Call) -> Self {
        let (first, frame, count) = match *call {
            Call::HostShareHyp { first, count, .. }
            | Call::HostUnshareHyp { first, count }
            | Call::HostDonateHyp { first, count }
            | Call::HypDonateHost { first, count }
            | Call::HostReturnGuest { first, count, .. }
            | Call::Reclaim { first, count, .. }
            | Call::ForceReclaim { first, count, .. }
            | Call::ReclaimDevice { first, count, .. }
            | Call::HostDonateDeviceHyp { first, count }
            | Call::HypDonateDeviceHost { first, count } => (Some(first), None, count),
            Call::HypPin { page } | Call::HypUnpin { page } => (Some(page), None, 1),
            Call::HostDonateGuest { vm, first, gfn, count }
            | Call::HostLendGuest { vm, first, gfn, count }
            | Call::HostShareGuest { vm, first, gfn, count, .. }
            | Call::HostGrantDevice { vm, first, gfn, count } => (Some(first), Some((vm, gfn)), count),
            Call::HostUnshareGuest { vm, gfn, count } => (None, Some((vm, gfn)), count),
            Call::GuestShareHost { vm, gfn }
            | Call::GuestUnshareHost { vm, gfn }
            | Call::GuestLendHost { vm, gfn }
            | Call::GuestReturn { vm, gfn }
            | Call::GuestRelinquish { vm, gfn }
            | Call::GuestOffer { vm, gfn, .. }
            | Call::GuestAccept { vm, gfn, .. } => (None, Some((vm, gfn)), 1),
            Call::Create { .. }
            | Call::StartTeardown { .. }
            | Call::Finalise { .. }
            | Call::GuestWithdraw { .. }
            | Call::GuestDrop { .. }
            | Call::HostEndShare { .. } => (None, None, 0),
        };
        Self { first, frame, count }
    }

    /// True where the numbers alone do not forbid the call.
    fn make_sense(&self, machine: &Machine) -> bool {
        let pages_exist = self.first.is_none_or(|first| match first.raw().checked_add(self.count) {
            Some(end) => end <= machine.pfn_limit,
            None => false,
        });
        let frames_exist = self.frame.is_none_or(|(_, gfn)| gfn.raw().checked_add(self.count).is_some());
        self.count <= machine.longest && pages_exist && frames_exist
    }
}

/// A part of a call's ranges.
struct Part {
    offset: u64,
    count: u64,
}

impl Substitute for Part {
    fn page(&self, page: Pfn) -> Pfn {
        Pfn::new(page.raw().saturating_add(self.offset))
    }

    fn count(&self, _count: u64) -> u64 {
        self.count
    }

    fn frame(&self, gfn: Gfn) -> Gfn {
        Gfn::new(gfn.raw().saturating_add(self.offset))
    }
}

/// Where a call names more than `most` pages, the same call for that many of them; `turn` says which. All of a range
/// changes hands or none of it, so that a call that is done is done to each part.
pub(crate) fn part(call: &Call, machine: &Machine, most: u64, turn: u64) -> Option<Call> {
    let names = Names::of(call);
    if names.count <= most || !names.make_sense(machine) {
        return None;
    }
    let last = names.count.saturating_sub(most);
    // The first and the last part more often than others: most mistakes are at the ends.
    let offset = match turn % 4 {
        0 => 0,
        1 => last,
        _ => turn.wrapping_mul(most) % last.saturating_add(1),
    };
    Some(call.substitute(&Part { offset, count: most }))
}

impl Scope {
    /// What a call names. Nothing, where the numbers alone forbid it.
    pub(crate) fn of(call: &Call, machine: &Machine) -> Self {
        let names = Names::of(call);
        let mut scope = Self::default();
        if names.make_sense(machine) {
            let range = |first: u64| first..first.saturating_add(names.count);
            scope.pages = names.first.map_or(0..0, |first| range(first.raw())).map(Pfn::new).collect();
            if let Some((vm, gfn)) = names.frame {
                scope.frames.insert(vm, range(gfn.raw()).map(Gfn::new).collect());
            }
        }
        scope
    }

    /// A range of pages.
    pub(crate) fn of_pages(first: Pfn, count: u64) -> Self {
        let pages = (first.raw()..first.raw().saturating_add(count)).map(Pfn::new).collect();
        Self { pages, frames: BTreeMap::new() }
    }

    /// The state as ledger and tables have it now. What they lead to from here is in the scope afterwards.
    pub(crate) fn look<F: TableFrames>(
        &mut self,
        frames: &F,
        memory: LockedMemory<'_>,
        start: &Specification,
    ) -> Result<Seen, Disagreement> {
        for guest in memory.guests.into_iter().flatten() {
            self.add_offers(guest);
            self.add_frames_of_pages(frames, &memory, guest);
        }
        let mut guests = Vec::new();
        for guest in memory.guests.into_iter().flatten() {
            let wanted = self.frames.entry(translate::vm(guest.slot())).or_default();
            guests.push(SeenGuest::at_frames(frames, guest, wanted)?);
        }
        Judge::new(frames, memory, guests, false).state(start, &mut self.pages)
    }

    /// Adds what a guest offers, and where it and others have that.
    fn add_offers(&mut self, guest: &GuestMemory) {
        for offer in guest.offers().iter() {
            self.pages.insert(offer.page.first());
            self.frames.entry(translate::vm(guest.slot())).or_default().insert(offer.gfn);
            if let Some((borrower, gfn)) = offer.accepted {
                self.frames.entry(translate::vm(borrower)).or_default().insert(gfn);
            }
        }
    }

    /// Adds the frames at which a guest has the pages, by the ledger or, where they are a device's, by the host's stage 2.
    fn add_frames_of_pages<F: TableFrames>(&mut self, frames: &F, memory: &LockedMemory<'_>, guest: &GuestMemory) {
        let gfn_of = |pfn: &Pfn| match memory.ledger.state(*pfn) {
            Some(PageState::Guest { slot, gfn, .. } | PageState::LentToGuest { slot, gfn }) => Some((slot, gfn)),
            Some(PageState::Host { .. } | PageState::Hyp) => None,
            None => {
                let ipa = Ipa::new(pfn.checked_address()?.raw());
                match Holder::of(memory.host?.lookup(frames, ipa).ok()?.annotation()) {
                    Some(Holder::Device(grant)) => Some((grant.slot, grant.gfn(*pfn))),
                    _ => None,
                }
            }
        };
        let found = self.pages.iter().filter_map(gfn_of).filter(|(slot, _)| *slot == guest.slot()).map(|(_, gfn)| gfn);
        self.frames.entry(translate::vm(guest.slot())).or_default().extend(found);
    }
}
