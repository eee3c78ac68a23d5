//! What guests' actions come to.

use super::access::{aborted, allows};
use super::host_call::rights;
use super::life::{Initialised, Life};
use super::{Company, Judged, Model};
use crate::executor::{Access, GuestRequest};
use crate::expectation::{Notice, Outcome, Status};
use crate::guest_step::GuestFunction;
use abi::guest::{FEATURES_BITMAP, GuestCall};
use abi::host::VmHandle;
use abi::run::ExitReason;
use abi::{Error, Gfn, Ipa, PAGE_SIZE};
use alloc::format;
use core::ops::Range;
use ownership_spec::{Frame, Owner, Specification};

/// Guest addresses below are devices.
pub(super) const DEVICE_LIMIT: Ipa = Ipa::new(1 << 30);
/// The bitmap that FEATURES returns to a guest that is not protected.
const FEATURES_PLAIN: u32 = 1;

/// The function identifiers of Freehold's own calls, host's and guests'.
const OWN_RANGE: Range<u64> = 0xc600_0100..0xc600_0200;

/// What a call that is done comes to.
struct Done {
    memory: Specification,
    result: u64,
    notice: Notice,
}

impl Model {
    pub(super) fn judge_guest(
        &self,
        handle: VmHandle,
        vcpu: u64,
        request: &GuestRequest,
        outcome: &Outcome,
        company: Company,
    ) -> Judged {
        let vm = match self.live(handle.0.into()).and_then(|vm| vm.vcpu(vcpu).map(|()| vm)) {
            Ok(vm) => vm,
            Err(error) if outcome.status == Status::NotRun(error) && outcome.notice.is_none() => return Ok(None),
            // What it did before another CPU tore it down is for an earlier place in the order.
            Err(error) => return Err(format!("VCPU_RUN is to be refused with {error:?}; not {outcome}")),
        };
        let request = match request {
            GuestRequest::Resume => match self.stopped.get(&(handle, vcpu)) {
                Some(stopped) => *stopped,
                None => return Err(format!("there is nothing to resume; yet {outcome}")),
            },
            request => *request,
        };
        if let Status::NotRun(error) = outcome.status
            && outcome.notice.is_none()
        {
            // Torn down before it could do anything.
            let torn_down = company == Company::Others && error == Error::VmGone;
            let off = error == Error::WrongState && self.may_be_off(handle);
            return if torn_down || off { Ok(None) } else { Err(format!("the vCPU is to run, not {outcome}")) };
        }
        let judged = match request {
            GuestRequest::Call { function, arguments } => {
                self.judge_guest_call(handle, vm, function, &arguments, outcome, company)
            }
            GuestRequest::Access { access, ipa } => self.judge_guest_access(vm, access, ipa, outcome),
            GuestRequest::Resume => Ok(None),
        }?;
        Ok(self.note_stopped(judged, (handle, vcpu), request, outcome))
    }

    /// True where a vCPU of the VM's has made a call of which the model knows nothing, and did not come past it: PSCI turns
    /// vCPUs off, and VMs.
    fn may_be_off(&self, handle: VmHandle) -> bool {
        let is_unknown = |request: &GuestRequest| matches!(request, GuestRequest::Call { function, .. } if GuestFunction::from_register(*function).is_none());
        self.stopped.iter().any(|((vm, _), request)| *vm == handle && is_unknown(request))
    }

    /// Takes note of whether the vCPU came past its action.
    fn note_stopped(
        &self,
        next: Option<Model>,
        vcpu: (VmHandle, u64),
        request: GuestRequest,
        outcome: &Outcome,
    ) -> Option<Model> {
        let stopped = (outcome.status == Status::Stopped).then_some(request);
        if self.stopped.get(&vcpu) == stopped.as_ref() {
            return next;
        }
        let mut next = next.unwrap_or_else(|| self.clone());
        match stopped {
            Some(request) => next.stopped.insert(vcpu, request),
            None => next.stopped.remove(&vcpu),
        };
        Some(next)
    }

    fn judge_guest_call(
        &self,
        handle: VmHandle,
        vm: &Initialised,
        function: u64,
        arguments: &[u64; 7],
        outcome: &Outcome,
        company: Company,
    ) -> Judged {
        let Some(function) = GuestFunction::from_register(function) else {
            // Other ranges are not the model's subject.
            let unknown = function > u32::MAX.into() || OWN_RANGE.contains(&function);
            return if unknown { super::refused(Error::NotSupported, outcome) } else { Ok(None) };
        };
        let place = place(function, arguments);
        if place.is_some_and(|ipa| vm.opaque.contains(&Gfn::containing(ipa))) {
            return Ok(None);
        }
        let protected = self.specification.guest(vm.vm).is_ok_and(|guest| guest.protected);
        let due = match function {
            GuestFunction::Features => {
                let bitmap = if protected { FEATURES_BITMAP } else { FEATURES_PLAIN };
                return answered(Status::Value(bitmap.into()), [0; 3], outcome);
            }
            GuestFunction::HypMeminfo | GuestFunction::GuardInfo if protected && arguments[..3] == [0; 3] => {
                return answered(Status::Value(PAGE_SIZE), [0; 3], outcome);
            }
            GuestFunction::Own(GuestCall::VmName) => {
                let name = self.specification.guest(vm.vm).map_or(0, |guest| guest.name.0);
                return answered(Status::Ok, [name.into(), own_calls(protected), 0], outcome);
            }
            _ if !protected => Err(Error::NotSupported),
            GuestFunction::HypMeminfo | GuestFunction::GuardInfo => Err(Error::InvalidParameter),
            GuestFunction::GuardEnroll | GuestFunction::GuardMap | GuestFunction::GuardUnmap => {
                return self.judge_guard_call(handle, vm, function, arguments, outcome);
            }
            GuestFunction::MemShare | GuestFunction::MemUnshare | GuestFunction::MemRelinquish => {
                self.kvm_call(vm, function, arguments)
            }
            GuestFunction::Own(call) => self.own_call(vm, call, arguments),
        };
        match due {
            // Whoever accepts or drops meanwhile is in the way of who withdraws.
            _ if function == GuestFunction::Own(GuestCall::MemWithdraw)
                && company == Company::Others
                && outcome.status == Status::Error(Error::Busy) =>
            {
                Ok(None)
            }
            Ok(done) => self.judge_done(done, outcome),
            Err(Error::NotMemory) if place.is_some_and(|ipa| ipa >= DEVICE_LIMIT) => {
                stopped(ExitReason::MemoryFault, place.unwrap_or_default(), outcome)
            }
            Err(error) => {
                let kvm = !matches!(function, GuestFunction::Own(_)) && error != Error::NotSupported;
                let error = if kvm { Error::InvalidParameter } else { error };
                super::refused(error, outcome)
            }
        }
    }

    /// What must be seen of a call that is done: the exit that tells the host, and what the guest got.
    fn judge_done(&self, done: Done, outcome: &Outcome) -> Judged {
        let Done { memory, result, notice } = done;
        let told = outcome.notice == Some(notice);
        let right = match outcome.status {
            // Pages for tables are not the model's subject.
            Status::Stopped => {
                let top_up = outcome.notice.is_some_and(|seen| seen.reason == ExitReason::TopUp);
                return if top_up { Ok(None) } else { Err(format!("ok is due, not {outcome}")) };
            }
            Status::Ok => told && outcome.results[0] == result,
            // The VM was torn down after the call.
            Status::NotRun(Error::VmGone) => told,
            _ => false,
        };
        if right {
            Ok(Some(self.with(memory)))
        } else {
            Err(format!("ok with x1 = {result:#x} and {notice:x?} is due, not {outcome} and {:x?}", outcome.notice))
        }
    }

    fn kvm_call(&self, vm: &Initialised, function: GuestFunction, arguments: &[u64; 7]) -> Result<Done, Error> {
        let [ipa, 0, 0, ..] = *arguments else { return Err(Error::InvalidParameter) };
        let gfn = frame_at(ipa)?;
        let memory = &self.specification;
        let (next, reason) = match function {
            GuestFunction::MemShare => (memory.guest_share_host(vm.vm, gfn), ExitReason::Shared),
            GuestFunction::MemUnshare => (memory.guest_unshare_host(vm.vm, gfn), ExitReason::Unshared),
            _ => (memory.guest_relinquish(vm.vm, gfn), ExitReason::Relinquished),
        };
        Ok(Done { memory: next?, result: 0, notice: Notice { reason, ipa, data: 0, peer: 0 } })
    }

    fn own_call(&self, vm: &Initialised, call: GuestCall, arguments: &[u64; 7]) -> Result<Done, Error> {
        let [x1, x2, x3, x4, ..] = *arguments;
        let memory = &self.specification;
        let done = |memory: Specification, reason, ipa, data, peer: u64| {
            Ok(Done { memory, result: 0, notice: Notice { reason, ipa, data, peer } })
        };
        match call {
            GuestCall::VmName => Err(Error::NotSupported),
            GuestCall::MemLend => done(memory.guest_lend_host(vm.vm, frame_at(x1)?)?, ExitReason::Lent, x1, 0, 0),
            GuestCall::MemReturn => done(memory.guest_return(vm.vm, frame_at(x1)?)?, ExitReason::Returned, x1, 0, 0),
            GuestCall::MemOffer => {
                let gfn = frame_at(x1)?;
                let receiver = u32::try_from(x2).map(VmHandle).map_err(|_| Error::VmGone)?;
                let (memory, number) = memory.guest_offer(vm.vm, gfn, receiver, rights(x3)?)?;
                let notice = Notice { reason: ExitReason::Offered, ipa: x1, data: number, peer: x2 };
                Ok(Done { memory, result: number, notice })
            }
            GuestCall::MemAccept => {
                let (gfn, rights) = (frame_at(x3)?, rights(x4)?);
                let owner = self.initialised(x1)?.vm;
                done(memory.guest_accept(vm.vm, owner, x2, gfn, rights)?, ExitReason::Accepted, x3, x2, x1)
            }
            GuestCall::MemWithdraw => done(memory.guest_withdraw(vm.vm, x1)?, ExitReason::Ended, 0, x1, 0),
            GuestCall::MemDrop => {
                let owner = self.initialised(x1)?.vm;
                done(memory.guest_drop(vm.vm, owner, x2)?, ExitReason::Ended, 0, x2, x1)
            }
        }
    }

    fn judge_guest_access(&self, vm: &Initialised, access: Access, ipa: Ipa, outcome: &Outcome) -> Judged {
        let gfn = Gfn::containing(ipa);
        if vm.opaque.contains(&gfn) || ipa.page_offset() > PAGE_SIZE - 8 {
            return Ok(None);
        }
        let page_address = ipa.align_down(PAGE_SIZE);
        match self.specification.frame(vm.vm, gfn) {
            _ if ipa.raw() >> vm.ipa_bits != 0 => aborted(outcome),
            Frame::Poisoned => stopped(ExitReason::Poisoned, page_address, outcome),
            Frame::LentOut(_) => aborted(outcome),
            Frame::Vacant if ipa >= DEVICE_LIMIT => stopped(ExitReason::MemoryFault, page_address, outcome),
            Frame::Vacant if access == Access::Execute => aborted(outcome),
            Frame::Vacant if vm.guard.hides(gfn) => aborted(outcome),
            // The host answers.
            Frame::Vacant if outcome.status == Status::Abort => Err(format!("the host is to be asked, not {outcome}")),
            Frame::Vacant => Ok(None),
            Frame::Device(_) if access == Access::Execute => aborted(outcome),
            Frame::Device(_) => Ok(None),
            Frame::Memory(page) => {
                let may = self.guest_may(vm.vm, access, gfn);
                let is_protected = self.specification.guest(vm.vm).is_ok_and(|guest| guest.protected);
                match (may, access, ipa.page_offset()) {
                    (false, Access::Write(_), _) if !is_protected && ipa >= DEVICE_LIMIT => {
                        stopped(ExitReason::MemoryFault, page_address, outcome)
                    }
                    // The host answers.
                    (false, Access::Write(_), _) if !is_protected => Ok(None),
                    (false, ..) => aborted(outcome),
                    (true, _, 0) | (true, Access::Execute, _) => self.judge_word(page, access, outcome),
                    (true, Access::Write(_), 1..8) => Ok(Some(self.with_word(page, None))),
                    (true, ..) => Ok(None),
                }
            }
        }
    }

    /// True where a guest may make an access to the memory that it has at a frame.
    pub fn guest_may(&self, vm: ownership_spec::Vm, access: Access, gfn: Gfn) -> bool {
        let Frame::Memory(page) = self.specification.frame(vm, gfn) else { return false };
        let granted = self.specification.access(Owner::Guest(vm), page);
        granted.iter().any(|(at, rights)| *at == Some(gfn) && allows(*rights, access))
    }

    /// A vCPU that has not come past a store makes it when it is run by a plain VCPU_RUN, if it can and is not interrupted
    /// before; what it says of that may be lost. So what is in the page is not known from then on.
    pub(super) fn run_unheard(&self, handle: VmHandle, vcpu: u64) -> Option<Model> {
        let GuestRequest::Access { access: Access::Write(_), ipa } = *self.stopped.get(&(handle, vcpu))? else {
            return None;
        };
        match self.specification.frame(self.slot(handle)?, Gfn::containing(ipa)) {
            Frame::Memory(page) => Some(self.with_word(page, None)),
            _ => None,
        }
    }

    /// What a VM's guest takes for devices.
    pub fn guard(&self, handle: VmHandle) -> Option<&super::Guard> {
        match self.vms.get(&handle) {
            Some(Life::Initialised(vm)) => Some(&vm.guard),
            _ => None,
        }
    }

    /// The specification's name of a VM.
    pub fn slot(&self, handle: VmHandle) -> Option<ownership_spec::Vm> {
        match self.vms.get(&handle) {
            Some(Life::Initialised(vm)) => Some(vm.vm),
            _ => None,
        }
    }
}

/// The frame of a page's address.
fn frame_at(ipa: u64) -> Result<Gfn, Error> {
    let ipa = Ipa::new(ipa);
    if ipa.is_aligned(PAGE_SIZE) { Ok(Gfn::containing(ipa)) } else { Err(Error::InvalidParameter) }
}

/// The address that a call is about.
fn place(function: GuestFunction, arguments: &[u64; 7]) -> Option<Ipa> {
    let [x1, _, x3, ..] = *arguments;
    match function {
        GuestFunction::MemShare | GuestFunction::MemUnshare | GuestFunction::MemRelinquish => Some(Ipa::new(x1)),
        GuestFunction::Own(GuestCall::MemLend | GuestCall::MemReturn | GuestCall::MemOffer) => Some(Ipa::new(x1)),
        GuestFunction::Own(GuestCall::MemAccept) => Some(Ipa::new(x3)),
        _ => None,
    }
}

/// The bitmap that VM_NAME returns.
fn own_calls(protected: bool) -> u64 {
    let bit = |call: GuestCall| 1 << (call as u32 & 0x3f);
    if protected { GuestCall::ALL.iter().fold(0, |bitmap, call| bitmap | bit(*call)) } else { bit(GuestCall::VmName) }
}

/// An outcome without effect that must be this.
fn answered(status: Status, results: [u64; 3], outcome: &Outcome) -> Judged {
    if outcome.status == status && outcome.results == results && outcome.notice.is_none() {
        Ok(None)
    } else {
        Err(format!("{status} with {results:x?} is due, not {outcome}"))
    }
}

/// An outcome that must be an exit which repeats.
fn stopped(reason: ExitReason, ipa: Ipa, outcome: &Outcome) -> Judged {
    let seen = outcome.notice.is_some_and(|notice| notice.reason == reason && notice.ipa == ipa.raw());
    if outcome.status == Status::Stopped && seen {
        Ok(None)
    } else {
        Err(format!("a stop with {reason:?} at {ipa} is due, not {outcome}"))
    }
}
