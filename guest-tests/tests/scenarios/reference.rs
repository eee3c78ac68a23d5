//! The reference host and its guests.

use crate::{Bench, Suite};
use abi::report::Line;
use guest_tests::{Failure, Machine, Transcript};
use std::collections::BTreeSet;
use std::path::PathBuf;
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
    for cpu in ["cortex-a53", "neoverse-v1"] {
        suite.add(format!("attacks_guest::{cpu}"), move |bench| attacks_guest_on(bench, cpu));
    }
    suite.add("smp", smp);
    for mebibytes in [1024, 8192] {
        suite.add(format!("memory::{}", size(mebibytes)), move |bench| memory(bench, mebibytes));
    }
    suite.add("many", |bench| completes(bench, "many", 2, 10).map(drop));
    suite.add("preempt", preempt);
    for cpu in CPUS {
        suite.add(format!("registers::{cpu}"), move |bench| registers(bench, cpu));
    }
    for (cpu, cpus) in [("cortex-a53", 1), ("max", 4)] {
        suite.add(format!("vcpus::{cpu}::{cpus}cpu"), move |bench| vcpus(bench, cpu, cpus));
        suite.add(format!("demand::{cpu}"), move |bench| demand(bench, cpu));
        suite.add(format!("shared::{cpu}"), move |bench| shared(bench, cpu));
        suite.add(format!("slots::{cpu}"), move |bench| slots(bench, cpu));
    }
    for cpu in ["cortex-a53", "max"] {
        suite.add(format!("turns::{cpu}"), move |bench| turns(bench, cpu));
        suite.add(format!("seeds::{cpu}"), move |bench| seeds(bench, cpu));
    }
    suite.add("seeds::of_the_tree", seeds_of_the_tree);
    suite.add("neighbours", neighbours);
    suite.add("sharing", sharing);
    for cpu in ["cortex-a53", "neoverse-v1"] {
        suite.add(format!("aarch32::{cpu}"), move |bench| aarch32(bench, cpu));
    }
    suite.add("reset", reset);
    add_boards(suite);
    for (number, cpu) in CPUS.into_iter().enumerate() {
        for (row, count) in CPU_COUNTS.into_iter().enumerate() {
            let mebibytes = MEBIBYTES[(number + row) % MEBIBYTES.len()];
            suite.add(format!("boot::{cpu}::{count}cpu::{}", size(mebibytes)), move |bench| {
                boots(bench, cpu, count, mebibytes)
            });
        }
    }
}

/// Boards that differ from the one of `make run`: each boots, runs a guest, and ends well.
fn add_boards(suite: &mut Suite) {
    for option in ["secure=on", "gic-version=4", "its=off", "highmem=off", "mte=on", "iommu=smmuv3"] {
        suite.add(format!("board::{option}"), move |bench| {
            let run = machine(bench, "story")?.cpu("max").cpus(2).board_option(option).run()?;
            run.completed("story", 5)?.ended_well()?;
            Ok(())
        });
    }
    // QEMU names the nodes' memory separately, and their CPUs.
    suite.add("board::numa", |bench| {
        let mut machine = machine(bench, "memory")?.memory(1024);
        for (node, size, cpus) in [("a", "384M", "0-1"), ("b", "640M", "2-3")] {
            machine = machine.argument("-object").argument(format!("memory-backend-ram,id={node},size={size}"));
            machine = machine.argument("-numa").argument(format!("node,memdev={node},cpus={cpus}"));
        }
        let run = machine.run()?;
        run.completed("memory", 3)?.ended_well()?;
        Ok(())
    });
    // A kernel and a ramdisk where no one would put them, the one above the other.
    for (name, kernel, ramdisk) in [("odd", 0x4200_1004, 0x5000_0003u64), ("above", 0x5200_0001, 0x4200_0000)] {
        suite.add(format!("board::modules_{name}"), move |bench| {
            let guests = bench.images.guests()?;
            let run = Machine::new(bench.images.freehold()?)
                .append("freehold.log=info")
                .host_at(kernel, bench.images.host()?, "scenario=story report")
                .argument("-device")
                .argument(format!("guest-loader,addr={ramdisk:#x},initrd={}", guests.display()))
                .cpus(2)
                .timeout(PATIENCE)
                .run()?;
            run.completed("story", 5)?.ended_well()?;
            Ok(())
        });
    }
}

fn size(mebibytes: u32) -> String {
    if mebibytes < 1024 { format!("{mebibytes}M") } else { format!("{}G", mebibytes / 1024) }
}

/// Freehold with the reference host in `scenario`, on the board that `make run` has.
pub(crate) fn machine(bench: &Bench, scenario: &str) -> Result<Machine, Failure> {
    machine_on(bench.images.freehold()?, bench, scenario)
}

/// The same with another image of Freehold.
pub(crate) fn machine_on(freehold: PathBuf, bench: &Bench, scenario: &str) -> Result<Machine, Failure> {
    Ok(Machine::new(freehold)
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
    registers_by_the_table(&run)
}

/// Every encoding was read, and written where that is forbidden, and did what the table in `abi::guest_register` says.
fn registers_by_the_table(run: &Transcript) -> Result<(), Failure> {
    run.check("attacker.registers.read")?.check("attacker.registers.system-instructions")?;
    let judged = run.value("attacker.judged-by-the-table")?;
    run.require(judged >= 98_000, format!("{judged} accesses were held against the table"))?;
    let readable = run.value("attacker.readable-registers")?;
    run.require((140..200).contains(&readable), format!("{readable} registers can be read"))?;
    Ok(())
}

/// The same on other CPUs, whose registers differ.
fn attacks_guest_on(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let run = machine(bench, "attacks-guest")?.cpu(cpu).cpus(1).run()?;
    run.completed("attacks-guest", 60)?.ended_well()?.never_says("panic")?;
    registers_by_the_table(&run)
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
    for check in
        ["suspend-standby", "words-touched-together", "race-cpu-on", "race-donate", "race-run-one-wins", "off-again"]
    {
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

/// Registers survive exits and moves between CPUs, the host's and the guests' alike; on those CPUs that have them also
/// SVE's and the keys of pointer authentication.
fn registers(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let run = machine(bench, "registers")?.cpu(cpu).cpus(3).run()?;
    run.completed("registers", 20)?.ended_well()?;
    for check in ["registers.simd-blank", "registers.kept-by.call", "registers.kept-by.interrupt"] {
        run.check(check)?;
    }
    run.check("host-registers-kept")?.check("guest-ran-on-every-cpu")?;
    let (sve, keys) = (run.value("with-sve")?, run.value("with-pointer-authentication")?);
    let expected = match cpu {
        "max" | "neoverse-v1" => (1, 1),
        _ => (0, 0),
    };
    run.require((sve, keys) == expected, format!("SVE and keys: {:?}, not {expected:?}", (sve, keys)))?;
    Ok(())
}

/// A guest starts its second vCPU itself, on one CPU in turns and on two at once.
fn vcpus(bench: &Bench, cpu: &str, cpus: u32) -> Result<(), Failure> {
    let run = machine(bench, "vcpus")?.cpu(cpu).cpus(cpus).run()?;
    run.completed("vcpus", 30)?.ended_well()?.check("smp.argument")?.check("off-on-one-cpu")?;
    if cpus > 1 {
        run.check("off-on-two-cpus")?;
    }
    Ok(())
}

/// Memory on demand, memory given back, and pages that are shared when their guest dies.
fn demand(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let run = machine(bench, "demand")?.cpu(cpu).cpus(2).run()?;
    run.completed("demand", 45)?.ended_well()?;
    for check in [
        "given-on-demand",
        "given-back-pages-are-wiped",
        "pages.new-again-are-zero",
        "shared-pages-wiped",
        "given-back-wiped-each-time",
        "pages.zero-each-time",
        "nothing-taken-meanwhile",
        "nothing-lost-afterwards",
    ] {
        run.check(check)?;
    }
    let times = run.value("pages.given-back")?;
    run.require(times >= 2_000, format!("the page was given back {times} times"))?;
    Ok(())
}

/// Two vCPUs share a page and take it back in turns, while the host reads it and answers all the time.
fn turns(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let run = machine(bench, "turns")?.cpu(cpu).cpus(3).run()?;
    run.completed("turns", 14)?.ended_well()?.never_says("panic")?;
    for check in [
        "page-shared-in-turns",
        "words-for-the-host-only",
        "page-read",
        "page-closed-to-the-host",
        "turns.none.secrets-changed",
        "turns.host-answered",
    ] {
        run.check(check)?;
    }
    Ok(())
}

/// Words of `rng-seed` and `kaslr-seed` that the reference host gives a guest.
const SEED_WORDS: usize = 9;

/// All words of the seeds of both guests, in their order.
fn seed_words(run: &Transcript) -> Result<Vec<u64>, Failure> {
    run.completed("seeds", 15)?.ended_well()?;
    let words = run.report().filter_map(|line| match line {
        Line::Value(name, word) if name.ends_with(".seeds.kaslr") || name.ends_with(".seeds.rng") => Some(word),
        _ => None,
    });
    let words: Vec<u64> = words.collect();
    run.require(words.len() == 2 * SEED_WORDS, format!("{} words of seeds: {words:x?}", words.len()))?;
    Ok(words)
}

/// Two guests have no word of their seeds in common, nor have those of two boots.
fn seeds(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let machine = machine(bench, "seeds")?.cpu(cpu).cpus(1);
    let (first, second) = (machine.run()?, machine.run()?);
    let words = [seed_words(&first)?, seed_words(&second)?].concat();
    let different = words.iter().collect::<BTreeSet<_>>().len();
    second.require(different == words.len(), format!("{different} different words: {words:x?}"))?;
    second.require(!words.contains(&0), format!("a word is 0: {words:x?}"))?;
    Ok(())
}

/// On a CPU without random numbers of its own the seeds come from the host's device tree, which QEMU makes from a seed of
/// its own: the same one gives the same, and another one another.
fn seeds_of_the_tree(bench: &Bench) -> Result<(), Failure> {
    let words = |seed: &str| -> Result<Vec<u64>, Failure> {
        let machine = machine(bench, "seeds")?.cpu("cortex-a53").cpus(1).argument("-seed").argument(seed);
        seed_words(&machine.run()?)
    };
    let (first, again, other) = (words("1")?, words("1")?, words("2")?);
    if first != again {
        return Err(Failure::new(format!("the same seed: {first:x?}, then {again:x?}")));
    }
    if first.iter().any(|word| other.contains(word)) {
        return Err(Failure::new(format!("other seeds: {first:x?}, then {other:x?}")));
    }
    Ok(())
}

/// A guest that is not protected.
fn shared(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let run = machine(bench, "shared")?.cpu(cpu).cpus(2).run()?;
    run.completed("shared", 75)?.ended_well()?;
    for check in [
        "host-reads-its-memory",
        "read-only-page-kept",
        "taken-back-page-out-of-reach",
        "the-other-reads",
        "seeds-differ",
        "register-after-the-exit",
        "forbidden-pstate-refused",
    ] {
        run.check(check)?;
    }
    Ok(())
}

/// Guests whose address space is arranged anew, whose ROM is not written, and of whom it is noted what they write.
fn slots(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let run = machine(bench, "slots")?.cpu(cpu).cpus(1).run()?;
    run.completed("slots", 65)?.ended_well()?;
    for check in ["deleted-slot-out-of-reach", "rom-kept-its-content", "written-pages-noted", "given-page-kept"] {
        run.check(check)?;
    }
    Ok(())
}

/// A guest cannot reach another, the host or hyp by their physical addresses. Guests have 32 bits of address space, so
/// that all RAM must be below 4 GiB.
fn neighbours(bench: &Bench) -> Result<(), Failure> {
    let run = machine(bench, "neighbours")?.memory(1024).cpus(2).run()?;
    run.completed("neighbours", 55)?.ended_well()?;
    for target in ["guest-one", "guest-other", "host", "carve-out-first", "carve-out-last"] {
        for attempt in ["load", "store", "share", "unshare", "relinquish"] {
            run.check(&format!("{target}.{attempt}"))?;
        }
    }
    Ok(())
}

/// A page goes to and fro between a guest and the host, and both look at what is in it; another is given away.
fn sharing(bench: &Bench) -> Result<(), Failure> {
    let run = machine(bench, "sharing")?.cpu("cortex-a53").cpus(1).run()?;
    run.completed("sharing", 80)?.ended_well()?;
    for check in ["shared-page-is-seen", "private-page-is-not-seen", "page-given-back-is-zero", "sharing.share-device"]
    {
        run.check(check)?;
    }
    Ok(())
}

/// A guest that goes to AArch32, on a CPU that has it, ends for that, and no other does.
fn aarch32(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let run = machine(bench, "aarch32")?.cpu(cpu).cpus(1).run()?;
    run.completed("aarch32", 10)?.ended_well()?.check("ends-for-it")?.check("does-not-go-on")?;
    run.require(run.value("entered")? == 1, "the CPU has no AArch32")?;
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
