//! What ledger and tables say, in the words of the specification, and whether that is what it should be.
//!
//! The *abstraction* reads the real ledger, the host's stage 2, hyp's stage 1 and guests' stage 2, and computes the
//! specification's state of them; where they contradict each other, or grant more than the ledger says, there is a
//! [`Disagreement`] instead. [`abstraction()`] does so for everything, for tests that let nothing else run meanwhile.
//!
//! A [`Ghost`] does so from within the locks of one transition, for what the transition names: it computes the state
//! before, asks the specification for the state after, and compares that with what ledger and tables say then. It sees only
//! the components whose locks are held. What it cannot see, it neither invents nor judges.
#![no_std]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

extern crate alloc;

mod cursor;
mod disagreement;
mod ghost;
mod guest;
mod judge;
mod mapped;
mod page;
mod report;
mod scope;
mod tables;
mod translate;
mod whole;

pub use disagreement::{Disagreement, Table};
pub use ghost::{Ghost, Settings};
pub use report::Report;
pub use translate::{call, rights};
pub use whole::abstraction;
