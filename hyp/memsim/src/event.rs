//! What happened on the machine, and what of it was wrong.

use std::fmt;

use abi::{PhysAddr, PhysRange};
use pgtable::{DsbKind, Tlbi};

use crate::locks::{Hold, Lock};

/// One step of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A descriptor, or other word of memory, was written.
    Write {
        /// Where.
        address: PhysAddr,
        /// The value that was there.
        old: u64,
        /// The value that is there now.
        new: u64,
    },
    /// A frame was allocated for a table.
    Allocate(Option<PhysAddr>),
    /// A frame was given back.
    Free(PhysAddr),
    /// A whole page was written other than as a table.
    PageWrite(PhysAddr),
    /// A data synchronisation barrier.
    Dsb(DsbKind),
    /// An instruction synchronisation barrier.
    Isb,
    /// A TLB invalidate instruction.
    Tlbi(Tlbi),
    /// VTTBR_EL2 was written.
    LoadVttbr(u64),
    /// Data caches were cleaned and invalidated to the point of coherency.
    CleanInvalidate(PhysRange),
    /// Data caches were cleaned to the point of unification.
    CleanToPou(PhysRange),
    /// The instruction cache was invalidated.
    InvalidateInstructionCache(PhysRange),
    /// The hardware set the access flag of a descriptor.
    SetAccessFlag {
        /// Where.
        address: PhysAddr,
        /// The value that was there.
        old: u64,
        /// The value that is there now.
        new: u64,
    },
    /// A lock was taken.
    Acquire {
        /// Which one.
        lock: Lock,
        /// How.
        hold: Hold,
    },
    /// A lock was given up.
    Release(Lock),
    /// A word of memory was changed by somebody who is no CPU of the machine.
    Corrupt {
        /// Where.
        address: PhysAddr,
        /// The value that was there.
        old: u64,
        /// The value that is there now.
        new: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { address, old, new } => write!(f, "write {address}: {old:#018x} -> {new:#018x}"),
            Self::Allocate(Some(frame)) => write!(f, "allocate {frame}"),
            Self::Allocate(None) => write!(f, "allocate: none left"),
            Self::Free(frame) => write!(f, "free {frame}"),
            Self::PageWrite(page) => write!(f, "page write {page}"),
            Self::Dsb(kind) => write!(f, "dsb {kind:?}"),
            Self::Isb => write!(f, "isb"),
            Self::Tlbi(operation) => write!(f, "tlbi {operation:?}"),
            Self::LoadVttbr(value) => write!(f, "VTTBR_EL2 = {value:#018x}"),
            Self::CleanInvalidate(range) => write!(f, "dc civac {range}"),
            Self::CleanToPou(range) => write!(f, "dc cvau {range}"),
            Self::InvalidateInstructionCache(range) => write!(f, "ic ivau {range}"),
            Self::SetAccessFlag { address, old, new } => {
                write!(f, "access flag of {address}: {old:#018x} -> {new:#018x}")
            }
            Self::Acquire { lock, hold } => write!(f, "acquire {lock} ({hold:?})"),
            Self::Release(lock) => write!(f, "release {lock}"),
            Self::Corrupt { address, old, new } => write!(f, "foreign write {address}: {old:#018x} -> {new:#018x}"),
        }
    }
}

/// A rule that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The CPU that broke it.
    pub cpu: usize,
    /// What was wrong, in words.
    pub message: String,
    /// The last events up to the one that broke it, oldest first, with the CPU of each.
    pub history: Vec<(usize, Event)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "CPU {}: {}", self.cpu, self.message)?;
        for (cpu, event) in &self.history {
            writeln!(f, "    CPU {cpu}: {event}")?;
        }
        Ok(())
    }
}
