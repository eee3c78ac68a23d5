//! Hyp's locks and the order in which they are taken.
//!
//! A [`Lock`] is a ticket lock: CPUs get it in the order in which they asked, so that a host that hammers one call
//! cannot starve another CPU. Each lock has a [`Rank`], and a CPU that holds a lock may only take locks of a greater
//! rank; that is the whole protocol, and what rules deadlock out.
//!
//! Builds with debug assertions check the order on every acquisition, once [`install_order_check`] has said where a
//! CPU keeps the set of ranks that it holds.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use spin::mutex::{TicketMutex, TicketMutexGuard};

/// A lock's place in the order: a CPU takes locks from the top of this list downwards, and holds at most one of each
/// rank.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Rank {
    /// The table of VMs.
    VmTable = 0,
    /// One VM's own state, where it is not its stage 2.
    Vm = 1,
    /// One vCPU's state, its cache of table pages included.
    Vcpu = 2,
    /// The host's stage 2, and with it every entry of the ledger.
    Host = 3,
    /// Hyp's stage 1.
    Hyp = 4,
    /// One guest's stage 2.
    Guest = 5,
    /// Locks under which no other is taken: the pool of table pages, the console.
    Leaf = 6,
}

impl Rank {
    /// This rank's bit in a set of held ranks.
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Gives the word in which the calling CPU keeps its set of held ranks; it must be the same word for the same CPU
/// every time, and no other CPU's.
pub type HeldRanks = fn() -> &'static AtomicU32;

static HELD_RANKS: spin::Once<HeldRanks> = spin::Once::new();

/// Turns the order check on, from now on and for all locks, in builds with debug assertions; other builds check
/// nothing. The first call counts. No lock may be held by anyone when it is made.
pub fn install_order_check(held_ranks: HeldRanks) {
    HELD_RANKS.call_once(|| held_ranks);
}

/// Notes that the calling CPU is about to wait for a lock of `rank`.
pub(crate) fn note_acquired(rank: Rank) {
    if cfg!(debug_assertions)
        && let Some(held_ranks) = HELD_RANKS.get()
    {
        let held = held_ranks();
        let before = held.load(Ordering::Relaxed);
        debug_assert!(before < rank.bit(), "lock of rank {rank:?} taken while ranks {before:#b} are held");
        held.store(before | rank.bit(), Ordering::Relaxed);
    }
}

/// Notes that the calling CPU has given back, or has not got, its lock of `rank`.
pub(crate) fn note_released(rank: Rank) {
    if cfg!(debug_assertions)
        && let Some(held_ranks) = HELD_RANKS.get()
    {
        let held = held_ranks();
        held.store(held.load(Ordering::Relaxed) & !rank.bit(), Ordering::Relaxed);
    }
}

/// A value that one CPU at a time may use.
pub struct Lock<T: ?Sized> {
    rank: Rank,
    value: TicketMutex<T>,
}

impl<T> Lock<T> {
    /// An open lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, value: TicketMutex::new(value) }
    }

    /// The value, when the lock itself is no longer needed.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Lock<T> {
    /// Waits for the lock and takes it. The caller holds no lock of this rank or a greater one: a CPU that breaks this
    /// rule may wait for ever.
    pub fn lock(&self) -> Guard<'_, T> {
        note_acquired(self.rank);
        Guard { guard: self.value.lock(), rank: self.rank }
    }

    /// Takes the lock if nobody holds it. The order binds here too.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        note_acquired(self.rank);
        let guard = self.value.try_lock();
        if guard.is_none() {
            note_released(self.rank);
        }
        guard.map(|guard| Guard { guard, rank: self.rank })
    }

    /// The value, without waiting: whoever has the only reference needs no lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// The lock's place in the order.
    pub const fn rank(&self) -> Rank {
        self.rank
    }
}

impl<T: ?Sized> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lock({:?})", self.rank)
    }
}

/// A held [`Lock`]; dropping it opens the lock.
pub struct Guard<'a, T: ?Sized> {
    guard: TicketMutexGuard<'a, T>,
    rank: Rank,
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: ?Sized> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        note_released(self.rank);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::boxed::Box;
    use std::sync::Arc;
    use std::thread;

    std::thread_local! {
        static HELD: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
    }

    fn held() -> &'static AtomicU32 {
        HELD.with(|word| *word)
    }

    #[test]
    fn increments_by_several_cpus_are_all_seen() {
        let lock = Arc::new(Lock::new(Rank::Leaf, 0_u64));
        let threads: std::vec::Vec<_> = (0..4)
            .map(|_| {
                let lock = lock.clone();
                thread::spawn(move || {
                    for _ in 0..2000 {
                        *lock.lock() += 1;
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*lock.lock(), 8000);
    }

    #[test]
    fn a_held_lock_is_not_taken_again() {
        let lock = Lock::new(Rank::Host, ());
        let guard = lock.lock();
        let other_cpu = thread::scope(|scope| scope.spawn(|| lock.try_lock().is_none()).join().unwrap());
        assert!(other_cpu);
        drop(guard);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn the_order_is_kept_or_the_check_says_so() {
        install_order_check(held);
        let host = Lock::new(Rank::Host, ());
        let guest = Lock::new(Rank::Guest, ());
        {
            let _host = host.lock();
            let _guest = guest.lock();
        }
        assert_eq!(held().load(Ordering::Relaxed), 0);
        let wrong_way_round = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let _guest = guest.lock();
                    let _host = host.lock();
                })
                .join()
                .is_err()
        });
        assert!(wrong_way_round);
        let twice_the_same_rank = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let other = Lock::new(Rank::Guest, ());
                    let _guest = guest.lock();
                    let _other = other.lock();
                })
                .join()
                .is_err()
        });
        assert!(twice_the_same_rank);
    }

    #[test]
    fn a_failed_attempt_leaves_no_rank_behind() {
        install_order_check(held);
        let lock = Lock::new(Rank::Host, ());
        let _guard = lock.lock();
        let left = thread::scope(|scope| {
            scope
                .spawn(|| {
                    assert!(lock.try_lock().is_none());
                    held().load(Ordering::Relaxed)
                })
                .join()
                .unwrap()
        });
        assert_eq!(left, 0);
    }
}
