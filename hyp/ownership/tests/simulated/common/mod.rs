//! A small machine with its ownership and the specification beside it: every call goes to both, and both are compared.

pub mod calls;
pub mod cpu;
pub mod held;
pub mod interrupted;
pub mod step;

use abi::host::VmHandle;
use abi::{Gfn, Ipa, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use calls::*;
use cpu::TestCpu;
use memsim::Machine;
use ownership::{Access, GuestLock, GuestMemory, HostFault, Ownership, PageState, VmSlot, Wipe};
use ownership_spec::{Call, Owner, Page, Specification, Vm};
use pgtable::{El2Config, El2Stage1, Maintenance, Stage2, Stage2Config};
use std::collections::BTreeSet;
use std::ops::Range;
use step::Step;

/// First page of the first bank: 3 MiB and 64 KiB, which end in the carve-out.
pub const LOW: u64 = 0x4_0000;
pub const LOW_PAGES: u64 = 784;
/// First page of hyp's pages, up to the end of the bank.
pub const CARVE_OUT: u64 = LOW + 656;
pub const CARVE_OUT_PAGES: u64 = 128;
/// First page of the second bank, which lies across the edge of two blocks: half of it at the end of the one, half at the
/// beginning of the other.
pub const HIGH: u64 = 0x8_01fc;
pub const HIGH_PAGES: u64 = 8;
/// A page that is a device's. The next four follow each other without memory.
pub const DEVICE: u64 = 0x9000;
/// Bits of the host's addresses.
pub const PA_BITS: u32 = 40;
/// Frames below this one exist.
pub const PFN_LIMIT: u64 = 1 << (PA_BITS - 12);
/// Bits of guests' addresses.
pub const IPA_BITS: u32 = 36;
pub const GFN_LIMIT: u64 = 1 << (IPA_BITS - 12);
/// What is in the host's pages.
pub const DIRT: u8 = 0xa5;
/// Fewer pages than these in its cache, and a guest may lack tables.
const HUNGRY: u64 = 8;

/// The guests of a world, in the order in which they are added.
pub const FIRST: Vm = vm(0);
pub const SECOND: Vm = vm(1);
pub const THIRD: Vm = vm(2);
pub const FOURTH: Vm = vm(3);

/// The slot of a guest by its number in the world: slots are not numbers.
const fn vm(number: usize) -> Vm {
    Vm(number as u8 * 9 + 1)
}

/// A guest's handle.
pub const fn name(vm: Vm) -> VmHandle {
    VmHandle(0x100 + vm.0 as u32)
}

pub fn range_of(first: u64, count: u64) -> PhysRange {
    PhysRange::from_size(PhysAddr::new(first << 12), count << 12).unwrap()
}

pub struct TestGuest {
    pub vm: Vm,
    pub memory: GuestLock,
    pub root: Pfn,
}

pub struct World {
    pub machine: Machine,
    pub cpu: TestCpu,
    pub ownership: Ownership,
    pub guests: Vec<TestGuest>,
    pub specification: Specification,
    /// Pages of hyp's that it has put to use, and would not give away.
    pub in_use: BTreeSet<u64>,
}

impl World {
    /// A machine that has just been taken over, without guests. The host's pages hold [`DIRT`].
    pub fn new() -> Self {
        ownership::lock::install_order_check(held::held_ranks);
        let machine = Machine::new(2, range_of(CARVE_OUT, CARVE_OUT_PAGES));
        let mut cpu = TestCpu::new(machine.cpu(0));
        let host_config = Stage2Config::new(PA_BITS, PA_BITS);
        let host_root = machine.take_root(host_config.root_pages().unwrap());
        let host = Stage2::new(host_root, host_config, 0).unwrap();
        machine.track_stage2(&host);
        machine.guard_caches(host_root);
        for number in 0..2 {
            let cpu = machine.cpu(number);
            cpu.load_vttbr(host.vttbr_el2());
            cpu.isb();
        }
        let hyp_config =
            El2Config { va_bits: 40, pa_bits: PA_BITS, hardware_access_flag: false, tlbi: Default::default() };
        let hyp = El2Stage1::new(machine.take_root(1), hyp_config).unwrap();
        machine.track_el2(&hyp);
        let memory = [range_of(LOW, LOW_PAGES), range_of(HIGH, HIGH_PAGES)];
        let storage = Vec::leak(vec![0; (LOW_PAGES + HIGH_PAGES) as usize]);
        let carve_out = range_of(CARVE_OUT, CARVE_OUT_PAGES);
        let ownership =
            held::before_there_are_others(|| Ownership::new(&mut cpu, &memory, storage, carve_out, host, hyp).unwrap());
        let pages = |first, count| Pfn::new(first)..Pfn::new(first + count);
        let ram = [pages(LOW, LOW_PAGES), pages(HIGH, HIGH_PAGES)];
        let placed = [pages(CARVE_OUT, CARVE_OUT_PAGES)];
        let specification = Specification::new(ownership_spec::Machine::new(&ram, &placed, PFN_LIMIT));
        let world = Self { machine, cpu, ownership, guests: Vec::new(), specification, in_use: BTreeSet::new() };
        for page in (LOW..CARVE_OUT).chain(HIGH..HIGH + HIGH_PAGES) {
            world.dirty(Pfn::new(page));
        }
        world.compare("at the start");
        world
    }

    /// A machine with these guests, protected or not, each with `cached` pages for its tables.
    pub fn with_guests(protected: &[bool], cached: u64) -> Self {
        let mut world = Self::new();
        let mut page = LOW + 520;
        for kind in protected {
            world.add_guest(*kind, page, cached);
            page += 1 + cached;
        }
        world
    }

    /// One protected guest, [`FIRST`], and one that is not, [`SECOND`].
    pub fn with_two_guests() -> Self {
        Self::with_guests(&[true, false], 12)
    }

    /// A new guest whose root and `cached` pages come from `first` upwards.
    pub fn add_guest(&mut self, protected: bool, first: u64, cached: u64) -> Vm {
        let number = self.guests.len();
        let vm = vm(number);
        self.apply(host_donate_hyp(first, 1)).unwrap();
        let root = Pfn::new(first);
        self.cpu.wipe(root);
        self.in_use.insert(first);
        let config = Stage2Config::new(IPA_BITS, PA_BITS);
        let stage2 = Stage2::new(root.checked_address().unwrap(), config, number as u16 + 1).unwrap();
        self.machine.track_stage2(&stage2);
        self.machine.guard_caches(stage2.root());
        let slot = VmSlot::new(usize::from(vm.0)).unwrap();
        self.guests.push(TestGuest { vm, memory: GuestMemory::locked(stage2, slot, name(vm), protected), root });
        let create = Call::Create { vm, name: name(vm), protected, gfn_limit: GFN_LIMIT };
        self.specification = self.specification.apply(&create).unwrap().0;
        if cached != 0 {
            self.apply(Step::TopUp { vm, first: first + 1, count: cached }).unwrap();
        }
        self.compare("with a new guest");
        vm
    }

    /// A guest of the world's.
    pub fn guest(&self, vm: Vm) -> &TestGuest {
        self.guests.iter().find(|guest| guest.vm == vm).unwrap()
    }

    /// A guest's memory.
    pub fn memory(&self, vm: Vm) -> &GuestLock {
        &self.guest(vm).memory
    }

    /// True where a guest may lack pages for tables.
    pub fn is_hungry(&self) -> bool {
        self.guests.iter().any(|guest| guest.memory.lock().cached_pages() < HUNGRY)
    }

    /// Lets the host write to all that it got back.
    pub fn dirty_host_pages(&mut self) {
        let wiped = |page: &Page| page.owner == Owner::Host && page.wiped && !page.is_lent();
        let dirt: Vec<_> = self.pages(wiped).collect();
        self.specification.forget_wipes();
        for pfn in dirt {
            self.dirty(pfn);
        }
    }

    /// Writes to a page as the host may, that is, by whatever memory type. Its caches it leaves in order, so that only what
    /// hyp neglects is seen.
    fn dirty(&self, pfn: Pfn) {
        self.machine.fill_page(0, pfn, DIRT);
        let page = range_of(pfn.raw(), 1);
        self.cpu.clean_invalidate_to_poc(page);
        self.cpu.invalidate_instruction_cache(page);
    }

    /// The pages that are not as at the start and suit, by the specification.
    pub fn pages(&self, suits: impl Fn(&Page) -> bool) -> impl Iterator<Item = Pfn> {
        self.specification.changed_pages().filter(move |(_, page)| suits(page)).map(|(pfn, _)| pfn)
    }

    /// Compares all of the implementation with the specification, and asks the machine whether all was done by the book.
    #[track_caller]
    pub fn compare(&self, when: &str) {
        let guests = self.guests.iter().map(|guest| &guest.memory);
        match ownership_ghost::abstraction(&self.cpu, &self.ownership, guests) {
            Ok(seen) => {
                let difference = seen.difference(&self.specification);
                assert!(difference.is_none(), "{when}: {}", difference.unwrap());
            }
            Err(disagreement) => panic!("{when}: {disagreement}"),
        }
        self.machine.assert_clean();
        assert_eq!(self.specification.breach(), None, "{when}");
        for pfn in self.pages(|page| page.wiped) {
            assert!(self.machine.read_page(pfn).iter().all(|byte| *byte == 0), "{pfn} is not wiped {when}");
        }
    }

    /// The host accesses a page from one CPU, again and again while it is told to: how that ends. `Resume` is success.
    pub fn host_access(&self, cpu: &mut TestCpu, page: Pfn, access: Access) -> HostFault {
        let ipa = page.checked_address().map(|address| Ipa::new(address.raw())).unwrap();
        loop {
            let outcome = self.ownership.resolve_host_fault(cpu, ipa, access);
            if outcome == HostFault::Inject || !self.reached_by_host(page.raw()).is_empty() {
                return outcome;
            }
        }
    }

    /// The pages that one guest may reach at a frame, by the tables or by a stale translation.
    pub fn reached_by(&self, vm: Vm, gfn: u64) -> Vec<u64> {
        let vmid = self.guests.iter().position(|guest| guest.vm == vm).unwrap() as u16 + 1;
        pages_at(self.machine.reachable(vmid, Gfn::new(gfn).checked_address().unwrap()))
    }

    /// The pages that the host may reach at a page, by the table or by a stale translation.
    pub fn reached_by_host(&self, page: u64) -> Vec<u64> {
        pages_at(self.machine.reachable(0, Ipa::new(page << 12)))
    }

    /// The level of the leaf that decides for a guest's frame, and whether it maps something.
    pub fn guest_leaf(&self, vm: Vm, gfn: u64) -> (u8, bool) {
        let memory = self.memory(vm).lock();
        let leaf = memory.lookup(&self.cpu, Gfn::new(gfn).checked_address().unwrap()).unwrap();
        (leaf.level, leaf.is_valid())
    }

    /// The level of the leaf that decides for a page of the host's, and whether it maps something.
    pub fn host_leaf(&self, page: u64) -> (u8, bool) {
        let leaf = self.ownership.host_leaf(&self.cpu, Ipa::new(page << 12)).unwrap();
        (leaf.level, leaf.is_valid())
    }

    /// Ends every guest, gives everything back to the host, and checks that it has it all.
    #[track_caller]
    pub fn tear_down(mut self) {
        self.apply(Step::AllowAllocations(None)).unwrap();
        let guests: Vec<Vm> = self.guests.iter().map(|guest| guest.vm).collect();
        for vm in guests.iter().copied() {
            if !self.specification.guest(vm).unwrap().dying {
                self.apply(start_teardown(vm)).unwrap();
            }
        }
        guests.iter().for_each(|vm| self.end_shares(*vm));
        guests.iter().for_each(|vm| self.take_back(*vm));
        for guest in std::mem::take(&mut self.guests) {
            let memory = guest.memory;
            assert_eq!(memory.lock().pages_held(), 0);
            self.ownership.drain(&mut self.cpu, &memory).unwrap();
            assert_eq!(memory.lock().cached_pages(), 0);
            self.machine.forget(guest.root.checked_address().unwrap());
        }
        self.take_back_from_hyp();
        let seen = ownership_ghost::abstraction(&self.cpu, &self.ownership, std::iter::empty());
        let start = Specification::new(self.specification.machine().clone());
        match seen {
            Ok(seen) => assert_eq!(seen.difference(&start), None, "the host has not got all back"),
            Err(disagreement) => panic!("in the end: {disagreement}"),
        }
        self.machine.assert_clean();
    }

    /// Ends what others borrow of a guest.
    fn end_shares(&mut self, owner: Vm) {
        let offers: Vec<_> =
            self.specification.guest(owner).unwrap().offers.iter().map(|(number, offer)| (*number, *offer)).collect();
        for (number, offer) in offers {
            if let Some((borrower, _)) = offer.accepted {
                self.apply(host_end_share(owner, borrower, number)).unwrap();
            }
        }
    }

    /// Takes all back that a dying guest has.
    fn take_back(&mut self, vm: Vm) {
        let has =
            |page: &Page| page.owner == Owner::Guest(vm) || page.is_lent() && page.frames().any(|(by, _)| by == vm);
        for run in runs(self.pages(has)) {
            self.apply(reclaim(vm, run.start, run.end - run.start)).unwrap();
        }
        // Whole leaves, so that no block needs splitting.
        while let Some(gfn) = self.specification.memory_of(vm).into_keys().next() {
            let leaf = self.memory(vm).lock().lookup(&self.cpu, gfn.checked_address().unwrap()).unwrap();
            let call = host_unshare_guest(vm, Gfn::containing(leaf.base).raw(), leaf.size / PAGE_SIZE);
            self.apply(call).unwrap();
        }
        let devices = self.specification.changed_devices();
        let its = devices.filter(|(_, device)| device.owner == Owner::Guest(vm)).map(|(pfn, _)| pfn);
        for run in runs(its) {
            self.apply(reclaim_device(vm, run.start, run.end - run.start)).unwrap();
        }
    }

    /// Takes back what hyp has or borrows.
    fn take_back_from_hyp(&mut self) {
        let Self { cpu, ownership, specification, .. } = self;
        for (pfn, _) in specification.changed_pages() {
            match ownership.state(pfn).unwrap() {
                PageState::Hyp => ownership.hyp_donate_host(cpu, pfn, 1).unwrap(),
                PageState::Host { hyp_borrows: true, pins, .. } => {
                    (0..pins).for_each(|_| ownership.hyp_unpin(cpu, pfn).unwrap());
                    ownership.host_unshare_hyp(cpu, pfn, 1).unwrap();
                }
                _ => {}
            }
        }
        for (pfn, _) in specification.changed_devices() {
            ownership.hyp_donate_device_host(cpu, pfn, 1).unwrap();
        }
    }
}

fn pages_at(addresses: Vec<PhysAddr>) -> Vec<u64> {
    addresses.into_iter().map(|address| address.raw() >> 12).collect()
}

/// Pages in rising order as runs of pages that follow each other.
fn runs(pages: impl Iterator<Item = Pfn>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if run.end == page.raw() => run.end += 1,
            _ => runs.push(page.raw()..page.raw() + 1),
        }
    }
    runs
}
