//! A small machine with its ownership and the specification beside it: every call goes to both, and both are compared.

pub mod abstraction;
pub mod call;

use abi::{Gfn, Ipa, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use memsim::{Cpu, Machine};
use ownership::specification::Specification;
use ownership::{Access, Component, GuestLock, GuestMemory, HostFault, Ownership, VmSlot, Wipe};
use pgtable::{El2Config, El2Stage1, Maintenance, Stage2, Stage2Config, TableFrames};
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU32;

/// First page of the first bank: 3 MiB and 64 KiB, which end in the carve-out.
pub const LOW: u64 = 0x4_0000;
pub const LOW_PAGES: u64 = 784;
/// First page of hyp's pages, up to the end of the bank.
pub const CARVE_OUT: u64 = LOW + 656;
pub const CARVE_OUT_PAGES: u64 = 128;
/// First page of the second bank, which begins in the middle of a block.
pub const HIGH: u64 = 0x8_0010;
pub const HIGH_PAGES: u64 = 8;
/// A page that is a device's.
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

/// One CPU of the simulated machine, and hyp's means of wiping.
#[derive(Clone)]
pub struct TestCpu(pub Cpu);

impl TableFrames for TestCpu {
    fn allocate(&mut self) -> Option<PhysAddr> {
        self.0.allocate()
    }

    fn free(&mut self, frame: PhysAddr) {
        self.0.free(frame);
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.0.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.0.write(descriptor, value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.0.compare_exchange(descriptor, current, new)
    }
}

memsim::forward_maintenance!([] TestCpu, 0);

impl Wipe for TestCpu {
    fn wipe(&mut self, page: Pfn) {
        let start = page.checked_address().unwrap();
        let reached_by = self.0.machine().stage2_of(start);
        assert!(reached_by.is_empty(), "{page} is wiped while {reached_by:?} reach it");
        self.0.machine().zero_page(self.0.index(), page);
        self.0.clean_invalidate_to_poc(PhysRange::from_size(start, PAGE_SIZE).unwrap());
    }
}

thread_local! {
    static HELD_RANKS: &'static AtomicU32 = Box::leak(Box::default());
}

/// The ranks that this thread, which plays a CPU, holds.
fn held_ranks() -> &'static AtomicU32 {
    HELD_RANKS.with(|word| *word)
}

pub fn range_of(first: u64, count: u64) -> PhysRange {
    PhysRange::from_size(PhysAddr::new(first << 12), count << 12).unwrap()
}

pub fn slot(number: usize) -> VmSlot {
    VmSlot::new(number).unwrap()
}

pub struct TestGuest {
    pub slot: VmSlot,
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
    /// Table frames may run out.
    pub starved: bool,
}

impl World {
    /// A machine that has just been taken over, without guests. The host's pages hold [`DIRT`].
    pub fn new() -> Self {
        ownership::lock::install_order_check(held_ranks);
        let machine = Machine::new(2, range_of(CARVE_OUT, CARVE_OUT_PAGES));
        let mut cpu = TestCpu(machine.cpu(0));
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
        let ownership = Ownership::new(&mut cpu, &memory, storage, carve_out, host, hyp).unwrap();
        let specification = Specification::new(
            &[LOW..LOW + LOW_PAGES, HIGH..HIGH + HIGH_PAGES],
            &(CARVE_OUT..CARVE_OUT + CARVE_OUT_PAGES),
            PFN_LIMIT,
        );
        let world = Self {
            machine,
            cpu,
            ownership,
            guests: Vec::new(),
            specification,
            in_use: BTreeSet::new(),
            starved: false,
        };
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
            world.add_guest(*kind, Pfn::new(page), cached);
            page += 1 + cached;
        }
        world
    }

    /// A new guest whose root and `cached` pages come from `first` upwards.
    pub fn add_guest(&mut self, protected: bool, first: Pfn, cached: u64) -> usize {
        let number = self.guests.len();
        let slot = slot(number * 9 + 1);
        self.ownership.host_donate_hyp(&mut self.cpu, first, 1).unwrap();
        self.specification = self.specification.host_donate_hyp(first, 1).unwrap();
        self.cpu.wipe(first);
        self.in_use.insert(first.raw());
        let config = Stage2Config::new(IPA_BITS, PA_BITS);
        let stage2 = Stage2::new(first.checked_address().unwrap(), config, number as u16 + 1).unwrap();
        self.machine.track_stage2(&stage2);
        self.machine.guard_caches(stage2.root());
        self.guests.push(TestGuest { slot, memory: GuestMemory::locked(stage2, slot, protected), root: first });
        self.specification = self.specification.create(slot, protected, GFN_LIMIT);
        if cached != 0 {
            self.apply(&call::Call::TopUp { guest: number, first: first.raw() + 1, count: cached }).unwrap();
        }
        self.compare("with a new guest");
        number
    }

    /// Lets the host write to all that it got back.
    pub fn dirty_host_pages(&mut self) {
        let mut dirt = Vec::new();
        for (pfn, page) in &mut self.specification.pages {
            if page.owner == Component::Host && page.wiped {
                page.wiped = false;
                dirt.push(*pfn);
            }
        }
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

    /// Compares the implementation with the specification, and asks the machine whether all was done by the book.
    #[track_caller]
    pub fn compare(&self, when: &str) {
        abstraction::compare(self, when);
        self.machine.assert_clean();
        assert_eq!(self.specification.breach(), None, "{when}");
        for (pfn, page) in &self.specification.pages {
            if page.wiped {
                assert!(self.machine.read_page(*pfn).iter().all(|byte| *byte == 0), "{pfn} is not wiped {when}");
            }
        }
    }

    /// The host accesses a page from one CPU, again and again while it is told to: how that ends. `Resume` is success.
    pub fn host_access(&self, cpu: &mut TestCpu, page: Pfn, access: Access) -> HostFault {
        let ipa = page.checked_address().map(|address| Ipa::new(address.raw())).unwrap();
        loop {
            let outcome = self.ownership.resolve_host_fault(cpu, ipa, access);
            if outcome == HostFault::Inject || !self.reached_by_host(page).is_empty() {
                return outcome;
            }
        }
    }

    /// What one guest may reach at a frame, by the tables or by a stale translation.
    pub fn reached_by_guest(&self, guest: usize, gfn: Gfn) -> Vec<PhysAddr> {
        self.machine.reachable(guest as u16 + 1, gfn.checked_address().unwrap())
    }

    /// What the host may reach at a page, by the table or by a stale translation.
    pub fn reached_by_host(&self, page: Pfn) -> Vec<PhysAddr> {
        self.machine.reachable(0, Ipa::new(page.raw() << 12))
    }

    /// Ends every guest, gives everything back to the host, and checks that it has it all.
    #[track_caller]
    pub fn tear_down(mut self) {
        self.machine.allow_allocations();
        for guest in &self.guests {
            guest.memory.lock().start_teardown();
            let mut held = Vec::new();
            for (pfn, page) in &self.specification.pages {
                if page.owner == Component::Guest(guest.slot) {
                    self.ownership.reclaim(&mut self.cpu, &guest.memory, *pfn, 1).unwrap();
                }
                for borrower in page.borrowers.keys() {
                    if let ownership::specification::Borrower::Guest(slot, gfn) = borrower
                        && *slot == guest.slot
                    {
                        held.push(*gfn);
                    }
                }
            }
            // Whole leaves, so that no block needs splitting.
            while let Some(gfn) = held.pop() {
                let leaf = guest.memory.lock().lookup(&self.cpu, gfn.checked_address().unwrap()).unwrap();
                if leaf.is_valid() {
                    let first = Gfn::containing(leaf.base);
                    let count = leaf.size / PAGE_SIZE;
                    self.ownership.host_unshare_guest(&mut self.cpu, &guest.memory, first, count).unwrap();
                }
            }
            assert_eq!(guest.memory.lock().pages_held(), 0);
            self.ownership.drain(&mut self.cpu, &guest.memory).unwrap();
            assert_eq!(guest.memory.lock().cached_pages(), 0);
            self.machine.forget(guest.root.checked_address().unwrap());
        }
        for (pfn, page) in &self.specification.pages {
            if page.placed {
                continue;
            }
            match self.ownership.state(*pfn).unwrap() {
                ownership::PageState::Hyp => self.ownership.hyp_donate_host(&mut self.cpu, *pfn, 1).unwrap(),
                ownership::PageState::Host { hyp_borrows: true, pins, .. } => {
                    (0..pins).for_each(|_| self.ownership.hyp_unpin(*pfn).unwrap());
                    self.ownership.host_unshare_hyp(&mut self.cpu, *pfn, 1).unwrap();
                }
                _ => {}
            }
        }
        for (pfn, page) in &self.specification.pages {
            let expected = if page.placed { ownership::PageState::Hyp } else { ownership::PageState::HOST_ALONE };
            assert_eq!(self.ownership.state(*pfn), Some(expected), "{pfn}");
        }
        self.machine.assert_clean();
    }
}
