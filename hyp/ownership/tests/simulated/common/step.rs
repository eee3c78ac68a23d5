//! The steps that tests are made of: calls, faults, and what the machine does meanwhile.

use super::World;
use abi::{Error, Ipa, Pfn};
use ownership::{Access, HostFault};
use ownership_spec::{self as spec, Call, Output, Owner};

/// One step.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    Call(Call),
    /// Donates pages for a guest's tables.
    TopUp {
        vm: spec::Vm,
        first: u64,
        count: u64,
    },
    HostFault {
        page: u64,
        access: Access,
    },
    /// Lets so many more frames be allocated; `None` for any number.
    AllowAllocations(Option<usize>),
}

impl From<Call> for Step {
    fn from(call: Call) -> Self {
        Step::Call(call)
    }
}

/// Rights as the implementation has them.
pub fn real_rights(rights: spec::Rights) -> ownership::Rights {
    assert!(rights.read);
    ownership::Rights { write: rights.write, execute: rights.execute }
}

/// A fault of the host's.
pub const fn host_fault(page: u64, access: Access) -> Step {
    Step::HostFault { page, access }
}

impl World {
    /// Takes a step that must be done.
    #[track_caller]
    pub fn done(&mut self, step: impl Into<Step>) {
        let step = step.into();
        assert_eq!(self.apply(step.clone()), Ok(()), "{step:?}");
    }

    /// Takes a step that must be refused so.
    #[track_caller]
    pub fn refused(&mut self, step: impl Into<Step>, error: Error) {
        let step = step.into();
        assert_eq!(self.apply(step.clone()), Err(error), "{step:?}");
    }

    /// Takes a step with implementation and specification, and compares results and states.
    #[track_caller]
    pub fn apply(&mut self, step: impl Into<Step>) -> Result<(), Error> {
        let step = step.into();
        let call = match step {
            Step::Call(ref call) => call.clone(),
            Step::TopUp { first, count, .. } => super::host_donate_hyp(first, count),
            Step::HostFault { page, access } => return self.fault(page, access),
            Step::AllowAllocations(count) => {
                self.cpu.set_starved(count.is_some());
                match count {
                    Some(count) => self.machine.fail_allocations_after(count),
                    None => self.machine.allow_allocations(),
                }
                return Ok(());
            }
        };
        let expected = self.specification.apply(&call);
        let may_lack_tables = self.cpu.is_starved() || self.is_hungry();
        let seen = match step {
            Step::TopUp { vm, first, count } => {
                let memory = &self.guests.iter().find(|guest| guest.vm == vm).unwrap().memory;
                self.ownership.top_up(&mut self.cpu, memory, Pfn::new(first), count).map(|()| Output::None)
            }
            _ => self.make(&call),
        };
        let result = seen.map(drop);
        match (seen, expected) {
            (Ok(output), Ok((next, expected))) => {
                assert_eq!(output, expected, "{call}");
                self.specification = next;
                if let Step::TopUp { first, count, .. } = step {
                    self.in_use.extend(first..first + count);
                }
            }
            (Err(Error::OutOfMemory), Ok(_)) => assert!(may_lack_tables, "{call} ran out of memory"),
            (Err(error), Err(expected)) => assert_eq!(error, expected, "{call}"),
            (Ok(_), Err(expected)) => panic!("{call} was done and should be refused: {expected}"),
            (Err(error), Ok(_)) => panic!("{call} was refused and should be done: {error}"),
        }
        self.compare(&format!("after {call} with {result:?}"));
        result
    }

    /// Makes a call of the implementation alone.
    pub fn make(&mut self, call: &Call) -> Result<Output, Error> {
        let Self { ownership: real, cpu, guests, specification, .. } = self;
        let memory = |vm: spec::Vm| &guests.iter().find(|guest| guest.vm == vm).expect("a guest of the world's").memory;
        let here = |vm, gfn| match specification.frame(vm, gfn) {
            spec::Frame::Memory(page) => Some(page),
            _ => None,
        };
        let done = match *call {
            Call::Create { .. } | Call::Finalise { .. } => unreachable!("a world makes and ends its guests itself"),
            Call::StartTeardown { vm } => {
                memory(vm).lock().start_teardown();
                Ok(())
            }
            Call::HostShareHyp { first, count, restricted } => real.host_share_hyp(cpu, first, count, restricted),
            Call::HostUnshareHyp { first, count } => real.host_unshare_hyp(cpu, first, count),
            Call::HostDonateHyp { first, count } => real.host_donate_hyp(cpu, first, count),
            Call::HypDonateHost { first, count } => real.hyp_donate_host(cpu, first, count),
            Call::HypPin { page } => real.hyp_pin(cpu, page),
            Call::HypUnpin { page } => real.hyp_unpin(cpu, page),
            Call::HostDonateGuest { vm, first, gfn, count } => {
                real.host_donate_guest(cpu, memory(vm), first, gfn, count)
            }
            Call::HostLendGuest { vm, first, gfn, count } => real.host_lend_guest(cpu, memory(vm), first, gfn, count),
            Call::HostShareGuest { vm, first, gfn, count, rights, restricted } => {
                real.host_share_guest(cpu, memory(vm), first, gfn, count, real_rights(rights), restricted)
            }
            Call::HostUnshareGuest { vm, gfn, count } => real.host_unshare_guest(cpu, memory(vm), gfn, count),
            Call::HostReturnGuest { vm, first, count } => real.host_return_guest(cpu, memory(vm), first, count),
            Call::GuestShareHost { vm, gfn } => real.guest_share_host(cpu, memory(vm), gfn),
            Call::GuestUnshareHost { vm, gfn } => real.guest_unshare_host(cpu, memory(vm), gfn),
            Call::GuestLendHost { vm, gfn } => real.guest_lend_host(cpu, memory(vm), gfn),
            Call::GuestReturn { vm, gfn } => real.guest_return(cpu, memory(vm), gfn).map(|page| {
                assert_eq!(Some(page), here(vm, gfn), "the page that {call} says it returned");
            }),
            Call::GuestRelinquish { vm, gfn } => real.guest_relinquish(cpu, memory(vm), gfn).map(|page| {
                assert_eq!(Some(page), here(vm, gfn), "the page that {call} says it gave back");
            }),
            Call::GuestOffer { vm, gfn, receiver, rights } => {
                return real.guest_offer(cpu, memory(vm), gfn, receiver, real_rights(rights)).map(Output::Offer);
            }
            Call::GuestAccept { vm, owner, number, gfn, rights } => {
                real.guest_accept(cpu, memory(vm), memory(owner), number, gfn, real_rights(rights))
            }
            Call::GuestWithdraw { vm, number } => {
                let slot = real.acceptor(memory(vm), number);
                let borrower = slot.map(|slot| memory(spec::Vm(slot.number() as u8)));
                real.guest_withdraw(cpu, memory(vm), borrower, number)
            }
            Call::GuestDrop { vm, owner, number } => real.guest_drop(cpu, memory(vm), memory(owner), number),
            Call::HostEndShare { owner, borrower, number } => {
                real.host_end_share(cpu, memory(owner), memory(borrower), number)
            }
            Call::Reclaim { vm, first, count } => real.reclaim(cpu, memory(vm), first, count),
            Call::ForceReclaim { vm, first, count } => real.force_reclaim(cpu, memory(vm), first, count),
            Call::HostGrantDevice { vm, first, gfn, count } => {
                real.host_grant_device(cpu, memory(vm), first, gfn, count)
            }
            Call::ReclaimDevice { vm, first, count } => real.reclaim_device(cpu, memory(vm), first, count),
            Call::HostDonateDeviceHyp { first, count } => real.host_donate_device_hyp(cpu, first, count),
            Call::HypDonateDeviceHost { first, count } => real.hyp_donate_device_host(cpu, first, count),
        };
        done.map(|()| Output::None)
    }

    /// The host touches an address: it succeeds exactly where the specification lets it.
    #[track_caller]
    fn fault(&mut self, page: u64, access: Access) -> Result<(), Error> {
        let outcome = self.ownership.resolve_host_fault(&mut self.cpu, Ipa::new(page.wrapping_mul(0x1000)), access);
        let may = |granted: spec::Rights| match access {
            Access::Read => granted.read,
            Access::Write => granted.write,
            Access::Execute => granted.execute,
        };
        let rights = self.specification.access(Owner::Host, Pfn::new(page));
        let allowed = rights.into_iter().any(|(_, granted)| may(granted));
        let expected = if allowed { HostFault::Resume } else { HostFault::Inject };
        if !(self.cpu.is_starved() && outcome == HostFault::Inject) {
            assert_eq!(outcome, expected, "{access:?} at page {page:#x}");
        }
        self.compare(&format!("after {access:?} at page {page:#x} with {outcome:?}"));
        match outcome {
            HostFault::Resume => Ok(()),
            HostFault::Inject => Err(Error::NotYours),
        }
    }
}
