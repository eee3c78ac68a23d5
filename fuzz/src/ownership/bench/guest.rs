//! What guests do, and what is to be noted of it.

use abi::host::{HostCall, VmHandle};
use abi::run::ExitReason;
use abi::{Error, Gfn, Ipa, PAGE_SIZE, Pfn, PhysAddr};
use call_script::{GuestRequest, Notice, Outcome, Status};
use monitor::vcpu::VcpuState;
use monitor::vm::VmPower;
use ownership_spec::Frame;

use super::super::actor::{Touched, is_passed_over};
use super::super::guard::{is_guard_call, marked_frame};
use super::super::guest_calls::Expected;
use super::super::model::{Model, Stuck, VmModel};
use super::super::watch::is_short_for;
use super::{Bench, ENDLESS, SharedActor, lock};

impl Bench {
    /// What a vCPU does.
    pub(super) fn actor(&self, handle: VmHandle, vcpu: u64) -> SharedActor {
        lock(&self.shared.actors).entry((handle.0.into(), vcpu)).or_default().clone()
    }

    /// Lets a CPU's guest do what the vCPU's script says.
    pub(super) fn prepare_run(&self, index: usize, handle: VmHandle, vcpu: u64) {
        let Ok(vm) = self.shared.monitor.vms().live(handle) else { return };
        let vmid = vm.memory().lock().stage2().vmid();
        let actor = self.actor(handle, vcpu);
        let mut cpus = lock(&self.shared.cpus);
        if let Some(platform) = &mut cpus[index] {
            let (cpu, ram) = (platform.cpu.clone(), self.shared.layout.ram());
            platform.resident = Some(Box::new(move |context| lock(&actor).run(&cpu, &ram, vmid, context)));
        }
    }

    /// What is in a run page.
    pub(super) fn notice(&self, page: Pfn, reason: ExitReason) -> Notice {
        let word = |index: u64| self.shared.machine.read_word(PhysAddr::new(page.raw() * PAGE_SIZE + 8 * index));
        assert_eq!(word(0), reason as u64, "the run page and x1 say why the guest exits");
        Notice { reason, ipa: word(1), data: word(4), peer: word(5) }
    }

    /// What keeps a vCPU from running, if anything does.
    pub(super) fn obstacle(&self, handle: VmHandle, vcpu: u64) -> Option<Error> {
        if let Err(error) = self.model().with_vcpu(handle.0.into(), vcpu) {
            return Some(error);
        }
        let vm = self.shared.monitor.vms().live(handle).expect("the model says that it lives");
        let state = vm.vcpu(vcpu).expect("the model says that it is there").state();
        match state {
            _ if vm.power() != VmPower::On => Some(Error::WrongState),
            VcpuState::Off | VcpuState::Stopped => Some(Error::WrongState),
            VcpuState::Starting | VcpuState::Running(_) | VcpuState::Examined => Some(Error::Busy),
            VcpuState::OnPending | VcpuState::Ready => None,
        }
    }

    /// Has a vCPU do something, and compares what comes of it. `foreseen`: nothing else happens meanwhile.
    pub(super) fn act(
        &self,
        index: usize,
        handle: VmHandle,
        vcpu: u64,
        request: &GuestRequest,
        foreseen: bool,
    ) -> Outcome {
        let actor = self.actor(handle, vcpu);
        let pending = lock(&actor).pending();
        if *request == GuestRequest::Resume && pending.is_none() {
            return Outcome::of(Status::Skipped("the guest has nothing to go on with"));
        }
        if let Some(error) = self.obstacle(handle, vcpu) {
            if error != Error::Busy {
                lock(&actor).stop();
            }
            let run = HostCall::VcpuRun as u64;
            let [x0, ..] = self.call(index, run, &[handle.0.into(), vcpu, 0, 0, 0, 0, 0], foreseen);
            assert_eq!(x0, error.to_register(), "VCPU_RUN where there is {error:?}");
            return Outcome::of(Status::NotRun(error));
        }
        let request = pending.filter(|_| *request == GuestRequest::Resume).unwrap_or(*request);
        if pending != Some(request) {
            lock(&actor).start(request);
        }
        let foreseen = foreseen && !lock(&actor).is_unwatched();
        let expected = self.model().guest_action(handle, &request);
        let others = self.others(handle, &request);
        let lacks_tables = self.lacks_tables(handle, vcpu, &request);
        self.change_users(&others, 1);
        let (outcome, starved) = self.run(index, handle, vcpu, &actor);
        self.change_users(&others, -1);
        if let Some(expected) = expected.filter(|_| foreseen) {
            compare(&request, &outcome, &expected, starved || lacks_tables);
        }
        self.note_guard_call(handle, &request, &outcome, foreseen);
        self.note_stuck(handle, vcpu, &outcome);
        self.check_word(handle, vcpu);
        outcome
    }

    /// True where a guest's call that marks a frame lacks pages for tables.
    pub(super) fn lacks_tables(&self, handle: VmHandle, vcpu: u64, request: &GuestRequest) -> bool {
        let GuestRequest::Call { arguments, .. } = request else { return false };
        let (Ok(gfn), Ok(vm)) = (marked_frame(arguments), self.shared.monitor.vms().live(handle)) else { return false };
        let Ok(vcpu) = vm.vcpu(vcpu) else { return false };
        is_guard_call(request) && is_short_for(&self.shared.machine.freeze(), &vm.memory_of(vcpu).lock(), gfn)
    }

    /// Takes note of what a guest takes for devices, where this was one of the guard's calls.
    pub(super) fn note_guard_call(&self, handle: VmHandle, request: &GuestRequest, outcome: &Outcome, foreseen: bool) {
        let Ok(vm) = self.shared.monitor.vms().initialised(handle) else { return };
        if !is_guard_call(request) || !vm.memory().lock().is_protected() {
            return;
        }
        let mut model = self.model();
        let Model { spec, vms, .. } = &mut *model;
        if let Some(known) = vms.get_mut(&handle.0.into()) {
            let memory = vm.memory().lock();
            let seen = (&self.shared.machine.freeze(), &*memory);
            known.note_guard_call(spec, request, outcome.status, seen, foreseen);
        }
    }

    pub(super) fn note_stuck(&self, handle: VmHandle, vcpu: u64, outcome: &Outcome) {
        let stuck = match (outcome.status, outcome.notice) {
            (Status::Stopped, Some(Notice { reason: ExitReason::MemoryFault, ipa, .. })) => {
                Some(Stuck::Memory(Gfn::containing(Ipa::new(ipa))))
            }
            (Status::Stopped, Some(Notice { reason: ExitReason::TopUp, .. })) => Some(Stuck::Tables(vcpu)),
            (Status::Stopped | Status::NotRun(_), _) => Some(Stuck::ForGood),
            _ => None,
        };
        let mut model = self.model();
        match stuck {
            Some(stuck) => model.stuck.insert(handle.0.into(), stuck),
            None => model.stuck.remove(&handle.0.into()),
        };
    }

    /// The VMs that an action of a guest's uses beside its own.
    pub(super) fn others(&self, handle: VmHandle, request: &GuestRequest) -> Option<u64> {
        let model = self.model();
        model.vm(handle).and_then(|vm| model.others_used(vm, request))
    }

    pub(super) fn change_users(&self, handle: &Option<u64>, change: i32) {
        if let Some(vm) = handle.and_then(|handle| self.model().vms.get_mut(&handle).map(|vm| vm.users)) {
            let users = vm.saturating_add_signed(change);
            if let Some(handle) = handle {
                self.model().vms.entry(*handle).and_modify(|vm| vm.users = users);
            }
        }
    }

    /// Runs a vCPU that may run until it has done what it is to do, or cannot come past it; and says whether a lack of
    /// frames is a reason for that.
    pub(super) fn run(&self, index: usize, handle: VmHandle, vcpu: u64, actor: &SharedActor) -> (Outcome, bool) {
        let (mut notice, mut starved) = (None, false);
        for _ in 0..ENDLESS {
            self.prepare_run(index, handle, vcpu);
            let arguments = [handle.0.into(), vcpu, 0, 0, 0, 0, 0];
            let used = self.use_vms(HostCall::VcpuRun, &arguments);
            let run_page = self.model().vm(handle).and_then(|vm| vm.run_pages.get(vcpu as usize).copied());
            let run = HostCall::VcpuRun as u64;
            let ([x0, reason, ..], lacks_frames) = self.registers_of_call(index, run, &arguments);
            self.release_vms(used);
            starved |= lacks_frames;
            if let Some(error) = Error::from_register(x0) {
                return (Outcome::of(Status::NotRun(error)), starved);
            }
            let reason = ExitReason::from_register(reason).expect("a reason that there is");
            let told = self.notice(run_page.expect("a vCPU has a run page"), reason);
            if reason == ExitReason::Interrupt {
                let outcome = lock(actor).take_outcome().expect("a guest that has done what it was to do");
                return (Outcome { notice, ..outcome }, starved);
            }
            notice = Some(told);
            if !is_passed_over(reason) {
                return (Outcome { notice, ..Outcome::of(Status::Stopped) }, starved);
            }
        }
        panic!("the guest does not come to an end: {notice:x?}");
    }

    /// What a guest reads must be what was written last, and what it writes is.
    pub(super) fn check_word(&self, handle: VmHandle, vcpu: u64) {
        let mut model = self.model();
        if model.with_vcpu(handle.0.into(), vcpu).is_err() {
            return;
        }
        let touched = lock(&self.actor(handle, vcpu)).take_touched();
        let Some(Touched { access, ipa, value }) = touched.filter(|touched| touched.ipa.page_offset() < 8) else {
            return;
        };
        let Some(vm) = model.vm(handle).map(VmModel::vm) else { return };
        if let Frame::Memory(pfn) = model.spec.frame(vm, Gfn::containing(ipa)) {
            model.accessed(pfn, access, value);
        }
    }
}

/// What came of a guest's action must be what should have.
fn compare(request: &GuestRequest, outcome: &Outcome, expected: &Expected, starved: bool) {
    let lacks_tables = outcome.notice.is_some_and(|notice| notice.reason == ExitReason::TopUp);
    if lacks_tables && starved && expected.status == Status::Ok {
        return;
    }
    let exit = outcome.notice.map(|Notice { reason, ipa, data, peer }| (reason, ipa, data, peer));
    let first = expected.first.is_none_or(|first| first == outcome.results[0]);
    let as_expected = outcome.status == expected.status && exit == expected.exit && first;
    assert!(as_expected, "{request:x?}: {outcome:x?}, expected {expected:x?}");
}
