//! The tables judged by memsim: every test runs on a simulated machine that reports each maintenance mistake.

mod bench;
mod foreign;
mod model;
mod stage1;
mod stage2;
