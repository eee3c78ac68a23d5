//! The tables judged by memsim: every test runs on a simulated machine that reports each maintenance mistake.

mod bench;
mod stage2;
