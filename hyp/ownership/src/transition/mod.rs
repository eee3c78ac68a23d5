//! The transitions: who may hand which pages to whom.
//!
//! Each takes the locks of the components that take part and then has two parts. The check looks at every page, puts
//! aside the table frames that the tables may need, and returns a proof, which only the checks can make; or it refuses, with
//! nothing changed. The commit consumes the proof and cannot fail.

mod call;
mod device;
mod device_mark;
mod guest_guest;
mod guest_host;
mod guest_tables;
mod host_guest;
mod host_hyp;
mod locks;
mod pin;
mod reclaim;

pub use call::Call;
pub use locks::LockedMemory;

use crate::annotation::Holder;
use crate::environment::Environment;
use crate::ownership::{HostMemory, Ownership, host_ipa, table_error};
use crate::page_range::PageRange;
use crate::reserve::{ReservedFrames, missing_tables};
use crate::state::PageState;
use abi::host::MAX_PAGES_PER_CALL;
use abi::{Error, Ipa, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use locks::Locks;
use pgtable::TableError;

/// What a transition works on: its locks, and the environment with the frames that it put aside.
struct Scene<'s, L, E: Environment> {
    ownership: &'s Ownership,
    locks: L,
    env: ReservedFrames<'s, E>,
}

/// Proof that the host owns these pages and nobody else uses them.
struct HostsAlone(PageRange);

impl Ownership {
    /// Makes a transition under `locks`, before the eyes of the witness.
    fn transition<L: Locks, E: Environment, P, O>(
        &self,
        env: &mut E,
        locks: L,
        call: impl FnOnce(&L) -> Call,
        check: impl FnOnce(&mut Scene<'_, L, E>) -> Result<P, Error>,
        commit: impl FnOnce(&mut Scene<'_, L, E>, P) -> O,
    ) -> Result<O, Error> {
        let result = {
            let mut scene = Scene { ownership: self, locks, env: ReservedFrames::new(env) };
            let call = call(&scene.locks);
            scene.env.environment().before(&self.locked_memory(&scene.locks), &call);
            let result = check(&mut scene).map(|proof| commit(&mut scene, proof));
            let outcome = result.as_ref().map(|_| ()).map_err(|error| *error);
            scene.env.environment().after(&self.locked_memory(&scene.locks), &call, outcome);
            result
        };
        env.unlocked();
        result
    }

    /// What the locks stand for.
    fn locked_memory<'a, L: Locks>(&'a self, locks: &'a L) -> LockedMemory<'a> {
        let (host, hyp, guests) = locks.memory();
        self.view(host, hyp, guests)
    }

    /// The pages of RAM that a call names.
    fn named_pages(&self, first: Pfn, count: u64) -> Result<PageRange, Error> {
        check_numbers(first.raw(), count, self.pfn_limit())?;
        self.ledger.pages(first, count).ok_or(Error::NotMemory)
    }

    /// The pages of devices that a call names: none of them is RAM.
    fn named_device(&self, first: Pfn, count: u64) -> Result<PhysRange, Error> {
        check_numbers(first.raw(), count, self.pfn_limit())?;
        let start = first.checked_address().ok_or(Error::BadRange)?;
        let range = PhysRange::from_size(start, count.saturating_mul(PAGE_SIZE)).ok_or(Error::BadRange)?;
        if self.ledger.overlaps_memory(&range) { Err(Error::BadRange) } else { Ok(range) }
    }
}

/// Refuses a range of frame numbers that is empty, too long for one call, or that wraps or reaches to `limit`.
fn check_numbers(first: u64, count: u64, limit: u64) -> Result<(), Error> {
    let end = first.checked_add(count).ok_or(Error::BadRange)?;
    if count == 0 || count > MAX_PAGES_PER_CALL || end > limit { Err(Error::BadRange) } else { Ok(()) }
}

impl PageRange {
    /// Looks at every page; the first refusal counts.
    fn check(&self, check: impl Fn(PageState) -> Result<(), Error>) -> Result<(), Error> {
        self.states().try_for_each(check)
    }

    /// Refuses unless the host owns every page and nobody else uses it.
    fn check_hosts_alone(self) -> Result<HostsAlone, Error> {
        if self.all_are(PageState::HOST_ALONE) {
            return Ok(HostsAlone(self));
        }
        self.check(|state| match state {
            PageState::HOST_ALONE => Ok(()),
            PageState::Host { pins: 0, .. } | PageState::LentToGuest { .. } => Err(Error::WrongState),
            PageState::Host { .. } => Err(Error::Busy),
            PageState::Hyp | PageState::Guest { .. } => Err(Error::NotYours),
        })?;
        Ok(HostsAlone(self))
    }

    /// Calls `visit` with each run of pages for which `holds` says so, until it refuses.
    fn try_each_run(
        &self,
        holds: impl Fn(PageState) -> bool,
        mut visit: impl FnMut(PageRange) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut run = 0_u64;
        for (index, state) in (0..).zip(self.states()) {
            if holds(state) {
                run = run.saturating_add(1);
            } else if run != 0 {
                visit(self.part(index - run, run))?;
                run = 0;
            }
        }
        if run != 0 { visit(self.part(self.count() - run, run)) } else { Ok(()) }
    }

    /// Calls `visit` with each run of pages for which `holds` says so.
    fn each_run(&self, holds: impl Fn(PageState) -> bool, mut visit: impl FnMut(PageRange)) {
        let never_refused = self.try_each_run(holds, |run| {
            visit(run);
            Ok(())
        });
        debug_assert!(never_refused.is_ok());
    }
}

impl<E: Environment> ReservedFrames<'_, E> {
    /// Puts aside what it takes to change the descriptors of this range alone in the host's stage 2.
    fn reserve_for_host(&mut self, host: &HostMemory, bytes: &PhysRange) -> Result<(), Error> {
        let (start, end) = (bytes.start.raw(), bytes.end.raw());
        let level = |address| host.stage2.find(self, Ipa::new(address)).map(|leaf| leaf.level).map_err(table_error);
        let last_page = end.saturating_sub(PAGE_SIZE);
        let first = level(start)?;
        let last = if last_page == start { first } else { level(last_page)? };
        self.reserve(missing_tables(start, end, first, last))
    }
}

impl HostMemory {
    /// Takes a range from the host, noting who has it, or lets it find it again at its next access. The frames for it
    /// were put aside.
    fn note_holder<E: Environment>(&mut self, env: &mut ReservedFrames<'_, E>, bytes: PhysRange, holder: Holder) {
        let done = self.stage2.annotate(env, host_ipa(bytes.start), bytes.size(), holder.annotation());
        must_be_done(done);
    }
}

/// The change of a table that a commit makes cannot fail: its range was checked and its frames were put aside. Were that
/// ever wrong, somebody would keep a page that the ledger gives to another, so hyp stops rather than go on.
#[track_caller]
fn must_be_done(change: Result<(), TableError>) {
    assert!(change.is_ok(), "a checked change of a table failed: {change:?}");
}

/// Wipes every page of a range, out of the instruction caches too, since whoever gets it next may execute what is there.
/// Nobody can reach them.
fn wipe_all<E: Environment>(env: &mut E, pages: &PageRange) {
    env.wipe_range(pages.bytes());
    env.invalidate_instruction_cache(pages.bytes());
}

/// The frame that holds the byte at `address`.
const fn page_at(address: PhysAddr) -> Pfn {
    Pfn::containing(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a checked change of a table failed: Err(OutOfFrames)")]
    fn nothing_goes_on_after_a_commit_that_failed() {
        must_be_done(Err(TableError::OutOfFrames));
    }
}
