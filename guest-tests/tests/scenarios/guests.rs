//! Guests with interrupts, side by side on the reference host's scheduler: payloads that try their devices and their
//! calls; and a host that forges what it hands to hyp.
//!
//! A few combinations stand for all. With `FREEHOLD_MATRIX=whole` every one is run.

use crate::scripted::entry;
use crate::{Bench, Suite};
use guest_tests::{Failure, Gic, Machine, Transcript};
use std::path::PathBuf;
use std::time::Duration;

/// CPU models that all of it must run on.
const CPUS: [&str; 3] = ["cortex-a53", "cortex-a76", "max"];
/// RAM that host, hyp and their tables have besides the guests and the ramdisk, in MiB.
const HOST_MEBIBYTES: u64 = 768;
/// What a user types to end all guests: Ctrl-T, q.
const QUIT: &str = "\u{14}q";
/// RAM of a payload, in MiB.
const PAYLOAD_MEBIBYTES: u64 = 16;
/// Offset of the flags in an image's header (Linux, Documentation/arch/arm64/booting.rst).
const FLAGS_OFFSET: usize = 24;
/// How long payloads may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// One machine: which guest on it, and how.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) protected: bool,
    pub(crate) vcpus: u32,
    pub(crate) cpus: u32,
    pub(crate) model: &'static str,
}

impl Shape {
    pub(crate) const fn new(protected: bool, vcpus: u32, cpus: u32, model: &'static str) -> Self {
        Self { protected, vcpus, cpus, model }
    }

    pub(crate) fn name(&self) -> String {
        let Self { protected, vcpus, cpus, model } = self;
        let kind = if *protected { "protected" } else { "not_protected" };
        format!("{kind}::{vcpus}vcpu::{cpus}cpu::{model}")
    }

    /// Every combination.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let kinds = [true, false].into_iter();
        kinds.flat_map(|protected| {
            [1, 2, 4].into_iter().flat_map(move |vcpus| {
                [1, 2, 4]
                    .into_iter()
                    .flat_map(move |cpus| CPUS.into_iter().map(move |model| Self { protected, vcpus, cpus, model }))
            })
        })
    }
}

/// Payloads, how many checks each makes at least, and the last of them.
const PAYLOADS: [(&str, u64, &str); 5] = [
    ("interrupts", 75, "no-strays"),
    ("uart", 12, "empty-again"),
    ("mmio", 75, "not-emulable.device-as-it-was"),
    ("calls", 60, "arguments-kept"),
    ("smp", 1, "cpu-on-nobody"),
];

/// What payloads report and each guest must find: the payload, the number's name, and the least number. A check is made
/// of nothing that is not there.
const FINDINGS: [(&str, &str, u64); 6] = [
    ("uart", "levels", 1),
    ("uart", "overrun", 1),
    ("mmio", "below-a-hypervisor", 1),
    ("calls", "below-a-hypervisor", 1),
    ("calls", "unknown-tried", 10_000),
    ("calls", "trng", 1),
];

/// As many vCPUs as CPUs that a host may well have, and as many as a VM can have.
const MANY_VCPUS: [Shape; 2] = [Shape::new(true, 8, 8, "cortex-a53"), Shape::new(true, 16, 4, "max")];

/// A payload, how many checks it makes at least, and the last of them.
type Payload = (&'static str, u64, &'static str);

/// Payloads that attack, with a neighbour that is not to notice.
const HOSTILE: [(Payload, Shape); 6] = [
    (("tables", 50, "read-only"), Shape::new(true, 1, 2, "max")),
    (("tables", 35, "contiguous-blocks"), Shape::new(false, 1, 1, "cortex-a53")),
    (("guard", 100, "memory-as-ever"), Shape::new(true, 2, 2, "max")),
    (("guard", 100, "memory-as-ever"), Shape::new(true, 2, 1, "cortex-a53")),
    (("guard", 95, "memory-as-ever"), Shape::new(true, 1, 1, "cortex-a53")),
    (("guard", 7, "without"), Shape::new(false, 1, 1, "cortex-a53")),
];

/// What stands for every combination: each value of each axis, and more vCPUs than CPUs.
const PAYLOAD_SHAPES: [Shape; 4] = [
    Shape::new(true, 1, 1, "cortex-a53"),
    Shape::new(false, 2, 1, "max"),
    Shape::new(true, 4, 2, "max"),
    Shape::new(false, 4, 4, "cortex-a53"),
];

/// True where every combination is to be run.
pub(crate) fn is_whole() -> bool {
    std::env::var("FREEHOLD_MATRIX").is_ok_and(|value| value == "whole")
}

pub(crate) fn add(suite: &mut Suite) {
    let whole = is_whole();
    for (cpu, cpus) in [("cortex-a53", 2), ("max", 1), ("max", 4)] {
        suite.add(format!("forged::{cpu}::{cpus}cpu"), move |bench| forged(bench, cpu, cpus));
    }
    for (payload, least, last) in PAYLOADS {
        let few = if matches!(payload, "mmio" | "uart") { 2 } else { PAYLOAD_SHAPES.len() };
        let shapes = if whole { Shape::all().collect() } else { PAYLOAD_SHAPES[..few].to_vec() };
        for shape in shapes {
            suite.add(format!("guest::{payload}::{}", shape.name()), move |bench| {
                runs_payload(bench, payload, shape, least, last)
            });
        }
    }
    let (payload, least, last) = PAYLOADS[0];
    for shape in MANY_VCPUS {
        suite.add(format!("guest::{payload}::{}", shape.name()), move |bench| {
            runs_payload(bench, payload, shape, least, last)
        });
    }
    for (payload, shape) in HOSTILE {
        suite.add(format!("guest::{}::{}", payload.0, shape.name()), move |bench| runs_hostile(bench, payload, shape));
    }
    for (model, has_them) in [("max", true), ("cortex-a53", false)] {
        suite.add(format!("guest::of_16_kib_pages::{model}"), move |bench| of_16_kib_pages(bench, model, has_them));
    }
    suite.add("guest::interrupts::gicv4", gicv4);
    suite.add("guest::beside_one_that_spins", beside_one_that_spins);
}

/// A file of the ramdisk, by its name there.
pub(crate) type File = (&'static str, PathBuf);

/// A guest as a line of the ramdisk's list describes it (`scripts/pack-guests`).
pub(crate) fn guest(name: &str, files: &str, mebibytes: u64, shape: Shape, append: &str) -> String {
    let Shape { protected, vcpus, .. } = shape;
    let (memory, protected) = (mebibytes << 20, u8::from(protected));
    format!("name={name} {files} memory={memory} cpus={vcpus} protected={protected} append={append}\n")
}

/// The host in the scenario `guests` with these guests, which take so much RAM together. `test` names the ramdisk.
pub(crate) fn machine(
    bench: &Bench,
    test: &str,
    guests: &str,
    files: &[File],
    mebibytes: u64,
    more: &str,
) -> Result<Machine, Failure> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let mut archive = entry("guests.conf", guests.as_bytes());
    for (name, path) in files {
        archive.extend(entry(name, &read(path)?));
    }
    archive.extend(read(&bench.images.guests()?)?);
    let path = bench.scratch.join(format!("{}.cpio", test.replace("::", "-")));
    std::fs::write(&path, &archive).map_err(|error| format!("{}: {error}", path.display()))?;
    let total = HOST_MEBIBYTES + mebibytes + (archive.len() as u64 >> 20);
    let machine = Machine::new(bench.images.freehold()?)
        .append("freehold.log=info")
        .host(bench.images.host()?, &format!("scenario=guests report{more}"))
        .initrd(path)
        .memory(u32::try_from(total.next_multiple_of(1024)).unwrap_or(u32::MAX));
    Ok(machine)
}

/// Kinds of exits that `forged` provokes, on CPUs that have AArch32: all but those by WFE, which QEMU's do not trap.
const EXITS: [&str; 22] = [
    "Interrupt",
    "Wait",
    "Mmio-read",
    "Mmio-write",
    "MemoryFault",
    "Shared",
    "Unshared",
    "Relinquished",
    "SystemOff",
    "SystemReset",
    "CpuOff",
    "CpuOn",
    "Error",
    "Poisoned",
    "Lent",
    "Returned",
    "Offered",
    "Accepted",
    "Ended",
    "TopUp",
    "Timer",
    "Sgi",
];

/// The host forges; what it forges is refused or has no effect. What needs another CPU is tried where there is one.
fn forged(bench: &Bench, cpu: &str, cpus: u32) -> Result<(), Failure> {
    let run = crate::reference::machine(bench, "forged")?.cpu(cpu).cpus(cpus).run()?;
    run.completed("forged", 120)?.ended_well()?.never_says("panic")?;
    for check in [
        "watcher.no-forbidden-interrupt",
        "watcher.no-odd-answer",
        "exits-come-in-their-order",
        "spinning-guest-interrupted",
        "guest-in-aarch32-ends",
        "due-exit-came",
        "actors-obey",
        "exits-as-due",
        "exits-expose-nothing",
        "registers-closed-at-each-exit",
        "no-guest-left",
    ] {
        run.check(check)?;
    }
    for kind in EXITS {
        run.check(&format!("exit-came.{kind}"))?;
    }
    let (answered, met) = (run.value("aborts-answered")?, run.value("watcher.aborts")?);
    run.require(met == answered, format!("{answered} reads were answered with an abort, the guest met {met}"))?;
    if cpus > 1 {
        for check in [
            "busy-while-it-runs",
            "never-taken-apart-while-it-runs",
            "comes-out-poisoned",
            "asks-for-its-code",
            "registers-busy-while-it-runs",
            "both-while-changing",
            "changing.watcher.no-odd-answer",
        ] {
            run.check(check)?;
        }
        let seen = run.value("changing.watcher.interrupts")?;
        run.require(seen != 0, "the guest took none of the interrupts that it may take")?;
        let (reads, aborts) = (run.value("reads-while-changing")?, run.value("changing.watcher.aborts")?);
        run.require(aborts != 0 && aborts < reads, format!("{reads} reads, {aborts} aborts"))?;
    }
    Ok(())
}

fn runs_payload(bench: &Bench, payload: &str, shape: Shape, least: u64, last: &str) -> Result<(), Failure> {
    let line = guest(payload, &format!("image={payload}"), PAYLOAD_MEBIBYTES, shape, "");
    let test = format!("guest::{payload}::{}", shape.name());
    let machine = machine(bench, &test, &line, &[], PAYLOAD_MEBIBYTES, "")?;
    let run = machine.cpu(shape.model).cpus(shape.cpus).timeout(PATIENCE).run()?;
    ended(&run)?.never_says("panic")?.check(&format!("{payload}.{last}"))?;
    let checks = run.value(&format!("{payload}.checks"))?;
    run.require(checks >= least, format!("{payload} made {checks} checks, not {least}"))?;
    for (_, name, least) in FINDINGS.into_iter().filter(|(of, ..)| *of == payload) {
        let seen = run.value(&format!("{payload}.{name}"))?;
        run.require(seen >= least, format!("{payload}.{name} is {seen}, not {least}"))?;
    }
    if payload == "interrupts" {
        let vcpus = run.value("interrupts.cpus")?;
        run.require(vcpus == shape.vcpus.into(), format!("{vcpus} vCPUs took part"))?;
        run.check("interrupts.sve-undefined")?.check("host-registers-kept")?;
    }
    Ok(())
}

/// Each CPU of a host finds its own redistributor where they are larger.
fn gicv4(bench: &Bench) -> Result<(), Failure> {
    let shape = Shape::new(true, 4, 3, "max");
    let line = guest("interrupts", "image=interrupts", PAYLOAD_MEBIBYTES, shape, "");
    let machine = machine(bench, "guest::interrupts::gicv4", &line, &[], PAYLOAD_MEBIBYTES, "")?;
    let run = machine.gic(Gic::V4).cpu(shape.model).cpus(shape.cpus).timeout(PATIENCE).run()?;
    ended(&run)?.never_says("panic")?.check("interrupts.no-strays")?;
    Ok(())
}

/// A payload that attacks, and `mmio` beside it, which takes no notice.
fn runs_hostile(bench: &Bench, payload: Payload, shape: Shape) -> Result<(), Failure> {
    let (image, least, last) = payload;
    let lines = guest(image, &format!("image={image}"), PAYLOAD_MEBIBYTES, shape, "")
        + &guest("neighbour", "image=mmio", PAYLOAD_MEBIBYTES, Shape { vcpus: 1, protected: true, ..shape }, "");
    let test = format!("guest::{image}::{}", shape.name());
    let machine = machine(bench, &test, &lines, &[], 2 * PAYLOAD_MEBIBYTES, "")?;
    let run = machine.cpu(shape.model).cpus(shape.cpus).timeout(PATIENCE).run()?;
    run.completed("guests", 3)?.ended_well()?.never_says("panic")?.check("guests-ended-well")?;
    run.check(&format!("{image}.{last}"))?.check("neighbour.mmio.not-emulable.device-as-it-was")?;
    if image == "guard" && shape.vcpus > 1 {
        run.check("guard.second-meanwhile")?;
    }
    let checks = run.value(&format!("{image}.checks"))?;
    run.require(checks >= least, format!("{image} made {checks} checks, not {least}"))?;
    run.require(run.value("neighbour.checks")? >= 65, "the neighbour made too few checks")?;
    Ok(())
}

/// The guests have ended by themselves, and nothing failed.
pub(crate) fn ended(run: &Transcript) -> Result<&Transcript, Failure> {
    run.completed("guests", 3)?.ended_well()?.never_says("Kernel panic")?.check("guests-ended-well")
}

/// A guest whose image says that it makes its tables of pages of 16 KiB starts where the CPU has these, and is refused where
/// it has not.
fn of_16_kib_pages(bench: &Bench, model: &'static str, has_them: bool) -> Result<(), Failure> {
    let shape = Shape::new(true, 1, 1, model);
    let path = bench.images.payload("hello")?;
    let mut image = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    // Bits 2:1 of the header's flags; 1 is 4 KiB, 2 is 16 KiB.
    image[FLAGS_OFFSET] = image[FLAGS_OFFSET] & !0b110 | 0b100;
    let patched = bench.scratch.join(format!("of-16-kib-pages-{model}.img"));
    std::fs::write(&patched, &image).map_err(|error| format!("{}: {error}", patched.display()))?;
    let line = guest("hello", "image=hello16", PAYLOAD_MEBIBYTES, shape, "");
    let test = format!("guest::of_16_kib_pages::{model}");
    let machine = machine(bench, &test, &line, &[("hello16", patched)], PAYLOAD_MEBIBYTES, "")?;
    let run = machine.cpu(shape.model).cpus(shape.cpus).timeout(PATIENCE).run()?;
    if has_them {
        ended(&run)?.check("hello.secrets-kept")?;
    } else {
        run.says("guest hello: the image is made for pages that this CPU has not: Kib16")?;
    }
    Ok(())
}

/// A guest that never gives the CPU back holds up no other, where there is one CPU for all.
fn beside_one_that_spins(bench: &Bench) -> Result<(), Failure> {
    let shape = Shape::new(true, 1, 1, "max");
    let lines: String = ["spin", "hello", "calls", "last"]
        .into_iter()
        .map(|name| {
            let image = if name == "last" { "spin" } else { name };
            guest(name, &format!("image={image}"), PAYLOAD_MEBIBYTES, shape, "")
        })
        .collect();
    let machine = machine(bench, "guest::beside_one_that_spins", &lines, &[], 4 * PAYLOAD_MEBIBYTES, "")?;
    let mut console = machine.cpu(shape.model).cpus(shape.cpus).timeout(PATIENCE).start()?;
    let talk = console
        .wait_for_all(&["guest spin: spinning", "guest last: spin: spinning"])
        .and_then(|()| console.wait_for_all(&["host: guest hello: powered off", "host: guest calls: powered off"]))
        .and_then(|()| console.send(QUIT));
    if let Err(reason) = talk {
        return Err(console.stop().failure(reason));
    }
    let run = console.finish();
    run.ended_well()?.never_says("panic")?.check("hello.secrets-kept")?.check("calls.arguments-kept")?;
    for name in ["spin", "last"] {
        run.says(&format!("host: guest {name}: ended after"))?;
    }
    Ok(())
}
