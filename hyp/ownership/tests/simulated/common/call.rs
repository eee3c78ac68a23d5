//! Calls as data: what the random tests are made of, and how a failing one prints.

use super::World;
use abi::{Error, Gfn, Ipa, Pfn};
use ownership::specification::{self, Next};
use ownership::{Component, HostFault, Rights};

/// One call, or one fault.
#[derive(Clone, Debug)]
pub enum Call {
    HostShareHyp { first: u64, count: u64 },
    HostUnshareHyp { first: u64, count: u64 },
    HostDonateHyp { first: u64, count: u64 },
    HypDonateHost { first: u64, count: u64 },
    Pin { page: u64 },
    Unpin { page: u64 },
    TopUp { guest: usize, first: u64, count: u64 },
    HostDonateGuest { guest: usize, first: u64, gfn: u64, count: u64 },
    HostShareGuest { guest: usize, first: u64, gfn: u64, count: u64, rights: Rights },
    HostUnshareGuest { guest: usize, gfn: u64, count: u64 },
    GuestShareHost { guest: usize, gfn: u64 },
    GuestUnshareHost { guest: usize, gfn: u64 },
    GuestRelinquish { guest: usize, gfn: u64 },
    StartTeardown { guest: usize },
    Reclaim { guest: usize, first: u64, count: u64 },
    HostFault { page: u64, access: ownership::Access },
    AllowAllocations { count: Option<usize> },
}

impl World {
    /// Makes a call of implementation and specification, and compares results and states.
    #[track_caller]
    pub fn apply(&mut self, call: &Call) -> Result<(), Error> {
        if let Call::HostFault { page, access } = *call {
            return self.fault(page, access);
        }
        if let Call::AllowAllocations { count } = *call {
            self.starved = count.is_some();
            match count {
                Some(count) => self.machine.fail_allocations_after(count),
                None => self.machine.allow_allocations(),
            }
            return Ok(());
        }
        let expected = self.specified(call);
        let hungry = self.guests.iter().any(|guest| guest.memory.lock().cached_pages() < 8);
        let seen = self.implemented(call);
        match (seen, expected) {
            (Ok(()), Ok(next)) => {
                self.specification = next;
                if let Call::TopUp { first, count, .. } = *call {
                    self.in_use.extend(first..first + count);
                }
            }
            (Err(Error::OutOfMemory), _) => {
                assert!(self.starved || hungry, "{call:?} ran out of memory");
            }
            (Err(error), Err(expected)) => assert_eq!(error, expected, "{call:?}"),
            (Ok(()), Err(expected)) => panic!("{call:?} was done and should be refused: {expected}"),
            (Err(error), Ok(_)) => panic!("{call:?} was refused and should be done: {error}"),
        }
        self.compare(&format!("after {call:?} with {seen:?}"));
        seen
    }

    fn specified(&self, call: &Call) -> Next {
        let model = &self.specification;
        let slot = |guest: usize| self.guests[guest].slot;
        match *call {
            Call::HostShareHyp { first, count } => model.host_share_hyp(Pfn::new(first), count),
            Call::HostUnshareHyp { first, count } => model.host_unshare_hyp(Pfn::new(first), count),
            Call::HostDonateHyp { first, count } | Call::TopUp { first, count, .. } => {
                model.host_donate_hyp(Pfn::new(first), count)
            }
            Call::HypDonateHost { first, count } => model.hyp_donate_host(Pfn::new(first), count),
            Call::Pin { page } => model.hyp_pin(Pfn::new(page)),
            Call::Unpin { page } => model.hyp_unpin(Pfn::new(page)),
            Call::HostDonateGuest { guest, first, gfn, count } => {
                model.host_donate_guest(slot(guest), Pfn::new(first), Gfn::new(gfn), count)
            }
            Call::HostShareGuest { guest, first, gfn, count, rights } => {
                let access = specification::Access { read: true, write: rights.write, execute: rights.execute };
                model.host_share_guest(slot(guest), Pfn::new(first), Gfn::new(gfn), count, access)
            }
            Call::HostUnshareGuest { guest, gfn, count } => model.host_unshare_guest(slot(guest), Gfn::new(gfn), count),
            Call::GuestShareHost { guest, gfn } => model.guest_share_host(slot(guest), Gfn::new(gfn)),
            Call::GuestUnshareHost { guest, gfn } => model.guest_unshare_host(slot(guest), Gfn::new(gfn)),
            Call::GuestRelinquish { guest, gfn } => model.guest_relinquish(slot(guest), Gfn::new(gfn)),
            Call::StartTeardown { guest } => model.start_teardown(slot(guest)),
            Call::Reclaim { guest, first, count } => model.reclaim(slot(guest), Pfn::new(first), count),
            Call::HostFault { .. } | Call::AllowAllocations { .. } => unreachable!("no transition"),
        }
    }

    fn implemented(&mut self, call: &Call) -> Result<(), Error> {
        let real = &self.ownership;
        let cpu = &mut self.cpu;
        let memory = |guest: usize| &self.guests[guest].memory;
        match *call {
            Call::HostShareHyp { first, count } => real.host_share_hyp(cpu, Pfn::new(first), count),
            Call::HostUnshareHyp { first, count } => real.host_unshare_hyp(cpu, Pfn::new(first), count),
            Call::HostDonateHyp { first, count } => real.host_donate_hyp(cpu, Pfn::new(first), count),
            Call::HypDonateHost { first, count } => real.hyp_donate_host(cpu, Pfn::new(first), count),
            Call::Pin { page } => real.hyp_pin(Pfn::new(page)),
            Call::Unpin { page } => real.hyp_unpin(Pfn::new(page)),
            Call::TopUp { guest, first, count } => real.top_up(cpu, memory(guest), Pfn::new(first), count),
            Call::HostDonateGuest { guest, first, gfn, count } => {
                real.host_donate_guest(cpu, memory(guest), Pfn::new(first), Gfn::new(gfn), count)
            }
            Call::HostShareGuest { guest, first, gfn, count, rights } => {
                real.host_share_guest(cpu, memory(guest), Pfn::new(first), Gfn::new(gfn), count, rights)
            }
            Call::HostUnshareGuest { guest, gfn, count } => {
                real.host_unshare_guest(cpu, memory(guest), Gfn::new(gfn), count)
            }
            Call::GuestShareHost { guest, gfn } => real.guest_share_host(cpu, memory(guest), Gfn::new(gfn)),
            Call::GuestUnshareHost { guest, gfn } => real.guest_unshare_host(cpu, memory(guest), Gfn::new(gfn)),
            Call::GuestRelinquish { guest, gfn } => {
                real.guest_relinquish(cpu, memory(guest), Gfn::new(gfn)).map(|page| {
                    let here = self.specification.at(self.guests[guest].slot, Gfn::new(gfn));
                    assert_eq!(Some(page), here, "the page that {call:?} says it gave back");
                })
            }
            Call::StartTeardown { guest } => {
                memory(guest).lock().start_teardown();
                Ok(())
            }
            Call::Reclaim { guest, first, count } => real.reclaim(cpu, memory(guest), Pfn::new(first), count),
            Call::HostFault { .. } | Call::AllowAllocations { .. } => unreachable!("no transition"),
        }
    }

    /// The host touches an address: it succeeds exactly where the specification, or a device, lets it.
    #[track_caller]
    fn fault(&mut self, page: u64, access: ownership::Access) -> Result<(), Error> {
        let pfn = Pfn::new(page);
        let outcome = self.ownership.resolve_host_fault(&mut self.cpu, Ipa::new(page.wrapping_mul(0x1000)), access);
        let may = |granted: specification::Access| match access {
            ownership::Access::Read => granted.read,
            ownership::Access::Write => granted.write,
            ownership::Access::Execute => granted.execute,
        };
        let allowed = if self.specification.pages.contains_key(&pfn) {
            self.specification.access(Component::Host, pfn).iter().any(|(_, granted)| may(*granted))
        } else {
            page < super::PFN_LIMIT && access != ownership::Access::Execute
        };
        let expected = if allowed { HostFault::Resume } else { HostFault::Inject };
        if !(self.starved && outcome == HostFault::Inject) {
            assert_eq!(outcome, expected, "{access:?} at page {page:#x}");
        }
        self.compare(&format!("after {access:?} at page {page:#x} with {outcome:?}"));
        match outcome {
            HostFault::Resume => Ok(()),
            HostFault::Inject => Err(Error::NotYours),
        }
    }
}
