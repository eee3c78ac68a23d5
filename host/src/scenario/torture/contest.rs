//! What all CPUs fight over: a few pages, and one VM each, about which all make calls at the same time.
//!
//! A round is two requests of each CPU. Afterwards one CPU looks for the orders of all of them that explain every outcome;
//! the states that these lead to are what the next round starts from.

use super::journal::{Choices, Counts};
use super::{Torture, stage};
use crate::scenario::actor::Actor;
use crate::scenario::machine;
use crate::{interrupt, report};
use abi::host::HostCall;
use abi::{Error, PAGE_SHIFT, PhysAddr};
use alloc::format;
use alloc::vec::Vec;
use call_script::choice::{Random, Territory, blind, undo};
use call_script::model::{Company, Model, Observed, orders};
use call_script::{Access, Action, Names, Outcome, Request, Status, VmNumber};
use core::hash::Hasher;
use core::sync::atomic::Ordering;
use spin::Mutex;

/// Requests of each CPU in a round.
const REQUESTS: usize = 2;
/// Rounds after which a guest that is stopped is taken never to go on.
const PATIENCE: usize = 24;

/// One CPU's place.
struct Seat {
    vm: VmNumber,
    protected: bool,
    actor: Option<Actor>,
    territory: Territory,
    random: Random,
    counts: Counts,
    choices: Choices,
    /// What it saw in this round.
    seen: Vec<Observed>,
    /// Rounds since its guest was stopped.
    stopped: usize,
}

/// What may be, and which VM is which.
struct Beliefs {
    /// The states that explain all that was seen.
    models: Vec<Model>,
    names: Names,
    rounds: u64,
    most: u64,
}

/// The fight.
pub struct Contest<'a> {
    torture: &'a Torture<'a>,
    seats: Vec<Mutex<Seat>>,
    beliefs: Mutex<Beliefs>,
}

impl<'a> Contest<'a> {
    /// A fight of as many CPUs as there are, but no more than some; `random` gives each its chances.
    ///
    /// # Errors
    /// Why there is no guest.
    pub fn new(torture: &'a Torture<'a>, random: impl Fn(usize) -> Random) -> Result<Self, Error> {
        let cpus = torture.cpus.len();
        let model = Model::new(machine::specified(torture.context, &torture.places), torture.places);
        let beliefs = Beliefs { models: [model].into(), names: Names::default(), rounds: 0, most: 1 };
        let seat = |cpu: usize| {
            Mutex::new(Seat {
                vm: stage::contested_vm(cpu, cpus),
                protected: stage::is_contested_vm_protected(cpu),
                actor: None,
                territory: stage::contested(cpu, cpus),
                random: random(cpu),
                counts: Counts::new(),
                choices: Choices::new(),
                seen: Vec::new(),
                stopped: 0,
            })
        };
        let seats = (0..cpus.min(stage::MOST_FIGHTERS)).map(seat).collect();
        let contest = Self { torture, seats, beliefs: Mutex::new(beliefs) };
        for seat in &contest.seats {
            contest.make_guest(&mut seat.lock(), &mut contest.beliefs.lock())?;
        }
        Ok(contest)
    }

    /// Rounds so far.
    pub fn rounds(&self) -> u64 {
        self.beliefs.lock().rounds
    }

    /// The most states that explained what was seen.
    pub fn most_explanations(&self) -> u64 {
        self.beliefs.lock().most
    }

    /// Adds up what came of each CPU's requests, and says what each chose.
    pub fn sum_up(&self, counts: &mut Counts) {
        for (cpu, seat) in self.seats.iter().enumerate() {
            let seat = seat.lock();
            counts.add(&seat.counts);
            report::value(&format!("choices-in-company.{cpu}"), seat.choices.finish());
        }
    }

    fn make_guest(&self, seat: &mut Seat, beliefs: &mut Beliefs) -> Result<(), Error> {
        let actor = Actor::create(self.torture.context, seat.protected, 1)?;
        for model in &mut beliefs.models {
            if let Err(wrong) = model.add_vm(actor.handle(), seat.protected, 1) {
                self.torture.tell(format_args!("{wrong}"));
            }
        }
        beliefs.names.insert(seat.vm, actor.handle());
        seat.actor = Some(actor);
        seat.stopped = 0;
        Ok(())
    }

    /// Some rounds of CPU `index`; no more begins after the `deadline` in microseconds. All CPUs call this at the same time;
    /// those that have no seat watch.
    pub fn fight(&self, index: usize, rounds: usize, deadline: u64) {
        for _ in 0..rounds {
            let names = self.beliefs.lock().names.clone();
            self.torture.barrier.wait_and_start_together();
            if let Some(seat) = self.seats.get(index) {
                self.act(index, &mut seat.lock(), &names);
            }
            self.torture.barrier.wait();
            if index == 0 {
                self.judge();
                if interrupt::microseconds() >= deadline {
                    self.torture.stop.store(true, Ordering::Release);
                }
            }
            self.torture.barrier.wait();
            // Nobody sets it before all meet again, so all go on or none does.
            if self.torture.stop.load(Ordering::Acquire) {
                break;
            }
        }
    }

    /// One CPU's requests of a round.
    fn act(&self, index: usize, seat: &mut Seat, names: &Names) {
        for _ in 0..REQUESTS {
            let action = blind(names, &seat.territory, &mut seat.random);
            seat.choices.add(&action);
            let action = stage::first_things_first(action, seat.actor.as_ref());
            let Ok(request) = names.resolve(&self.torture.places, &action) else { continue };
            let actor = seat.actor.as_mut().filter(|_| matches!(request, Request::Guest { .. }));
            let outcome = stage::perform(&self.torture.places, &request, actor);
            seat.counts.count(&action, &outcome);
            self.torture.journals[index].lock().note(&action, &outcome);
            seat.seen.push(Observed { request, outcome });
        }
    }

    /// Looks for orders that explain the round, and puts things in order for the next.
    fn judge(&self) {
        let mut beliefs = self.beliefs.lock();
        let seen: Vec<Vec<Observed>> = self.seats.iter().map(|seat| core::mem::take(&mut seat.lock().seen)).collect();
        let after = orders(&beliefs.models, &beliefs.names, &seen);
        if after.is_empty() {
            self.torture.tell(format_args!("no order of what CPUs 0 to {} did last explains it", self.seats.len() - 1));
            return;
        }
        beliefs.rounds += 1;
        beliefs.most = beliefs.most.max(after.len() as u64);
        beliefs.models = after;
        if beliefs.models.len() > 1 {
            self.look(&mut beliefs);
        }
        for seat in &self.seats {
            let mut seat = seat.lock();
            let is_stopped = seat.actor.as_ref().is_some_and(|actor| actor.is_stopped(0));
            seat.stopped = if is_stopped { seat.stopped + 1 } else { 0 };
            let dying = beliefs.is_dying(seat.vm);
            if dying || seat.stopped > PATIENCE || beliefs.is_full_of_poison(&seat) {
                self.end_guest(&mut seat, &mut beliefs);
                if let Err(error) = self.make_guest(&mut seat, &mut beliefs) {
                    self.torture.tell(format_args!("no new guest to fight with: {error}"));
                }
            }
        }
    }

    /// Reads every page that is fought over, to tell states apart.
    fn look(&self, beliefs: &mut Beliefs) {
        for page in stage::contested_pages(self.torture.cpus.len()) {
            let address = PhysAddr::new((self.torture.places.pool.raw() + u64::from(page)) << PAGE_SHIFT);
            let request = Request::Access { access: Access::Read, address };
            let outcome = stage::perform(&self.torture.places, &request, None);
            beliefs.learn(self.torture, &request, &outcome);
        }
    }

    /// Ends the VM of a seat.
    fn end_guest(&self, seat: &mut Seat, beliefs: &mut Beliefs) {
        if !beliefs.is_dying(seat.vm) {
            self.make(seat, beliefs, stage::teardown(seat.vm));
        }
        while let Some(action) = beliefs.models.first().and_then(|model| undo(model, &beliefs.names, seat.vm)) {
            if !self.make(seat, beliefs, Some(action)) {
                break;
            }
        }
    }

    /// Does something while no other CPU fights. False where that was refused.
    fn make(&self, seat: &mut Seat, beliefs: &mut Beliefs, action: Option<Action>) -> bool {
        let Some((action, request)) = action.and_then(|action| {
            let request = beliefs.names.resolve(&self.torture.places, &action).ok()?;
            Some((action, request))
        }) else {
            return false;
        };
        let outcome = stage::perform(&self.torture.places, &request, seat.actor.as_mut());
        self.torture.journals[0].lock().note(&action, &outcome);
        beliefs.learn(self.torture, &request, &outcome);
        let done = outcome.status == Status::Ok;
        let finalises = matches!(request, Request::Call { function, .. } if function == HostCall::VmFinalise as u64);
        if done
            && finalises
            && let Some(actor) = seat.actor.take()
        {
            beliefs.names.remove(actor.handle());
            // SAFETY: the VM was just finalised.
            let returned = unsafe { actor.into_vm().finalised() };
            self.torture.dirty.fetch_add(returned.dirty, Ordering::Relaxed);
        }
        done
    }

    /// Takes everything back.
    pub fn end(self) {
        let mut beliefs = self.beliefs.lock();
        for seat in &self.seats {
            self.end_guest(&mut seat.lock(), &mut beliefs);
        }
        let shared = beliefs.models.first().map(stage::shared_with_hyp).unwrap_or_default();
        for (seat, number) in
            self.seats.first().into_iter().flat_map(|seat| shared.iter().map(move |page| (seat, page)))
        {
            self.make(&mut seat.lock(), &mut beliefs, stage::unshare(*number));
        }
        let kept = beliefs.models.first().and_then(stage::kept_from_host);
        report::check("contested-all-back-by-specification", kept.is_none(), format_args!("{kept:?}"));
    }
}

impl Beliefs {
    fn is_dying(&self, vm: VmNumber) -> bool {
        let handle = self.names.handle(vm);
        handle.is_some_and(|handle| self.models.first().is_some_and(|model| model.is_dying(handle)))
    }

    /// True where nothing can come at most of the guest's frames any more.
    fn is_full_of_poison(&self, seat: &Seat) -> bool {
        let slot = self.names.handle(seat.vm).zip(self.models.first()).and_then(|(handle, model)| {
            let guest = model.specification().guest(model.slot(handle)?).ok()?;
            Some(guest.poisoned.len() as u64 * 2 > u64::from(seat.territory.frames))
        });
        slot.unwrap_or(false)
    }

    /// Keeps the states in which what was seen can be, and goes on from there.
    fn learn(&mut self, torture: &Torture<'_>, request: &Request, outcome: &Outcome) {
        let mut wrong = None;
        let mut next: Vec<Model> = Vec::new();
        for model in &self.models {
            match model.judge(&self.names, request, outcome, Company::Alone) {
                Ok(after) => {
                    let after = after.unwrap_or_else(|| model.clone());
                    if !next.contains(&after) {
                        next.push(after);
                    }
                }
                Err(reason) => wrong = Some(reason),
            }
        }
        match wrong {
            Some(wrong) if next.is_empty() => torture.tell(format_args!("among what all fight over: {wrong}")),
            _ => self.models = next,
        }
    }
}
