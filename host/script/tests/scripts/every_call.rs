//! The script that says of itself that it has every call in it.

use abi::host::HostCall;
use call_script::{Action, GuestAction, GuestFunction, HostStep, Script, Status};
use std::collections::BTreeSet;

/// Boots run it on the real image.
const CALLS: &str = include_str!("../../../../guest-tests/tests/scenarios/scripts/calls.script");

/// Calls that are never refused, or whose refusal is not the call's: they take nothing that could be wrong.
const NEVER_REFUSED: [&str; 6] = ["version", "memory_info", "interrupt_info", "features", "vm_name", "vm_reserve"];

/// Words of the calls that steps make, and whether one of them is done.
fn words(script: &Script, is_done: bool) -> BTreeSet<&'static str> {
    let made = script.steps.iter().filter_map(|step| {
        let status = step.expected.as_ref()?.status?;
        let done = matches!(status, Status::Ok | Status::Value(_) | Status::Stopped);
        let refused = matches!(status, Status::Error(_) | Status::NotRun(_));
        if !(if is_done { done } else { refused }) {
            return None;
        }
        match &step.action {
            Action::Host(step) => Some(HostStep::word(step.call())),
            Action::Guest(step) => match &step.action {
                GuestAction::Call(function, _) => Some(function.word()),
                GuestAction::RawCall(function, _) => GuestFunction::from_register(*function).map(GuestFunction::word),
                _ => None,
            },
            _ => None,
        }
    });
    made.collect()
}

#[test]
fn the_script_has_every_call_done_and_refused() {
    let script = Script::parse(CALLS).unwrap();
    let (done, refused) = (words(&script, true), words(&script, false));
    let host = HostCall::ALL.iter().map(|call| HostStep::word(*call));
    let all: Vec<&str> = host.chain(GuestFunction::all().map(GuestFunction::word)).collect();
    // A vCPU is run by what the guests of the script do.
    let never_done: Vec<&&str> = all.iter().filter(|word| !done.contains(**word) && **word != "vcpu_run").collect();
    let never_refused: Vec<&&str> =
        all.iter().filter(|word| !refused.contains(**word) && !NEVER_REFUSED.contains(*word)).collect();
    assert!(
        never_done.is_empty() && never_refused.is_empty(),
        "never done {never_done:?}, never refused {never_refused:?}"
    );
}
