//! All of memory: the ledger, the host's stage 2 and hyp's stage 1, shared by all CPUs.

use crate::annotation::Holder;
use crate::environment::Environment;
use crate::guest_memory::GuestMemory;
use crate::ledger::{Ledger, LedgerError};
use crate::lock::{Lock, Rank};
use crate::shared_lock::{ExclusiveGuard, SharedGuard, SharedLock};
use crate::state::{Component, PageState};
use crate::transition::LockedMemory;
use abi::{Error, Ipa, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use core::fmt;
use core::sync::atomic::AtomicU32;
use pgtable::stage2::Stage2Regime;
use pgtable::{El2Stage1, Leaf, Stage2, TableError, TableFrames};

/// Why the machine's memory cannot be taken over. Hyp's or the loader's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// The ledger.
    Ledger(LedgerError),
    /// A table.
    Table(TableError),
}

impl From<LedgerError> for StartError {
    fn from(error: LedgerError) -> Self {
        StartError::Ledger(error)
    }
}

impl From<TableError> for StartError {
    fn from(error: TableError) -> Self {
        StartError::Table(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Ledger(error) => error.fmt(f),
            StartError::Table(error) => error.fmt(f),
        }
    }
}

/// Who holds each page of memory.
///
/// Every change of hands is a method here, which takes the environment of the calling CPU.
///
/// Locks are taken in the order host, hyp, guest, second guest. The caller may hold those of the VM table, a VM and a
/// vCPU, and no other.
pub struct Ownership {
    pub(crate) ledger: Ledger,
    pub(crate) host: SharedLock<HostMemory>,
    hyp: Lock<El2Stage1>,
    /// Faults of the host that found its lock taken, since the last that did not.
    pub(crate) faults_put_off: AtomicU32,
    carve_out: PhysRange,
    pfn_limit: u64,
}

/// The host's stage 2. Holding its lock alone is what allows to write the ledger's entries of the host's pages; who
/// shares it may resolve faults.
pub(crate) struct HostMemory {
    pub(crate) stage2: Stage2,
}

impl Ownership {
    /// Takes over a machine whose RAM is `memory` (sorted, disjoint, page aligned). `storage` is zeroed memory of one
    /// word for each page of RAM. `host` is the host's stage 2, identity mapped and still empty, and `hyp` the stage 1
    /// that EL2 runs on.
    ///
    /// The carve-out becomes hyp's, in the ledger and as an annotation in the host's stage 2, and the walk over the
    /// whole ledger proves that everything else is the host's.
    pub fn new<E: Environment>(
        env: &mut E,
        memory: &[PhysRange],
        storage: &'static mut [u64],
        carve_out: PhysRange,
        mut host: Stage2,
        hyp: El2Stage1,
    ) -> Result<Self, StartError> {
        let ledger = Ledger::new(memory, storage, carve_out)?;
        let start = Ipa::new(carve_out.start.raw());
        host.annotate(env, start, carve_out.size(), Holder::Hyp.annotation())?;
        let pfn_limit = host.geometry().input_size() / PAGE_SIZE;
        Ok(Self {
            ledger,
            host: SharedLock::new(Rank::Host, HostMemory { stage2: host }),
            hyp: Lock::new(Rank::Hyp, hyp),
            faults_put_off: AtomicU32::new(0),
            carve_out,
            pfn_limit,
        })
    }

    /// The ledger, to read.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What the ledger says of a page; `None` where it is no RAM. Without a lock this is what was true a moment ago.
    pub fn state(&self, page: Pfn) -> Option<PageState> {
        self.ledger.state(page)
    }

    /// Hyp's stage 1 behind its lock, of rank [`Rank::Hyp`]. What lies outside RAM or in the carve-out is mapped
    /// through it directly; host memory only by the transitions.
    pub const fn hyp(&self) -> &Lock<El2Stage1> {
        &self.hyp
    }

    /// What decides for an IPA of the host's.
    ///
    /// # Errors
    /// Those of the table: the IPA is beyond the address size.
    pub fn host_leaf<E: TableFrames>(&self, env: &E, ipa: Ipa) -> Result<Leaf<Stage2Regime>, TableError> {
        self.host.lock().stage2.lookup(env, ipa)
    }

    /// Looks at everything that no guest's lock is for, with the locks of host and hyp held. The caller holds no lock of
    /// their rank or a greater one.
    pub fn look<R>(&self, look: impl FnOnce(&LockedMemory<'_>) -> R) -> R {
        let host = self.host.lock();
        let hyp = self.hyp.lock();
        look(&self.view(Some(&host), Some(&hyp), [None, None]))
    }

    /// True where every page of the range is the host's own, shared or not: memory that the host may name as its code
    /// or data.
    pub fn is_host_memory(&self, first: Pfn, count: u64) -> bool {
        self.ledger
            .pages(first, count)
            .is_some_and(|pages| pages.states().all(|state| state.owner() == Component::Host))
    }

    /// The pages that were hyp's from the start.
    pub const fn carve_out(&self) -> PhysRange {
        self.carve_out
    }

    /// Frames below this one exist, in the host's address space.
    pub(crate) const fn pfn_limit(&self) -> u64 {
        self.pfn_limit
    }

    /// What is to be seen of memory under the locks of these components.
    pub(crate) fn view<'a>(
        &'a self,
        host: Option<&'a HostMemory>,
        hyp: Option<&'a El2Stage1>,
        guests: [Option<&'a GuestMemory>; 2],
    ) -> LockedMemory<'a> {
        let (carve_out, pfn_limit) = (self.carve_out, self.pfn_limit);
        let host = host.map(|host| &host.stage2);
        LockedMemory { ledger: &self.ledger, carve_out, pfn_limit, host, hyp, guests }
    }

    /// Takes the host's lock alone.
    pub(crate) fn lock_host(&self) -> ExclusiveGuard<'_, HostMemory> {
        self.host.lock()
    }

    /// Takes the host's lock beside others who share it, unless a CPU holds it alone or waits to.
    pub(crate) fn try_share_host(&self) -> Option<SharedGuard<'_, HostMemory>> {
        self.host.try_share()
    }
}

/// An identity-mapped IPA.
pub(crate) const fn host_ipa(address: PhysAddr) -> Ipa {
    Ipa::new(address.raw())
}

/// What a call is told when a table refuses what the checks allowed. Out of frames is the caller's to mend; anything
/// else cannot come of what a caller does.
pub(crate) fn table_error(error: TableError) -> Error {
    debug_assert!(error == TableError::OutOfFrames, "{error}");
    Error::OutOfMemory
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn what_is_wrong_at_the_start_is_said_so_that_people_can_read_it() {
        assert_eq!(StartError::from(LedgerError::BadBanks).to_string(), "banks of memory are malformed");
        assert_eq!(StartError::from(TableError::OutOfFrames).to_string(), TableError::OutOfFrames.to_string());
    }
}
