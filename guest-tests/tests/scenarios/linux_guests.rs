//! Debian's kernels as guests on the reference host's scheduler.
//!
//! A few combinations stand for all. With `FREEHOLD_MATRIX=whole` every one is run.

use crate::guests::{File, Shape, ended, guest, is_whole, machine};
use crate::{Bench, Suite};
use abi::report::Line;
use guest_tests::{Failure, Transcript};
use std::time::Duration;

/// RAM of Linux, in MiB.
const LINUX_MEBIBYTES: u64 = 256;
/// The same where it is to reach beyond 4 GiB.
const LARGE_MEBIBYTES: u64 = 5 << 10;
/// How long Linux may take on a busy machine, with all of its tests.
const PATIENCE_LINUX: Duration = Duration::from_secs(1200);

/// What Linux does with several CPUs, but for its end.
const LINUX_TESTS: [&str; 6] = ["online", "interrupts", "cpu", "memory", "fork", "hotplug"];

/// What stands for every combination: Linux's version, the machine, and what it does.
const LINUX_SHAPES: [(&str, Shape, &[&str]); 5] = [
    ("6.12", Shape::new(true, 2, 2, "max"), &LINUX_TESTS),
    ("6.12", Shape::new(true, 1, 1, "cortex-a53"), &["online"]),
    ("6.12", Shape::new(true, 4, 2, "cortex-a76"), &["online"]),
    ("6.12", Shape::new(false, 2, 2, "cortex-a53"), &LINUX_TESTS),
    ("6.1", Shape::new(true, 2, 2, "cortex-a76"), &LINUX_TESTS),
];

pub(crate) fn add(suite: &mut Suite) {
    let has_6_1 = suite.bench.images.linux_6_1();
    if let Err(reason) = &has_6_1 {
        eprintln!("linux_guest::6.1 is left out: {reason}");
    }
    let shapes: Vec<(&'static str, Shape, &'static [&'static str])> = if is_whole() {
        ["6.12", "6.1"]
            .into_iter()
            .flat_map(|version| Shape::all().map(move |shape| (version, shape, tests(shape))))
            .collect()
    } else {
        LINUX_SHAPES.to_vec()
    };
    for (version, shape, tests) in shapes {
        if version != "6.1" || has_6_1.is_ok() {
            suite.add(format!("linux_guest::{version}::{}", shape.name()), move |bench| {
                runs_linux(bench, version, shape, tests)
            });
        }
    }
    suite.add("linux_guest::reboot", reboot);
    suite.add("linux_guest::two", two);
    suite.add("linux_guest::pry", pry);
    for shape in [Shape::new(true, 2, 2, "max"), Shape::new(false, 2, 1, "cortex-a53")] {
        suite.add(format!("linux_guest::large::{}", shape.name()), move |bench| large(bench, shape));
    }
}

/// All of Linux's tests, where it has the CPUs for them.
fn tests(shape: Shape) -> &'static [&'static str] {
    if shape.vcpus > 1 { &LINUX_TESTS } else { &LINUX_TESTS[..5] }
}

/// The files of a Linux guest.
fn linux_files(bench: &Bench, version: &str) -> Result<[File; 2], Failure> {
    let kernel = if version == "6.1" { bench.images.linux_6_1()? } else { bench.images.linux()? };
    Ok([("linux.image", kernel), ("linux.initrd", bench.images.linux_guest_initrd()?)])
}

fn linux_line(name: &str, shape: Shape, tests: &[&str]) -> String {
    linux_line_with(name, shape, LINUX_MEBIBYTES, tests)
}

fn linux_line_with(name: &str, shape: Shape, mebibytes: u64, tests: &[&str]) -> String {
    let append = format!("console=ttyAMA0 panic=-1 freehold.test={}", tests.join(","));
    guest(name, "image=linux.image initrd=linux.initrd", mebibytes, shape, &append)
}

/// The checks of Linux's tests have passed, and there are no more and no fewer of them.
fn linux_passed(run: &Transcript, name: &str, shape: Shape, tests: &[&str]) -> Result<(), Failure> {
    for test in tests {
        run.check(&format!("{name}.{test}"))?;
    }
    let checks = run.value(&format!("{name}.checks"))?;
    run.require(checks == tests.len() as u64, format!("{name} made {checks} checks"))?;
    if tests.contains(&"online") {
        let online = run.value(&format!("{name}.online"))?;
        run.require(online == u64::from(shape.vcpus), format!("{name} has {online} CPUs"))?;
    }
    run.check(&format!("{name}.pages-wiped"))?;
    Ok(())
}

fn runs_linux(bench: &Bench, version: &str, shape: Shape, tests: &[&str]) -> Result<(), Failure> {
    let test = format!("linux_guest::{version}::{}", shape.name());
    let files = linux_files(bench, version)?;
    let machine = machine(bench, &test, &linux_line("linux", shape, tests), &files, LINUX_MEBIBYTES, "")?;
    let run = machine.cpu(shape.model).cpus(shape.cpus).timeout(PATIENCE_LINUX).run()?;
    ended(&run)?.says("guest linux: powered off")?;
    // It believes the seeds that it was given.
    run.says("KASLR enabled")?.says("random: crng init done")?;
    linux_passed(&run, "linux", shape, tests)
}

/// A guest that resets itself has ended, where none starts again.
fn reboot(bench: &Bench) -> Result<(), Failure> {
    let shape = Shape::new(true, 2, 1, "max");
    let line = linux_line("linux", shape, &["online", "reboot"]);
    let machine = machine(bench, "linux_guest::reboot", &line, &linux_files(bench, "6.12")?, LINUX_MEBIBYTES, "")?;
    let run = machine.cpus(shape.cpus).timeout(PATIENCE_LINUX).run()?;
    ended(&run)?.says("guest linux: reset")?;
    linux_passed(&run, "linux", shape, &["online"])
}

/// Two at once, with as many vCPUs as there are CPUs each.
fn two(bench: &Bench) -> Result<(), Failure> {
    let shape = Shape::new(true, 2, 2, "max");
    let tests = ["online", "cpu"];
    let lines = linux_line("one", shape, &tests) + &linux_line("other", shape, &tests);
    let machine = machine(bench, "linux_guest::two", &lines, &linux_files(bench, "6.12")?, 2 * LINUX_MEBIBYTES, "")?;
    let run = machine.cpus(shape.cpus).timeout(PATIENCE_LINUX).run()?;
    ended(&run)?;
    linux_passed(&run, "one", shape, &tests)?;
    linux_passed(&run, "other", shape, &tests)
}

/// While it runs, another CPU of the host's tries to read every page that it was given, over and over.
fn pry(bench: &Bench) -> Result<(), Failure> {
    let shape = Shape::new(true, 2, 2, "max");
    let tests = ["online", "fork"];
    let line = linux_line("linux", shape, &tests);
    let machine = machine(bench, "linux_guest::pry", &line, &linux_files(bench, "6.12")?, LINUX_MEBIBYTES, " pry")?;
    let run = machine.cpus(shape.cpus).timeout(PATIENCE_LINUX).run()?;
    ended(&run)?.check("prying-aborts")?.check("prying-reads-nothing")?;
    linux_passed(&run, "linux", shape, &tests)?;
    // The second pass that ends after the guest's first process has spoken has begun after it has, too.
    let passes: Vec<u64> = (run.report())
        .skip_while(|line| *line != Line::Pass("linux.online"))
        .filter_map(|line| match line {
            Line::Value("pried-in-a-pass", pages) => Some(pages),
            _ => None,
        })
        .collect();
    run.require(passes.len() >= 2, format!("{} passes after the guest's first process had spoken", passes.len()))?;
    // Linux has a few ten thousand pages.
    let fewest = passes[1..].iter().min();
    run.require(fewest.is_some_and(|pages| *pages >= 10_000), format!("only {fewest:?} pages were tried in a pass"))?;
    Ok(())
}

/// A guest whose addresses take more than 32 bits, as its own tables must be able to say. Linux puts what it makes first at
/// the end of its memory.
fn large(bench: &Bench, shape: Shape) -> Result<(), Failure> {
    let tests = ["online", "memory"];
    let line = linux_line_with("linux", shape, LARGE_MEBIBYTES, &tests);
    let test = format!("linux_guest::large::{}", shape.name());
    let machine = machine(bench, &test, &line, &linux_files(bench, "6.12")?, LARGE_MEBIBYTES, "")?;
    let run = machine.cpu(shape.model).cpus(shape.cpus).timeout(PATIENCE_LINUX).run()?;
    ended(&run)?.says(&format!("/{}K available", LARGE_MEBIBYTES << 10))?;
    linux_passed(&run, "linux", shape, &tests)
}
