//! Running a script.

use crate::executor::{Executor, GuestRequest, Request};
use crate::expectation::{Expectation, Outcome, Status};
use crate::model::{Company, Model, Observed, orders};
use crate::operand::VmNumber;
use crate::performed::{Done, Performed, Summary};
use crate::resolve::{Names, pages_of_call};
use crate::step::{Action, Script, Step, VmSetup};
use abi::guest::GuestCall;
use abi::host::{HostCall, VmHandle};
use abi::{PAGE_SHIFT, Pfn, PhysAddr};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Runs scripts on an executor.
pub struct Driver<'e, E: Executor> {
    executor: &'e mut E,
    names: Names,
    /// VMs of the setup that there are still.
    made: BTreeSet<VmNumber>,
    /// vCPUs that have not come past an action.
    stopped: BTreeSet<(VmNumber, u64)>,
    /// Frames that were shared, and offers that were made: what is to be ended.
    shared: BTreeSet<(VmHandle, u64, u64)>,
    offered: BTreeMap<VmHandle, BTreeSet<u64>>,
    /// What should be, until something was seen that cannot be.
    model: Option<Model>,
    wrong: Option<String>,
    /// Steps to come that were to meet, and follow each other here.
    apart: u8,
    /// What was said of a run that took another way is not expected any more.
    otherwise: bool,
}

impl<'e, E: Executor> Driver<'e, E> {
    /// A driver of `executor`, with the VMs of the script's setup.
    ///
    /// # Errors
    /// Why a VM cannot be made.
    pub fn new(executor: &'e mut E, script: &Script) -> Result<Self, String> {
        let model = executor.machine().map(|machine| Model::new(machine, executor.places()));
        let mut driver = Self {
            executor,
            names: Names::default(),
            made: BTreeSet::new(),
            stopped: BTreeSet::new(),
            shared: BTreeSet::new(),
            offered: BTreeMap::new(),
            model,
            wrong: None,
            apart: 0,
            otherwise: false,
        };
        for (number, setup) in &script.setup.vms {
            driver.create(*number, setup)?;
        }
        Ok(driver)
    }

    /// Makes a VM like those of a setup.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub fn create(&mut self, number: VmNumber, setup: &VmSetup) -> Result<(), String> {
        let made = self.executor.create(number, setup);
        let handle = made.map_err(|error| format!("vm{number} cannot be made: {error}"))?;
        if let Some(model) = &mut self.model {
            model.add_vm(handle, setup.protected, setup.vcpus)?;
        }
        self.names.insert(number, handle);
        self.made.insert(number);
        Ok(())
    }

    /// The VMs' names.
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// What should be; `None` where nothing is known, or something was seen that cannot be.
    pub const fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    /// What it runs on.
    pub const fn executor(&mut self) -> &mut E {
        self.executor
    }

    /// Does all steps; `listen` hears of each, in order.
    ///
    /// What comes of two steps that were to meet, and cannot here, is what the script says, or else the run takes
    /// another way from there on: then only the specification judges. So it is where a call that was done cannot be
    /// tried, and where hyp lacks frames and did not, or the other way round, unless the executor [counts
    /// them](Executor::counts_frames).
    pub fn run(&mut self, script: &Script, mut listen: impl FnMut(&Performed<'_>)) -> Summary {
        let mut summary = Summary::default();
        let mut tell = |index: usize, step: &Step, done: Done| {
            let performed = Performed { index, step, done };
            match &performed.done.outcome {
                Ok(Outcome { status: Status::Skipped(_), .. }) => summary.left_out += 1,
                Ok(_) => {
                    summary.done += 1;
                    summary.judged += usize::from(step.expected.is_some() && !performed.done.otherwise);
                }
                Err(_) => {}
            }
            summary.failed += usize::from(!performed.is_as_expected());
            listen(&performed);
        };
        let mut index = 0;
        while let Some(step) = script.steps.get(index) {
            if let Action::Interleave(boundary) = step.action {
                let pair = script.steps.get(index + 1).zip(script.steps.get(index + 2));
                if let Some(((outer, inner), outcomes)) =
                    pair.and_then(|pair| Some((pair, self.together(boundary, pair)?)))
                {
                    tell(index, step, Done::of(Outcome::of(Status::Ok)));
                    tell(index + 1, outer, Done::of(outcomes.0));
                    tell(index + 2, inner, Done { wrong: self.wrong.take(), ..Done::of(outcomes.1) });
                    index += 3;
                    continue;
                }
                self.apart = 2;
                tell(index, step, Done::of(Outcome::of(Status::Skipped("one step follows the other here"))));
            } else {
                let done = self.step(step);
                let otherwise = self.goes_otherwise(step, &done);
                tell(index, step, Done { otherwise, ..done });
            }
            index += 1;
        }
        summary
    }

    /// True where this step or one before came to something else than in the run of which the script tells, and may.
    fn goes_otherwise(&mut self, step: &Step, done: &Done) -> bool {
        let is_apart = self.apart != 0;
        self.apart = self.apart.saturating_sub(1);
        if done.is_skipped() {
            self.otherwise |= step.changes_something();
        } else if !step.says(done) {
            let lacks = done.outcome.as_ref().is_ok_and(Outcome::lacks_frames);
            let lacked = step.expected.as_ref().is_some_and(Expectation::lacks_frames);
            self.otherwise |= is_apart || (lacks || lacked) && !self.executor.counts_frames();
        }
        self.otherwise
    }

    /// Does one step.
    pub fn step(&mut self, step: &Step) -> Done {
        let request = match self.request(step) {
            Ok(request) => request,
            Err(reason) => return Done { resumed: None, outcome: Err(reason), wrong: None, otherwise: false },
        };
        if let Some(reason) = self.harm(&request) {
            return Done::of(Outcome::of(Status::Skipped(reason)));
        }
        let cpu = usize::from(step.cpu);
        let (resumed, outcome) = match request {
            Request::Guest { vm, vcpu, request } => self.guest(cpu, vm, vcpu, request),
            _ => (None, self.perform(cpu, &request)),
        };
        Done { resumed, outcome: Ok(outcome), wrong: self.wrong.take(), otherwise: false }
    }

    fn request(&self, step: &Step) -> Result<Request, String> {
        let places = self.executor.places();
        self.names.resolve(&places, &step.action).map_err(|error| error.to_string())
    }

    /// Two steps, the second in the midst of the first, where they are two CPUs' and the executor can arrange that.
    fn together(&mut self, boundary: u32, (outer, inner): (&Step, &Step)) -> Option<(Outcome, Outcome)> {
        let requests = (self.request(outer).ok()?, self.request(inner).ok()?);
        let harmless = self.harm(&requests.0).is_none() && self.harm(&requests.1).is_none();
        let free = |request: &Request| match request {
            Request::Guest { vm, vcpu, .. } => !self.stopped.contains(&(*vm, *vcpu)),
            Request::Frames(_) => false,
            Request::Call { .. } | Request::Access { .. } => true,
        };
        if outer.cpu == inner.cpu || !harmless || !free(&requests.0) || !free(&requests.1) {
            return None;
        }
        let (first, second) = (usize::from(outer.cpu), usize::from(inner.cpu));
        let outcomes = self.executor.interleave(boundary, (first, &requests.0), (second, &requests.1))?;
        let observed = |request, outcome| Vec::from([Observed { request, outcome }]);
        self.judge_together(&[observed(requests.0, outcomes.0), observed(requests.1, outcomes.1)]);
        self.note(&requests.0, &outcomes.0);
        self.note(&requests.1, &outcomes.1);
        Some(outcomes)
    }

    /// Why a request would harm whoever runs the script, if it would.
    fn harm(&self, request: &Request) -> Option<&'static str> {
        match request {
            Request::Call { function, arguments, .. } => {
                let mut pages = pages_of_call(*function, arguments);
                let taken = pages.any(|(first, count)| self.executor.is_in_use(first, count));
                taken.then_some("the host itself needs a page of these")
            }
            Request::Access { address, .. } => {
                let page = Pfn::containing(*address);
                self.executor.is_in_use(page, 1).then_some("the host itself needs the page")
            }
            Request::Guest { .. } | Request::Frames(_) => None,
        }
    }

    /// Has a request done, judges what came of it, and takes note of it.
    fn perform(&mut self, cpu: usize, request: &Request) -> Outcome {
        let outcome = match request {
            Request::Call { function, arguments, .. } => {
                let named = self.names.name_of(finalised_by(*function, arguments));
                if let Some(number) = named.filter(|number| self.made.contains(number)) {
                    self.executor.before_finalise(number);
                }
                Outcome::of_call(self.executor.host_call(cpu, *function, *arguments))
            }
            Request::Access { access, address } => self.executor.access(cpu, *access, *address),
            Request::Guest { vm, vcpu, request } => self.executor.guest(cpu, *vm, *vcpu, request),
            Request::Frames(count) => {
                let done = self.executor.limit_frames(*count);
                Outcome::of(if done { Status::Ok } else { Status::Skipped("frames are not counted here") })
            }
        };
        if let Some(model) = self.model.take() {
            match model.judge(&self.names, request, &outcome, Company::Alone) {
                Ok(next) => self.model = Some(next.unwrap_or(model)),
                Err(wrong) => self.wrong = Some(wrong),
            }
        }
        self.note(request, &outcome);
        outcome
    }

    /// Judges what came of requests that were done at the same time.
    fn judge_together(&mut self, seen: &[Vec<Observed>]) {
        if let Some(model) = self.model.take() {
            self.model = orders(&[model], &self.names, seen).into_iter().next();
            if self.model.is_none() {
                self.wrong = Some(String::from("no order of the two explains this"));
            }
        }
    }

    /// A vCPU that has not come past an action tries that again first, and does nothing else while it does not. What came of
    /// that, if there was one, and of the action.
    fn guest(&mut self, cpu: usize, vm: VmNumber, vcpu: u64, request: GuestRequest) -> (Option<Outcome>, Outcome) {
        let was_stopped = self.stopped.contains(&(vm, vcpu));
        let mut make = |request| self.perform(cpu, &Request::Guest { vm, vcpu, request });
        match (was_stopped, request) {
            (true, GuestRequest::Resume) => (None, make(GuestRequest::Resume)),
            (false, GuestRequest::Resume) => {
                (None, Outcome::of(Status::Skipped("the guest has nothing to go on with")))
            }
            (false, request) => (None, make(request)),
            (true, request) => {
                let resumed = make(GuestRequest::Resume);
                if resumed.status == Status::Stopped { (None, resumed) } else { (Some(resumed), make(request)) }
            }
        }
    }

    /// Takes note of what changed.
    fn note(&mut self, request: &Request, outcome: &Outcome) {
        if let Request::Guest { vm, vcpu, request } = request {
            if outcome.status == Status::Stopped {
                self.stopped.insert((*vm, *vcpu));
            } else {
                self.stopped.remove(&(*vm, *vcpu));
            }
            let offer = GuestCall::MemOffer as u64;
            if let (GuestRequest::Call { function, .. }, Status::Ok) = (request, outcome.status)
                && *function == offer
                && let Some(handle) = self.names.handle(*vm)
            {
                self.offered.entry(handle).or_default().insert(outcome.results[0]);
            }
        }
        let Request::Call { function, arguments, names } = request else { return };
        if outcome.status != Status::Ok {
            return;
        }
        let handle = handle_of(arguments[0]);
        match u32::try_from(*function).ok().and_then(HostCall::from_function) {
            Some(HostCall::VmReserve) => {
                if let Some(number) = names {
                    self.names.insert(*number, handle_of(outcome.results[0]));
                }
            }
            Some(HostCall::VmShare) => {
                self.shared.insert((handle, arguments[3], arguments[4]));
            }
            Some(HostCall::VmFinalise) => self.forget(handle),
            _ => {}
        }
    }

    fn forget(&mut self, handle: VmHandle) {
        if let Some(number) = self.names.remove(handle) {
            self.stopped.retain(|(vm, _)| *vm != number);
            if self.made.remove(&number) {
                self.executor.finalised(number);
            }
        }
        self.shared.retain(|(vm, ..)| *vm != handle);
        self.offered.remove(&handle);
    }

    /// Ends everything: every VM goes, and every page of the pool must come back to the host, which must be able to use it.
    /// What is wrong is returned, in words.
    pub fn finish(mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        self.executor.limit_frames(None);
        let vms: Vec<(VmNumber, VmHandle)> = self.names.iter().collect();
        for (_, handle) in &vms {
            self.call(HostCall::VmTeardown, &[handle.0.into()]);
        }
        let offers: Vec<(VmHandle, u64)> =
            self.offered.iter().flat_map(|(owner, numbers)| numbers.iter().map(|number| (*owner, *number))).collect();
        for (owner, number) in offers {
            for (_, borrower) in &vms {
                self.call(HostCall::VmEndShare, &[owner.0.into(), borrower.0.into(), number]);
            }
        }
        for (vm, first, count) in core::mem::take(&mut self.shared) {
            for frame in first..first.saturating_add(count) {
                self.call(HostCall::VmUnshare, &[vm.0.into(), frame, 1]);
            }
        }
        let places = self.executor.places();
        for (number, handle) in vms {
            for page in pages(places.pool, places.pool_pages) {
                self.call(HostCall::VmReclaim, &[handle.0.into(), page.raw(), 1]);
            }
            for page in pages(places.device, places.device_pages) {
                self.call(HostCall::VmReclaimDevice, &[handle.0.into(), page.raw(), 1]);
            }
            if self.made.contains(&number) {
                self.executor.before_finalise(number);
            }
            match self.call(HostCall::VmFinalise, &[handle.0.into()]) {
                Status::Ok => self.forget(handle),
                status => wrong.push(format!("vm{number} cannot be finalised: {status}")),
            }
        }
        for page in pages(places.pool, places.pool_pages) {
            self.check_back(page, page.raw() - places.pool.raw(), &mut wrong);
        }
        wrong
    }

    /// Checks that a page is the host's alone: it may share it, take it back, write and read it.
    fn check_back(&mut self, page: Pfn, number: u64, wrong: &mut Vec<String>) {
        // What the script left shared.
        self.call(HostCall::HypUnshare, &[page.raw(), 1]);
        let mut check = |what: &str, status| {
            if status != Status::Ok {
                wrong.push(format!("page {number} is not the host's alone: {what}: {status}"));
            }
        };
        check("hyp_share", self.call(HostCall::HypShare, &[page.raw(), 1]));
        check("hyp_unshare", self.call(HostCall::HypUnshare, &[page.raw(), 1]));
        let address = PhysAddr::new(page.raw() << PAGE_SHIFT);
        check("write", self.executor.access(0, crate::Access::Write(number), address).status);
        check("read", self.executor.access(0, crate::Access::Read, address).status);
    }

    fn call(&mut self, call: HostCall, operands: &[u64]) -> Status {
        let mut arguments = [0; 7];
        for (argument, operand) in arguments.iter_mut().zip(operands) {
            *argument = *operand;
        }
        Outcome::of_call(self.executor.host_call(0, call as u64, arguments)).status
    }
}

/// `count` pages from `first` on.
fn pages(first: Pfn, count: u64) -> impl Iterator<Item = Pfn> {
    (0..count).filter_map(move |index| first.checked_add(index))
}

/// A handle in a register. A number that is none names no VM: neither does 0.
fn handle_of(register: u64) -> VmHandle {
    VmHandle(u32::try_from(register).unwrap_or(0))
}

/// The VM that a call finalises, or the handle 0, which is no VM's.
fn finalised_by(function: u64, arguments: &[u64; 7]) -> VmHandle {
    if function == HostCall::VmFinalise as u64 { handle_of(arguments[0]) } else { VmHandle(0) }
}
