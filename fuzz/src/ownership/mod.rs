//! Target `ownership`: what host and guests ask of hyp, by several CPUs, through the very decoder that ships, over `memsim`.
//!
//! An input is a [`Case`](case::Case): a setup, and for each step a few bytes from which [`generate`] makes a step of a
//! script by the state that there is: most that it asks for is allowed there, and some is hostile. The script is what
//! is run and what a finding is printed as, so that a finding in words does the same again.
//!
//! After each step everything must be as the [`model`] says: each transition within its locks, by ledger and tables and by
//! the specification of everything; each call's result; each access; and `memsim` must have seen no mistake. At the end all
//! VMs go, and all memory is the host's again.

pub mod actor;
pub mod bench;
pub mod case;
pub mod generate;
pub mod guard;
mod guest_calls;
mod host_calls;
pub mod model;
pub mod random;
mod ranks;
pub mod run;
pub mod shrink;
pub mod watch;
