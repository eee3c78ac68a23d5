//! All that the tables need of the machine: frames to be built from, and maintenance of TLBs and caches.

use abi::{PhysAddr, PhysRange};

use crate::tlbi::Tlbi;

/// The frames that tables are made of, and access to the descriptors in them.
pub trait TableFrames {
    /// Takes a 4 KiB frame for a table, or `None` where there is none. Every byte of it is zero.
    fn allocate(&mut self) -> Option<PhysAddr>;

    /// Gives back a frame that [`allocate`](Self::allocate) handed out. No table refers to it and no TLB can reach it
    /// any more; its contents are arbitrary.
    fn free(&mut self, frame: PhysAddr);

    /// Reads the descriptor at `descriptor`, an 8-byte aligned address in a root or in an allocated frame, by a single
    /// 64-bit load with acquire semantics: who reads a table's descriptor then reads what was in that table when it was
    /// linked.
    fn read(&self, descriptor: PhysAddr) -> u64;

    /// Writes the descriptor at `descriptor` by a single 64-bit store with release semantics.
    fn write(&self, descriptor: PhysAddr, value: u64);

    /// Writes `new` where the descriptor equals `current`, atomically: with acquire and release semantics on success,
    /// with acquire semantics otherwise. Returns the value that was found, as `Err` where it was not `current`.
    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64>;
}

/// Which accesses a data synchronisation barrier orders, and for whom (Arm ARM B2.3.10, C6.2.98 DSB).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DsbKind {
    /// `DSB ISH`: loads, stores and maintenance, for the inner shareable domain.
    Ish,
    /// `DSB ISHST`: stores only, for the inner shareable domain. Does not wait for TLB maintenance.
    Ishst,
    /// `DSB NSH`: loads, stores and maintenance, for this CPU only.
    Nsh,
    /// `DSB NSHST`: stores only, for this CPU only.
    Nshst,
    /// `DSB SY`: everything, for the full system.
    Sy,
}

/// Barriers, TLB and cache maintenance on the CPU that calls.
pub trait Maintenance {
    /// Executes a data synchronisation barrier.
    fn dsb(&self, kind: DsbKind);

    /// Executes an instruction synchronisation barrier.
    fn isb(&self);

    /// Executes one TLB invalidate instruction. It is complete only after a later [`dsb`](Self::dsb).
    fn tlbi(&self, operation: Tlbi);

    /// Writes VTTBR_EL2 and returns its previous value, without any barrier. Stage-2 maintenance applies to the VMID
    /// in VTTBR_EL2. A caller that runs at EL1 and never uses stage 2 may return `vttbr`.
    fn load_vttbr(&self, vttbr: u64) -> u64;

    /// Cleans and invalidates the data cache lines of `range`, any alignment, to the point of coherency, and waits for
    /// completion.
    fn clean_invalidate_to_poc(&self, range: PhysRange);

    /// Cleans the data cache lines of `range`, any alignment, to the point of unification, so that instructions are fetched
    /// as they were written there, and waits for completion. A CPU with CTR_EL0.IDC needs no more than the wait.
    fn clean_to_pou(&self, range: PhysRange);

    /// Invalidates the instruction cache for `range` in the inner shareable domain, and waits for completion. An
    /// environment that cannot do so by address invalidates all of it.
    fn invalidate_instruction_cache(&self, range: PhysRange);
}

/// Frames and maintenance together: what an operation that changes a table is given.
pub trait Environment: TableFrames + Maintenance {}

impl<T: TableFrames + Maintenance + ?Sized> Environment for T {}
