//! What leaving a guest costs, in instructions, as the payload `latency` sees it: a regression goes over a limit.

use crate::{Bench, Suite};
use guest_tests::{Failure, Machine, Transcript};
use std::time::Duration;

/// RAM of the guest, in bytes: blocks of 2 MiB enough for a median.
const GUEST_MEMORY: u64 = 64 << 20;
/// Checks that the payload makes on two CPUs.
const CHECKS: u32 = 10;

/// Most instructions of each operation, from the guest's instruction to the one behind it or to its interrupt handler: of a
/// protected guest, and of one that is not.
const LIMITS: [(&str, [u64; 2]); 10] = [
    ("hvc-psci-version", [126; 2]),
    ("hvc-unknown", [106; 2]),
    ("id-register", [165; 2]),
    ("exit-and-entry", [920; 2]),
    ("distributor-read", [1_230; 2]),
    ("device-read", [1_255; 2]),
    ("first-touch", [3_800, 4_100]),
    ("first-touch-of-block", [155_000, 98_000]),
    ("sgi-to-itself", [2_040; 2]),
    ("timer", [1_940; 2]),
];
/// Most instructions of an IPI's way to another vCPU and of the answer's back, of both CPUs together: to one that waits for
/// interrupts, and to one that runs.
const IPI_LIMITS: [(&str, u64); 2] = [("ipi-to-waiting", 3_850), ("ipi-to-running", 3_220)];

/// Most microseconds, of a thousand instructions each, by which a timer's interrupt may miss its deadline or WFI end late.
const LATENESS: u64 = 10;
/// Most microseconds for thirteen interrupts that are pending at once, the pause before them not counted, and checks
/// that the payload `interrupts` makes on one CPU.
const OVERFLOW: u64 = 100;
const INTERRUPT_CHECKS: u32 = 70;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("latency::protected", |bench| latency(bench, true));
    suite.add("latency::non_protected", |bench| latency(bench, false));
    for protected in [true, false] {
        let kind = if protected { "protected" } else { "non_protected" };
        suite.add(format!("latency::interrupts::{kind}"), move |bench| interrupts(bench, protected));
    }
}

fn latency(bench: &Bench, protected: bool) -> Result<(), Failure> {
    let one = measured(bench, protected, 1)?;
    for (name, [protected_limit, plain_limit]) in LIMITS {
        within(&one, name, if protected { protected_limit } else { plain_limit })?;
    }
    let two = measured(bench, protected, 2)?;
    for (name, limit) in IPI_LIMITS {
        within(&two, name, limit)?;
    }
    Ok(())
}

/// Interrupts, where nothing but the machine's own work takes time: none is early, and none late.
fn interrupts(bench: &Bench, protected: bool) -> Result<(), Failure> {
    let flag = u32::from(protected);
    let append = format!("lateness={LATENESS:#x}");
    let config = format!("name=interrupts image=interrupts memory=16777216 cpus=1 protected={flag} append={append}\n");
    let machine = Machine::new(bench.images.freehold()?)
        .host(bench.images.host()?, "scenario=guests report")
        .initrd(crate::scripted::ramdisk_with(bench, &format!("interrupts-{flag}"), "guests.conf", &config)?)
        .count_instructions_and_nothing_else()
        .timeout(Duration::from_secs(120));
    let run = machine.run()?;
    run.completed("guests", INTERRUPT_CHECKS)?.ended_well()?;
    for timer in ["virtual-timer", "physical-timer"] {
        for check in ["never-early", "not-too-late", "wakes-wfi", "wakes-wfi-in-time"] {
            run.check(&format!("interrupts.{timer}.{check}"))?;
        }
    }
    for name in ["virtual-lateness-us", "physical-lateness-us"] {
        let seen = run.value(&format!("interrupts.{name}"))?;
        run.require(seen <= LATENESS, format!("{name} is {seen}"))?;
    }
    let seen = run.value("interrupts.more-than-fit-us")?;
    run.require(seen <= OVERFLOW, format!("{seen} us for interrupts of which not all fit at once"))?;
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
