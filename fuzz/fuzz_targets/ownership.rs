//! What host and guests ask of hyp, through its decoder, over memsim, against the specification.
#![cfg_attr(fuzzing, no_main)]

use freehold_fuzz::ownership::case::Case;
use freehold_fuzz::ownership::run::run;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|case: Case| run(&case));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    freehold_fuzz::repeat::main(|case: Case| run(&case))
}
