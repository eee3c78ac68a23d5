//! The reference host and its guests.

use crate::{Bench, Suite};
use guest_tests::{Failure, Machine, Transcript};
use std::time::Duration;

/// The boot matrix's axes. Each pair of values of two axes is booted once at least.
const CPUS: [&str; 4] = ["cortex-a53", "cortex-a76", "neoverse-v1", "max"];
const CPU_COUNTS: [u32; 4] = [1, 2, 4, 8];
const MEBIBYTES: [u32; 3] = [256, 1024, 8192];

/// How long a scenario may take on a busy machine; on an idle one most take seconds.
const PATIENCE: Duration = Duration::from_secs(300);

/// Most lines that the story may take without the protocol's.
const STORY_LINES: usize = 100;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("story", story);
    suite.add("attacks", |bench| completes(bench, "attacks", 4, 30).map(drop));
    suite.add("attacks_guest", attacks_guest);
    suite.add("smp", smp);
    for mebibytes in [1024, 8192] {
        suite.add(format!("memory::{}", size(mebibytes)), move |bench| memory(bench, mebibytes));
    }
    suite.add("many", |bench| completes(bench, "many", 2, 10).map(drop));
    suite.add("preempt", preempt);
    suite.add("reset", reset);
    for (number, cpu) in CPUS.into_iter().enumerate() {
        for (row, count) in CPU_COUNTS.into_iter().enumerate() {
            let mebibytes = MEBIBYTES[(number + row) % MEBIBYTES.len()];
            suite.add(format!("boot::{cpu}::{count}cpu::{}", size(mebibytes)), move |bench| {
                boots(bench, cpu, count, mebibytes)
            });
        }
    }
}

fn size(mebibytes: u32) -> String {
    if mebibytes < 1024 { format!("{mebibytes}M") } else { format!("{}G", mebibytes / 1024) }
}

/// Freehold with the reference host in `scenario`, on the board that `make run` has.
pub(crate) fn machine(bench: &Bench, scenario: &str) -> Result<Machine, Failure> {
    Ok(Machine::new(bench.images.freehold()?)
        .append("freehold.log=info")
        .host(bench.images.host()?, &format!("scenario={scenario} report"))
        .initrd(bench.images.guests()?)
        .cpus(4)
        .timeout(PATIENCE))
}

/// Runs a scenario to its good end, with at least `least` checks.
fn completes(bench: &Bench, scenario: &str, cpus: u32, least: u32) -> Result<Transcript, Failure> {
    let run = machine(bench, scenario)?.cpus(cpus).run()?;
    run.completed(scenario, least)?.ended_well()?.never_says("panic")?;
    Ok(run)
}

/// The tale that the README promises, in its order and its length.
fn story(bench: &Bench) -> Result<(), Failure> {
    let run = completes(bench, "story", 4, 5)?;
    run.tells(&[
        "loader:",
        "hyp[",
        "host:",
        "hello: alive at EL1",
        "shares the page",
        "hello: the host answers",
        "hello: the page is private again",
        "powering off",
    ])?;
    let prose = run.lines().filter(|line| !line.trim().is_empty() && !line.contains(abi::report::PREFIX)).count();
    run.require(prose <= STORY_LINES, format!("the story takes {prose} lines, more than {STORY_LINES}"))?;
    Ok(())
}

/// The attacker's own checks reach the console, and its last one is among them.
fn attacks_guest(bench: &Bench) -> Result<(), Failure> {
    let run = completes(bench, "attacks-guest", 4, 60)?;
    run.check("attacker.holes.own-memory-kept")?.check("attacker.sharing.relinquish")?;
    Ok(())
}

/// The host writes and reads every page that it was left.
fn memory(bench: &Bench, mebibytes: u32) -> Result<(), Failure> {
    let run = machine(bench, "memory")?.memory(mebibytes).run()?;
    run.completed("memory", 3)?.ended_well()?;
    let reached = run.value("host-pages")? >> 8;
    // Hyp takes less than 2%, the host's own image and heap the rest.
    let least = u64::from(mebibytes) * 96 / 100;
    run.require(reached >= least, format!("the host reached {reached} MiB of {mebibytes} MiB"))?;
    Ok(())
}

/// Everything that races, on more CPUs than the other scenarios have.
fn smp(bench: &Bench) -> Result<(), Failure> {
    let run = completes(bench, "smp", 8, 30)?;
    for check in ["words-touched-together", "race-cpu-on", "race-donate", "race-run-one-wins", "off-again"] {
        run.check(check)?;
    }
    Ok(())
}

/// A guest that spins is interrupted, and one that runs wild stops; the host goes on.
fn preempt(bench: &Bench) -> Result<(), Failure> {
    let run = completes(bench, "preempt", 2, 3)?;
    run.check("spinning-guest-interrupted")?
        .check("wild-guest-stopped")?
        .tells(&["guest spin: spinning", "guest fault: touching memory"])?;
    Ok(())
}

/// A reset ends the machine where QEMU is told so, and otherwise boots it again.
fn reset(bench: &Bench) -> Result<(), Failure> {
    let machine = machine(bench, "reset")?.cpus(2);
    machine.run()?.ended_well()?;
    let mut console = machine.reboots().start()?;
    let twice = console.wait_for("@freehold begin reset").and_then(|()| console.wait_for("@freehold begin reset"));
    let run = console.stop();
    twice.map_err(|reason| run.failure(reason))
}

/// One machine of the matrix: all CPUs come up and a guest runs; with four CPUs everything races as well.
fn boots(bench: &Bench, cpu: &str, cpus: u32, mebibytes: u32) -> Result<(), Failure> {
    let scenario = if cpus == 4 { "smp" } else { "story" };
    let run = machine(bench, scenario)?.cpu(cpu).cpus(cpus).memory(mebibytes).run()?;
    run.completed(scenario, 5)?.check("cpus-online")?.ended_well()?;
    Ok(())
}
