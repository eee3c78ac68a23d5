//! What is chosen by chance is mostly done, reaches every call, and comes to what the model says, on the real hyp.

use crate::simulated::Simulated;
use abi::Error;
use call_script::choice::{Random, Territory, choose, undo};
use call_script::model::{Company, Model};
use call_script::{
    Action, Done, Driver, GuestAction, HostStep, Names, Outcome, Script, Setup, Status, Step, VmNumber, VmSetup,
};
use std::collections::BTreeMap;

/// Steps of a run.
const STEPS: usize = 1500;
/// VMs: two protected ones, and one that is not.
const VMS: [bool; 3] = [true, true, false];

fn territory() -> Territory {
    Territory {
        pages: 0..12,
        objects: 16..48,
        block: Some(512),
        device: Some(0),
        frames: 8,
        guests: (0..VMS.len() as VmNumber).collect(),
        others: Vec::new(),
        made: Some(9),
    }
}

/// The word for an action and for what came of it.
fn words(action: &Action, status: Status) -> (String, String) {
    let action = match action {
        Action::Host(step) => HostStep::word(step.call()).to_owned(),
        Action::Guest(step) => match &step.action {
            GuestAction::Call(function, _) => function.word().to_owned(),
            GuestAction::RawCall(..) => "guest call".to_owned(),
            GuestAction::Read(_) | GuestAction::Write(..) | GuestAction::Execute(_) => "guest access".to_owned(),
            GuestAction::Resume => "resume".to_owned(),
        },
        Action::Access(_) => "access".to_owned(),
        Action::RawCall(..) => "call".to_owned(),
        Action::Frames(_) | Action::Interleave(_) => panic!("{action} is never chosen"),
    };
    (action, status.to_string())
}

type Counts = BTreeMap<(String, String), u64>;

/// Outcomes other than the one that was seen, and how many of them the model refused.
#[derive(Default)]
struct Altered {
    tried: u64,
    refused: u64,
}

impl Altered {
    /// Tries outcomes that a step might have come to, had hyp made a mistake.
    fn try_all(&mut self, model: &Model, names: &Names, action: &Action, seen: &Outcome) {
        let Ok(request) = names.resolve(model.places(), action) else { return };
        let others = [Status::Ok, Status::Abort, Status::Error(Error::WrongState), Status::Error(Error::NotYours)];
        let altered = others.into_iter().filter(|status| *status != seen.status);
        let altered = altered.map(|status| Outcome { status, ..*seen });
        let unlike = Outcome { results: [seen.results[0] ^ 1, seen.results[1], seen.results[2]], ..*seen };
        for outcome in altered.chain((seen.status == Status::Ok).then_some(unlike)) {
            self.tried += 1;
            self.refused += u64::from(model.judge(names, &request, &outcome, Company::Alone).is_err());
        }
    }
}

/// Does steps by chance on one machine, and takes everything back.
fn run(seed: u64, counts: &mut Counts, altered: &mut Altered) {
    let vms = VMS.iter().zip(0..).map(|(protected, number)| (number, VmSetup { protected: *protected, vcpus: 1 }));
    let script = Script { setup: Setup { pages: 1024, vms: vms.collect() }, steps: Vec::new() };
    let mut machine = Simulated::new(1024, 40);
    let mut driver = Driver::new(&mut machine, &script).unwrap();
    let (territory, mut random) = (territory(), Random::new(seed));
    let mut past = Vec::new();
    for index in 0..STEPS {
        let Some(model) = driver.model() else { panic!("no model") };
        let action = choose(model, driver.names(), &territory, &mut random);
        let step = Step { cpu: (index % 4) as u8, action, expected: None };
        past.push(step.to_string());
        let before = (model.clone(), driver.names().clone());
        let Done { outcome, wrong, .. } = driver.step(&step);
        if let Some(wrong) = wrong {
            panic!("seed {seed}: {wrong}\n{}\n{}", script, past.join("\n"));
        }
        if let Ok(outcome) = outcome {
            altered.try_all(&before.0, &before.1, &step.action, &outcome);
            *counts.entry(words(&step.action, outcome.status)).or_default() += 1;
        }
        replace_the_dead(&mut driver, &mut random);
    }
    let wrong = driver.finish();
    assert_eq!(wrong, Vec::<String>::new(), "seed {seed}");
}

/// Makes a VM of the setup anew where it is gone, and now and then helps one that is dying, or stopped for good, to its end.
fn replace_the_dead(driver: &mut Driver<'_, Simulated>, random: &mut Random) {
    for (number, protected) in (0..).zip(VMS) {
        if driver.names().handle(number).is_none() {
            driver.create(number, &VmSetup { protected, vcpus: 1 }).unwrap();
        }
        let dying = |model: &Model, driver: &Driver<'_, Simulated>| {
            driver.names().handle(number).is_some_and(|handle| model.is_dying(handle))
        };
        while random.one_in(40) && driver.model().is_some_and(|model| dying(model, driver)) {
            let action = driver.model().and_then(|model| undo(model, driver.names(), number)).unwrap();
            let done = driver.step(&Step { cpu: 0, action: action.clone(), expected: None });
            assert_eq!(done.wrong, None);
            assert_eq!(done.outcome.map(|outcome| outcome.status), Ok(Status::Ok), "{action}");
        }
    }
}

#[test]
fn chosen_steps_come_to_what_the_model_says_and_reach_every_call() {
    let (mut counts, mut altered) = (Counts::new(), Altered::default());
    for seed in 0..20 {
        run(seed, &mut counts, &mut altered);
    }
    let Altered { tried, refused } = altered;
    println!("of {tried} altered outcomes {refused} were refused");
    // A write has no result, and of some questions any answer will do.
    assert!(refused * 100 >= tried * 93, "of {tried} altered outcomes only {refused} were refused");
    let total: u64 = counts.values().sum();
    let done: u64 = counts.iter().filter(|((_, status), _)| status == "ok").map(|(_, count)| count).sum();
    counts.iter().for_each(|((action, status), count)| println!("{count:6} {action}: {status}"));
    assert!(done * 100 >= total * 60, "{done} of {total} were done");
    let calls = abi::host::HostCall::ALL.iter().filter(|call| **call != abi::host::HostCall::VcpuRun);
    let host = calls.map(|call| HostStep::word(*call).to_owned());
    let guest = call_script::GuestFunction::all().map(|function| function.word().to_owned());
    for word in host.chain(guest) {
        let answered = |status: &str| status == "ok" || status.starts_with("x0 = ");
        let reached = counts.iter().any(|((action, status), _)| *action == word && answered(status));
        assert!(reached, "{word} was never done");
    }
}
