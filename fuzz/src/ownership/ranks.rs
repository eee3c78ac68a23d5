//! Which locks each CPU holds: a CPU that takes one out of order, or keeps one when it is done, is a finding.
//!
//! All CPUs of a machine are played by one thread, which is one of them at a time, also one in the midst of another.
//! What the test does for itself, such as to compare everything, is the doing of a CPU of its own.
//!
//! Builds without debug assertions do not check the order.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use ownership::lock::install_order_check;
use simulation::CPUS;

/// The words of the CPUs, and of the test.
struct Words {
    held: [&'static AtomicU32; CPUS.len() + 1],
    current: Cell<usize>,
}

thread_local! {
    static WORDS: Words = Words {
        held: std::array::from_fn(|_| &*Box::leak(Box::default())),
        current: const { Cell::new(CPUS.len()) },
    };
}

/// From here on locks say so when they are taken.
pub fn watch_locks() {
    install_order_check(|| WORDS.with(|words| words.held[words.current.get()]));
}

/// The thread is a CPU for as long as this is there.
struct Turn {
    before: usize,
}

impl Turn {
    fn of(index: usize) -> Self {
        Self { before: WORDS.with(|words| words.current.replace(index)) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        WORDS.with(|words| words.current.set(self.before));
    }
}

/// Does what the CPU of this index does.
///
/// # Panics
/// Where it holds a lock in the end.
pub fn as_cpu<T>(index: usize, act: impl FnOnce() -> T) -> T {
    let turn = Turn::of(index);
    let result = act();
    drop(turn);
    let held = WORDS.with(|words| words.held[index].load(Ordering::Relaxed));
    assert_eq!(held, 0, "CPU {index} keeps locks of the ranks {held:#b}");
    result
}

/// Does what the test does for itself, in the midst of a CPU's doing.
pub fn as_test<T>(act: impl FnOnce() -> T) -> T {
    as_cpu(CPUS.len(), act)
}
