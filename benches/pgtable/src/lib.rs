//! What the translation tables cost, beside the crate `aarch64-paging` and its Stage2 regime.
//!
//! Both work on plain memory of this process and do no maintenance, so that what is counted is the work on tables. The
//! binary `count` prints instruction counts, the benchmark `wall_time` measures time; `docs/PERFORMANCE.md` has the
//! figures and says what they mean.

pub mod freehold;
pub mod memory;
pub mod peer;
pub mod row;
pub mod subject;
