//! What the transitions need of the machine beyond what the tables need.

use crate::fault::{Access, HostFault};
use crate::transition::{Call, LockedMemory};
use abi::{Error, Ipa, PAGE_SIZE, Pfn, PhysRange};

/// Wiping pages, on the CPU that calls.
pub trait Wipe {
    /// Fills a page with zeroes and cleans it to the point of coherency, so that neither the CPUs' caches nor memory
    /// hold anything of what was in it. On return the writes are visible to every observer. The page is hyp's own, or
    /// one that nobody can reach; it need not be mapped at EL2.
    fn wipe(&mut self, page: Pfn);

    /// The same for every page of a range, 4 KiB aligned at both ends.
    fn wipe_range(&mut self, range: PhysRange) {
        let mut next = range.start;
        while next < range.end {
            self.wipe(Pfn::containing(next));
            let Some(after) = next.checked_add(PAGE_SIZE) else { return };
            next = after;
        }
    }
}

/// Who watches the transitions of the calling CPU, from within their locks. Nobody does, unless a test or a build that
/// compares hyp with its specification has something to say here.
pub trait Witness {
    /// A transition has its locks and begins.
    fn before(&mut self, _memory: &LockedMemory<'_>, _call: &Call) {}

    /// The transition is over, or was refused, and still has its locks.
    fn after(&mut self, _memory: &LockedMemory<'_>, _call: &Call, _result: Result<(), Error>) {}

    /// The CPU has given its locks back: from here until the next [`before`](Self::before) other CPUs change things.
    fn unlocked(&mut self) {}

    /// A fault of the host was decided; the locks are held still.
    fn fault(&mut self, _memory: &LockedMemory<'_>, _ipa: Ipa, _access: Access, _fault: HostFault) {}
}

/// Everything that a transition is given: frames for hyp's and the host's tables, maintenance, wiping, and a witness.
pub trait Environment: pgtable::TableFrames + pgtable::Maintenance + Wipe + Witness {}

impl<T: pgtable::TableFrames + pgtable::Maintenance + Wipe + Witness + ?Sized> Environment for T {}
