//! A software Arm memory system for tests: RAM by frame, CPUs whose TLBs keep everything that they may ever have
//! cached until it is flushed sufficiently, and barriers that order only what they order.
//!
//! A [`Machine`] is shared by its [`Cpu`] handles, which implement the traits that `pgtable` reaches memory and TLBs
//! through. Trees of tables are declared with [`Machine::track_stage2`] and its siblings; from then on every write to a
//! descriptor, barrier and invalidation is checked, and every mistake is kept as a [`Violation`] with the events that
//! led to it. [`Machine::assert_clean`] fails a test where there was one, or where a translation that was taken away
//! could still be used.
//!
//! Two rules hold for a tree only where they are asked for, since they need to be told of more than tables:
//! [`Machine::guard_tree`] names the lock that its descriptors are written under, [`Machine::guard_caches`] asks for clean
//! memory behind every new leaf.

mod access;
mod caches;
mod casemate;
mod checker;
mod cpu;
mod event;
mod foreign;
mod forward;
mod frames;
mod frozen;
mod linking;
mod locks;
mod machine;
mod maintenance;
mod memory;
mod outputs;
mod questions;
mod rules;
mod schedule;
mod stale;
mod tree;

pub use access::{Access, Fault};
pub use cpu::Cpu;
pub use event::{Event, Violation};
pub use frozen::Frozen;
pub use locks::{Hold, Lock};
pub use machine::{Machine, Translation};
pub use schedule::Program;
pub use tree::TreeKind;
