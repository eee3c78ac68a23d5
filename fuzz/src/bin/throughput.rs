//! How many sequences of 32 steps target `ownership` runs in a minute, by the time that they take of one core.

use std::fs::read_to_string;
use std::process::ExitCode;

use freehold_fuzz::ownership::random::Numbers;
use freehold_fuzz::ownership::run::run;

/// Steps of a sequence.
const STEPS: usize = 32;
/// Sequences that are measured.
const SEQUENCES: u32 = 2000;

/// Nanoseconds that this process has run, on whichever core.
fn busy() -> Option<u64> {
    read_to_string("/proc/self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}

fn main() -> ExitCode {
    let mut numbers = Numbers::new(32);
    let start = busy();
    for _ in 0..SEQUENCES {
        run(&numbers.case(STEPS));
    }
    let Some((start, end)) = start.zip(busy()) else {
        eprintln!("/proc/self/schedstat cannot be read");
        return ExitCode::FAILURE;
    };
    let each = (end - start) / u64::from(SEQUENCES);
    println!("{} us a sequence of {STEPS} steps: {} a minute on one core", each / 1000, 60_000_000_000 / each.max(1));
    ExitCode::SUCCESS
}
