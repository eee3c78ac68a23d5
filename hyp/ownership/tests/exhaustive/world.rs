//! A small simulated machine with the real [`Ownership`], and the specification beside it.

use crate::cpu::TestCpu;
use crate::domain::{ALL_RIGHTS, Domain, NEXT, SLOTS, STRANGERS, name};
use abi::host::VmHandle;
use abi::{Error, Gfn, Ipa, Pfn, PhysAddr, PhysRange};
use memsim::Machine;
use ownership::{Access, GuestLock, GuestMemory, HostFault, Ownership, VmSlot, Wipe};
use ownership_spec::{self as spec, Call, Output, Owner, Rights, Specification, Substitute, Vm};
use pgtable::{El2Config, El2Stage1, Maintenance, Stage2, Stage2Config};

/// The first page of RAM. The page before it is a device's.
const RAM: u64 = 0x4_0100;
/// Pages that the boot gave to hyp, behind those that are searched.
const CARVE_OUT_PAGES: u64 = 32;
/// Pages for a guest's tables, its root first.
const GUEST_PAGES: u64 = 8;
const PA_BITS: u32 = 36;
/// Such that a guest's table has one root.
const IPA_BITS: u32 = 35;
/// What is in the host's pages.
const DIRT: u8 = 0xa5;
/// What the first VM is called. Each that follows is called one more.
const FIRST_NAME: VmHandle = VmHandle(0x200);
/// A name that no VM ever has, however many come: it is below all that are given out.
const NO_NAME: VmHandle = VmHandle(FIRST_NAME.0 - 1);

/// Some pages, by the number of the first.
pub fn range_of(first: u64, count: u64) -> PhysRange {
    PhysRange::from_size(PhysAddr::new(first << 12), count << 12).unwrap()
}

/// The bounds of a search of this machine: so many pages and frames of each VM, and as many kinds of rights. `more`: VMs
/// that are not there are offered something, and the device changes hands.
pub fn domain(protected: [bool; 2], pages: usize, frames: usize, rights: usize, more: bool) -> Domain {
    let range = |first, end| Pfn::new(first)..Pfn::new(end);
    let carve_out = RAM + pages as u64;
    let end = carve_out + CARVE_OUT_PAGES + SLOTS.len() as u64 * GUEST_PAGES;
    let placed = range(carve_out, carve_out + CARVE_OUT_PAGES);
    Domain {
        machine: spec::Machine::new(&[range(RAM, end)], &[placed], 1 << (PA_BITS - 12)),
        first_page: Pfn::new(RAM),
        pages,
        device: Pfn::new(RAM - 1),
        grants: more,
        frames,
        gfn_limit: 1 << (IPA_BITS - 12),
        protected,
        rights: &ALL_RIGHTS[..rights],
        strangers: if more { STRANGERS } else { &[] },
        pins: 2,
        life: true,
    }
}

/// The machine, what hyp knows of its memory, and what it should know.
pub struct World<'d> {
    domain: &'d Domain,
    machine: Machine,
    cpu: TestCpu,
    ownership: Ownership,
    guests: [Option<GuestLock>; 2],
    /// The state as it should be.
    pub specification: Specification,
    /// What the next VM is called.
    pub next_name: VmHandle,
}

/// A call's operands as they are called in the world, in the place of those of [`Code::state`](crate::code::Code::state).
struct Names<'w> {
    specification: &'w Specification,
    next: VmHandle,
    /// Whose offer the number is of.
    owner: Option<Vm>,
    /// What a VM is called that is not there.
    nobody: VmHandle,
}

impl Substitute for Names<'_> {
    fn number(&self, number: u64) -> u64 {
        let Some(guest) = self.owner.and_then(|owner| self.specification.guest(owner).ok()) else { return number };
        let mut offers: Vec<_> = guest.offers.iter().map(|(number, offer)| (offer.gfn, *number)).collect();
        offers.sort_unstable();
        let index = usize::try_from(number).unwrap().checked_sub(1);
        let ended = || (1..=guest.last_number).rev().find(|number| !guest.offers.contains_key(number));
        match index {
            None => 0,
            Some(index) if index < offers.len() => offers[index].1,
            Some(_) => ended().unwrap_or(guest.last_number + 1),
        }
    }

    fn name(&self, class: VmHandle) -> VmHandle {
        let slot = SLOTS.into_iter().find(|vm| name(*vm) == class);
        match slot.and_then(|vm| self.specification.guest(vm).ok()) {
            Some(guest) => guest.name,
            None if class == NEXT => self.next,
            None => self.nobody,
        }
    }
}

fn real_rights(rights: Rights) -> ownership::Rights {
    ownership::Rights { write: rights.write, execute: rights.execute }
}

/// The pages that a guest's tables are made of.
fn guest_pages(domain: &Domain, vm: Vm) -> u64 {
    RAM + domain.pages as u64 + CARVE_OUT_PAGES + u64::from(vm.0) * GUEST_PAGES
}

impl<'d> World<'d> {
    /// The machine of `domain`, just taken over, without VMs.
    pub fn new(domain: &'d Domain) -> Self {
        let carve_out = range_of(RAM + domain.pages as u64, CARVE_OUT_PAGES);
        let machine = Machine::new(1, carve_out);
        let mut cpu = TestCpu::new(machine.cpu(0));
        let host_config = Stage2Config::new(PA_BITS, PA_BITS);
        let host = Stage2::new(machine.take_root(host_config.root_pages().unwrap()), host_config, 0).unwrap();
        machine.track_stage2(&host);
        machine.guard_caches(host.root());
        cpu.load_vttbr(host.vttbr_el2());
        cpu.isb();
        let hyp =
            El2Config { va_bits: PA_BITS, pa_bits: PA_BITS, hardware_access_flag: false, tlbi: Default::default() };
        let hyp = El2Stage1::new(machine.take_root(1), hyp).unwrap();
        machine.track_el2(&hyp);
        let pages = domain.pages as u64 + CARVE_OUT_PAGES + SLOTS.len() as u64 * GUEST_PAGES;
        let storage = Vec::leak(vec![0; pages as usize]);
        let ownership = Ownership::new(&mut cpu, &[range_of(RAM, pages)], storage, carve_out, host, hyp).unwrap();
        let specification = Specification::new(domain.machine.clone());
        let guests = [None, None];
        let world = Self { domain, machine, cpu, ownership, guests, specification, next_name: FIRST_NAME };
        (0..domain.pages).for_each(|number| world.dirty(domain.page(number)));
        world.compare("at the start");
        world
    }

    /// A call of the domain's, as it is made here now.
    pub fn real(&self, call: &Call) -> Call {
        let owner = match *call {
            Call::GuestWithdraw { vm, .. } => Some(vm),
            Call::GuestAccept { owner, .. } | Call::GuestDrop { owner, .. } | Call::HostEndShare { owner, .. } => {
                Some(owner)
            }
            _ => None,
        };
        let next = self.next_name;
        // No name is given out twice.
        let nobody = if matches!(call, Call::Create { .. }) { next } else { NO_NAME };
        call.substitute(&Names { specification: &self.specification, next, owner, nobody })
    }

    /// Makes a call that the specification refuses with `error`. False where there is nothing to make it of: ownership
    /// itself knows of no VMs but those that it is given, whose life is the monitor's business.
    pub fn is_refused(&mut self, call: &Call, error: Error) -> bool {
        let expected = match *call {
            Call::Create { .. } | Call::StartTeardown { .. } => return false,
            // Ownership only says that it cannot give everything back.
            Call::Finalise { .. } => Error::Busy,
            _ => error,
        };
        let Some(seen) = self.make(call) else { return false };
        assert_eq!(seen, Err(expected), "{call}");
        true
    }

    /// Makes a call that the specification says is done.
    pub fn is_done(&mut self, call: &Call) {
        let (mut next, expected) = self.specification.apply(call).unwrap();
        let output = match *call {
            Call::Create { vm, name, protected, .. } => {
                next = self.create(vm, name, protected, next);
                Output::None
            }
            Call::StartTeardown { vm } => {
                self.guests[usize::from(vm.0)].as_ref().unwrap().lock().start_teardown();
                Output::None
            }
            _ => self.make(call).expect("VMs that are there").unwrap_or_else(|error| panic!("{call}: {error}")),
        };
        assert_eq!(output, expected, "{call}");
        if let Call::Finalise { vm } = *call {
            next = self.give_back_root(vm, next);
        }
        self.specification = next;
        self.check_wiped(call);
    }

    /// The host touches each page, in each way.
    pub fn fault_on_all(&mut self) {
        let pages = (0..=self.domain.pages).map(|number| self.domain.page(number));
        let others = [self.domain.device, Pfn::new(self.domain.machine.pfn_limit)];
        for page in pages.chain(others) {
            for access in [Access::Read, Access::Write, Access::Execute] {
                let may = |rights: Rights| match access {
                    Access::Read => rights.read,
                    Access::Write => rights.write,
                    Access::Execute => rights.execute,
                };
                let granted = self.specification.access(Owner::Host, page);
                let allowed = granted.into_iter().any(|(_, rights)| may(rights));
                let expected = if allowed { HostFault::Resume } else { HostFault::Inject };
                let ipa = Ipa::new(page.raw() << 12);
                let seen = self.ownership.resolve_host_fault(&mut self.cpu, ipa, access);
                assert_eq!(seen, expected, "{access:?} at page {page}");
            }
        }
    }

    /// Compares all of the implementation with the specification, and asks the machine whether all was done by the book.
    pub fn compare(&self, when: &str) {
        let guests = self.guests.iter().flatten();
        let seen = ownership_ghost::abstraction(&self.machine.freeze(), &self.ownership, guests);
        let seen = seen.unwrap_or_else(|disagreement| panic!("{when}: {disagreement}"));
        if let Some(difference) = seen.difference(&self.specification) {
            panic!("{when}: {difference}");
        }
        self.machine.assert_clean();
    }

    /// How often the ghost has compared a call under its locks.
    pub fn compared(&self) -> u64 {
        self.cpu.compared()
    }

    /// Frames that tables use.
    pub fn allocated_frames(&self) -> usize {
        self.machine.allocated_frames()
    }

    /// Makes a call of the implementation; `None` where a VM that it names is not there.
    fn make(&mut self, call: &Call) -> Option<Result<Output, Error>> {
        let Self { ownership: real, cpu, guests, .. } = self;
        let memory = |vm: Vm| guests.get(usize::from(vm.0)).and_then(Option::as_ref);
        let done = match *call {
            Call::Create { .. } | Call::StartTeardown { .. } => return None,
            Call::Finalise { vm } => real.drain(cpu, memory(vm)?).map(drop),
            Call::HostShareHyp { first, count, restricted } => real.host_share_hyp(cpu, first, count, restricted),
            Call::HostUnshareHyp { first, count } => real.host_unshare_hyp(cpu, first, count),
            Call::HostDonateHyp { first, count } => real.host_donate_hyp(cpu, first, count),
            Call::HypDonateHost { first, count } => real.hyp_donate_host(cpu, first, count),
            Call::HypPin { page } => real.hyp_pin(cpu, page),
            Call::HypUnpin { page } => real.hyp_unpin(cpu, page),
            Call::HostDonateGuest { vm, first, gfn, count } => {
                real.host_donate_guest(cpu, memory(vm)?, first, gfn, count)
            }
            Call::HostLendGuest { vm, first, gfn, count } => real.host_lend_guest(cpu, memory(vm)?, first, gfn, count),
            // What is no right at all is refused by the decoder.
            Call::HostShareGuest { rights: Rights::NONE, .. } => return None,
            Call::HostShareGuest { vm, first, gfn, count, rights, restricted } => {
                real.host_share_guest(cpu, memory(vm)?, first, gfn, count, real_rights(rights), restricted)
            }
            Call::HostUnshareGuest { vm, gfn, count } => real.host_unshare_guest(cpu, memory(vm)?, gfn, count),
            Call::HostReturnGuest { vm, first, count } => real.host_return_guest(cpu, memory(vm)?, first, count),
            Call::GuestShareHost { vm, gfn } => real.guest_share_host(cpu, memory(vm)?, gfn),
            Call::GuestUnshareHost { vm, gfn } => real.guest_unshare_host(cpu, memory(vm)?, gfn),
            Call::GuestLendHost { vm, gfn } => real.guest_lend_host(cpu, memory(vm)?, gfn),
            Call::GuestReturn { vm, gfn } => {
                real.guest_return(cpu, memory(vm)?, gfn).map(|page| is_at(&self.specification, vm, gfn, page))
            }
            Call::GuestRelinquish { vm, gfn } => {
                real.guest_relinquish(cpu, memory(vm)?, gfn).map(|page| is_at(&self.specification, vm, gfn, page))
            }
            Call::GuestOffer { rights: Rights::NONE, .. } | Call::GuestAccept { rights: Rights::NONE, .. } => {
                return None;
            }
            Call::GuestOffer { vm, gfn, receiver, rights } => {
                let offer = real.guest_offer(cpu, memory(vm)?, gfn, receiver, real_rights(rights));
                return Some(offer.map(Output::Offer));
            }
            Call::GuestAccept { vm, owner, number, gfn, rights } => {
                real.guest_accept(cpu, memory(vm)?, memory(owner)?, number, gfn, real_rights(rights))
            }
            Call::GuestWithdraw { vm, number } => {
                let slot = real.acceptor(memory(vm)?, number);
                let borrower = slot.map(|slot| memory(Vm(slot.number() as u8)).expect("a borrower lives"));
                real.guest_withdraw(cpu, memory(vm)?, borrower, number)
            }
            Call::GuestDrop { vm, owner, number } => real.guest_drop(cpu, memory(vm)?, memory(owner)?, number),
            Call::HostEndShare { owner, borrower, number } => {
                real.host_end_share(cpu, memory(owner)?, memory(borrower)?, number)
            }
            Call::Reclaim { vm, first, count } => real.reclaim(cpu, memory(vm)?, first, count),
            Call::ForceReclaim { vm, first, count } => real.force_reclaim(cpu, memory(vm)?, first, count),
            Call::HostGrantDevice { vm, first, gfn, count } => {
                real.host_grant_device(cpu, memory(vm)?, first, gfn, count)
            }
            Call::ReclaimDevice { vm, first, count } => real.reclaim_device(cpu, memory(vm)?, first, count),
            Call::HostDonateDeviceHyp { first, count } => real.host_donate_device_hyp(cpu, first, count),
            Call::HypDonateDeviceHost { first, count } => real.hyp_donate_device_host(cpu, first, count),
        };
        Some(done.map(|()| Output::None))
    }

    /// A new VM, with pages for its tables. Returns the state that there should be then.
    fn create(&mut self, vm: Vm, name: VmHandle, protected: bool, next: Specification) -> Specification {
        let first = guest_pages(self.domain, vm);
        self.ownership.host_donate_hyp(&mut self.cpu, Pfn::new(first), 1).unwrap();
        let root = Pfn::new(first);
        self.cpu.wipe(root);
        let config = Stage2Config::new(IPA_BITS, PA_BITS);
        let stage2 = Stage2::new(root.checked_address().unwrap(), config, u16::from(vm.0) + 1).unwrap();
        self.machine.track_stage2(&stage2);
        self.machine.guard_caches(stage2.root());
        let slot = VmSlot::new(usize::from(vm.0)).unwrap();
        let memory = self.guests[usize::from(vm.0)].insert(GuestMemory::locked(stage2, slot, name, protected));
        self.ownership.top_up(&mut self.cpu, &*memory, Pfn::new(first + 1), GUEST_PAGES - 1).unwrap();
        if name == self.next_name {
            self.next_name = VmHandle(name.0 + 1);
        }
        let donation = Call::HostDonateHyp { first: root, count: GUEST_PAGES };
        next.apply(&donation).unwrap().0
    }

    /// The root of a VM that is gone goes back to the host as the rest of its tables has. Returns the state that there
    /// should be then.
    fn give_back_root(&mut self, vm: Vm, next: Specification) -> Specification {
        let root = Pfn::new(guest_pages(self.domain, vm));
        assert_eq!(self.guests[usize::from(vm.0)].take().unwrap().into_inner().cached_pages(), 0);
        self.machine.forget(root.checked_address().unwrap());
        self.ownership.hyp_donate_host(&mut self.cpu, root, 1).unwrap();
        next.apply(&Call::HypDonateHost { first: root, count: GUEST_PAGES }).unwrap().0
    }

    /// What has just come back to the host holds nothing; from here on it does again.
    fn check_wiped(&mut self, call: &Call) {
        let wiped = self.specification.changed_pages().filter(|(_, page)| page.wiped && !page.is_lent());
        let wiped: Vec<_> = wiped.map(|(pfn, _)| pfn).collect();
        self.specification.forget_wipes();
        for pfn in wiped {
            assert!(self.machine.read_page(pfn).iter().all(|byte| *byte == 0), "{call}: {pfn} is not wiped");
            self.dirty(pfn);
        }
    }

    /// Writes to a page as the host may, and leaves its caches in order, so that only what hyp neglects is seen.
    fn dirty(&self, pfn: Pfn) {
        self.machine.fill_page(0, pfn, DIRT);
        let page = range_of(pfn.raw(), 1);
        self.cpu.clean_invalidate_to_poc(page);
        self.cpu.invalidate_instruction_cache(page);
    }
}

/// The page that a guest is said to have given back was at that frame.
fn is_at(specification: &Specification, vm: Vm, gfn: Gfn, page: Pfn) {
    assert_eq!(specification.frame(vm, gfn), spec::Frame::Memory(page), "guest {vm}, frame {gfn}");
}
