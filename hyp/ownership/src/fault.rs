//! Faults of the host on its stage 2.

use crate::environment::Environment;
use crate::ownership::{Ownership, host_ipa};
use abi::{Ipa, PhysAddr, PhysRange};
use pgtable::geometry::{LAST_LEVEL, entry_size};
use pgtable::stage2::Stage2Regime;
use pgtable::{Leaf, MapOptions, Stage2Attributes, Stage2Execute};

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
    /// The access will succeed when it is made again.
    Resume,
    /// The access is not the host's to make: it gets a synchronous external abort.
    Inject,
}

impl Ownership {
    /// Resolves a fault of the host on its stage 2, at any byte of the page at `ipa`.
    ///
    /// Memory that is the host's, and what is no memory, is mapped where it lies, by the largest block that holds
    /// nothing else. The fault is injected where the page is not the host's, where the address is beyond the address
    /// size, where the mapping forbids the access, and where there is no frame for a table. The work does not depend
    /// on how much memory there is.
    pub fn resolve_host_fault<E: Environment>(&self, env: &mut E, ipa: Ipa, access: Access) -> HostFault {
        let mut host = self.lock_host();
        let Ok(leaf) = host.stage2.lookup(env, ipa) else { return HostFault::Inject };
        if let Some((_, attributes)) = leaf.mapping() {
            // Another CPU was here first, or else the right is missing.
            return if allows(&attributes, access) { HostFault::Resume } else { HostFault::Inject };
        }
        if leaf.annotation().is_some() {
            return HostFault::Inject;
        }
        let address = PhysAddr::new(ipa.raw());
        let bank = self.ledger.bank_of(address);
        let attributes = if bank.is_some() { Stage2Attributes::memory() } else { Stage2Attributes::device() };
        if !allows(&attributes, access) {
            return HostFault::Inject;
        }
        let fits = |block: &PhysRange| match bank {
            Some(bank) => bank.contains_range(block),
            None => !self.ledger.overlaps_memory(block),
        };
        let Some(block) = largest_block(&leaf, address, fits) else { return HostFault::Inject };
        let (start, size) = (block.start, block.size());
        match host.stage2.map(env, host_ipa(start), start, size, attributes, MapOptions::default()) {
            Ok(()) => HostFault::Resume,
            Err(_) => HostFault::Inject,
        }
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
