//! The transitions over a simulated machine: real tables, hostile TLBs, and the specification beside them.

mod beside;
mod common;
mod faults;
mod known_bugs;
mod races;
mod random;
mod transitions;
