//! Measures what Freehold adds to the time of a Linux boot: the wall-clock time from QEMU's start to the power-off that
//! the initial RAM disk's `/init` ends with, on the same board with and without Freehold, in turns. Prints the medians.
//!
//! Runs want an idle machine. Usage: `cargo run --release -p guest-tests --bin linux_boot_time [RUNS]`, 5 by default.

use guest_tests::{Failure, Images, Machine};
use std::process::ExitCode;
use std::time::Duration;

/// Words for the kernel: the test that does nothing but report and power off.
const BOOTARGS: &str = "console=ttyAMA0 panic=-1 freehold.test=timing";

fn main() -> ExitCode {
    let runs = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(5);
    match measure(&Images::from_environment(), runs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(images: &Images, runs: usize) -> Result<(), Failure> {
    let initrd = images.linux_initrd()?;
    let plain = Machine::new(images.linux()?).append(BOOTARGS).initrd(&initrd);
    let freehold = Machine::new(images.freehold()?).host(images.linux()?, BOOTARGS).initrd(&initrd);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        without.push(seconds(&plain)?);
        with.push(seconds(&freehold)?);
        println!("run {run}: {:.2} s without Freehold, {:.2} s with", without[run - 1], with[run - 1]);
    }
    let (without, with) = (median(without), median(with));
    println!("median of {runs}: {without:.2} s without, {with:.2} s with: {:+.1}%", (with / without - 1.0) * 100.0);
    Ok(())
}

/// How long one boot takes.
fn seconds(machine: &Machine) -> Result<f64, Failure> {
    let run = machine.clone().timeout(Duration::from_secs(300)).run()?;
    run.completed("timing", 1)?;
    Ok(run.duration().as_secs_f64())
}

/// The middle value, or the upper of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
