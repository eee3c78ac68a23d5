//! The tables judged by memsim: every test runs on a simulated machine that reports each maintenance mistake.

mod age;
mod bench;
mod coalesce;
mod dump;
mod edges;
mod foreign;
mod maintenance;
mod model;
mod protect;
mod racing;
mod shared;
mod split;
mod stage1;
mod stage2;
