//! Hyp's locks and the order in which they are taken.
//!
//! A [`Lock`] is a ticket lock: CPUs get it in the order in which they asked, so that a host that hammers one call
//! cannot starve another CPU. Each lock has a [`Rank`], and a CPU that holds a lock may only take locks of a greater
//! rank; that is the whole protocol, and what rules deadlock out.
//!
//! Builds with debug assertions check the order on every acquisition, once [`install_order_check`] has said where a
//! CPU keeps the set of ranks that it holds.

use crate::turns::{Turns, Word};
use core::cell::UnsafeCell;
use core::cmp;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A lock's place in the order: a CPU takes locks from the top of this list downwards, and holds at most one of each
/// rank.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Rank {
    /// The table of VMs.
    VmTable = 0,
    /// One VM's own state, where it is not its stage 2.
    Vm = 1,
    /// The host's stage 2, and with it the entries of the ledger. What use a guest makes of a page that it keeps is changed
    /// there under the guest's lock alone.
    Host = 2,
    /// Hyp's stage 1.
    Hyp = 3,
    /// One guest's stage 2, and its cache of table pages.
    Guest = 4,
    /// The stage 2 of a second guest, where a transition concerns two: the one whose lock lies at the higher address.
    SecondGuest = 5,
    /// Locks under which no other is taken: the pool of table pages, the console.
    Leaf = 6,
}

impl Rank {
    /// This rank's bit in a set of held ranks.
    pub const fn bit(self) -> u32 {
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
pub struct Lock<T: ?Sized, W = AtomicU64> {
    rank: Rank,
    turns: Turns<W>,
    value: UnsafeCell<T>,
}

// SAFETY: all that a shared reference to the lock gives is the value to one CPU at a time, which may be any: that takes a
// value which may go from one to another.
unsafe impl<T: ?Sized + Send, W: Word + Sync> Sync for Lock<T, W> {}

impl<T> Lock<T> {
    /// An open lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self::with_turns(rank, Turns::new(), value)
    }
}

impl<T, W> Lock<T, W> {
    /// An open lock around `value`, made of `turns`, in which nobody is.
    pub const fn with_turns(rank: Rank, turns: Turns<W>, value: T) -> Self {
        Self { rank, turns, value: UnsafeCell::new(value) }
    }

    /// The value, when the lock itself is no longer needed.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized, W: Word> Lock<T, W> {
    /// Waits for the lock and takes it. The caller holds no lock of this rank or a greater one: a CPU that breaks this
    /// rule may wait for ever.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T, W> {
        self.lock_as(self.rank)
    }

    /// Waits for the lock of a guest and takes it as that of a second one, of rank [`Rank::SecondGuest`]. The caller holds
    /// the lock of another guest, at a lower address than this, and none of a greater rank.
    #[inline]
    pub fn lock_second(&self) -> Guard<'_, T, W> {
        debug_assert!(self.rank == Rank::Guest, "a lock of rank {:?} is taken as a second guest's", self.rank);
        self.lock_as(Rank::SecondGuest)
    }

    /// Waits for the locks of two guests and takes both, that at the lower address first. `None` where they are one and the
    /// same. The caller holds no lock of [`Rank::Guest`] or a greater one.
    pub fn lock_two<'a>(first: &'a Self, second: &'a Self) -> Option<(Guard<'a, T, W>, Guard<'a, T, W>)> {
        let [first_at, second_at] = [first, second].map(|lock| core::ptr::from_ref(lock).addr());
        match first_at.cmp(&second_at) {
            cmp::Ordering::Less => {
                let first = first.lock();
                Some((first, second.lock_second()))
            }
            cmp::Ordering::Equal => None,
            cmp::Ordering::Greater => {
                let second = second.lock();
                Some((first.lock_second(), second))
            }
        }
    }

    #[inline]
    fn lock_as(&self, rank: Rank) -> Guard<'_, T, W> {
        note_acquired(rank);
        self.turns.enter();
        Guard { lock: self, rank, value: PhantomData }
    }

    /// Takes the lock if nobody holds it. The order binds here too.
    pub fn try_lock(&self) -> Option<Guard<'_, T, W>> {
        note_acquired(self.rank);
        if self.turns.try_enter() {
            Some(Guard { lock: self, rank: self.rank, value: PhantomData })
        } else {
            note_released(self.rank);
            None
        }
    }
}

impl<T: ?Sized, W> Lock<T, W> {
    /// The value, without waiting: whoever has the only reference needs no lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// The lock's place in the order.
    pub const fn rank(&self) -> Rank {
        self.rank
    }
}

impl<T: ?Sized, W> fmt::Debug for Lock<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lock({:?})", self.rank)
    }
}

/// A held [`Lock`]; dropping it opens the lock.
pub struct Guard<'a, T: ?Sized, W: Word = AtomicU64> {
    lock: &'a Lock<T, W>,
    rank: Rank,
    /// Like such a reference, a guard may be shared between CPUs only where the value may.
    value: PhantomData<&'a mut T>,
}

impl<T: ?Sized, W: Word> Deref for Guard<'_, T, W> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: whoever made the guard entered alone, and has not left since the guard is still there. So all references
        // to the value come from it, and they keep to its borrow.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized, W: Word> DerefMut for Guard<'_, T, W> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; and this is the only one, since the guard is borrowed for it alone.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized, W: Word> Drop for Guard<'_, T, W> {
    #[inline]
    fn drop(&mut self) {
        self.lock.turns.leave();
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
    fn a_second_guest_comes_after_the_first() {
        install_order_check(held);
        let [first, second] = [(); 2].map(|()| Lock::new(Rank::Guest, ()));
        let leaf = Lock::new(Rank::Leaf, ());
        {
            let _first = first.lock();
            let _second = second.lock_second();
            assert_eq!(held().load(Ordering::Relaxed), Rank::Guest.bit() | Rank::SecondGuest.bit());
            let _leaf = leaf.lock();
        }
        assert_eq!(held().load(Ordering::Relaxed), 0);
        let wrong_way_round = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let _second = second.lock_second();
                    let _first = first.lock();
                })
                .join()
                .is_err()
        });
        assert!(wrong_way_round);
    }

    #[test]
    fn two_guests_are_taken_by_address_and_given_as_asked() {
        install_order_check(held);
        let guests = [1, 2].map(|number| Lock::new(Rank::Guest, number));
        for (first, second) in [(0, 1), (1, 0)] {
            let pair = Lock::lock_two(&guests[first], &guests[second]).unwrap();
            assert_eq!((*pair.0, *pair.1), (first + 1, second + 1));
            assert_eq!([&pair.0, &pair.1].map(|guard| guard.rank == Rank::Guest), [first == 0, second == 0]);
        }
        assert!(Lock::lock_two(&guests[0], &guests[0]).is_none());
        assert_eq!(held().load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_lock_is_shown_by_its_rank_whoever_holds_it() {
        let lock = Lock::new(Rank::Host, 5);
        let _guard = lock.lock();
        assert_eq!(std::format!("{lock:?}"), "Lock(Host)");
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
