//! Scripts of calls, run by the reference host; and calls by chance from all CPUs at once.

use crate::reference::machine;
use crate::{Bench, Suite};
use abi::report::Line;
use guest_tests::{Failure, Transcript};
use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

/// Every call done and refused, with what must come of each step.
const CALLS: &str = include_str!("scripts/calls.script");

pub(crate) fn add(suite: &mut Suite) {
    for cpu in ["cortex-a53", "max"] {
        suite.add(format!("replay::every_call::{cpu}"), move |bench| every_call(bench, cpu));
    }
    for script in kept_scripts() {
        let name = script.file_stem().unwrap_or_default().display().to_string();
        suite.add(format!("replay::kept::{name}"), move |bench| kept(bench, &script));
    }
    suite.add("replay::named_in_the_arguments", named_in_the_arguments);
    suite.add("replay::no_script", no_script);
    suite.add("replay::unreadable", unreadable);
    suite.add("replay::other_result", other_result);
    suite.add("replay::hosts_own_memory", hosts_own_memory);
    suite.add("replay::left_behind", left_behind);
    suite.add("torture", torture);
    suite.add("torture::same_seed", same_seed);
}

/// A file's entry of a newc archive, in front of others (cpio(5)).
pub(crate) fn entry(name: &str, content: &[u8]) -> Vec<u8> {
    let padded = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    const REGULAR_FILE: usize = 0o100_644;
    let fields = [1, REGULAR_FILE, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
    let mut bytes = padded(format!("070701{fields}{name}\0").into_bytes());
    bytes.extend(padded(content.to_vec()));
    bytes
}

/// The guests' ramdisk with one more file. `test` names the copy.
pub(crate) fn ramdisk_with(bench: &Bench, test: &str, name: &str, content: &str) -> Result<PathBuf, Failure> {
    let guests = bench.images.guests()?;
    let path = bench.scratch.join(format!("{test}.cpio"));
    let mut archive = entry(name, content.as_bytes());
    archive.extend(std::fs::read(&guests).map_err(|error| format!("{}: {error}", guests.display()))?);
    std::fs::write(&path, archive).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// Runs a script to the end of the scenario, which may have failed.
fn replay(bench: &Bench, test: &str, script: &str) -> Result<Transcript, Failure> {
    machine(bench, "replay")?.cpus(2).initrd(ramdisk_with(bench, test, "script", script)?).run()
}

/// The run ended by itself, and all that failed is the check `name`, for a reason that says `why`.
fn fails(run: &Transcript, name: &str, why: &str) -> Result<(), Failure> {
    run.ended_well()?;
    let failed: Vec<(&str, &str)> = run
        .report()
        .filter_map(|line| match line {
            Line::Fail(check, seen) => Some((check, seen)),
            _ => None,
        })
        .collect();
    let right = matches!(failed[..], [(check, seen)] if check == name && seen.contains(why));
    run.require(right, format!("{name} alone should fail, for {why:?}: {failed:?}"))?;
    Ok(())
}

fn every_call(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let ramdisk = ramdisk_with(bench, &format!("every-call-{cpu}"), "script", CALLS)?;
    let run = machine(bench, "replay")?.cpu(cpu).cpus(2).initrd(ramdisk).run()?;
    run.completed("replay", 5)?.ended_well()?.check("steps-as-expected")?.check("everything-back")?;
    let steps = CALLS.lines().filter(|line| line.contains("=>")).count() as u64;
    run.require(run.value("steps-with-expectation")? == steps, format!("not all of {steps} steps were done"))?;
    run.tells(&["0: hyp_share page 0 count 3 => ok", "0: vm0 mem_share frame 0 => ok, exit Shared", "exit Poisoned"])?;
    Ok(())
}

/// The scripts that fuzzing has left, which run on the simulated machine too.
fn kept_scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/scripts");
    let entries = read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut scripts: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "script"));
    scripts.sort();
    scripts
}

fn kept(bench: &Bench, path: &Path) -> Result<(), Failure> {
    let text = read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let name = path.file_stem().unwrap_or_default().display();
    let ramdisk = ramdisk_with(bench, &format!("kept-{name}"), "script", &text)?;
    let run = machine(bench, "replay")?.cpus(4).initrd(ramdisk).run()?;
    run.completed("replay", 3)?.ended_well()?.check("steps-as-expected")?.check("everything-back")?;
    run.require(run.value("steps")? > 0, "no step was done")?;
    Ok(())
}

fn named_in_the_arguments(bench: &Bench) -> Result<(), Failure> {
    let ramdisk = ramdisk_with(bench, "named", "other", "0: version => ok\n")?;
    let machine = machine(bench, "replay script=other")?.cpus(1).initrd(ramdisk);
    let run = machine.run()?;
    run.completed("replay", 3)?.ended_well()?;
    run.require(run.value("steps")? == 1, "the one step was not done")?;
    Ok(())
}

fn no_script(bench: &Bench) -> Result<(), Failure> {
    fails(&machine(bench, "replay")?.cpus(1).run()?, "script-there", "no script")
}

fn unreadable(bench: &Bench) -> Result<(), Failure> {
    fails(&replay(bench, "unreadable", "pages 4\n0: version\n0: dance\n")?, "script-reads", "line 3: \"dance\"")
}

/// A step that comes out other than the script says is a failure, and shown.
fn other_result(bench: &Bench) -> Result<(), Failure> {
    let script = "0: hyp_share page 0 => ok\n0: hyp_share page 0 => ok\n0: version => x1 = 5\n";
    let run = replay(bench, "other-result", script)?;
    run.says("0: hyp_share page 0 => WrongState   # EXPECTED: ok")?.says("# EXPECTED: x1 = 5")?;
    fails(&run, "steps-as-expected", "2 are not; first step 2")
}

/// What the host itself needs is not given away, whatever a script says; nor is done what only a simulated machine can.
fn hosts_own_memory(bench: &Bench) -> Result<(), Failure> {
    let script = "vm vm0 protected\n\
                  0: vm_donate vm0 page raw 0x42000 frame 0 count 0x100\n\
                  0: hyp_share page 63 count 0x10000\n\
                  0: call 0xc6000102 0x9000 1\n\
                  0: write page raw 0x42000 1\n\
                  0: frames 0\n\
                  0: version => ok\n";
    let run = replay(bench, "hosts-own-memory", script)?;
    run.completed("replay", 5)?.ended_well()?;
    run.require(run.value("steps-left-out")? == 5, "not all of the five were left out")?;
    Ok(())
}

/// Whatever a script leaves behind is taken back.
fn left_behind(bench: &Bench) -> Result<(), Failure> {
    let script = "vm vm0 protected\nvm vm1 protected\nvm vm2\n\
                  0: hyp_share page 0 count 2 => ok\n\
                  0: vm_donate vm0 page 2 frame 0 count 2 => ok\n\
                  0: vm_lend vm1 page 4 frame 0 => ok\n\
                  0: vm_share vm2 page 5 frame 0 rights rw+restricted => ok\n\
                  0: vm0 mem_lend frame 1 => ok\n\
                  0: vm0 mem_offer frame 0 vm1 rights r => ok, x1 = 1\n\
                  1: vm1 mem_accept vm0 offer 1 frame 3 rights r => ok\n\
                  0: vm_grant_device vm1 page device 1 frame raw 0x10000 => ok\n\
                  0: vm_reserve vm7 => ok\n\
                  0: vm2 read frame 9 => stopped\n";
    replay(bench, "left-behind", script)?.completed("replay", 7)?.ended_well()?.check("everything-back")?;
    Ok(())
}

/// Half a minute of everything at once.
fn torture(bench: &Bench) -> Result<(), Failure> {
    let run = machine(bench, "torture seconds=20 seed=20261122")?.cpus(4).run()?;
    run.completed("torture", 10)?.ended_well()?.never_says("panic")?;
    for check in ["outcomes-as-specified", "every-call-supported", "every-page-back", "pages-wiped"] {
        run.check(check)?;
    }
    let (calls, done, rounds) = (run.value("calls")?, run.value("calls-done")?, run.value("rounds")?);
    run.require(calls >= 200 && rounds >= 1, format!("{calls} calls and {rounds} rounds are too few"))?;
    run.require(done * 100 >= calls * 40, format!("only {done} of {calls} were done"))?;
    Ok(())
}

/// The same seed makes each CPU choose the same, whatever comes of it.
fn same_seed(bench: &Bench) -> Result<(), Failure> {
    let choices = |seed: u32| -> Result<Vec<u64>, Failure> {
        let run = machine(bench, &format!("torture calls=600 seed={seed}"))?.cpus(2).run()?;
        run.completed("torture", 9)?.ended_well()?;
        let names = ["choices-alone.0", "choices-alone.1", "choices-in-company.0", "choices-in-company.1"];
        names.iter().map(|name| run.value(name)).collect()
    };
    let (first, again, other) = (choices(7)?, choices(7)?, choices(8)?);
    if first != again {
        return Err(Failure::new(format!("the same seed: {first:x?}, then {again:x?}")));
    }
    if first.iter().zip(&other).any(|(one, other)| one == other) {
        return Err(Failure::new(format!("other seeds, the same choices: {first:x?}, {other:x?}")));
    }
    Ok(())
}
