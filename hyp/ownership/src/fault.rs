//! Faults of the host on its stage 2.
//!
//! All CPUs fault on the same blocks when the host comes up or touches new memory, and most find what they wanted mapped
//! by another. They share the host's lock, and each changes one descriptor by compare-exchange, so that they do not wait
//! for one another. Whoever changes hands of memory holds the lock alone. A fault that comes meanwhile does not queue: a
//! queue hands the lock over in order, also to a CPU that some hypervisor below has descheduled, and then everyone waits
//! for that one. It tries again a few times, and is then put off: the host makes its access once more, with its interrupts
//! open in between, and by then it mostly succeeds. That is correct whatever the lock's holder does, since an access that
//! is not allowed only comes back.
//!
//! The tables are not read without the lock: a walk could be in a table that another CPU frees, and follow what its next
//! user writes there.

use crate::environment::Environment;
use crate::ownership::{HostMemory, Ownership, host_ipa};
use crate::shared_lock::SharedGuard;
use abi::{Ipa, PhysAddr, PhysRange};
use core::hint::spin_loop;
use core::sync::atomic::Ordering;
use pgtable::geometry::{LAST_LEVEL, entry_size};
use pgtable::stage2::Stage2Regime;
use pgtable::{Leaf, MapOptions, Stage2Attributes, Stage2Execute, TableError};

/// How often a fault tries to share the host's lock before it is put off: about as long as the way out to EL1 and back,
/// and longer than it takes to map one block.
const ATTEMPTS: u32 = 64;

/// How many faults may be put off, with none resolved in between, before the next waits in the queue. Calls do queue, so
/// that guests who call all the time could keep the lock from faults for ever. It is far more than come together while
/// a holder of the lock is descheduled.
pub const MOST_FAULTS_PUT_OFF: u32 = 1 << 14;

/// What a faulting access wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Access {
    /// To load.
    Read,
    /// To store, or to load and store.
    Write,
    /// To fetch an instruction.
    Execute,
}

/// What to do about a fault of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[must_use]
pub enum HostFault {
    /// The access is to be made again. It succeeds, unless another CPU held the lock or takes the page away meanwhile:
    /// then it faults again.
    Resume,
    /// The access is not the host's to make: it gets a synchronous external abort.
    Inject,
}

/// There was no frame for a table.
struct OutOfFrames;

impl Ownership {
    /// Resolves a fault of the host on its stage 2, at any byte of the page at `ipa`.
    ///
    /// Memory that is the host's, and what is no memory, is mapped where it lies, by the largest block that holds
    /// nothing else. The fault is injected where the page is not the host's, where the address is beyond the address
    /// size, where the mapping forbids the access, and where there is no frame for a table. Where other CPUs keep the
    /// host's lock taken, nothing is done and the access is made again. The work does not depend on how much memory
    /// there is.
    pub fn resolve_host_fault<E: Environment>(&self, env: &mut E, ipa: Ipa, access: Access) -> HostFault {
        let shared = self.share_host_for_fault();
        if let Some(host) = &shared {
            match self.resolve(host, env, ipa, access) {
                Err(OutOfFrames) => {}
                Ok(fault) => {
                    env.fault(&self.view(Some(host), None, [None, None]), ipa, access, fault);
                    return fault;
                }
            }
        } else if self.faults_put_off.fetch_add(1, Ordering::Relaxed) < MOST_FAULTS_PUT_OFF {
            return HostFault::Resume;
        }
        // Beside others, the last frames may be in tables that they are about to link, or to give back.
        drop(shared);
        let host = self.lock_host();
        self.faults_put_off.store(0, Ordering::Relaxed);
        let fault = self.resolve(&host, env, ipa, access).unwrap_or(HostFault::Inject);
        env.fault(&self.view(Some(&host), None, [None, None]), ipa, access, fault);
        fault
    }

    /// Does what [`resolve_host_fault`](Self::resolve_host_fault) says, beside other CPUs that do.
    fn resolve<E: Environment>(
        &self,
        host: &HostMemory,
        env: &mut E,
        ipa: Ipa,
        access: Access,
    ) -> Result<HostFault, OutOfFrames> {
        let Ok(leaf) = host.stage2.lookup(env, ipa) else { return Ok(HostFault::Inject) };
        if let Some((_, attributes)) = leaf.mapping() {
            // Another CPU was here first, or else the right is missing.
            return Ok(if allows(&attributes, access) { HostFault::Resume } else { HostFault::Inject });
        }
        if leaf.annotation().is_some() {
            return Ok(HostFault::Inject);
        }
        let address = PhysAddr::new(ipa.raw());
        let bank = self.ledger.bank_of(address);
        let attributes = if bank.is_some() { Stage2Attributes::memory() } else { Stage2Attributes::device() };
        if !allows(&attributes, access) {
            return Ok(HostFault::Inject);
        }
        let fits = |block: &PhysRange| match bank {
            Some(bank) => bank.contains_range(block),
            None => !self.ledger.overlaps_memory(block),
        };
        let Some(block) = largest_block(&leaf, address, fits) else { return Ok(HostFault::Inject) };
        let (start, size) = (block.start, block.size());
        match host.stage2.map_leaf(env, host_ipa(start), start, size, attributes, MapOptions::default(), false) {
            // Where another mapping stands by now, the next attempt finds it.
            Ok(_) | Err(TableError::Exists) => Ok(HostFault::Resume),
            Err(TableError::OutOfFrames) => Err(OutOfFrames),
            Err(_) => Ok(HostFault::Inject),
        }
    }

    /// Takes the host's lock beside other faults; `None` where a CPU that wants it alone keeps it too long.
    fn share_host_for_fault(&self) -> Option<SharedGuard<'_, HostMemory>> {
        let host = (0..ATTEMPTS).find_map(|_| {
            let host = self.try_share_host();
            if host.is_none() {
                spin_loop();
            }
            host
        })?;
        // Written only when it is not so, since all CPUs come here.
        if self.faults_put_off.load(Ordering::Relaxed) != 0 {
            self.faults_put_off.store(0, Ordering::Relaxed);
        }
        Some(host)
    }
}

/// The largest block around `address` that the vacant `leaf` has room for and that `fits`. Since banks of memory are
/// whole pages, at least a page always does.
fn largest_block(leaf: &Leaf<Stage2Regime>, address: PhysAddr, fits: impl Fn(&PhysRange) -> bool) -> Option<PhysRange> {
    (1..=LAST_LEVEL)
        .map(entry_size)
        .filter(|size| *size <= leaf.size)
        .filter_map(|size| PhysRange::from_size(address.align_down(size), size))
        .find(fits)
}

/// True where a mapping with these attributes allows the access.
fn allows(attributes: &Stage2Attributes, access: Access) -> bool {
    match access {
        Access::Read => attributes.read,
        Access::Write => attributes.write,
        Access::Execute => attributes.execute == Stage2Execute::All,
    }
}
