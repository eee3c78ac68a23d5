//! A hyp that compares itself with its specification: it finds nothing in what hosts and guests do, and finds what is
//! planted.

use crate::{Bench, Suite, reference};
use guest_tests::{Failure, Machine, Transcript};

/// Scenarios of the reference host, the CPUs that they run on, and how much of them is compared at least.
const SCENARIOS: [(&str, u32, u64); 6] = [
    ("story", 4, 80),
    ("attacks", 4, 150),
    ("attacks-guest", 4, 80),
    ("smp", 8, 400),
    ("vcpus", 4, 80),
    ("many", 2, 500),
];

pub(crate) fn add(suite: &mut Suite) {
    for (scenario, cpus, least) in SCENARIOS {
        suite.add(format!("ghost::{scenario}"), move |bench| agrees(bench, scenario, cpus, least));
    }
    suite.add("ghost::torture", torture);
    suite.add("ghost::one_in_eight", one_in_eight);
    suite.add("ghost::wrong_ledger", wrong_ledger);
    suite.add("ghost::wrong_ledger_unseen", wrong_ledger_unseen);
}

fn machine(bench: &Bench, scenario: &str) -> Result<Machine, Failure> {
    reference::machine_on(bench.images.freehold_ghost()?, bench, scenario)
}

/// How many calls the ghost says that it has compared.
fn compared(run: &Transcript) -> Result<u64, Failure> {
    let number = run.lines().find_map(|line| {
        let (_, rest) = line.split_once("ghost: ")?;
        rest.trim_end().strip_suffix(" calls compared")?.parse().ok()
    });
    number.ok_or_else(|| run.failure("the ghost did not say how much it compared"))
}

/// Runs a scenario to its good end.
fn agrees(bench: &Bench, scenario: &str, cpus: u32, least: u64) -> Result<(), Failure> {
    let run = machine(bench, scenario)?.cpus(cpus).run()?;
    run.completed(scenario, 1)?.ended_well()?.never_says("panic")?;
    let compared = compared(&run)?;
    run.require(compared >= least, format!("{compared} calls were compared, fewer than {least}"))?;
    Ok(())
}

/// Calls by chance, from more CPUs at once than there may be to emulate them; judged by both.
fn torture(bench: &Bench) -> Result<(), Failure> {
    let run = machine(bench, "torture seconds=10 seed=4")?.cpus(4).run()?;
    run.completed("torture", 10)?.ended_well()?.never_says("panic")?;
    let (calls, compared) = (run.value("calls")?, compared(&run)?);
    run.require(calls >= 50 && compared >= calls / 2, format!("{compared} compared, of {calls} calls and more"))?;
    Ok(())
}

/// The loader's command line says how much is compared.
fn one_in_eight(bench: &Bench) -> Result<(), Failure> {
    let run = machine(bench, "smp")?.append("freehold.ghost=8").run()?;
    run.completed("smp", 1)?.says("ghost: one in 8 calls and faults is compared")?;
    let compared = compared(&run)?;
    run.require((1..400).contains(&compared), format!("{compared} calls were compared"))?;
    Ok(())
}

const WRONG_LEDGER: &str = "freehold.log=info freehold.self-test=wrong-ledger";

/// A wrong entry of the ledger stops the machine at the first call or fault that is about the page.
fn wrong_ledger(bench: &Bench) -> Result<(), Failure> {
    let run = machine(bench, "story")?.cpus(1).append(WRONG_LEDGER).run_until("]: stopped")?;
    run.tells(&["ghost: at a fault of the host's", "the ledger says hyp; the host's stage 2 maps it rwx"])?;
    run.never_says(abi::report::PREFIX)?;
    Ok(())
}

/// Where nobody compares, nothing comes of it: the tables are right.
fn wrong_ledger_unseen(bench: &Bench) -> Result<(), Failure> {
    let run = reference::machine(bench, "story")?.append(WRONG_LEDGER).run()?;
    run.completed("story", 1)?.ended_well()?.never_says("ghost")?;
    Ok(())
}
