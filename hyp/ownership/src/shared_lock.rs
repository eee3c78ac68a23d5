//! A lock that one CPU may hold alone, or several side by side for as long as nobody wants it alone.
//!
//! Who wants it alone announces that, queues with others of its kind in order of arrival, and waits for those who share
//! it: nobody joins them any more, so that is over soon. Who wants to share never waits: a CPU is told that it cannot, and
//! decides by itself what to do instead.

use crate::lock::{Rank, note_acquired, note_released};
use crate::turns::{Turns, Word};
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::AtomicU64;

/// A value that several CPUs may read at once, and one at a time may write.
pub struct SharedLock<T, W = AtomicU64> {
    rank: Rank,
    turns: Turns<W>,
    value: UnsafeCell<T>,
}

// SAFETY: a shared reference to the lock gives the value to one CPU at a time, or shared references to it to several: that
// takes a value which may go from one to another, and which they may share.
unsafe impl<T: Send + Sync, W: Word + Sync> Sync for SharedLock<T, W> {}

impl<T> SharedLock<T> {
    /// An open lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self::with_turns(rank, Turns::new(), value)
    }
}

impl<T, W> SharedLock<T, W> {
    /// An open lock around `value`, made of `turns`, in which nobody is.
    pub const fn with_turns(rank: Rank, turns: Turns<W>, value: T) -> Self {
        Self { rank, turns, value: UnsafeCell::new(value) }
    }
}

impl<T, W: Word> SharedLock<T, W> {
    /// Waits for the lock and takes it alone. The caller holds no lock of this rank or a greater one: a CPU that breaks
    /// this rule may wait for ever.
    #[inline]
    pub fn lock(&self) -> ExclusiveGuard<'_, T, W> {
        note_acquired(self.rank);
        self.turns.enter();
        ExclusiveGuard { lock: self, value: PhantomData }
    }

    /// Takes the lock beside others who share it; `None` where a CPU holds it alone or waits to. The order binds here too.
    #[inline]
    pub fn try_share(&self) -> Option<SharedGuard<'_, T, W>> {
        note_acquired(self.rank);
        if self.turns.try_join() {
            Some(SharedGuard { lock: self, value: PhantomData })
        } else {
            note_released(self.rank);
            None
        }
    }
}

impl<T, W> fmt::Debug for SharedLock<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedLock({:?})", self.rank)
    }
}

/// A [`SharedLock`] held alone; dropping it opens the lock.
pub struct ExclusiveGuard<'a, T, W: Word = AtomicU64> {
    lock: &'a SharedLock<T, W>,
    value: PhantomData<&'a mut T>,
}

impl<T, W: Word> Deref for ExclusiveGuard<'_, T, W> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: whoever made the guard entered alone, and has not left since the guard is still there. So all references
        // to the value come from it, and they keep to its borrow.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, W: Word> DerefMut for ExclusiveGuard<'_, T, W> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; and this is the only one, since the guard is borrowed for it alone.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T, W: Word> Drop for ExclusiveGuard<'_, T, W> {
    #[inline]
    fn drop(&mut self) {
        self.lock.turns.leave();
        note_released(self.lock.rank);
    }
}

/// A [`SharedLock`] held beside others.
pub struct SharedGuard<'a, T, W: Word = AtomicU64> {
    lock: &'a SharedLock<T, W>,
    value: PhantomData<&'a T>,
}

impl<T, W: Word> Deref for SharedGuard<'_, T, W> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: whoever made the guard joined and has not left since the guard is still there, so nobody is alone in the
        // lock: there are only shared references to the value, and this one keeps to the guard's borrow.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, W: Word> Drop for SharedGuard<'_, T, W> {
    #[inline]
    fn drop(&mut self) {
        self.lock.turns.part();
        note_released(self.lock.rank);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    /// What another CPU finds.
    fn can_share<T: Send + Sync>(lock: &SharedLock<T>) -> bool {
        thread::scope(|scope| scope.spawn(|| lock.try_share().is_some()).join().unwrap())
    }

    #[test]
    fn it_is_shared_until_somebody_holds_it_alone() {
        let lock = SharedLock::new(Rank::Host, 5);
        let shared = lock.try_share().unwrap();
        assert!(can_share(&lock));
        assert_eq!(*shared, 5);
        drop(shared);
        let alone = lock.lock();
        assert!(!can_share(&lock));
        drop(alone);
        assert!(can_share(&lock));
    }

    #[test]
    fn nobody_joins_those_who_share_once_a_cpu_waits() {
        let lock = SharedLock::new(Rank::Host, 5);
        let entered = AtomicBool::new(false);
        thread::scope(|scope| {
            let shared = lock.try_share().unwrap();
            let waiting = scope.spawn(|| {
                *lock.lock() = 6;
                entered.store(true, Ordering::Relaxed);
            });
            while can_share(&lock) {
                thread::yield_now();
            }
            assert!(!entered.load(Ordering::Relaxed));
            assert_eq!(*shared, 5);
            drop(shared);
            waiting.join().unwrap();
        });
        assert_eq!(*lock.try_share().unwrap(), 6);
    }

    #[test]
    fn it_is_shown_by_its_rank_whoever_holds_it() {
        let lock = SharedLock::new(Rank::Host, 5);
        let _alone = lock.lock();
        assert_eq!(std::format!("{lock:?}"), "SharedLock(Host)");
    }

    #[test]
    fn what_each_cpu_writes_alone_is_all_there() {
        let lock = SharedLock::new(Rank::Host, 0_u64);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let seen = lock.try_share().map(|shared| *shared);
                        let mut value = lock.lock();
                        assert!(seen.is_none_or(|seen| seen <= *value));
                        *value += 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 6000);
    }
}
