//! The judge judged: every rule is broken on purpose and must be noticed, and kept and must pass.

mod accesses;
mod caches;
mod foreign;
mod invariants;
mod locks;
mod outputs;
mod regimes;
mod roots;
mod scene;
mod truth_table;
