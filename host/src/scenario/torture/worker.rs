//! What a CPU does on its own: every outcome is determined.

use super::journal::{Choices, Counts};
use super::{Torture, stage};
use crate::report;
use crate::scenario::actor::Actor;
use crate::scenario::machine;
use abi::Error;
use abi::host::{HostCall, VmHandle};
use alloc::collections::BTreeMap;
use call_script::choice::{Random, Territory, choose, undo};
use call_script::model::{Company, Model};
use call_script::{Action, Names, Outcome, Request, Status, VmNumber};
use core::sync::atomic::Ordering;

/// A VM that is dying gets one step in so many towards its end.
const UNDO: u64 = 8;

/// A CPU with what is its own.
pub struct Worker<'a> {
    torture: &'a Torture<'a>,
    cpu: usize,
    territory: Territory,
    model: Model,
    names: Names,
    actors: BTreeMap<VmNumber, Actor>,
    random: Random,
    counts: Counts,
    choices: Choices,
    steps: u64,
}

impl<'a> Worker<'a> {
    /// The worker of a CPU, with its guests.
    ///
    /// # Errors
    /// Why there is no guest.
    pub fn new(torture: &'a Torture<'a>, cpu: usize, random: Random) -> Result<Self, Error> {
        let model = Model::new(machine::specified(torture.context, &torture.places), torture.places);
        let territory = stage::own(cpu, &torture.places);
        let (names, actors) = (Names::default(), BTreeMap::new());
        let mut worker = Self {
            torture,
            cpu,
            territory,
            model,
            names,
            actors,
            random,
            counts: Counts::new(),
            choices: Choices::new(),
            steps: 0,
        };
        for index in 0..stage::OWN_VMS.len() {
            worker.make_guest(index)?;
        }
        Ok(worker)
    }

    /// Makes the guest of one of the CPU's VMs.
    fn make_guest(&mut self, index: usize) -> Result<(), Error> {
        let (number, protected) = (self.territory.guests[index], stage::OWN_VMS[index]);
        let actor = Actor::create(self.torture.context, protected, 1)?;
        if let Err(wrong) = self.model.add_vm(actor.handle(), protected, 1) {
            self.torture.tell(format_args!("{wrong}"));
        }
        self.names.insert(number, actor.handle());
        self.actors.insert(number, actor);
        Ok(())
    }

    /// True once in so many times.
    pub fn chance(&mut self, times: u64) -> bool {
        self.random.one_in(times)
    }

    /// How many steps it has made.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// What came of them.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What it chose.
    pub const fn choices(&self) -> Choices {
        self.choices
    }

    /// Chooses something and does it.
    pub fn step(&mut self) {
        let action = self
            .towards_an_end()
            .unwrap_or_else(|| choose(&self.model, &self.names, &self.territory, &mut self.random));
        self.choices.add(&action);
        let actor = match &action {
            Action::Guest(step) => self.actors.get(&step.vm),
            _ => None,
        };
        self.make(&stage::first_things_first(action, actor));
        self.steps += 1;
        self.replace_the_gone();
    }

    /// Now and then the next step towards the end of a VM that is dying.
    fn towards_an_end(&mut self) -> Option<Action> {
        let guests = self.territory.guests.iter();
        let dying =
            guests.copied().find(|number| self.names.handle(*number).is_some_and(|it| self.model.is_dying(it)))?;
        if self.random.one_in(UNDO) { undo(&self.model, &self.names, dying) } else { None }
    }

    /// Does something and judges what comes of it.
    fn make(&mut self, action: &Action) -> Option<Outcome> {
        let request = self.names.resolve(&self.torture.places, action).ok()?;
        let subject = stage::subject(&request, &self.names).and_then(|number| self.actors.get_mut(&number));
        let outcome = stage::perform(&self.torture.places, &request, subject);
        self.counts.count(action, &outcome);
        self.torture.journals[self.cpu].lock().note(action, &outcome);
        match self.model.judge(&self.names, &request, &outcome, Company::Alone) {
            Ok(Some(next)) => self.model = next,
            Ok(None) => {}
            Err(wrong) => self.torture.tell(format_args!("CPU {}: {action}: {wrong}", self.cpu)),
        }
        if outcome.status == Status::Ok {
            self.note(&request, &outcome);
        }
        Some(outcome)
    }

    /// Takes note of names that came and went.
    fn note(&mut self, request: &Request, outcome: &Outcome) {
        let Request::Call { function, arguments, names } = request else { return };
        let handle = |register: u64| u32::try_from(register).map_or(VmHandle(0), VmHandle);
        if let (Some(number), true) = (names, *function == HostCall::VmReserve as u64) {
            self.names.insert(*number, handle(outcome.results[0]));
        }
        if *function == HostCall::VmFinalise as u64
            && let Some(number) = self.names.remove(handle(arguments[0]))
            && let Some(actor) = self.actors.remove(&number)
        {
            // SAFETY: the VM was just finalised.
            let returned = unsafe { actor.into_vm().finalised() };
            self.torture.dirty.fetch_add(returned.dirty, Ordering::Relaxed);
        }
    }

    /// Makes guests anew whose VMs are gone.
    fn replace_the_gone(&mut self) {
        for index in 0..stage::OWN_VMS.len() {
            if !self.actors.contains_key(&self.territory.guests[index])
                && let Err(error) = self.make_guest(index)
            {
                self.torture.tell(format_args!("CPU {}: no new guest: {error}", self.cpu));
                return;
            }
        }
    }

    /// Takes everything back.
    pub fn end(mut self) {
        let numbers: alloc::vec::Vec<VmNumber> = self.names.iter().map(|(number, _)| number).collect();
        for number in &numbers {
            let dying = self.names.handle(*number).is_some_and(|handle| self.model.is_dying(handle));
            if let Some(action) = stage::teardown(*number).filter(|_| !dying) {
                self.make_all_the_way(&action);
            }
        }
        for number in numbers {
            while let Some(action) = undo(&self.model, &self.names, number) {
                if !self.make_all_the_way(&action) {
                    return;
                }
            }
        }
        for number in stage::shared_with_hyp(&self.model) {
            if let Some(action) = stage::unshare(number) {
                self.make_all_the_way(&action);
            }
        }
        let kept = stage::kept_from_host(&self.model);
        report::check("all-back-by-specification", kept.is_none(), format_args!("CPU {}: {kept:?}", self.cpu));
    }

    /// Does something that must be done.
    fn make_all_the_way(&mut self, action: &Action) -> bool {
        let done = self.make(action).is_some_and(|outcome| outcome.status == Status::Ok);
        if !done {
            report::check("taken-back", false, format_args!("CPU {}: {action}", self.cpu));
        }
        done
    }
}
