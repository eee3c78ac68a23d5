//! What leaving a guest costs, in instructions, as the payload `latency` sees it: a regression goes over a limit.

use crate::{Bench, Suite};
use guest_tests::{Failure, Machine, Transcript};
use std::time::Duration;

/// RAM of the guest, in bytes: blocks of 2 MiB enough for a median.
const GUEST_MEMORY: u64 = 64 << 20;
/// Checks that the payload makes on two CPUs.
const CHECKS: u32 = 10;

/// Most instructions of each operation, from the guest's instruction to the one behind it or to its interrupt handler.
const LIMITS: [(&str, u64); 10] = [
    ("hvc-psci-version", 180),
    ("hvc-unknown", 250),
    ("id-register", 210),
    ("exit-and-entry", 1_450),
    ("distributor-read", 1_720),
    ("device-read", 1_750),
    ("first-touch", 4_100),
    ("first-touch-of-block", 160_000),
    ("sgi-to-itself", 2_500),
    ("timer", 2_320),
];
/// Most instructions of an IPI's way to another vCPU and of the answer's back, of both CPUs together: to one that waits for
/// interrupts, and to one that runs.
const IPI_LIMITS: [(&str, u64); 2] = [("ipi-to-waiting", 4_650), ("ipi-to-running", 4_100)];

pub(crate) fn add(suite: &mut Suite) {
    suite.add("latency::protected", |bench| latency(bench, true));
    suite.add("latency::non_protected", |bench| latency(bench, false));
}

fn latency(bench: &Bench, protected: bool) -> Result<(), Failure> {
    let one = measured(bench, protected, 1)?;
    for (name, limit) in LIMITS {
        within(&one, name, limit)?;
    }
    let two = measured(bench, protected, 2)?;
    for (name, limit) in IPI_LIMITS {
        within(&two, name, limit)?;
    }
    Ok(())
}

fn within(run: &Transcript, name: &str, limit: u64) -> Result<(), Failure> {
    let instructions = run.value(&format!("latency.{name}"))?;
    run.require(instructions > 0, format!("{name}: no instruction at all"))?;
    run.require(instructions <= limit, format!("{name}: {instructions} instructions, more than {limit}"))?;
    Ok(())
}

/// Runs the payload with so many vCPUs on as many CPUs, a tick of whose counters is an instruction.
fn measured(bench: &Bench, protected: bool, cpus: u32) -> Result<Transcript, Failure> {
    let (flag, kind) = if protected { (1, "protected") } else { (0, "non-protected") };
    let config = format!("name=latency image=latency memory={GUEST_MEMORY} cpus={cpus} protected={flag} append=\n");
    let test = format!("latency-{kind}-{cpus}");
    let machine = Machine::new(bench.images.freehold()?)
        .host(bench.images.host()?, "scenario=guests report")
        .initrd(crate::scripted::ramdisk_with(bench, &test, "guests.conf", &config)?)
        .cpus(cpus)
        .count_instructions()
        .timeout(Duration::from_secs(120));
    let run = machine.run()?;
    run.completed("guests", CHECKS)?.ended_well()?;
    run.require(run.value("latency.counter-frequency")? == 1_000_000_000, "a tick is no instruction")?;
    Ok(run)
}
