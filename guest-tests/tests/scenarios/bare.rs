//! Payloads and the reference host without a hypervisor: what they report about a bare machine shows how far they can
//! be believed about another.

use crate::{Bench, Suite};
use guest_tests::{Failure, Machine};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) fn add(suite: &mut Suite) {
    for cpu in ["cortex-a53", "max"] {
        suite.add(format!("bare::hello::{cpu}"), move |bench| hello(bench, cpu));
        suite.add(format!("bare::attacker::{cpu}"), move |bench| attacker(bench, cpu));
    }
    for cpus in [1, 4] {
        suite.add(format!("bare::interrupts::{cpus}cpu"), move |bench| checks(bench, "interrupts", cpus, 60));
    }
    suite.add("bare::tables", |bench| checks(bench, "tables", 1, 20));
    suite.add("bare::guard", |bench| checks(bench, "guard", 1, 6));
    suite.add("bare::seeds", |bench| checks(bench, "seeds", 1, 4));
    suite.add("bare::turns", |bench| checks(bench, "turns", 2, 1));
    suite.add("bare::sharing", |bench| checks(bench, "sharing", 1, 1));
    suite.add("bare::aarch32", |bench| checks(bench, "aarch32", 1, 2));
    suite.add("bare::mmio", |bench| checks(bench, "mmio", 1, 60));
    suite.add("bare::latency", |bench| checks(bench, "latency", 2, 8));
    suite.add("bare::pages", |bench| checks(bench, "pages", 1, 2));
    suite.add("bare::registers", |bench| checks(bench, "registers", 1, 4));
    // What these ask for and a bare machine has not, they report as not there.
    for (payload, least, absent) in [("calls", 35, "calls.smccc"), ("uart", 6, "uart.overrun")] {
        suite.add(format!("bare::{payload}"), move |bench| lacks(bench, payload, least, absent));
    }
    suite.add("bare::host", host);
    suite.add("bare::linux", |bench| linux_guest(bench, bench.images.linux()?));
    match suite.bench.images.linux_6_1() {
        Ok(kernel) => suite.add("bare::linux_6_1", |bench| linux_guest(bench, kernel)),
        Err(reason) => eprintln!("bare::linux_6_1 is left out: {reason}"),
    }
    suite.add("bare::spin", |bench| {
        machine(bench, "spin", "max")?.timeout(Duration::from_secs(20)).run_until("spin: spinning").map(drop)
    });
    suite.add("bare::fault", |bench| {
        machine(bench, "fault", "max")?
            .timeout(Duration::from_secs(20))
            .run_until("fault: now without vectors")
            .map(drop)
    });
}

fn machine(bench: &Bench, payload: &str, cpu: &str) -> Result<Machine, Failure> {
    Ok(Machine::new(bench.images.payload(payload)?).cpu(cpu).memory(128).virtualization(false))
}

fn hello(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let run = machine(bench, "hello", cpu)?.run()?;
    run.ended_well()?
        .tells(&["hello: alive at EL1, 128 MiB of memory at 0x40000000, 1 CPU(s), MMU on", "no pKVM here"])?
        .check("hello.secrets-kept")?;
    Ok(())
}

fn attacker(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let run = machine(bench, "attacker", cpu)?.run()?;
    run.ended_well()?.completed("attacker", 20)?;
    Ok(())
}

/// A payload that makes at least so many checks of its own.
fn checks(bench: &Bench, payload: &str, cpus: u32, least: u32) -> Result<(), Failure> {
    let run = machine(bench, payload, "max")?.cpus(cpus).run()?;
    run.ended_well()?.completed(payload, least)?;
    Ok(())
}

/// A payload that finds something not there.
fn lacks(bench: &Bench, payload: &str, least: u32, absent: &str) -> Result<(), Failure> {
    let run = machine(bench, payload, "max")?.cpus(2).run()?;
    run.ended_well()?.completed(payload, least)?;
    run.require(run.value(absent)? == 0, format!("{absent} is there: the checks of it must be required"))?;
    Ok(())
}

/// The reference host without Freehold below it.
fn host(bench: &Bench) -> Result<(), Failure> {
    let machine = Machine::new(bench.images.host()?)
        .cpus(4)
        .memory(256)
        .virtualization(false)
        .append("scenario=memory report")
        .initrd(bench.images.guests()?);
    let run = machine.run()?;
    run.ended_well()?.completed("memory", 3)?;
    Ok(())
}

/// The tests of Linux as a guest, all but those whose end is not the machine's power-off.
fn linux_guest(bench: &Bench, kernel: PathBuf) -> Result<(), Failure> {
    let run = Machine::new(kernel)
        .cpus(2)
        .memory(256)
        .virtualization(false)
        .append("console=ttyAMA0 panic=-1 freehold.test=online,interrupts,cpu,memory,fork,hotplug")
        .initrd(bench.images.linux_guest_initrd()?)
        .timeout(Duration::from_secs(300))
        .run()?;
    run.ended_well()?.completed("linux-guest", 6)?;
    Ok(())
}
