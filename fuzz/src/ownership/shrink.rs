//! Making a script that fails as short as it can be.

use std::panic::{AssertUnwindSafe, catch_unwind};

use call_script::{Action, Script, Step};

use super::run::{quietly, record, replay};

/// A shorter script that fails still, with the results that its steps have; `None` where `script` does not fail.
///
/// What is left out is whatever can be: runs of steps, the longer the sooner, and VMs of the setup.
pub fn shrink(script: &Script) -> Option<Script> {
    quietly(|| {
        let mut shortest = failing(script)?;
        loop {
            let before = size(&shortest);
            leave_out_steps(&mut shortest);
            leave_out_vms(&mut shortest);
            if size(&shortest) == before {
                return Some(shortest);
            }
        }
    })
}

/// What a run of the script was up to where it failed.
fn failing(script: &Script) -> Option<Script> {
    let failed = catch_unwind(AssertUnwindSafe(|| replay(script, |_| {}))).is_err();
    failed.then(record)
}

fn size(script: &Script) -> usize {
    script.steps.len() + script.setup.vms.len()
}

fn leave_out_steps(script: &mut Script) {
    let mut length = script.steps.len().next_power_of_two();
    while length > 0 {
        let mut first = 0;
        while first < script.steps.len() {
            let mut steps = script.steps.clone();
            steps.drain(first..(first + length).min(script.steps.len()));
            match failing(&Script { setup: script.setup.clone(), steps: whole(steps) }) {
                // A run may end sooner now: what was behind its end is gone too.
                Some(shorter) if shorter.steps.len() < script.steps.len() => *script = shorter,
                _ => first += length,
            }
        }
        length /= 2;
    }
}

/// The steps, without an `interleave` that has no two steps behind it.
fn whole(mut steps: Vec<Step>) -> Vec<Step> {
    let is_whole = |index: usize| {
        let is_step = |step: &Step| !matches!(step.action, Action::Interleave(_) | Action::Frames(_));
        steps.get(index + 1..index + 3).is_some_and(|pair| pair.iter().all(is_step))
    };
    let kept: Vec<bool> = steps
        .iter()
        .enumerate()
        .map(|(index, step)| !matches!(step.action, Action::Interleave(_)) || is_whole(index))
        .collect();
    let mut kept = kept.into_iter();
    steps.retain(|_| kept.next().unwrap_or(true));
    steps
}

fn leave_out_vms(script: &mut Script) {
    let numbers: Vec<_> = script.setup.vms.keys().copied().collect();
    for number in numbers {
        let mut setup = script.setup.clone();
        setup.vms.remove(&number);
        if let Some(shorter) = failing(&Script { setup, steps: script.steps.clone() }) {
            *script = shorter;
        }
    }
}
