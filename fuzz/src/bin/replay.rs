//! `replay FILE…`: runs scripts of calls on the simulated machine that target `ownership` fuzzes, and prints what comes of
//! each step. Fails where anything is not as it must be.
//!
//! `replay --shrink FILE`: prints the shortest script found that fails as the one in the file does.

use std::env::args_os;
use std::fs::read_to_string;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use call_script::Script;
use freehold_fuzz::ownership::run::replay;
use freehold_fuzz::ownership::shrink::shrink;

fn read(path: &Path) -> Result<Script, String> {
    let text = read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Script::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs a script, and says whether all was as it must be.
fn run(script: &Script) -> bool {
    let failed = catch_unwind(AssertUnwindSafe(|| replay(script, |performed| println!("{performed}"))));
    match failed {
        Ok(0) => println!("replay: all as it must be"),
        Ok(failed) => println!("replay: {failed} steps came out other than the script says"),
        Err(_) => println!("replay: failed"),
    }
    matches!(failed, Ok(0))
}

fn print_shortest(script: &Script) -> bool {
    match shrink(script) {
        Some(shortest) => {
            eprintln!("replay: {} steps, of {}", shortest.steps.len(), script.steps.len());
            print!("{shortest}");
        }
        None => eprintln!("replay: the script does not fail"),
    }
    true
}

fn main() -> ExitCode {
    let mut act: fn(&Script) -> bool = run;
    let mut all_well = true;
    for argument in args_os().skip(1) {
        if argument == "--shrink" {
            act = print_shortest;
            continue;
        }
        all_well &= read(Path::new(&argument)).map_or_else(
            |error| {
                eprintln!("replay: {error}");
                false
            },
            |script| act(&script),
        );
    }
    if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
