//! The words of the locks as loom models them, and what the locks guard.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use ownership::door::Door;
use ownership::lock::{Lock, Rank};
use ownership::shared_lock::SharedLock;
use ownership::turns::{Turns, Word};

/// A kind of access to a word, to be made with no ordering at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    Load,
    Wait,
    Store,
    Add,
    Subtract,
    Replace,
}

/// A word of a lock.
///
/// Loom remembers only the last access to an atomic when it looks for accesses that might have come in another order,
/// so that a load hides behind another CPU's. Each access therefore first changes a second atomic: a change is never
/// hidden, and relaxed it orders nothing.
pub struct ModelWord {
    moment: AtomicU64,
    value: AtomicU64,
    flaw: Option<Flaw>,
}

impl ModelWord {
    fn new(flaw: Option<Flaw>) -> Self {
        Self { moment: AtomicU64::new(0), value: AtomicU64::new(0), flaw }
    }

    fn access(&self, kind: Flaw, order: Ordering) -> (&AtomicU64, Ordering) {
        self.moment.fetch_add(1, Ordering::Relaxed);
        (&self.value, if self.flaw == Some(kind) { Ordering::Relaxed } else { order })
    }
}

// SAFETY: each access is that of an atomic of loom's; and if it is made with less ordering than it says, that is for loom to
// find out before anything comes of it.
unsafe impl Word for ModelWord {
    fn load(&self, order: Ordering) -> u64 {
        let (value, order) = self.access(Flaw::Load, order);
        value.load(order)
    }

    fn store(&self, new: u64, order: Ordering) {
        let (value, order) = self.access(Flaw::Store, order);
        value.store(new, order);
    }

    fn fetch_add(&self, more: u64, order: Ordering) -> u64 {
        let (value, order) = self.access(Flaw::Add, order);
        value.fetch_add(more, order)
    }

    fn subtract(&self, less: u64, order: Ordering) {
        let (value, order) = self.access(Flaw::Subtract, order);
        value.fetch_sub(less, order);
    }

    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool {
        let (value, order) = self.access(Flaw::Replace, order);
        value.compare_exchange(current, new, order, Ordering::Relaxed).is_ok()
    }

    fn wait(&self, order: Ordering, wanted: impl Fn(u64) -> bool) {
        // Loads after the first may hide: a CPU that looked in vain looks again.
        let (value, order) = self.access(Flaw::Wait, order);
        wait_until(|| wanted(value.load(order)));
    }
}

/// An entry in which nobody is.
pub fn turns(flaw: Option<Flaw>) -> Turns<ModelWord> {
    Turns::of(ModelWord::new(flaw), ModelWord::new(flaw))
}

/// A closed door in a word of loom's.
pub fn door(flaw: Option<Flaw>) -> Door<ModelWord> {
    Door::of(ModelWord::new(flaw))
}

/// A lock of loom's words.
pub fn lock<T>(rank: Rank, value: T) -> Lock<T, ModelWord> {
    Lock::with_turns(rank, turns(None), value)
}

/// A lock of loom's words that may be shared.
pub fn shared_lock<T>(flaw: Option<Flaw>, value: T) -> SharedLock<T, ModelWord> {
    SharedLock::with_turns(Rank::Host, turns(flaw), value)
}

/// A number, two accesses to which must have an order.
pub struct Value(UnsafeCell<u32>);

// SAFETY: where two threads may come to the number at once and one of them to write it, loom ends the test before it does.
unsafe impl Sync for Value {}

impl Value {
    pub fn new(value: u32) -> Self {
        Self(UnsafeCell::new(value))
    }

    pub fn get(&self) -> u32 {
        // SAFETY: loom has made sure that no other thread may be writing.
        self.0.with(|value| unsafe { *value })
    }

    pub fn set(&self, new: u32) {
        // SAFETY: loom has made sure that no other thread may be reading or writing.
        self.0.with_mut(|value| unsafe { *value = new });
    }
}

/// Waits until `met`. An execution in which a CPU looks often in vain is the same, but for that, as one in which it looks
/// later; so from there on loom need not try what else might happen, which would take for ever.
pub fn wait_until(met: impl Fn() -> bool) {
    let mut in_vain = 0;
    while !met() {
        if in_vain == 2 {
            loom::skip_branch();
        }
        in_vain += 1;
        thread::yield_now();
    }
}

/// Runs `test` in every interleaving, or in those with at most so many preemptions: switches from a CPU that could go on.
/// LOOM_MAX_PREEMPTIONS in the environment overrides it. There are at least so many interleavings; fewer would mean that no
/// search takes place. CPUs that wait for each other for ever are reported, as a model with too many branches.
pub fn explore(preemptions: Option<usize>, at_least: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(preemptions);
    model.max_branches = 2000;
    let executions = Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    model.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        test();
    });
    let executions = executions.load(Ordering::Relaxed);
    assert!(executions >= at_least, "{executions} interleavings");
}
