//! What host and guests ask of hyp, through its decoder, over memsim, against the specification.
#![cfg_attr(fuzzing, no_main)]

use freehold_fuzz::ownership::case::Case;
use freehold_fuzz::ownership::run::run;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|case: Case| run(&case));

/// Runs each input that is named, and leaves beside it what it is in words: `INPUT.script`.
#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    freehold_fuzz::repeat::each(|path, case: Case| {
        let failed = std::panic::catch_unwind(|| run(&case)).is_err();
        let mut name = path.as_os_str().to_owned();
        name.push(".script");
        let script = freehold_fuzz::ownership::run::record();
        std::fs::write(&name, script.to_string()).map_err(|error| error.to_string())?;
        println!("{}: {}", name.display(), if failed { "fails" } else { "all as it must be" });
        if failed { Err("failed".to_owned()) } else { Ok(()) }
    })
}
