//! The specification beside the implementation, transition by transition.

use crate::judge::{Seen, at_start};
use crate::report::Report;
use crate::scope::{Scope, part};
use crate::translate;
use abi::{Error, Ipa, PAGE_SIZE, Pfn, VirtAddr};
use alloc::boxed::Box;
use core::ops::ControlFlow;
use ownership::{Access, Call, HostFault, LockedMemory};
use ownership_spec::{Call as SpecCall, Output, Owner, Specification, Vm};
use pgtable::TableFrames;

/// How much a ghost looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// One in so many calls and faults is compared; at least 1.
    pub one_in: u64,
    /// Of a call that names more pages, so many are compared: the first, the last, or some in between.
    pub most_pages: u64,
    /// After each compared call, so many pages are compared whatever the call was about, always the next ones.
    pub sweep: u64,
}

impl Settings {
    /// Everything that a call names, and nothing else.
    pub const ALL: Self = Self { one_in: 1, most_pages: u64::MAX, sweep: 0 };
}

/// A call that has begun.
struct Pending {
    call: SpecCall,
    /// It is a part of what is called for.
    is_part: bool,
    scope: Scope,
    before: Seen,
    expected: Result<(Specification, Output), Error>,
}

/// Compares what one CPU does with the specification.
pub struct Ghost {
    settings: Settings,
    /// Calls and faults so far, compared or not.
    seen: u64,
    compared: u64,
    pending: Option<Pending>,
    /// The state in which the machine started.
    start: Option<Specification>,
    /// Where the sweep goes on.
    next: Pfn,
}

impl Ghost {
    /// A ghost that has seen nothing yet.
    pub const fn new(settings: Settings) -> Self {
        Self { settings, seen: 0, compared: 0, pending: None, start: None, next: Pfn::new(0) }
    }

    /// How many calls and faults were compared.
    pub const fn compared(&self) -> u64 {
        self.compared
    }

    /// A call begins, and its locks are held: for [`Witness::before`](ownership::Witness::before).
    ///
    /// # Errors
    /// Where the state that the call meets is not in order.
    pub fn before<F: TableFrames>(
        &mut self,
        frames: &F,
        memory: &LockedMemory<'_>,
        call: &Call,
    ) -> Result<(), Box<Report>> {
        self.pending = None;
        let Some(start) = self.begin(memory) else { return Ok(()) };
        let whole = translate::call(call);
        let part = part(&whole, start.machine(), self.settings.most_pages, self.compared);
        let (call, is_part) = (part.clone().unwrap_or_else(|| whole.clone()), part.is_some());
        let mut scope = Scope::of(&call, start.machine());
        let before = match scope.look(frames, *memory, &start) {
            Ok(before) => before,
            Err(disagreement) => return Err(Box::new(Report::Before(call, disagreement))),
        };
        let mut expected = before.state.apply(&call);
        // What the guest has offered is seen whole, so what the call does to that outside the part counts too.
        for beside in part.iter().flat_map(|part| offered_beside(memory, &whole, part)) {
            expected = expected.and_then(|(state, output)| Ok((state.apply(&beside)?.0, output)));
        }
        if expected.is_ok() && is_busy(frames, memory, &call, &before.state) {
            expected = Err(Error::Busy);
        }
        self.pending = Some(Pending { call, is_part, scope, before, expected });
        Ok(())
    }

    /// The call ends, and its locks are held still: for [`Witness::after`](ownership::Witness::after).
    ///
    /// # Errors
    /// Where it did not end as the specification says, or left another state.
    pub fn after<F: TableFrames>(
        &mut self,
        frames: &F,
        memory: &LockedMemory<'_>,
        result: Result<(), Error>,
    ) -> Result<(), Box<Report>> {
        let (Some(pending), Some(start)) = (self.pending.take(), self.start.clone()) else { return Ok(()) };
        let Pending { call, is_part, mut scope, mut before, expected } = pending;
        let mut after = match scope.look(frames, *memory, &start) {
            Ok(after) => after,
            Err(disagreement) => return Err(Box::new(Report::After(call, result, disagreement))),
        };
        let expected = match (result, expected) {
            (Ok(()), Ok((state, _))) => state,
            // Whether there are frames for tables is not the specification's subject, but the last thing that is checked.
            (Err(Error::OutOfMemory), Ok(_)) => before.state,
            (Err(error), Err(expected)) if error == expected => before.state,
            // A range is refused for any of its pages.
            (Err(_), _) if is_part => before.state,
            (result, expected) => return Err(Box::new(Report::Result(call, result, expected.map(drop)))),
        };
        for (vm, counted) in after.held_elsewhere.iter().filter(|_| !is_part) {
            let moved = before.held_elsewhere.get(vm).map_or(0, |before| counted.wrapping_sub(*before) as i64);
            if moved != 0 {
                return Err(Box::new(Report::Held(call, *vm, moved)));
            }
        }
        // What is known of VMs that cannot be seen are their pages alone, and these are compared.
        let mut expected = expected;
        for (vm, stub) in core::mem::take(&mut after.stubs) {
            expected.set_guest(vm, stub);
        }
        for (vm, stub) in core::mem::take(&mut before.stubs) {
            expected.set_guest(vm, stub.clone());
            after.state.set_guest(vm, stub);
        }
        if let Some(difference) = after.state.difference(&expected) {
            return Err(Box::new(Report::State(call, result, difference)));
        }
        self.compared = self.compared.saturating_add(1);
        self.sweep(frames, memory, &start)
    }

    /// A fault of the host's was decided, and its lock is held still: for [`Witness::fault`](ownership::Witness::fault).
    /// `starved`: there may have been no frame for a table.
    ///
    /// # Errors
    /// Where the host may go on though it may not make the access, or the reverse.
    pub fn fault<F: TableFrames>(
        &mut self,
        frames: &F,
        memory: &LockedMemory<'_>,
        ipa: Ipa,
        access: Access,
        fault: HostFault,
        starved: bool,
    ) -> Result<(), Box<Report>> {
        let Some(start) = self.begin(memory) else { return Ok(()) };
        let page = Pfn::new(ipa.raw() / PAGE_SIZE);
        let seen = Scope::of_pages(page, 1).look(frames, *memory, &start);
        let seen = seen.map_err(|disagreement| Box::new(Report::AtFault(ipa, access, disagreement)))?;
        let allowed = seen.state.access(Owner::Host, page).iter().any(|(_, rights)| match access {
            Access::Read => rights.read,
            Access::Write => rights.write,
            Access::Execute => rights.execute,
        });
        let expected = if allowed { HostFault::Resume } else { HostFault::Inject };
        if fault != expected && !(starved && fault == HostFault::Inject) {
            return Err(Box::new(Report::Fault(ipa, access, fault)));
        }
        self.compared = self.compared.saturating_add(1);
        Ok(())
    }

    /// Counts a call or a fault; the state at the start where it is to be compared.
    fn begin(&mut self, memory: &LockedMemory<'_>) -> Option<Specification> {
        let turn = self.seen;
        self.seen = turn.saturating_add(1);
        let is_due = turn.is_multiple_of(self.settings.one_in.max(1));
        is_due.then(|| self.start.get_or_insert_with(|| at_start(memory)).clone())
    }

    /// Compares the next pages of RAM, as far as the locks that are held show them.
    fn sweep<F: TableFrames>(
        &mut self,
        frames: &F,
        memory: &LockedMemory<'_>,
        start: &Specification,
    ) -> Result<(), Box<Report>> {
        if self.settings.sweep == 0 || memory.host.is_none() {
            return Ok(());
        }
        let banks = &start.machine().ram;
        let bank = banks.iter().find(|bank| self.next < bank.end).or(banks.first());
        let Some(bank) = bank else { return Ok(()) };
        let first = if bank.contains(&self.next) { self.next } else { bank.start };
        let count = self.settings.sweep.min(bank.end.raw().saturating_sub(first.raw()));
        self.next = Pfn::new(first.raw().saturating_add(count));
        // Of guests that are looked at, all frames would have to be.
        let unseen = LockedMemory { guests: [None, None], ..*memory };
        Scope::of_pages(first, count)
            .look(frames, unseen, start)
            .map(drop)
            .map_err(|wrong| Box::new(Report::Elsewhere(wrong)))
    }
}

/// For a call that takes pages from a guest, of which only a part is looked at: the same call for each page beside the part
/// that the guest has offered to another.
fn offered_beside<'a>(
    memory: &'a LockedMemory<'_>,
    whole: &'a SpecCall,
    part: &'a SpecCall,
) -> impl Iterator<Item = SpecCall> + 'a {
    let pages = memory.guests.iter().flatten().flat_map(|guest| guest.offers().iter()).map(|offer| offer.page.first());
    let names = |call: &SpecCall, page: Pfn| match *call {
        SpecCall::Reclaim { first, count, .. } | SpecCall::ForceReclaim { first, count, .. } => {
            page >= first && page.raw().saturating_sub(first.raw()) < count
        }
        _ => false,
    };
    pages.filter(move |page| names(whole, *page) && !names(part, *page)).filter_map(|first| match *whole {
        SpecCall::Reclaim { vm, .. } => Some(SpecCall::Reclaim { vm, first, count: 1 }),
        SpecCall::ForceReclaim { vm, .. } => Some(SpecCall::ForceReclaim { vm, first, count: 1 }),
        _ => None,
    })
}

/// True where a call that the specification allows is put off: it names the wrong borrower, since the one that there is has
/// come or gone meanwhile; or hyp uses the device for itself.
fn is_busy<F: TableFrames>(frames: &F, memory: &LockedMemory<'_>, call: &SpecCall, state: &Specification) -> bool {
    match *call {
        SpecCall::GuestWithdraw { vm, number } => {
            let offer = state.guest(vm).ok().and_then(|guest| guest.offers.get(&number));
            let accepted = offer.and_then(|offer| offer.accepted).map(|(borrower, _)| borrower);
            let [_, borrower] = memory.guests;
            accepted != borrower.map(|guest| -> Vm { translate::vm(guest.slot()) })
        }
        SpecCall::HostDonateDeviceHyp { first, count } => {
            let (Some(hyp), Some(start)) = (memory.hyp, first.checked_address()) else { return false };
            let (start, size) = (VirtAddr::new(start.raw()), count.saturating_mul(PAGE_SIZE));
            let vacant = hyp.visit(frames, start, size, |leaf| {
                if leaf.is_valid() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            vacant != Ok(ControlFlow::Continue(()))
        }
        _ => false,
    }
}
