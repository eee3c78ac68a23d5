//! Every boot that Freehold is judged by: one named test each, run by `cargo test -p guest-tests`.
//!
//! `cargo test -p guest-tests -- NAME` runs those whose name contains NAME; `--list` names them all. QEMU is `$QEMU` or
//! `qemu-system-aarch64`; the images are in `$FREEHOLD_BUILD` or `build/`.

mod bare;
mod cost;
mod ghost;
mod guests;
mod identity;
mod latency;
mod linux;
mod linux_guests;
mod reference;
mod refusals;
mod scripted;
mod self_tests;
mod terminal;

use guest_tests::{Failure, Images};
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::Path;

/// How many machines run at once unless `--test-threads` says otherwise.
const MACHINES_AT_ONCE: usize = 2;

/// What a test is given: the images, and a directory for files of its own.
#[derive(Clone)]
struct Bench {
    images: Images,
    scratch: &'static Path,
}

/// The tests, as they are collected.
struct Suite {
    bench: Bench,
    trials: Vec<Trial>,
}

impl Suite {
    /// Adds the test `name`.
    fn add(&mut self, name: impl Into<String>, test: impl FnOnce(&Bench) -> Result<(), Failure> + Send + 'static) {
        let bench = self.bench.clone();
        self.trials.push(Trial::test(name, move || test(&bench).map_err(|failure| Failed::from(failure.to_string()))));
    }
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(MACHINES_AT_ONCE);
    let bench = Bench { images: Images::from_environment(), scratch: Path::new(env!("CARGO_TARGET_TMPDIR")) };
    let mut suite = Suite { bench, trials: Vec::new() };
    bare::add(&mut suite);
    reference::add(&mut suite);
    refusals::add(&mut suite);
    scripted::add(&mut suite);
    self_tests::add(&mut suite);
    ghost::add(&mut suite);
    guests::add(&mut suite);
    linux_guests::add(&mut suite);
    terminal::add(&mut suite);
    identity::add(&mut suite);
    linux::add(&mut suite);
    cost::add(&mut suite);
    latency::add(&mut suite);
    libtest_mimic::run(&arguments, suite.trials).exit();
}
