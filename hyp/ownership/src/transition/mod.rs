//! The transitions: who may hand which pages to whom.
//!
//! Each has a `check_` method, which takes the locks of the components that take part, looks at every page, puts aside
//! the table frames that the tables may need, and returns a proof; the proof's `commit` consumes it and cannot fail. A
//! proof that is dropped instead leaves everything as it was. The plain methods do both.

mod guest;
mod guest_call;
mod guest_tables;
mod hyp;
mod pin;
mod reclaim;

pub use guest::{HostDonateGuest, HostShareGuest, HostUnshareGuest};
pub use guest_call::{GuestRelinquish, GuestShareHost, GuestUnshareHost};
pub use hyp::{HostDonateHyp, HostShareHyp, HostUnshareHyp, HypDonateHost};
pub use reclaim::Reclaim;

use crate::environment::Environment;
use crate::ledger::{Ledger, PageRange};
use crate::ownership::{HostMemory, Ownership, host_ipa, table_error};
use crate::reserve::{ReservedFrames, missing_tables};
use crate::state::PageState;
use abi::host::MAX_PAGES_PER_CALL;
use abi::{Error, Ipa, PAGE_SIZE, Pfn, PhysAddr};
use pgtable::{Annotation, TableError};

impl Ownership {
    /// The pages of RAM that a call names.
    fn named_pages(&self, first: Pfn, count: u64) -> Result<PageRange, Error> {
        check_numbers(first.raw(), count, self.pfn_limit())?;
        self.ledger.pages(first, count).ok_or(Error::NotMemory)
    }
}

/// Refuses a range of frame numbers that is empty, too long for one call, or that wraps or reaches to `limit`.
fn check_numbers(first: u64, count: u64, limit: u64) -> Result<(), Error> {
    let end = first.checked_add(count).ok_or(Error::BadRange)?;
    if count == 0 || count > MAX_PAGES_PER_CALL || end > limit { Err(Error::BadRange) } else { Ok(()) }
}

/// Refuses unless the host owns the page and nobody else uses it.
fn check_host_alone(state: PageState) -> Result<(), Error> {
    match state {
        PageState::HOST_ALONE => Ok(()),
        PageState::Host { pins: 0, .. } => Err(Error::WrongState),
        PageState::Host { .. } => Err(Error::Busy),
        PageState::Hyp | PageState::Guest { .. } => Err(Error::NotYours),
    }
}

impl Ledger {
    /// Looks at every page of a range; the first refusal counts.
    fn check(&self, pages: &PageRange, check: impl Fn(PageState) -> Result<(), Error>) -> Result<(), Error> {
        self.states(pages).try_for_each(check)
    }

    /// Writes every page of a range; `state` is given the page's place in the range. The host's lock is held.
    fn set_each(&self, pages: &PageRange, state: impl Fn(u64) -> PageState) {
        for index in 0..pages.count() {
            self.set(pages, index, state(index));
        }
    }
}

impl<E: Environment> ReservedFrames<'_, E> {
    /// Puts aside what it takes to change the descriptors of these pages alone in the host's stage 2.
    fn reserve_for_host(&mut self, host: &HostMemory, pages: &PageRange) -> Result<(), Error> {
        let (start, end) = (pages.bytes().start.raw(), pages.bytes().end.raw());
        let first = host.stage2.lookup(self, Ipa::new(start)).map_err(table_error)?;
        let last = host.stage2.lookup(self, Ipa::new(end.saturating_sub(PAGE_SIZE))).map_err(table_error)?;
        self.reserve(missing_tables(start, end, first.level, last.level))
    }
}

impl HostMemory {
    /// Takes pages from the host, noting who has them, or lets it find them again at its next access. The frames for
    /// it were put aside.
    fn note_owner<E: Environment>(
        &mut self,
        env: &mut ReservedFrames<'_, E>,
        pages: &PageRange,
        owner: Option<Annotation>,
    ) {
        let bytes = pages.bytes();
        let done = self.stage2.annotate(env, host_ipa(bytes.start), bytes.size(), owner);
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
    for index in 0..pages.count() {
        if let Some(page) = pages.first().checked_add(index) {
            env.wipe(page);
        }
    }
    env.invalidate_instruction_cache(pages.bytes());
}

/// The frame that holds the byte at `address`.
const fn page_at(address: PhysAddr) -> Pfn {
    Pfn::containing(address)
}
