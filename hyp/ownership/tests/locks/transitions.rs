//! Several locks at once: what the transitions take, each in its order, on up to three CPUs. And what comes of it if one
//! does not keep to the order: each CPU has a lock that the other waits for.

use crate::model::{ModelWord, Value, explore, lock, shared_lock};
use loom::thread;
use ownership::shared_lock::SharedLock;
use ownership::{Lock, Rank};
use std::sync::Arc;

/// What a CPU does that takes locks.
#[derive(Clone, Copy)]
enum Task {
    /// The host and hyp change hands, in a table that takes a frame.
    HostAndHyp,
    /// The host and a guest.
    HostAndGuest(usize),
    /// A guest on its own.
    Guest(usize),
    /// One guest and another.
    TwoGuests(usize, usize),
    /// A VM begins to die.
    StartTeardown(usize),
    /// The host faults; if it cannot share its lock, it queues.
    HostFault,
    /// Wrong: the two locks of [`HostAndHyp`](Self::HostAndHyp) the other way round.
    HypAndHost,
    /// Wrong: as [`HostAndGuest`](Self::HostAndGuest).
    GuestAndHost(usize),
    /// Wrong: in the order in which they are named.
    TwoGuestsAsNamed(usize, usize),
    /// Wrong: as [`StartTeardown`](Self::StartTeardown).
    EndTeardown(usize),
}

/// The locks, around the number of times that each was held alone.
struct Machine {
    vm_table: Lock<Value, ModelWord>,
    host: SharedLock<Value, ModelWord>,
    hyp: Lock<Value, ModelWord>,
    guests: [Lock<Value, ModelWord>; 2],
    frames: Lock<Value, ModelWord>,
}

/// Times that each lock is held alone, in the order of [`Machine`].
type Times = [u32; 6];

impl Machine {
    fn new() -> Self {
        let one = |rank| lock(rank, Value::new(0));
        Self {
            vm_table: one(Rank::VmTable),
            host: shared_lock(None, Value::new(0)),
            hyp: one(Rank::Hyp),
            guests: [one(Rank::Guest), one(Rank::Guest)],
            frames: one(Rank::Leaf),
        }
    }

    fn run(&self, task: Task) {
        match task {
            Task::HostAndHyp => {
                let (host, hyp) = (self.host.lock(), self.hyp.lock());
                [&*host, &*hyp, &*self.frames.lock()].into_iter().for_each(count);
            }
            Task::HostAndGuest(guest) => {
                let (host, guest) = (self.host.lock(), self.guests[guest].lock());
                [&*host, &guest].into_iter().for_each(count);
            }
            Task::Guest(guest) => count(&self.guests[guest].lock()),
            Task::TwoGuests(owner, borrower) => {
                let pair = Lock::lock_two(&self.guests[owner], &self.guests[borrower]).unwrap();
                [&*pair.0, &pair.1].into_iter().for_each(count);
            }
            Task::StartTeardown(guest) => {
                let (table, guest) = (self.vm_table.lock(), self.guests[guest].lock());
                [&*table, &guest].into_iter().for_each(count);
            }
            Task::HostFault => match self.host.try_share() {
                Some(host) => assert!(host.get() < 100),
                None => count(&self.host.lock()),
            },
            Task::HypAndHost => {
                let (hyp, host) = (self.hyp.lock(), self.host.lock());
                [&*hyp, &host].into_iter().for_each(count);
            }
            Task::GuestAndHost(guest) => {
                let (guest, host) = (self.guests[guest].lock(), self.host.lock());
                [&*guest, &host].into_iter().for_each(count);
            }
            Task::TwoGuestsAsNamed(owner, borrower) => {
                let (owner, borrower) = (self.guests[owner].lock(), self.guests[borrower].lock());
                [&*owner, &borrower].into_iter().for_each(count);
            }
            Task::EndTeardown(guest) => {
                let (guest, table) = (self.guests[guest].lock(), self.vm_table.lock());
                [&*guest, &table].into_iter().for_each(count);
            }
        }
    }

    fn times(&self) -> Times {
        [
            self.vm_table.lock().get(),
            self.host.lock().get(),
            self.hyp.lock().get(),
            self.guests[0].lock().get(),
            self.guests[1].lock().get(),
            self.frames.lock().get(),
        ]
    }
}

fn count(value: &Value) {
    value.set(value.get() + 1);
}

/// Runs the tasks of each CPU, one after another, beside those of the others, with so many preemptions. In the end nobody
/// holds any lock, and all that was done under them is there. So many faults of the host may have found its lock taken.
fn side_by_side<const N: usize>(preemptions: usize, cpus: [&'static [Task]; N], expected: Times, faults: u32) {
    explore(Some(preemptions), 2000, move || {
        let machine = Arc::new(Machine::new());
        let run = |tasks: &'static [Task]| {
            let machine = machine.clone();
            move || tasks.iter().for_each(|task| machine.run(*task))
        };
        let others: Vec<_> = cpus[1..].iter().map(|tasks| thread::spawn(run(tasks))).collect();
        run(cpus[0])();
        others.into_iter().for_each(|other| other.join().unwrap());
        let mut times = machine.times();
        assert!((expected[1]..=expected[1] + faults).contains(&times[1]), "{times:?}");
        times[1] = expected[1];
        assert_eq!(times, expected);
    });
}

#[test]
fn guests_that_share_with_each_other_and_with_the_host_get_their_locks() {
    side_by_side(
        1,
        [
            &[Task::TwoGuests(0, 1), Task::HostAndGuest(1)],
            &[Task::TwoGuests(1, 0), Task::HostAndHyp],
            &[Task::HostAndGuest(0), Task::StartTeardown(1)],
        ],
        [1, 3, 1, 3, 4, 1],
        0,
    );
}

#[test]
fn faults_of_the_host_beside_transitions_get_their_locks() {
    side_by_side(
        1,
        [
            &[Task::HostFault, Task::HostAndGuest(0)],
            &[Task::HostAndHyp, Task::HostFault],
            &[Task::HostFault, Task::Guest(0)],
        ],
        [0, 2, 1, 2, 0, 1],
        3,
    );
}

#[test]
fn three_cpus_that_want_the_same_locks_get_them() {
    side_by_side(
        2,
        [&[Task::HostAndGuest(0)], &[Task::TwoGuests(0, 1)], &[Task::HostAndGuest(1)]],
        [0, 2, 0, 2, 2, 0],
        0,
    );
}

#[test]
#[should_panic(expected = "Model exceeded maximum number of branches")]
fn hyp_before_the_host_ends_in_a_deadlock() {
    side_by_side(1, [&[Task::HostAndHyp], &[Task::HypAndHost]], [0, 2, 2, 0, 0, 1], 0);
}

#[test]
#[should_panic(expected = "Model exceeded maximum number of branches")]
fn a_guest_before_the_host_ends_in_a_deadlock() {
    side_by_side(1, [&[Task::HostAndGuest(0)], &[Task::GuestAndHost(0)]], [0, 2, 0, 2, 0, 0], 0);
}

/// Any two of the three would get on.
#[test]
#[should_panic(expected = "Model exceeded maximum number of branches")]
fn a_guest_before_the_host_closes_a_circle_of_three() {
    side_by_side(
        2,
        [&[Task::HostAndGuest(0)], &[Task::TwoGuests(0, 1)], &[Task::GuestAndHost(1)]],
        [0, 2, 0, 2, 2, 0],
        0,
    );
}

#[test]
#[should_panic(expected = "Model exceeded maximum number of branches")]
fn two_guests_in_the_order_of_their_names_end_in_a_deadlock() {
    side_by_side(1, [&[Task::TwoGuestsAsNamed(0, 1)], &[Task::TwoGuestsAsNamed(1, 0)]], [0, 0, 0, 2, 2, 0], 0);
}

#[test]
#[should_panic(expected = "Model exceeded maximum number of branches")]
fn a_guest_before_the_vm_table_ends_in_a_deadlock() {
    side_by_side(1, [&[Task::StartTeardown(1)], &[Task::EndTeardown(1)]], [2, 0, 0, 0, 2, 0], 0);
}
