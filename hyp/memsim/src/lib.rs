//! A software Arm memory system for tests: RAM by frame, CPUs whose TLBs keep everything that they may ever have
//! cached until it is flushed sufficiently, and barriers that order only what they order.
//!
//! A [`Machine`] is shared by its [`Cpu`] handles, which implement the traits that `pgtable` reaches memory and TLBs
//! through. Trees of tables are declared with [`Machine::track_stage2`] and its siblings; from then on every write to a
//! descriptor, barrier and invalidation is checked, and every mistake is kept as a [`Violation`] with the events that
//! led to it. [`Machine::assert_clean`] fails a test where there was one, or where a translation that was taken away
//! could still be used.

mod checker;
mod cpu;
mod event;
mod frames;
mod machine;
mod memory;
mod questions;
mod rules;
mod stale;
mod tree;

pub use cpu::Cpu;
pub use event::{Event, Violation};
pub use machine::{Machine, Translation};
pub use tree::TreeKind;
