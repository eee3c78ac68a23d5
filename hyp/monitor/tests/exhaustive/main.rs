//! Two CPUs, of which one does something wherever the other is between two of its locks: every pair of calls, in states
//! with a page in each way in which it can be held.

mod action;
mod boundary;
mod pairs;
mod stage;
mod states;
mod verdict;
