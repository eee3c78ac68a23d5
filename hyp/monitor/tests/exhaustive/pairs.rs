//! Every composite call with every other call at each of its lock boundaries, in every state.

use crate::action::{Action, Seen};
use crate::boundary::{Place, interleave, is_vm_locked, watch_locks};
use crate::stage::{Stage, State};
use crate::states::{calls, composites, states};
use crate::verdict::{Known, Outcome, Verdict, is_allowed};
use abi::Error;
use abi::host::HostCall;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

/// A state, and the machine that is in it for as long as trials leave it there.
struct Trials<'a> {
    name: &'a str,
    script: &'a [Action],
    start: State,
    stage: Option<Stage>,
    machines: u64,
}

/// What came of the other CPU's turn; nothing, where it would have waited.
type OtherTurn = Rc<RefCell<Option<Seen>>>;

impl<'a> Trials<'a> {
    fn new(name: &'a str, script: &'a [Action]) -> Self {
        let stage = prepare(script);
        let start = stage.state();
        Self { name, script, start, stage: Some(stage), machines: 1 }
    }

    fn stage(&mut self) -> Stage {
        self.stage.take().unwrap_or_else(|| {
            self.machines += 1;
            prepare(self.script)
        })
    }

    /// Puts a machine away: for the next trial, if it is where it was.
    fn put_away(&mut self, stage: Stage, state: &State) {
        if *state == self.start {
            self.stage = Some(stage);
        } else {
            stage.adopt();
            stage.tear_down(state);
        }
    }

    /// What comes of one call.
    fn alone(&mut self, action: &Action, cpu: usize) -> (Seen, State) {
        let mut stage = self.stage();
        let monitor = stage.world.monitor.clone();
        let seen = match cpu {
            0 => action.take(&monitor, &mut stage.world.cpu0),
            _ => action.take(&monitor, &mut stage.other_cpu.borrow_mut()),
        };
        let state = stage.state();
        self.put_away(stage, &state);
        (seen, state)
    }

    /// What comes of two calls, the second of them made at a boundary of the first; `None` where it would wait there.
    fn at_once(&mut self, first: &Action, second: &Action, boundary: u32) -> (Option<Outcome>, Place) {
        let mut stage = self.stage();
        let seen: OtherTurn = Rc::default();
        let waits = waits_for_vcpu(first, second);
        let turn = {
            let (monitor, cpu) = (stage.world.monitor.clone(), stage.other_cpu.clone());
            let (second, seen) = (second.clone(), seen.clone());
            move || {
                if !(waits && is_vm_locked()) {
                    *seen.borrow_mut() = Some(second.take(&monitor, &mut cpu.borrow_mut()));
                }
            }
        };
        let monitor = stage.world.monitor.clone();
        let (first, place) = interleave(boundary, || first.take(&monitor, &mut stage.world.cpu0), Box::new(turn));
        let state = stage.state();
        stage.world.machine.assert_clean();
        self.put_away(stage, &state);
        let second = seen.take();
        (second.map(|second| Outcome { first, second, state }), place)
    }
}

/// A machine in a state.
fn prepare(script: &[Action]) -> Stage {
    let mut stage = Stage::new();
    script.iter().for_each(|action| stage.must(action));
    stage.watch();
    stage
}

/// True where the second call waits for as long as the first is making a vCPU of the same VM.
fn waits_for_vcpu(first: &Action, second: &Action) -> bool {
    let vm = |action: &Action| match action {
        Action::Host(HostCall::VcpuInit, arguments) => Some(arguments[0]),
        _ => None,
    };
    vm(first).is_some() && vm(first) == vm(second)
}

/// Says which trial it was where one panics.
struct Context<'a> {
    state: &'a str,
    first: &'a Action,
    second: &'a Action,
    boundary: u32,
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { state, first, second, boundary } = self;
            println!("state '{state}': {first}; at its boundary {boundary} {second}");
        }
    }
}

/// Makes two calls at once in every way that they can be, and counts what came of it.
fn try_pair(
    trials: &mut Trials<'_>,
    [first, second]: [&Action; 2],
    alone: [&(Seen, State); 2],
    verdicts: &mut BTreeMap<Verdict, u64>,
) {
    let mut context = Context { state: trials.name, first, second, boundary: 0 };
    let mut outcomes = Vec::new();
    loop {
        let (outcome, place) = trials.at_once(first, second, context.boundary);
        outcomes.extend(outcome.map(|outcome| (context.boundary, outcome)));
        if place == Place::After {
            break;
        }
        context.boundary += 1;
    }
    let start = trials.start.clone();
    // Before the first boundary nothing has happened, and after the last everything.
    let orders = [&outcomes[0].1, &outcomes[outcomes.len() - 1].1];
    let known = Known { start: &start, orders, first: alone[0], second: alone[1] };
    for (boundary, outcome) in &outcomes {
        context.boundary = *boundary;
        let verdict = outcome.verdict(&known);
        if !is_allowed(verdict, first, second) {
            let reports =
                outcomes.iter().map(|(boundary, outcome)| format!("\n{boundary}: {}", outcome.report(&start)));
            panic!("{verdict}; by boundary:{}", reports.collect::<String>());
        }
        *verdicts.entry(verdict).or_default() += 1;
    }
}

#[test]
fn two_calls_at_once_are_as_one_after_the_other() {
    watch_locks();
    let begun = Instant::now();
    let whole = std::env::var_os("EXHAUSTIVE").is_some_and(|size| size == "whole");
    let (firsts, seconds) = (if whole { calls() } else { composites() }, calls());
    let mut verdicts = BTreeMap::new();
    let (states, mut machines) = (states(), 0);
    for (name, script) in &states {
        let mut trials = Trials::new(name, script);
        let seconds_alone: Vec<_> = seconds.iter().map(|action| trials.alone(action, 1)).collect();
        for first in &firsts {
            let first_alone = trials.alone(first, 0);
            for (second, second_alone) in seconds.iter().zip(&seconds_alone) {
                try_pair(&mut trials, [first, second], [&first_alone, second_alone], &mut verdicts);
            }
        }
        machines += trials.machines;
    }
    println!(
        "{} states, {} calls and {} beside them: {} trials on {machines} machines, {:.1?}",
        states.len(),
        firsts.len(),
        seconds.len(),
        verdicts.values().sum::<u64>(),
        begun.elapsed()
    );
    for (verdict, count) in &verdicts {
        println!("    {verdict}: {count}");
    }
    assert_eq!(verdicts.keys().copied().collect::<Vec<_>>(), EXPECTED, "kinds of outcomes");
}

/// Each of these comes about.
const EXPECTED: [Verdict; 6] = [
    Verdict::InOrder,
    Verdict::FirstRefused(Error::Busy),
    Verdict::SecondRefused(Error::Busy),
    Verdict::SecondRefused(Error::WrongState),
    Verdict::Undone(Error::WrongState),
    Verdict::Undone(Error::NotYours),
];
