//! A lock that one CPU may hold alone, or several side by side for as long as nobody wants it alone.
//!
//! Who wants it alone announces that, queues with others of its kind in order of arrival, and waits for those who share
//! it: nobody joins them any more, so that is over soon. Who wants to share never waits: a CPU is told that it cannot, and
//! decides by itself what to do instead.

use crate::lock::{Rank, note_acquired, note_released};
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use spin::mutex::{TicketMutex, TicketMutexGuard};
use spin::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A value that several CPUs may read at once, and one at a time may write.
pub struct SharedLock<T> {
    rank: Rank,
    /// CPUs that hold the lock alone or wait to.
    announced: AtomicU32,
    queue: TicketMutex<()>,
    value: RwLock<T>,
}

impl<T> SharedLock<T> {
    /// An open lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, announced: AtomicU32::new(0), queue: TicketMutex::new(()), value: RwLock::new(value) }
    }

    /// Waits for the lock and takes it alone. The caller holds no lock of this rank or a greater one: a CPU that breaks
    /// this rule may wait for ever.
    pub fn lock(&self) -> ExclusiveGuard<'_, T> {
        note_acquired(self.rank);
        self.announced.fetch_add(1, Ordering::Relaxed);
        let turn = self.queue.lock();
        ExclusiveGuard { value: self.value.write(), _turn: turn, announced: &self.announced, rank: self.rank }
    }

    /// Takes the lock beside others who share it; `None` where a CPU holds it alone or waits to. The order binds here too.
    pub fn try_share(&self) -> Option<SharedGuard<'_, T>> {
        if self.announced.load(Ordering::Relaxed) != 0 {
            return None;
        }
        note_acquired(self.rank);
        let value = self.value.try_read();
        if value.is_none() {
            note_released(self.rank);
        }
        value.map(|value| SharedGuard { value, rank: self.rank })
    }
}

impl<T> fmt::Debug for SharedLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedLock({:?})", self.rank)
    }
}

/// A [`SharedLock`] held alone; dropping it opens the lock.
pub struct ExclusiveGuard<'a, T> {
    // Dropped in this order: the value is free before the next in the queue gets its turn.
    value: RwLockWriteGuard<'a, T>,
    _turn: TicketMutexGuard<'a, ()>,
    announced: &'a AtomicU32,
    rank: Rank,
}

impl<T> Deref for ExclusiveGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for ExclusiveGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for ExclusiveGuard<'_, T> {
    fn drop(&mut self) {
        self.announced.fetch_sub(1, Ordering::Relaxed);
        note_released(self.rank);
    }
}

/// A [`SharedLock`] held beside others.
pub struct SharedGuard<'a, T> {
    value: RwLockReadGuard<'a, T>,
    rank: Rank,
}

impl<T> Deref for SharedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for SharedGuard<'_, T> {
    fn drop(&mut self) {
        note_released(self.rank);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::sync::atomic::AtomicBool;
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
