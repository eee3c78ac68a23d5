//! The locks, accesses of several CPUs interleaved in every way that loom finds.
//!
//! Loom runs the code of the locks as it is; only their words are its own, so that a load may return what the ordering of
//! the accesses before it allows, old values too. What a lock guards is a [`Value`](model::Value): there, two accesses of
//! which no ordering says which comes first are reported, whether or not they happen to meet. So one check stands for
//! three: nobody else is in, what the last holder wrote is seen, and what it read was not what the next one writes.

mod doors;
mod model;
mod orderings;
mod transitions;
mod turns;
