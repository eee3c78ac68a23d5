//! Operations on tables that hold anything.
#![cfg_attr(fuzzing, no_main)]

use freehold_fuzz::contents::{Case, run};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|case: Case| run(&case));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    freehold_fuzz::repeat::main(|case: Case| run(&case))
}
