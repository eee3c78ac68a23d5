//! Stock Linux as the host. Its `/init` makes the checks that `freehold.test=` names.

use crate::{Bench, Suite};
use guest_tests::{Failure, Machine, Transcript};
use std::time::Duration;

pub(crate) fn add(suite: &mut Suite) {
    for cpus in [1, 4] {
        suite.add(format!("linux::boot::{cpus}cpu"), move |bench| boot(bench, cpus));
    }
    suite.add("linux::shell", shell);
    suite.add("linux::cpu_hotplug", |bench| completes(bench, "hotplug", 4, 512, 6).map(drop));
    suite.add("linux::iomem", |bench| completes(bench, "iomem", 2, 512, 3).map(drop));
    suite.add("linux::devmem", |bench| completes(bench, "devmem", 2, 512, 4).map(drop));
    suite.add("linux::memory_stress", |bench| completes(bench, "stress", 2, 384, 3).map(drop));
    suite.add("linux::reboot", reboot);
    for (cpu, board_option) in [("max", "mte=on"), ("neoverse-v1", "mte=off"), ("cortex-a53", "mte=off")] {
        suite.add(format!("linux::features::{cpu}"), move |bench| same_features(bench, cpu, board_option));
    }
}

/// Words of the kernel's command line that name a test.
fn bootargs(test: &str, cpus: u32) -> String {
    format!("console=ttyAMA0 panic=-1 freehold.test={test} freehold.cpus={cpus}")
}

fn machine(bench: &Bench, bootargs: &str) -> Result<Machine, Failure> {
    Ok(Machine::new(bench.images.freehold()?)
        .append("freehold.log=info")
        .host(bench.images.linux()?, bootargs)
        .initrd(bench.images.linux_initrd()?)
        .timeout(Duration::from_secs(400)))
}

/// Runs one of `/init`'s tests to its good end, which is a power-off.
fn completes(bench: &Bench, test: &str, cpus: u32, mebibytes: u32, least: u32) -> Result<Transcript, Failure> {
    let run = machine(bench, &bootargs(test, cpus))?.cpus(cpus).memory(mebibytes).run()?;
    run.completed(test, least)?.ended_well()?;
    Ok(run)
}

fn boot(bench: &Bench, cpus: u32) -> Result<(), Failure> {
    let run = completes(bench, "boot", cpus, 1024, 4)?;
    run.tells(&["loader:", "hyp[", "Linux version"])?;
    Ok(())
}

/// As a user would: the shell's prompt, a command, `poweroff`.
fn shell(bench: &Bench) -> Result<(), Failure> {
    let mut console = machine(bench, "console=ttyAMA0")?.cpus(2).memory(512).start()?;
    let talk = console
        .wait_for("as Freehold's host: 2 CPUs")
        .and_then(|()| console.wait_for("# "))
        .and_then(|()| console.send("echo sum $((6 * 7))\n"))
        .and_then(|()| console.wait_for("sum 42"))
        .and_then(|()| console.send("poweroff\n"));
    let run = match talk {
        Ok(()) => console.finish(),
        Err(reason) => return Err(console.stop().failure(reason)),
    };
    run.ended_well()?;
    Ok(())
}

/// With `-no-reboot` a reboot ends the machine; otherwise it comes up again.
fn reboot(bench: &Bench) -> Result<(), Failure> {
    let machine = machine(bench, &bootargs("reboot", 2))?.cpus(2).memory(512);
    machine.run()?.completed("reboot", 1)?.ended_well()?;
    let mut console = machine.reboots().start()?;
    let twice = console.wait_for("@freehold end").and_then(|()| console.wait_for("@freehold end"));
    let run = console.stop();
    twice.map_err(|reason| run.failure(reason))
}

/// The CPU's features, as the kernel lists them, are those of the same kernel on the same machine without Freehold.
fn same_features(bench: &Bench, cpu: &str, board_option: &str) -> Result<(), Failure> {
    let bootargs = bootargs("features", 1);
    let board =
        |machine: Machine| machine.cpu(cpu).memory(512).board_option(board_option).timeout(Duration::from_secs(300));
    let with = board(machine(bench, &bootargs)?).run()?;
    with.completed("features", 1)?;
    let without =
        board(Machine::new(bench.images.linux()?).append(&bootargs).initrd(bench.images.linux_initrd()?)).run()?;
    without.completed("features", 1)?;
    let (seen, expected) = (features(&with)?, features(&without)?);
    with.require(seen == expected, {
        let missing: Vec<_> = expected.iter().filter(|name| !seen.contains(name)).collect();
        let extra: Vec<_> = seen.iter().filter(|name| !expected.contains(name)).collect();
        format!("under Freehold {missing:?} are missing and {extra:?} are new")
    })?;
    Ok(())
}

/// The names in the line `Features : …` of `/proc/cpuinfo`.
fn features(run: &Transcript) -> Result<Vec<String>, Failure> {
    let line = run.lines().find(|line| line.starts_with("Features")).and_then(|line| line.split_once(':'));
    let (_, names) = line.ok_or_else(|| run.failure("no line of features"))?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}
