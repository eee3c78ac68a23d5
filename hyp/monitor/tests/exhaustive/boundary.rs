//! Another CPU's turn, where a CPU is about to take a lock and holds none.
//!
//! Locks tell that they are taken by asking for the word in which the CPU keeps what it holds. Between two such moments
//! without a lock in between, a CPU does nothing that others see, so that these are all the points that matter. There is one
//! exception: to go in to a VM by its handle takes no lock, so that no turn comes between a lock and that.

use ownership::Rank;
use ownership::lock::install_order_check;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, Ordering};

/// What another CPU does.
pub type Turn = Box<dyn FnOnce()>;

/// The two CPUs that a thread plays.
struct Cpus {
    held: [&'static AtomicU32; 2],
    current: Cell<usize>,
    boundaries: Cell<u32>,
    turn: RefCell<Option<(u32, Turn)>>,
}

thread_local! {
    static CPUS: Cpus = Cpus {
        held: [Box::leak(Box::default()), Box::leak(Box::default())],
        current: Cell::new(0),
        boundaries: Cell::new(0),
        turn: RefCell::new(None),
    };
}

/// The ranks that the CPU holds whose turn it is. Before it says so of one that is between its locks, another may have its
/// turn.
fn held_ranks() -> &'static AtomicU32 {
    CPUS.with(|cpus| {
        let current = cpus.current.get();
        let held = cpus.held[current];
        // A vCPU that is made keeps others of its VM from being made, and nothing else.
        let between = held.load(Ordering::Relaxed) & !Rank::Vm.bit() == 0;
        if current == 0 && between {
            let boundary = cpus.boundaries.get();
            cpus.boundaries.set(boundary + 1);
            let is_due = cpus.turn.borrow().as_ref().is_some_and(|(due, _)| *due == boundary);
            if is_due && let Some((_, turn)) = cpus.turn.take() {
                take_turn(cpus, turn);
            }
        }
        held
    })
}

fn take_turn(cpus: &Cpus, turn: Turn) {
    cpus.current.set(1);
    turn();
    cpus.current.set(0);
}

/// Where the other CPU had its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// At one of the boundaries.
    Within,
    /// There are not as many: it had its turn after everything.
    After,
}

/// Makes all locks of this process tell. Once is enough.
pub fn watch_locks() {
    install_order_check(held_ranks);
}

/// Does `first` on one CPU, and `second` on another at the boundary of that number.
pub fn interleave<R>(boundary: u32, first: impl FnOnce() -> R, second: Turn) -> (R, Place) {
    CPUS.with(|cpus| {
        cpus.boundaries.set(0);
        cpus.turn.replace(Some((boundary, second)));
    });
    let result = first();
    CPUS.with(|cpus| match cpus.turn.take() {
        Some((_, turn)) => {
            take_turn(cpus, turn);
            (result, Place::After)
        }
        None => (result, Place::Within),
    })
}

/// What the first CPU holds.
pub fn is_vm_locked() -> bool {
    CPUS.with(|cpus| cpus.held[0].load(Ordering::Relaxed) & Rank::Vm.bit() != 0)
}
