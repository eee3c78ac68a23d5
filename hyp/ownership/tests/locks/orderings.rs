//! Each ordering of each access: with it, what the last holder did happens before what the next one does; without it, loom
//! finds an interleaving in which it does not.

use crate::model::{Flaw, ModelWord, Value, explore, shared_lock, turns, wait_until};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread::{self, JoinHandle};
use ownership::shared_lock::SharedLock;
use std::sync::Arc;

/// What one CPU tells another, without ordering anything else by it.
#[derive(Clone)]
struct Sign(Arc<AtomicBool>);

impl Sign {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    fn give(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn wait(&self) {
        wait_until(|| self.0.load(Ordering::Relaxed));
    }
}

/// When the second CPU comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    AnyTime,
    AfterTheFirst,
}

/// Two CPUs in one lock.
struct Scene {
    lock: Arc<SharedLock<Value, ModelWord>>,
    left: Sign,
}

impl Scene {
    fn new(flaw: Option<Flaw>) -> Self {
        Self { lock: Arc::new(shared_lock(flaw, Value::new(0))), left: Sign::new() }
    }

    /// Starts the second CPU, which the first does while it is in.
    fn start(&self, second: Second, program: impl FnOnce(&SharedLock<Value, ModelWord>) + 'static) -> JoinHandle<()> {
        let (lock, left) = (self.lock.clone(), self.left.clone());
        thread::spawn(move || {
            if second == Second::AfterTheFirst {
                left.wait();
            }
            program(&lock);
        })
    }
}

fn alone_then_alone(flaw: Option<Flaw>, second: Second) {
    explore(None, 5, move || {
        let scene = Scene::new(flaw);
        let value = scene.lock.lock();
        let other = scene.start(second, |lock| {
            let value = lock.lock();
            assert_eq!(value.get(), 1);
            value.set(2);
        });
        value.set(1);
        drop(value);
        scene.left.give();
        other.join().unwrap();
    });
}

fn alone_then_shared(flaw: Option<Flaw>) {
    explore(None, 5, move || {
        let scene = Scene::new(flaw);
        let value = scene.lock.lock();
        let other = scene.start(Second::AnyTime, |lock| {
            assert_eq!(lock.try_share().map_or(1, |value| value.get()), 1);
        });
        value.set(1);
        drop(value);
        other.join().unwrap();
    });
}

fn shared_then_alone(flaw: Option<Flaw>, second: Second) {
    explore(None, 5, move || {
        let scene = Scene::new(flaw);
        let value = scene.lock.try_share().unwrap();
        let other = scene.start(second, |lock| lock.lock().set(1));
        assert_eq!(value.get(), 0);
        drop(value);
        scene.left.give();
        other.join().unwrap();
    });
}

/// The second CPU enters alone if it need not wait.
fn shared_then_tried(flaw: Option<Flaw>) {
    explore(None, 5, move || {
        let entry = Arc::new((turns(flaw), Value::new(0)));
        assert!(entry.0.try_join());
        let other = thread::spawn({
            let entry = entry.clone();
            move || {
                if entry.0.try_enter() {
                    entry.1.set(1);
                }
            }
        });
        assert_eq!(entry.1.get(), 0);
        entry.0.part();
        other.join().unwrap();
    });
}

#[test]
fn who_is_alone_sees_what_the_last_who_was_alone_did() {
    alone_then_alone(None, Second::AnyTime);
    alone_then_alone(None, Second::AfterTheFirst);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_acquire_who_is_alone_may_not_see_it() {
    alone_then_alone(Some(Flaw::Wait), Second::AnyTime);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_acquire_who_is_served_at_once_may_not_see_it() {
    alone_then_alone(Some(Flaw::Load), Second::AfterTheFirst);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_release_of_the_ticket_the_next_may_not_see_it() {
    alone_then_alone(Some(Flaw::Store), Second::AnyTime);
}

#[test]
fn who_shares_sees_what_the_last_who_was_alone_did() {
    alone_then_shared(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_acquire_who_shares_may_not_see_it() {
    alone_then_shared(Some(Flaw::Load));
}

#[test]
fn who_is_alone_comes_after_those_who_shared() {
    shared_then_alone(None, Second::AnyTime);
    shared_then_alone(None, Second::AfterTheFirst);
    shared_then_tried(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_acquire_who_waits_for_the_last_to_part_may_overtake_it() {
    shared_then_alone(Some(Flaw::Wait), Second::AnyTime);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_acquire_who_finds_nobody_may_overtake_the_last() {
    shared_then_alone(Some(Flaw::Add), Second::AfterTheFirst);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_acquire_who_need_not_wait_may_overtake_the_last() {
    shared_then_tried(Some(Flaw::Replace));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_release_who_parts_may_be_overtaken() {
    shared_then_alone(Some(Flaw::Subtract), Second::AnyTime);
}
