//! What the transitions need of the machine beyond what the tables need.

use abi::Pfn;

/// Wiping pages, on the CPU that calls.
pub trait Wipe {
    /// Fills a page with zeroes and cleans it to the point of coherency, so that neither the CPUs' caches nor memory
    /// hold anything of what was in it. On return the writes are visible to every observer. The page is hyp's own, or
    /// one that nobody can reach; it need not be mapped at EL2.
    fn wipe(&mut self, page: Pfn);
}

/// Everything that a transition is given: frames for hyp's and the host's tables, maintenance, and wiping.
pub trait Environment: pgtable::TableFrames + pgtable::Maintenance + Wipe {}

impl<T: pgtable::TableFrames + pgtable::Maintenance + Wipe + ?Sized> Environment for T {}
