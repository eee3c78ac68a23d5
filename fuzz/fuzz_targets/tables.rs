//! Sequences of operations on a table, over memsim, against a flat map.
#![cfg_attr(fuzzing, no_main)]

use freehold_fuzz::tables::{Case, run};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|case: Case| run(&case));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    freehold_fuzz::repeat::main(|case: Case| run(&case))
}
