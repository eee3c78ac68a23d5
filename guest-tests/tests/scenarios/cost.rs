//! What Freehold costs: instructions of the boot (QEMU counts them, and the machine's counter advances with them), memory,
//! size of the image.

use crate::{Bench, Suite};
use guest_tests::{Failure, Transcript};
use std::time::Duration;

/// Most instructions from the loader's entry to the host's first, by MiB of RAM.
const LIMITS: [(u32, u64); 2] = [(1024, 3_000_000), (8192, 10_000_000)];

pub(crate) fn add(suite: &mut Suite) {
    for (mebibytes, limit) in LIMITS {
        suite.add(format!("cost::boot::{}G", mebibytes / 1024), move |bench| boot_cost(bench, mebibytes, limit));
    }
    suite.add("cost::memory::1G", memory_cost);
    suite.add("cost::image", image_size);
    suite.add("cost::calls", calls_cost);
}

/// Most instructions of a call about one page, from the host's HVC to the instruction behind it, where tables stand.
const CALL_LIMITS: [(&str, u64); 13] = [
    ("hyp-share", 500),
    ("hyp-unshare", 500),
    ("hyp-share-restricted", 700),
    ("hyp-unshare-restricted", 650),
    ("vm-share", 500),
    ("vm-unshare", 500),
    ("vm-donate", 1_500),
    ("vm-lend", 1_500),
    // With the wipe: 64 stores of a line each, and the cleaning of as many.
    ("vm-reclaim", 1_500),
    ("vm-reclaim-lent", 1_500),
    ("vm-force-reclaim", 1_600),
    ("vm-grant-device", 800),
    ("vm-reclaim-device", 1_000),
];
/// Most instructions of the donation of an aligned 2 MiB block, without those that clean it from the caches.
const BLOCK_LIMIT: u64 = 5_000;
/// Those that clean it: 36 for 16 lines of 64 bytes, by the loop in `hyp/src/cache.rs`.
const BLOCK_CLEANING: u64 = (2 << 20) / 64 / 16 * 36;

/// Most bytes of memory that hyp may take at 1 GiB, whatever the number of CPUs.
const MEMORY_LIMIT: u64 = 5 << 20;
/// Most bytes of `freehold.img`.
const IMAGE_LIMIT: u64 = 512 << 10;

/// The carve-out with 8 CPUs, as the host is told it.
fn memory_cost(bench: &Bench) -> Result<(), Failure> {
    let run = crate::reference::machine(bench, "story")?.cpus(8).memory(1024).run_until("entering the host")?;
    let held = run.lines().find_map(|line| {
        let (_, rest) = line.split_once("of which hyp holds ")?;
        rest.split_once(" KiB")?.0.parse::<u64>().ok()
    });
    let held = held.ok_or_else(|| run.failure("hyp did not say how much it holds"))? << 10;
    eprintln!("carve-out at 1 GiB with 8 CPUs: {held} bytes");
    run.require(held <= MEMORY_LIMIT, format!("{held} bytes, more than {MEMORY_LIMIT}"))?;
    Ok(())
}

/// What the calls cost, and that it depends neither on how much RAM there is nor on how many other VMs.
fn calls_cost(bench: &Bench) -> Result<(), Failure> {
    let run = |mebibytes: u32, vms: u64| {
        let bootargs = format!("scenario=cost report vms={vms}");
        let machine = crate::reference::machine(bench, "cost")?.host(bench.images.host()?, &bootargs);
        let run = machine.cpus(1).memory(mebibytes).count_instructions().run()?;
        run.completed("cost", 5)?.ended_well()?;
        run.require(run.value("other-vms")? == vms, "not all of the other VMs were made")?;
        run.require(run.value("counter-frequency")? == 1_000_000_000, "a tick is no instruction")?;
        Ok::<_, Failure>(run)
    };
    let usual = run(1024, 0)?;
    for (call, limit) in CALL_LIMITS {
        let cost = usual.value(&format!("{call}.one"))?;
        usual.require(cost <= limit, format!("{call}: {cost} instructions, more than {limit}"))?;
    }
    let block = usual.value("vm-donate.block")?;
    let limit = BLOCK_CLEANING + BLOCK_LIMIT;
    usual.require(block <= limit, format!("donation of a block: {block} instructions, more than {limit}"))?;
    for (mebibytes, vms) in [(256, 0), (4096, 0), (1024, 60)] {
        let other = run(mebibytes, vms)?;
        for (call, _) in CALL_LIMITS {
            let name = format!("{call}.one");
            let (here, there) = (usual.value(&name)?, other.value(&name)?);
            other.require(there == here, format!("{name}: {there} instead of {here} instructions"))?;
        }
    }
    Ok(())
}

fn image_size(bench: &Bench) -> Result<(), Failure> {
    let size = std::fs::metadata(bench.images.freehold()?).map_err(|error| Failure::new(error.to_string()))?.len();
    eprintln!("freehold.img: {size} bytes");
    if size > IMAGE_LIMIT { Err(Failure::new(format!("{size} bytes, more than {IMAGE_LIMIT}"))) } else { Ok(()) }
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
