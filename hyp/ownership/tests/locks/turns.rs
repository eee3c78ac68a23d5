//! Who gets in, and when: one lock, and up to three CPUs.

use crate::model::{ModelWord, Value, explore, lock, shared_lock, wait_until};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use ownership::Rank;
use ownership::shared_lock::SharedLock;
use std::sync::{Arc, Mutex};

type Shared = SharedLock<Value, ModelWord>;

fn shared() -> Arc<Shared> {
    Arc::new(shared_lock(None, Value::new(0)))
}

/// Runs `program` on another CPU.
fn start<L: 'static, R: 'static>(lock: &Arc<L>, program: impl FnOnce(&L) -> R + 'static) -> thread::JoinHandle<R> {
    let lock = lock.clone();
    thread::spawn(move || program(&lock))
}

/// Adds one.
fn count(value: &Value) {
    value.set(value.get() + 1);
}

#[test]
fn three_cpus_that_want_to_be_alone_all_get_their_turn() {
    explore(Some(3), 20_000, || {
        let lock = shared();
        let others = [(); 2].map(|()| start(&lock, |lock| count(&lock.lock())));
        count(&lock.lock());
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(lock.lock().get(), 3);
    });
}

#[test]
fn two_cpus_that_come_back_get_their_turn_again() {
    explore(Some(3), 2000, || {
        let lock = Arc::new(lock(Rank::Leaf, Value::new(0)));
        let twice = |lock: &_| (0..2).for_each(|_| count(&ownership::Lock::lock(lock)));
        let other = start(&lock, twice);
        twice(&lock);
        other.join().unwrap();
        assert_eq!(lock.lock().get(), 4);
    });
}

#[test]
fn cpus_that_share_are_in_side_by_side() {
    explore(None, 10_000, || {
        let lock = shared();
        let inside = Arc::new(AtomicU32::new(0));
        let meet = |inside: &AtomicU32| {
            inside.fetch_add(1, Ordering::Relaxed);
            wait_until(|| inside.load(Ordering::Relaxed) == 2);
        };
        let other = start(&lock, {
            let inside = inside.clone();
            move |lock| {
                let _shared = lock.try_share().expect("nobody is alone");
                meet(&inside);
            }
        });
        let shared = lock.try_share().expect("nobody is alone");
        meet(&inside);
        drop(shared);
        other.join().unwrap();
    });
}

#[test]
fn cpus_that_share_do_not_keep_each_other_out() {
    explore(Some(3), 10_000, || {
        let lock = shared();
        let others = [(); 2].map(|()| start(&lock, |lock| lock.try_share().is_some()));
        assert!(lock.try_share().is_some());
        others.into_iter().for_each(|other| assert!(other.join().unwrap()));
        lock.lock().set(1);
    });
}

#[test]
fn who_would_share_does_not_wait_for_who_is_alone() {
    explore(None, 1, || {
        let lock = shared();
        let alone = lock.lock();
        let other = start(&lock, |lock| lock.try_share().is_some());
        assert!(!other.join().unwrap());
        alone.set(1);
        drop(alone);
        assert!(lock.try_share().is_some());
    });
}

#[test]
fn once_a_cpu_waits_to_be_alone_nobody_joins_those_who_share() {
    explore(Some(3), 5000, || {
        let lock = shared();
        let shared = lock.try_share().unwrap();
        let alone = start(&lock, |lock| lock.lock().set(1));
        let joins = start(&lock, |lock| [(); 3].map(|()| lock.try_share().is_some()));
        // Those who would join do not wait for each other, nor for who waits.
        let joined = joins.join().unwrap();
        assert!(joined.is_sorted_by(|earlier, later| earlier >= later), "{joined:?}");
        assert_eq!(shared.get(), 0);
        drop(shared);
        alone.join().unwrap();
        assert_eq!(lock.try_share().unwrap().get(), 1);
    });
}

#[test]
fn cpus_are_alone_in_the_order_in_which_they_asked() {
    explore(Some(3), 8000, || {
        let lock = shared();
        let order = Arc::new(Mutex::new(Vec::new()));
        let enter = |number: u32| {
            let order = order.clone();
            start(&lock, move |lock| {
                let _alone = lock.lock();
                order.lock().unwrap().push(number);
            })
        };
        let shared = lock.try_share().unwrap();
        let first = enter(1);
        wait_until(|| lock.try_share().is_none());
        let second = enter(2);
        drop(shared);
        first.join().unwrap();
        second.join().unwrap();
        assert_eq!(*order.lock().unwrap(), [1, 2]);
    });
}

#[test]
fn cpus_of_both_kinds_leave_the_lock_as_they_found_it() {
    explore(Some(2), 15_000, || {
        let lock = shared();
        let others = [(); 2].map(|()| {
            start(&lock, |lock| {
                let seen = lock.try_share().map(|shared| shared.get());
                let alone = lock.lock();
                assert!(seen.is_none_or(|seen| seen <= alone.get()));
                count(&alone);
            })
        });
        let seen = lock.try_share().map(|shared| shared.get());
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(seen.is_none_or(|seen| seen <= 2));
        assert_eq!(lock.try_share().unwrap().get(), 2);
        count(&lock.lock());
    });
}

#[test]
fn a_lock_is_tried_without_waiting() {
    explore(None, 1, || {
        let lock = Arc::new(lock(Rank::Leaf, Value::new(0)));
        let held = lock.lock();
        let other = start(&lock, |lock| lock.try_lock().is_none());
        assert!(other.join().unwrap());
        held.set(1);
        drop(held);
        count(&lock.try_lock().expect("it is free"));
        assert_eq!(lock.lock().get(), 2);
    });
}

#[test]
fn of_cpus_that_try_a_free_lock_one_gets_it_or_both_in_turn() {
    explore(None, 50, || {
        let lock = Arc::new(lock(Rank::Leaf, Value::new(0)));
        let attempt = |lock: &ownership::Lock<Value, ModelWord>| lock.try_lock().map(|value| count(&value)).is_some();
        let other = start(&lock, attempt);
        let here = attempt(&lock);
        let there = other.join().unwrap();
        assert!(here || there);
        assert_eq!(lock.lock().get(), u32::from(here) + u32::from(there));
    });
}
