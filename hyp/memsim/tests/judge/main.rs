//! The judge judged: every rule is broken on purpose and must be noticed, and kept and must pass.

mod invariants;
mod scene;
mod truth_table;
