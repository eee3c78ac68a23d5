//! Hyp's protections of itself: `freehold.self-test=` makes it commit a fault before the host starts, which must stop it
//! with a report of what happened.

use crate::{Bench, Suite};
use guest_tests::Failure;

/// The last thing that hyp says before it stops.
const STOPPED: &str = "]: stopped";

/// Each fault's name, and what the report must say in this order.
const FAULTS: [(&str, &[&str]); 5] = [
    ("stack-overflow", &["stack overflow", "ESR_EL2", "data abort on a write", "FAR_EL2", "ELR_EL2"]),
    ("write-code", &["EL2 fault", "data abort on a write: permission fault"]),
    ("execute-data", &["EL2 fault", "instruction abort: permission fault"]),
    ("read-host", &["EL2 fault", "data abort on a read: translation fault"]),
    ("arithmetic-overflow", &["panic", "overflow"]),
];

pub(crate) fn add(suite: &mut Suite) {
    for cpu in ["cortex-a53", "max"] {
        for (fault, report) in FAULTS {
            suite.add(format!("self_test::{fault}::{cpu}"), move |bench| stops(bench, cpu, fault, report));
        }
    }
}

fn stops(bench: &Bench, cpu: &str, fault: &str, report: &[&str]) -> Result<(), Failure> {
    let machine = crate::reference::machine(bench, "story")?
        .cpu(cpu)
        .cpus(1)
        .memory(256)
        .append(&format!("freehold.log=info freehold.self-test={fault}"));
    let run = machine.run_until(STOPPED)?;
    run.tells(report)?.never_says("nothing stopped")?.never_says(abi::report::PREFIX)?;
    Ok(())
}
