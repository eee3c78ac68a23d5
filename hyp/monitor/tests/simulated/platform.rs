//! A platform whose guests and firmware are scripts.

use abi::{PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use memsim::{Cpu, Machine};
use monitor::object::ObjectMemory;
use monitor::platform::{CpuIndex, GuestTrap, Platform, RunExit};
use monitor::registers::VcpuContext;
use ownership::Wipe;
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};
use std::alloc::{Layout, alloc_zeroed};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// What a guest does between an entry and its next trap.
pub type GuestStep = Box<dyn FnMut(&mut VcpuContext) -> GuestTrap + Send>;
/// How the firmware answers: function and arguments to x0..x3.
pub type Firmware = Arc<dyn Fn(usize, u32, [u64; 3]) -> [u64; 4] + Send + Sync>;

/// The firmware's calls so far, by all CPUs: function and arguments.
pub type FirmwareCalls = Arc<Mutex<Vec<(u32, [u64; 3])>>>;

/// Host memory for the objects in donated pages: as many bytes as there are pages, never given back.
#[derive(Clone, Copy)]
pub struct Arena {
    base: NonNull<u8>,
    first: u64,
    pages: u64,
}

// SAFETY: the arena is plain memory that lives as long as the process; who uses which part of it is the monitor's
// business, as it is on the machine.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    pub fn new(first: u64, pages: u64) -> Self {
        let layout = Layout::from_size_align((pages * PAGE_SIZE) as usize, PAGE_SIZE as usize).unwrap();
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
        Self { base, first, pages }
    }

    fn page(&self, page: Pfn) -> NonNull<u8> {
        let index = page.raw().checked_sub(self.first).filter(|index| *index < self.pages).unwrap();
        // SAFETY: the page is one of the arena's.
        unsafe { self.base.add((index * PAGE_SIZE) as usize) }
    }
}

/// One CPU.
pub struct TestPlatform {
    pub cpu: Cpu,
    pub arena: Arena,
    /// What guests do, in turn. When the script is at its end, an interrupt comes.
    pub guest: VecDeque<GuestStep>,
    pub firmware: Firmware,
    /// The firmware's calls so far.
    pub firmware_calls: FirmwareCalls,
    /// This CPU's TLB maintenance so far.
    pub tlb_maintenance: Mutex<Vec<Tlbi>>,
}

impl TestPlatform {
    pub fn machine(&self) -> &Machine {
        self.cpu.machine()
    }

    /// Adds a step to the guest's script.
    pub fn guest_does(&mut self, step: impl FnMut(&mut VcpuContext) -> GuestTrap + Send + 'static) {
        self.guest.push_back(Box::new(step));
    }
}

impl TableFrames for TestPlatform {
    fn allocate(&mut self) -> Option<PhysAddr> {
        self.cpu.allocate()
    }

    fn free(&mut self, frame: PhysAddr) {
        self.cpu.free(frame);
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.cpu.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.cpu.write(descriptor, value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.cpu.compare_exchange(descriptor, current, new)
    }
}

impl Maintenance for TestPlatform {
    fn dsb(&self, kind: DsbKind) {
        self.cpu.dsb(kind);
    }

    fn isb(&self) {
        self.cpu.isb();
    }

    fn tlbi(&self, operation: Tlbi) {
        self.tlb_maintenance.lock().unwrap().push(operation);
        self.cpu.tlbi(operation);
    }

    fn load_vttbr(&self, vttbr: u64) -> u64 {
        self.cpu.load_vttbr(vttbr)
    }

    fn clean_invalidate_to_poc(&self, range: PhysRange) {
        self.cpu.clean_invalidate_to_poc(range);
    }

    fn clean_to_pou(&self, range: PhysRange) {
        self.cpu.clean_to_pou(range);
    }

    fn invalidate_instruction_cache(&self, range: PhysRange) {
        self.cpu.invalidate_instruction_cache(range);
    }
}

impl Wipe for TestPlatform {
    fn wipe(&mut self, page: Pfn) {
        self.machine().zero_page(self.cpu.index(), page);
        let start = page.checked_address().unwrap();
        self.cpu.clean_invalidate_to_poc(PhysRange::from_size(start, PAGE_SIZE).unwrap());
        // SAFETY: a page is wiped only while nobody uses what is in it, and the arena has all pages of RAM.
        unsafe { self.arena.page(page).write_bytes(0, PAGE_SIZE as usize) };
    }
}

// SAFETY: the arena's pages are readable and writable for ever, each has one address, and they lie side by side.
unsafe impl ObjectMemory for TestPlatform {
    fn object_memory(&self, first: Pfn, count: u64) -> NonNull<u8> {
        self.arena.page(Pfn::new(first.raw() + count - 1));
        self.arena.page(first)
    }
}

impl Platform for TestPlatform {
    fn cpu(&self) -> CpuIndex {
        CpuIndex(self.cpu.index())
    }

    fn firmware_call(&mut self, function: u32, arguments: [u64; 3]) -> [u64; 4] {
        self.firmware_calls.lock().unwrap().push((function, arguments));
        (self.firmware)(self.cpu.index(), function, arguments)
    }

    fn firmware_entry(&self, cpu: CpuIndex) -> (PhysAddr, u64) {
        (PhysAddr::new(HYP_ENTRY), HYP_CONTEXT + cpu.0 as u64)
    }

    fn enter_guest(&mut self, context: &mut VcpuContext) -> GuestTrap {
        self.guest.pop_front().map_or(GuestTrap::Interrupt, |mut step| step(context))
    }

    fn read_run_data(&mut self, page: Pfn) -> u64 {
        self.machine().read_word(PhysAddr::new((page.raw() << 12) + 32))
    }

    fn write_run_exit(&mut self, page: Pfn, exit: &RunExit) {
        let mut bytes = self.machine().read_page(page);
        let words = [exit.exit_reason, exit.ipa, exit.size, exit.write, exit.data];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        self.machine().write_page(self.cpu.index(), page, &bytes);
    }

    fn free_frames(&self) -> u64 {
        77
    }
}

/// Where the firmware starts CPUs in hyp.
pub const HYP_ENTRY: u64 = 0x5000_1000;
/// What it gives to CPU 0 there; to CPU n it gives n more.
pub const HYP_CONTEXT: u64 = 0xc0de_0000;
