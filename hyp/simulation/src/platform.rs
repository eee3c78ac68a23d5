//! A platform whose guests and firmware are scripts.

use crate::arena::Arena;
use crate::layout::{FREE_FRAMES, HYP_CONTEXT, HYP_ENTRY, range_of};
use abi::run::RunPage;
use abi::{Error, Ipa, PAGE_SIZE, Pfn, PhysAddr, PhysRange, psci};
use memsim::{Cpu, Machine};
use monitor::object::ObjectMemory;
use monitor::platform::{CpuIndex, GuestTrap, Next, Platform, RunEntry, RunExit};
use monitor::registers::VcpuContext;
use monitor::syndrome::Syndrome;
use ownership::{Access, Call, HostFault, LockedMemory, Wipe, Witness};
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};
use std::collections::VecDeque;
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a guest does between an entry and its next trap.
pub type GuestStep = Box<dyn FnMut(&mut VcpuContext) -> GuestTrap + Send>;
/// How the firmware answers: function and arguments to x0..x3.
pub type Firmware = Arc<dyn Fn(usize, u32, [u64; 3]) -> [u64; 4] + Send + Sync>;

/// The firmware's calls so far, by all CPUs: function and arguments.
pub type FirmwareCalls = Arc<Mutex<Vec<(u32, [u64; 3])>>>;

/// Who watches the transitions of a CPU; see [`Witness`].
pub trait Observer: Send {
    /// A transition of the CPU's has its locks and begins.
    fn before(&mut self, _cpu: &Cpu, _memory: &LockedMemory<'_>, _call: &Call) {}

    /// The transition is over, or was refused, and still has its locks.
    fn after(&mut self, _cpu: &Cpu, _memory: &LockedMemory<'_>, _call: &Call, _result: Result<(), Error>) {}

    /// The CPU has given its locks back: another may do something here, on this thread.
    fn unlocked(&mut self) {}

    /// A fault of the host was decided; the locks are held still.
    fn fault(&mut self, _cpu: &Cpu, _memory: &LockedMemory<'_>, _ipa: Ipa, _access: Access, _fault: HostFault) {}
}

/// A firmware that says yes.
pub fn agreeable_firmware() -> Firmware {
    Arc::new(|_, function, _| match function {
        psci::AFFINITY_INFO_64 => [psci::AFFINITY_OFF as u64, 0, 0, 0],
        _ => [psci::SUCCESS as u64, 0, 0, 0],
    })
}

/// One CPU.
pub struct TestPlatform {
    /// The simulated CPU.
    pub cpu: Cpu,
    /// Memory behind RAM.
    pub arena: Arena,
    /// What guests do, in turn. When the script is at its end, an interrupt comes.
    pub guest: VecDeque<GuestStep>,
    /// What a guest does when the script is at its end, again and again, instead.
    pub resident: Option<GuestStep>,
    /// How the firmware answers.
    pub firmware: Firmware,
    /// The firmware's calls so far.
    pub firmware_calls: FirmwareCalls,
    /// Roots of guests' stage 2 that the machine watches.
    pub roots: Arc<Mutex<Vec<PhysAddr>>>,
    /// This CPU's TLB maintenance so far.
    pub tlb_maintenance: Mutex<Vec<Tlbi>>,
    /// Who watches its transitions.
    pub observer: Option<Box<dyn Observer>>,
    /// How often it was refused a frame.
    pub frames_refused: u64,
    /// CNTPCT_EL0.
    pub counter: u64,
    /// What RNDR gives, in turn: nothing where the list is at its end.
    pub random: VecDeque<u64>,
}

impl TestPlatform {
    /// The CPU with number `index` of `machine`.
    pub fn new(machine: &Machine, index: usize, arena: Arena, firmware: Firmware) -> Self {
        Self {
            cpu: machine.cpu(index),
            arena,
            guest: VecDeque::new(),
            resident: None,
            firmware,
            firmware_calls: Arc::default(),
            roots: Arc::default(),
            tlb_maintenance: Mutex::default(),
            observer: None,
            frames_refused: 0,
            counter: 0,
            random: VecDeque::new(),
        }
    }

    /// Another CPU of the same machine.
    pub fn sibling(&self, index: usize) -> Self {
        Self {
            firmware_calls: self.firmware_calls.clone(),
            roots: self.roots.clone(),
            ..Self::new(self.machine(), index, self.arena.clone(), self.firmware.clone())
        }
    }

    /// The machine.
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
        let frame = self.cpu.allocate();
        self.frames_refused += u64::from(frame.is_none());
        frame
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
        lock(&self.tlb_maintenance).push(operation);
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

impl Witness for TestPlatform {
    fn before(&mut self, memory: &LockedMemory<'_>, call: &Call) {
        // A root that goes back to the host is no table any more.
        if let Call::HypDonateHost { first, count } = *call {
            let gone = |root: &PhysAddr| Pfn::containing(*root).raw().wrapping_sub(first.raw()) < count;
            let roots: Vec<_> = lock(&self.roots).extract_if(.., |root| gone(root)).collect();
            roots.into_iter().for_each(|root| self.machine().forget(root));
        }
        if let Some(observer) = &mut self.observer {
            observer.before(&self.cpu, memory, call);
        }
    }

    fn after(&mut self, memory: &LockedMemory<'_>, call: &Call, result: Result<(), Error>) {
        if let Some(observer) = &mut self.observer {
            observer.after(&self.cpu, memory, call, result);
        }
    }

    fn unlocked(&mut self) {
        if let Some(observer) = &mut self.observer {
            observer.unlocked();
        }
    }

    fn fault(&mut self, memory: &LockedMemory<'_>, ipa: Ipa, access: Access, fault: HostFault) {
        if let Some(observer) = &mut self.observer {
            observer.fault(&self.cpu, memory, ipa, access, fault);
        }
    }
}

/// What a mutex holds, also where a test has failed while it was taken.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wipe for TestPlatform {
    fn wipe(&mut self, page: Pfn) {
        let reached_by = self.machine().stage2_of(PhysAddr::new(page.raw() << 12));
        assert!(reached_by.is_empty(), "page {page} is wiped while {reached_by:?} may reach it");
        self.machine().zero_page(self.cpu.index(), page);
        self.cpu.clean_invalidate_to_poc(range_of(page.raw(), 1));
        // SAFETY: a page is wiped only while nobody uses what is in it, and the arena has all of its bytes.
        unsafe { self.arena.pages(page, 1).write_bytes(0, PAGE_SIZE as usize) };
    }
}

// SAFETY: the arena's pages are readable and writable for as long as this platform or the monitor of its world lives,
// each has one address, and they lie side by side.
unsafe impl ObjectMemory for TestPlatform {
    fn object_memory(&self, first: Pfn, count: u64) -> NonNull<u8> {
        self.arena.pages(first, count)
    }
}

impl Platform for TestPlatform {
    fn cpu(&self) -> CpuIndex {
        CpuIndex(self.cpu.index())
    }

    fn firmware_call(&mut self, function: u32, arguments: [u64; 3]) -> [u64; 4] {
        lock(&self.firmware_calls).push((function, arguments));
        (self.firmware)(self.cpu.index(), function, arguments)
    }

    fn firmware_entry(&self, cpu: CpuIndex) -> (PhysAddr, u64) {
        (PhysAddr::new(HYP_ENTRY), HYP_CONTEXT + cpu.0 as u64)
    }

    fn run_guest(
        &mut self,
        context: &mut VcpuContext,
        mut next: impl FnMut(Syndrome, &mut VcpuContext) -> Next,
    ) -> GuestTrap {
        loop {
            let trap = match (self.guest.pop_front(), &mut self.resident) {
                (Some(mut step), _) => step(context),
                (None, Some(step)) => step(context),
                (None, None) => GuestTrap::Interrupt,
            };
            let GuestTrap::Synchronous(exception) = trap else { return trap };
            match next(exception.syndrome(), context) {
                Next::Leave => return trap,
                Next::ResumeWithFp => context.fp_enabled = 1,
                Next::ResumeWithKeys | Next::Resume => {}
            }
        }
    }

    fn counter(&self) -> u64 {
        self.counter
    }

    fn random(&mut self) -> Option<u64> {
        self.random.pop_front()
    }

    fn read_run_entry(&mut self, page: Pfn, list_registers: &mut [u64]) -> RunEntry {
        let read = |offset: usize| self.machine().read_word(PhysAddr::new((page.raw() << 12) + offset as u64));
        for (index, register) in list_registers.iter_mut().enumerate() {
            *register = read(offset_of!(RunPage, list_registers) + index * 8);
        }
        RunEntry {
            data: read(offset_of!(RunPage, data)),
            response: read(offset_of!(RunPage, response)),
            interrupt_control: read(offset_of!(RunPage, interrupt_control)),
            list_register_bits: list_registers.iter().fold(0, |bits, register| bits | *register),
        }
    }

    fn write_run_exit(&mut self, page: Pfn, exit: &RunExit, list_registers: &[u64]) {
        let RunExit { exit_reason, ipa, size, write, data, peer, timer_lines, virtual_deadline, physical_deadline } =
            *exit;
        let first = [exit_reason, ipa, size, write, data, peer, timer_lines, virtual_deadline, physical_deadline];
        let words = first.iter().enumerate().map(|(index, word)| (index * 8, *word));
        let base = offset_of!(RunPage, list_registers);
        let registers = list_registers.iter().enumerate().map(|(index, word)| (base + index * 8, *word));
        for (offset, word) in words.chain(registers) {
            let address = PhysAddr::new((page.raw() << 12) + offset as u64);
            self.machine().write_word(self.cpu.index(), address, word);
        }
    }

    fn free_frames(&self) -> u64 {
        FREE_FRAMES
    }
}
