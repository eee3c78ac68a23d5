//! What the boot costs, in instructions: QEMU counts them, and the machine's counter advances with them.

use crate::{Bench, Suite};
use guest_tests::{Failure, Transcript};
use std::time::Duration;

/// Most instructions from the loader's entry to the host's first, by MiB of RAM.
const LIMITS: [(u32, u64); 2] = [(1024, 3_000_000), (8192, 10_000_000)];

pub(crate) fn add(suite: &mut Suite) {
    for (mebibytes, limit) in LIMITS {
        suite.add(format!("cost::boot::{}G", mebibytes / 1024), move |bench| boot_cost(bench, mebibytes, limit));
    }
}

/// One CPU and `-icount shift=0`: one instruction takes one nanosecond, so that ticks of the counter are instructions.
fn boot_cost(bench: &Bench, mebibytes: u32, limit: u64) -> Result<(), Failure> {
    let run = crate::reference::machine(bench, "smp")?
        .cpus(1)
        .memory(mebibytes)
        .count_instructions()
        .timeout(Duration::from_secs(180))
        .run_until(" Hz\r\n")?;
    let instructions = instructions(&run)?;
    eprintln!("boot at {mebibytes} MiB: {instructions} instructions");
    run.require(instructions <= limit, format!("{instructions} instructions, more than {limit}"))?;
    Ok(())
}

/// Reads `boot took N counter ticks at F Hz`: N ticks at F Hz, at one instruction a nanosecond.
fn instructions(run: &Transcript) -> Result<u64, Failure> {
    let parsed = run.lines().find_map(|line| {
        let (_, rest) = line.split_once("boot took ")?;
        let (ticks, rest) = rest.split_once(" counter ticks at ")?;
        let (frequency, _) = rest.split_once(" Hz")?;
        Some((ticks.parse::<u64>().ok()?, frequency.parse::<u64>().ok()?))
    });
    match parsed {
        Some((ticks, frequency @ 1..)) => Ok((u128::from(ticks) * 1_000_000_000 / u128::from(frequency)) as u64),
        _ => Err(run.failure("hyp did not say how many counter ticks the boot took")),
    }
}
