//! The fuzz targets of Freehold's portable crates: what an input means, and what must hold whatever it is.
//!
//! Everything here is plain code that builds on stable Rust. A target in `fuzz_targets/` hands libFuzzer's bytes to
//! [`tables::run`] or [`contents::run`]; without the fuzzer, the same program repeats the inputs whose files it is given.

pub mod contents;
pub mod flat;
pub mod memory;
pub mod operation;
pub mod oracle;
pub mod ownership;
pub mod place;
pub mod regime;
pub mod repeat;
pub mod tables;
pub mod walk;
