//! The way in to what may change only while nobody is in.

use crate::model::{Flaw, Value, door, explore};
use loom::thread::{self, JoinHandle};
use ownership::door::Door;
use std::sync::Arc;

const NAME: u32 = 7;
const NEXT_NAME: u32 = 8;

type Room = (Door<crate::model::ModelWord>, Value);

fn room(flaw: Option<Flaw>) -> Arc<Room> {
    Arc::new((door(flaw), Value::new(0)))
}

fn start(room: &Arc<Room>, program: impl FnOnce(&Room) + 'static) -> JoinHandle<()> {
    let room = room.clone();
    thread::spawn(move || program(&room))
}

/// Looks at what is inside, under whichever name.
fn look((door, value): &Room) {
    for (name, expected) in [(NAME, 1), (NEXT_NAME, 2)] {
        if let Some(_inside) = door.enter(name, |_| true) {
            assert_eq!(value.get(), expected);
        }
    }
}

/// One CPU furnishes the room, lets others in, and changes it when they are out.
fn furnish(flaw: Option<Flaw>, others: usize, preemptions: Option<usize>, at_least: usize) {
    explore(preemptions, at_least, move || {
        let room = room(flaw);
        let others: Vec<_> = (0..others).map(|_| start(&room, look)).collect();
        room.1.set(1);
        room.0.open(NAME, false);
        if room.0.close() {
            room.1.set(2);
            room.0.open(NEXT_NAME, true);
        }
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(room.0.close());
        room.1.set(3);
    });
}

#[test]
fn what_is_inside_changes_only_while_nobody_is_in() {
    furnish(None, 1, None, 50);
    furnish(None, 2, Some(2), 2000);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_release_who_goes_in_may_not_see_what_was_done_before() {
    furnish(Some(Flaw::Store), 1, None, 1);
}

/// The same exchange of the word lets one in, and closes behind the last.
#[test]
#[should_panic(expected = "Causality violation")]
fn without_acquire_neither_who_goes_in_nor_who_closes_sees_the_other() {
    furnish(Some(Flaw::Replace), 1, None, 1);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_release_who_closes_may_not_see_that_the_last_is_out() {
    furnish(Some(Flaw::Subtract), 1, None, 1);
}

#[test]
fn who_comes_while_it_stays_open_gets_in() {
    explore(Some(3), 1000, || {
        let room = room(None);
        room.0.open(NAME, false);
        let others = [(); 2].map(|()| start(&room, |room| assert!(room.0.enter(NAME, |_| true).is_some())));
        assert!(room.0.enter(NAME, |_| true).is_some());
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(room.0.close());
    });
}
