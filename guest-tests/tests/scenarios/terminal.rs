//! Guests on the user's terminal, as `make run GUEST=…` and `make run GUESTS="…"` give them: packed by the same script,
//! typed to, and looked at line by line.

use crate::{Bench, Suite};
use guest_tests::{Console, Failure, Machine, Transcript};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a conversation may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// Ctrl-T.
const ESCAPE: char = '\u{14}';
/// What the guest's first process says before it gives a shell.
const BANNER: &str = "as Freehold's guest: ";
const PROMPT: &str = "# ";

pub(crate) fn add(suite: &mut Suite) {
    suite.add("terminal::shell", shell);
    suite.add("terminal::not_protected", not_protected);
    suite.add("terminal::several", several);
    suite.add("terminal::image_of_the_users_own", image_of_the_users_own);
}

/// The machine that `make run` starts for these guests, with the settings that the user gives in the environment.
fn machine(bench: &Bench, test: &str, guests: &[&str], settings: &[(&str, &str)]) -> Result<Machine, Failure> {
    let build = bench.scratch.join(test);
    // Of an earlier run.
    let _ = std::fs::remove_dir_all(&build);
    let there = |image: PathBuf, directory: &str| {
        let target = image.parent().ok_or("an image is in a directory")?;
        std::fs::create_dir_all(&build).map_err(|error| format!("{}: {error}", build.display()))?;
        std::os::unix::fs::symlink(target, build.join(directory)).map_err(|error| format!("{directory}: {error}"))
    };
    there(bench.images.linux_guest_initrd()?, "linux")?;
    there(bench.images.payload("hello")?, "guests")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/pack-guests");
    let mut command = Command::new(script);
    for name in ["GUEST_CPUS", "GUEST_MEM", "GUEST_INITRD", "GUEST_APPEND", "PROTECTED"] {
        command.env_remove(name);
    }
    let packed = command.arg("pack").arg(&build).args(guests).env("PAYLOADS", "hello").envs(settings.iter().copied());
    let output = packed.output().map_err(|error| format!("pack-guests does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("pack-guests: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let memory = std::fs::read_to_string(build.join("run/memory")).map_err(|error| format!("run/memory: {error}"))?;
    let gibibytes = memory.trim().strip_suffix('G').and_then(|count| count.parse::<u32>().ok());
    let gibibytes = gibibytes.ok_or_else(|| format!("run/memory has {memory:?}"))?;
    Ok(Machine::new(bench.images.freehold()?)
        .append("freehold.log=warn")
        .host(bench.images.host()?, "scenario=guests")
        .initrd(build.join("run/guests.cpio"))
        .memory(gibibytes * 1024)
        .cpus(2)
        .timeout(PATIENCE))
}

/// Talks with the machine until it ends by itself.
fn talk(
    machine: &Machine,
    conversation: impl FnOnce(&mut Console) -> Result<(), String>,
) -> Result<Transcript, Failure> {
    let mut console = machine.start()?;
    match conversation(&mut console) {
        Ok(()) => {
            let run = console.finish();
            run.ended_well()?.never_says("Kernel panic")?.never_says("panicked")?;
            Ok(run)
        }
        Err(reason) => Err(console.stop().failure(reason)),
    }
}

/// Waits for the shell, and for the answer to a question.
fn is_answered(console: &mut Console, question: &str, answer: &str) -> Result<(), String> {
    console.wait_for(PROMPT)?;
    console.send(question)?;
    console.send("\n")?;
    console.wait_for(answer)
}

/// `make run GUEST=linux`: a shell, which is there again after `reboot`, and is gone after `poweroff`.
fn shell(bench: &Bench) -> Result<(), Failure> {
    let machine = machine(bench, "terminal-shell", &["linux"], &[])?;
    let run = talk(&machine, |console| {
        console.wait_for(BANNER)?;
        console.wait_for("2 CPUs")?;
        is_answered(console, "echo sum $((6 * 7))", "sum 42")?;
        // Ctrl-C ends what runs, once it has said that it is what the terminal belongs to.
        is_answered(console, "sh -c 'echo begun $((7 * 7)); sleep 1000'", "begun 49")?;
        console.send("\u{3}")?;
        is_answered(console, "echo still $((40 + 1))", "still 41")?;
        console.wait_for(PROMPT)?;
        console.send("reboot\n")?;
        console.wait_for("host: guest linux: reset after")?;
        console.wait_for(BANNER)?;
        is_answered(console, "echo anew $((6 * 8))", "anew 48")?;
        console.wait_for(PROMPT)?;
        console.send("poweroff\n")
    })?;
    run.says("host: guest linux: powered off after")?;
    Ok(())
}

/// `make run GUEST=linux PROTECTED=0 GUEST_CPUS=1 GUEST_MEM=192M`: what the user sets is what the guest has.
fn not_protected(bench: &Bench) -> Result<(), Failure> {
    let settings = [("PROTECTED", "0"), ("GUEST_CPUS", "1"), ("GUEST_MEM", "192M"), ("GUEST_APPEND", "users.word=5")];
    let machine = machine(bench, "terminal-not-protected", &["linux"], &settings)?;
    let run = talk(&machine, |console| {
        console.wait_for(BANNER)?;
        console.wait_for("1 CPUs, 1")?;
        is_answered(console, "cat /proc/cmdline", "users.word=5")?;
        // The end of the shell is the guest's.
        console.wait_for(PROMPT)?;
        console.send("exit\n")
    })?;
    // What a guest that is not protected has was the host's all along.
    run.says("host: guest linux: powered off after")?.says("; 0 pages came back")?;
    Ok(())
}

/// `make run GUESTS="linux linux,protected=0 hello hello" SMP=4`: each line is one guest's and bears its name, what is
/// typed goes to one guest, and Ctrl-T says to which.
fn several(bench: &Bench) -> Result<(), Failure> {
    let guests = ["linux", "linux,protected=0,cpus=1", "hello", "hello"];
    let machine = machine(bench, "terminal-several", &guests, &[])?.cpus(4);
    let run = talk(&machine, |console| {
        console.wait_for_all(&[
            &format!("{BANNER}2 CPUs"),
            &format!("{BANNER}1 CPUs"),
            "host: guest hello: powered off",
            "host: guest hello2: powered off",
        ])?;
        console.send(&format!("{ESCAPE}2"))?;
        console.wait_for("host: the input goes to linux2")?;
        is_answered(console, "echo me $((41 + 1))", "linux2| me 42")?;
        console.wait_for(PROMPT)?;
        console.send(&format!("{ESCAPE}1"))?;
        console.wait_for("host: the input goes to linux\r")?;
        is_answered(console, "echo me $((42 + 1))", "linux| me 43")?;
        console.wait_for(PROMPT)?;
        console.send(&format!("{ESCAPE}q"))
    })?;
    for guest in ["linux", "linux2"] {
        run.says(&format!("host: guest {guest}: ended after"))?;
    }
    let names = ["linux| ", "linux2| ", "hello| ", "hello2| "];
    let theirs = run.lines().skip_while(|line| !names.iter().any(|name| line.starts_with(name)));
    for line in theirs.filter(|line| !line.is_empty()) {
        let is_named = names.iter().any(|name| line.starts_with(name)) || line.starts_with("host: ");
        run.require(is_named, format!("nobody's line: {line:?}"))?;
        let marks = names.iter().map(|name| line.matches(name).count()).sum::<usize>();
        // `linux2| ` is not counted as `linux| `, since that has no 2.
        run.require(marks <= 1, format!("two guests in a line: {line:?}"))?;
    }
    Ok(())
}

/// `make run GUEST=path/Image GUEST_INITRD=path`: a kernel and an initrd of the user's own.
fn image_of_the_users_own(bench: &Bench) -> Result<(), Failure> {
    let image = bench.scratch.join("own-kernel.Image");
    std::fs::copy(bench.images.linux()?, &image).map_err(|error| format!("{}: {error}", image.display()))?;
    let initrd = bench.images.linux_guest_initrd()?;
    let settings = [("GUEST_INITRD", initrd.to_string_lossy()), ("GUEST_CPUS", "4".into())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_ref())).collect();
    let machine = machine(bench, "terminal-own", &[&image.to_string_lossy()], &settings)?;
    let run = talk(&machine, |console| {
        console.wait_for(BANNER)?;
        console.wait_for("4 CPUs")?;
        is_answered(console, "poweroff", "powered off after")
    })?;
    run.says("host: guest own-kernel: powered off after")?;
    Ok(())
}
