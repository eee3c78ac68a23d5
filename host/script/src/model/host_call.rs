//! What host calls come to.

use super::guard::Guard;
use super::guest::DEVICE_LIMIT;
use super::life::{Initialised, Life, gfn_limit};
use super::{Company, Judged, Model, refused};
use crate::expectation::{Outcome, Status};
use abi::guest::GuestCall;
use abi::host::{
    HostCall, MAX_PAGES_PER_CALL, MAX_VCPUS, MAX_VMS, RECLAIM_MOST, REVISION_MAJOR, REVISION_MINOR, RIGHT_EXECUTE,
    RIGHT_READ, RIGHT_RESTRICTED, RIGHT_WRITE, VM_PROTECTED, VmHandle,
};
use abi::register::Register;
use abi::{Error, Gfn, Pfn};
use alloc::format;
use alloc::vec::Vec;
use ownership_spec::{Next, Rights, Specification, Vm};

/// What a call that is not refused comes to.
struct Due {
    /// Its results; `None` where they are not known, and may be an error.
    results: Option<[u64; 3]>,
    /// The state that it leads to, where that is another.
    next: Option<Model>,
}

impl Due {
    /// Anything; the state stays.
    const UNKNOWN: Self = Self { results: None, next: None };

    /// These results, and a state.
    const fn done(results: [u64; 3], next: Option<Model>) -> Self {
        Self { results: Some(results), next }
    }
}

impl Model {
    pub(super) fn judge_call(
        &self,
        function: u64,
        arguments: &[u64; 7],
        outcome: &Outcome,
        company: Company,
    ) -> Judged {
        let Some(call) = u32::try_from(function).ok().and_then(HostCall::from_function) else {
            return self.judge_unknown(function, outcome);
        };
        if outcome.status == Status::Error(Error::Busy) && company == Company::Others && may_be_in_the_way(call) {
            return Ok(None);
        }
        let due = match self.due(call, arguments, outcome) {
            Ok(due) => due,
            Err(error) => return refused(error, outcome),
        };
        match (due.results, outcome.status) {
            (_, Status::Error(Error::NotSupported)) => Err(format!("there is this call; yet {outcome}")),
            (None, _) => Ok(due.next),
            (Some(results), Status::Ok) if outcome.results == results => Ok(due.next),
            // Frames for tables are not the model's subject.
            (_, Status::Error(Error::OutOfMemory)) if takes_tables(call) => Ok(None),
            (Some(results), _) => Err(format!("ok with {results:x?} is due, not {outcome}")),
        }
    }

    /// A call that is none of Freehold's. Those of other ranges are not the model's subject.
    fn judge_unknown(&self, function: u64, outcome: &Outcome) -> Judged {
        let own_range = 0xc600_0100..0xc600_0180;
        let guests = u32::try_from(function).is_ok_and(|function| GuestCall::from_function(function).is_some());
        if function > u32::MAX.into() || own_range.contains(&function) || guests {
            return refused(Error::NotSupported, outcome);
        }
        Ok(None)
    }

    /// What a call must come to. Where it makes a name, that is the one that it was seen to make.
    fn due(&self, call: HostCall, arguments: &[u64; 7], outcome: &Outcome) -> Result<Due, Error> {
        let [a1, a2, a3, a4, _, a6, _] = *arguments;
        let memory = &self.specification;
        match call {
            HostCall::Version => {
                let bitmap = HostCall::ALL.iter().fold(0, |bitmap, &call| bitmap | 1 << ((call as u32) & 0x3f));
                Ok(Due::done([REVISION_MAJOR << 16 | REVISION_MINOR, bitmap, 0], None))
            }
            HostCall::MemoryInfo | HostCall::InterruptInfo => Ok(Due::UNKNOWN),
            HostCall::HypShare => self.done(memory.host_share_hyp(Pfn::new(a1), page_count(a2)?, false)),
            HostCall::HypShareRestricted => self.done(memory.host_share_hyp(Pfn::new(a1), page_count(a2)?, true)),
            HostCall::HypUnshare => self.done(memory.host_unshare_hyp(Pfn::new(a1), page_count(a2)?)),
            HostCall::VmSizes => self.vm_sizes(a1, a2),
            HostCall::VmReserve => self.vm_reserve(outcome),
            HostCall::VmInit => self.vm_init(arguments, outcome),
            HostCall::VcpuInit => self.vcpu_init(arguments),
            HostCall::VcpuTopUp => {
                let vm = self.initialised(a1)?;
                vm.vcpu(a2)?;
                let (first, count) = (Pfn::new(a3), page_count(a4)?);
                let next = self.with(memory.host_donate_hyp(first, count)?);
                self.done_with(next, a1, |vm| vm.objects.push((first, count)))
            }
            HostCall::VmDonate => {
                self.to_guest(arguments, |vm, first, gfn, count| memory.host_donate_guest(vm, first, gfn, count))
            }
            HostCall::VmLend => {
                self.to_guest(arguments, |vm, first, gfn, count| memory.host_lend_guest(vm, first, gfn, count))
            }
            HostCall::VmGrantDevice => self.to_guest(arguments, |vm, first, gfn, count| {
                let limit = Gfn::containing(DEVICE_LIMIT);
                if memory.guest(vm)?.protected && gfn.checked_add(count).is_none_or(|end| end > limit) {
                    return Err(Error::BadRange);
                }
                memory.host_grant_device(vm, first, gfn, count)
            }),
            HostCall::VmShare => self.to_guest(arguments, |vm, first, gfn, count| {
                let rights = rights(a6 & !RIGHT_RESTRICTED)?;
                memory.host_share_guest(vm, first, gfn, count, rights, a6 & RIGHT_RESTRICTED != 0)
            }),
            HostCall::VmUnshare => {
                let vm = self.initialised(a1)?.vm;
                self.done(memory.host_unshare_guest(vm, Gfn::new(a2), page_count(a3)?))
            }
            HostCall::VcpuRun => {
                self.live(a1)?.vcpu(a2)?;
                Ok(Due { results: None, next: self.run_unheard(VmHandle(a1 as u32), a2) })
            }
            HostCall::VcpuGetRegister | HostCall::VcpuSetRegister => {
                let vm = self.live(a1)?;
                vm.vcpu(a2)?;
                if memory.guest(vm.vm)?.protected {
                    return Err(Error::NotYours);
                }
                Register::from_number(a3).map(|_| Due::UNKNOWN).ok_or(Error::InvalidParameter)
            }
            HostCall::VmTeardown => self.vm_teardown(a1),
            HostCall::VmReclaim => {
                let vm = self.dying(a1)?.vm;
                let count = page_count(a3)?.min(RECLAIM_MOST);
                let next = memory.reclaim(vm, Pfn::new(a2), count)?;
                Ok(Due::done([count, 0, 0], Some(self.with(next))))
            }
            HostCall::VmFinalise => self.vm_finalise(a1),
            HostCall::VmReturn => {
                let vm = self.live(a1)?.vm;
                self.done(memory.host_return_guest(vm, Pfn::new(a2), page_count(a3)?))
            }
            HostCall::VmForceReclaim => {
                let vm = self.live(a1)?.vm;
                self.done(memory.force_reclaim(vm, Pfn::new(a2), page_count(a3)?))
            }
            HostCall::VmEndShare => {
                let (owner, borrower) = (self.initialised(a1)?.vm, self.initialised(a2)?.vm);
                self.done(memory.host_end_share(owner, borrower, a3))
            }
            HostCall::VmReclaimDevice => {
                let vm = self.dying(a1)?.vm;
                self.done(memory.reclaim_device(vm, Pfn::new(a2), page_count(a3)?))
            }
        }
    }

    /// What a call that changes memory and nothing else comes to.
    fn done(&self, next: Next) -> Result<Due, Error> {
        next.map(|next| Due::done([0; 3], Some(self.with(next))))
    }

    /// What a call that changes memory and a VM comes to.
    fn done_with(&self, mut next: Model, handle: u64, change: impl FnOnce(&mut Initialised)) -> Result<Due, Error> {
        if let Some(Life::Initialised(vm)) = handle_of(handle).ok().and_then(|handle| next.vms.get_mut(&handle)) {
            change(vm);
        }
        Ok(Due::done([0; 3], Some(next)))
    }

    /// A call with a VM, a vCPU, pages and frames.
    fn to_guest(&self, arguments: &[u64; 7], transition: impl Fn(Vm, Pfn, Gfn, u64) -> Next) -> Result<Due, Error> {
        let [handle, vcpu, first, gfn, count, ..] = *arguments;
        let vm = self.live(handle)?;
        vm.vcpu(vcpu)?;
        self.done(transition(vm.vm, Pfn::new(first), Gfn::new(gfn), page_count(count)?))
    }

    fn vm_sizes(&self, ipa_bits: u64, vcpus: u64) -> Result<Due, Error> {
        if !(1..=MAX_VCPUS).contains(&vcpus) || ipa_bits > 64 {
            return Err(Error::InvalidParameter);
        }
        if ipa_bits != self.places.ipa_bits {
            return Ok(Due::UNKNOWN);
        }
        Ok(Due::done([self.places.vm_pages, self.places.vm_alignment, self.places.vcpu_pages], None))
    }

    fn vm_reserve(&self, outcome: &Outcome) -> Result<Due, Error> {
        // Others may have the rest.
        if outcome.status == Status::Error(Error::Limit) || self.vms.len() >= MAX_VMS {
            return Err(Error::Limit);
        }
        let [x1, ..] = outcome.results;
        let handle = handle_of(x1).ok().filter(|handle| handle.0 != 0 && !self.vms.contains_key(handle));
        let mut next = self.clone();
        // A name that some VM has, or none has, is not what is due.
        let name = handle.map_or(u64::MAX, |handle| handle.0.into());
        if let Some(handle) = handle {
            next.vms.insert(handle, Life::Reserved { dying: false });
        }
        Ok(Due::done([name, 0, 0], Some(next)))
    }

    fn vm_init(&self, arguments: &[u64; 7], outcome: &Outcome) -> Result<Due, Error> {
        let [a1, flags, shape, a4, count, entry, _] = *arguments;
        let (ipa_bits, vcpus) = (shape & 0xffff_ffff, shape >> 32);
        let known = ipa_bits == self.places.ipa_bits;
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(Error::InvalidParameter);
        }
        if !known && outcome.status != Status::Ok {
            return Ok(Due::UNKNOWN);
        }
        let handle = handle_of(a1)?;
        let beyond = ipa_bits < 64 && entry >> ipa_bits != 0;
        if flags & !VM_PROTECTED != 0 || !entry.is_multiple_of(4) || beyond {
            return Err(Error::InvalidParameter);
        }
        let first = Pfn::new(a4);
        if first.checked_address().is_none() {
            return Err(Error::BadRange);
        }
        if known && count != self.places.vm_pages {
            return Err(Error::InvalidParameter);
        }
        match self.vms.get(&handle) {
            None => return Err(Error::VmGone),
            Some(_) if self.is_dying(handle) => return Err(Error::VmGone),
            Some(Life::Initialised(_)) => return Err(Error::WrongState),
            Some(Life::Reserved { .. }) => {}
        }
        if known && !first.raw().is_multiple_of(self.places.vm_alignment) {
            return Err(Error::InvalidParameter);
        }
        let donated = self.specification.host_donate_hyp(first, page_count(count)?);
        // A root beyond what tables can name is refused for that first.
        if donated == Err(Error::BadRange) && outcome.status == Status::Error(Error::InvalidParameter) {
            return Err(Error::InvalidParameter);
        }
        let (donated, vm) = (donated?, self.free_slot().ok_or(Error::Limit)?);
        let ipa_bits = u32::try_from(ipa_bits).map_err(|_| Error::InvalidParameter)?;
        let created = donated.create(vm, handle, flags & VM_PROTECTED != 0, gfn_limit(ipa_bits))?;
        let mut next = self.with(created);
        let (objects, run_pages, opaque) = (Vec::from([(first, count)]), Vec::new(), Gfn::new(0)..Gfn::new(0));
        let life = Initialised {
            vm,
            ipa_bits,
            vcpu_limit: vcpus,
            vcpus: 0,
            opaque,
            guard: Guard::default(),
            objects,
            run_pages,
        };
        next.vms.insert(handle, Life::Initialised(life));
        Ok(Due::done([0; 3], Some(next)))
    }

    fn vcpu_init(&self, arguments: &[u64; 7]) -> Result<Due, Error> {
        let [handle, index, first, count, run_page, ..] = *arguments;
        handle_of(handle)?;
        if count != self.places.vcpu_pages {
            return Err(Error::InvalidParameter);
        }
        let vm = self.live(handle)?;
        if index >= vm.vcpu_limit {
            return Err(Error::Limit);
        }
        if index != vm.vcpus {
            return Err(Error::InvalidParameter);
        }
        let (first, run_page) = (Pfn::new(first), Pfn::new(run_page));
        let memory = self.specification.host_share_hyp(run_page, 1, false)?.hyp_pin(run_page)?;
        let next = self.with(memory.host_donate_hyp(first, count)?);
        self.done_with(next.with_word(run_page, None), handle, |vm| {
            vm.vcpus += 1;
            vm.objects.push((first, count));
            vm.run_pages.push(run_page);
        })
    }

    fn vm_teardown(&self, register: u64) -> Result<Due, Error> {
        let handle = handle_of(register)?;
        let mut next = self.clone();
        match next.vms.get_mut(&handle).ok_or(Error::VmGone)? {
            Life::Reserved { dying } if !*dying => *dying = true,
            Life::Initialised(vm) if !self.is_dying(handle) => {
                next.specification = self.specification.start_teardown(vm.vm)?;
            }
            _ => return Err(Error::WrongState),
        }
        Ok(Due::done([0; 3], Some(next)))
    }

    fn vm_finalise(&self, register: u64) -> Result<Due, Error> {
        let handle = handle_of(register)?;
        let life = self.vms.get(&handle).ok_or(Error::VmGone)?;
        if !self.is_dying(handle) {
            return Err(Error::WrongState);
        }
        let mut next = match life {
            Life::Reserved { .. } => self.clone(),
            Life::Initialised(vm) => self.with(self.without(vm)?),
        };
        next.vms.remove(&handle);
        next.stopped.retain(|(vm, _), _| *vm != handle);
        Ok(Due::done([0; 3], Some(next)))
    }

    /// The state of memory without a VM: what the host gave to hyp for it goes back.
    fn without(&self, vm: &Initialised) -> Next {
        let mut memory = self.specification.finalise(vm.vm)?;
        for (first, count) in &vm.objects {
            memory = memory.hyp_donate_host(*first, *count)?;
        }
        let release = |memory: Specification, page: Pfn| memory.hyp_unpin(page)?.host_unshare_hyp(page, 1);
        vm.run_pages.iter().try_fold(memory, |memory, page| release(memory, *page))
    }
}

/// A VM's handle. A number that does not fit names no VM.
fn handle_of(register: u64) -> Result<VmHandle, Error> {
    u32::try_from(register).map(VmHandle).map_err(|_| Error::VmGone)
}

/// A number of pages that a call may name.
fn page_count(count: u64) -> Result<u64, Error> {
    if (1..=MAX_PAGES_PER_CALL).contains(&count) { Ok(count) } else { Err(Error::BadRange) }
}

/// The rights that a register names.
pub(super) fn rights(bits: u64) -> Result<Rights, Error> {
    let has = |bit: u64| bits & bit != 0;
    if !has(RIGHT_READ) || has(!(RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE)) {
        return Err(Error::InvalidParameter);
    }
    Ok(Rights { read: true, write: has(RIGHT_WRITE), execute: has(RIGHT_EXECUTE) })
}

/// True where a call is refused while another CPU is in the midst of one with the same VM.
const fn may_be_in_the_way(call: HostCall) -> bool {
    matches!(call, HostCall::VmTeardown | HostCall::VmFinalise)
}

/// True where a call may need frames for tables.
const fn takes_tables(call: HostCall) -> bool {
    !matches!(
        call,
        HostCall::Version
            | HostCall::MemoryInfo
            | HostCall::InterruptInfo
            | HostCall::VmSizes
            | HostCall::VmReserve
            | HostCall::VmTeardown
            | HostCall::VcpuGetRegister
            | HostCall::VcpuSetRegister
    )
}
