//! A machine with its monitor, and the calls that host and guests make.

use crate::arena::Arena;
use crate::exception::smc;
use crate::layout::{CPUS, GUEST_ENTRY, GUEST_RAM, IPA_BITS, Layout, PA_BITS, RAM};
use crate::platform::{Firmware, TestPlatform, agreeable_firmware};
use crate::registers::{host_call, smccc};
use abi::boot::{BootInfo, PsciConduit};
use abi::host::{HostCall, VM_PROTECTED, VmHandle};
use abi::run::ExitReason;
use abi::{Error, Pfn, PhysAddr, psci};
use memsim::Machine;
use monitor::Monitor;
use monitor::features::IdRegisters;
use monitor::platform::{GuestTrap, RunExit};
use monitor::registers::VcpuContext;
use monitor::syndrome::Exception;
use ownership::{Ownership, PageState};
use pgtable::{El2Config, El2Stage1, Maintenance, Stage2, Stage2Config};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError};

/// What a world is made of.
#[derive(Clone)]
pub struct Options {
    /// How much RAM there is.
    pub layout: Layout,
    /// The firmware.
    pub firmware: Firmware,
    /// The version that the firmware's PSCI_VERSION returns.
    pub psci_version: u32,
    /// How hyp calls the firmware.
    pub conduit: PsciConduit,
    /// The loader's seed.
    pub seed: Vec<u8>,
    /// What RNDR gives the boot CPU; where it is not empty, there is FEAT_RNG.
    pub random: Vec<u64>,
    /// FEAT_PAuth.
    pub pointer_authentication: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            layout: Layout::default(),
            firmware: agreeable_firmware(),
            psci_version: psci::VERSION_1_1 as u32,
            conduit: PsciConduit::Smc,
            seed: Vec::from(*b"a seed that no host has ever seen"),
            random: Vec::new(),
            pointer_authentication: false,
        }
    }
}

/// The monitor, with the memory that it relies on and that goes after it.
pub struct SimulatedMonitor {
    monitor: Monitor,
    /// Objects of VMs and vCPUs are in it.
    _arena: Arena,
    /// The ledger's entries.
    _storage: Storage,
}

impl Deref for SimulatedMonitor {
    type Target = Monitor;

    fn deref(&self) -> &Monitor {
        &self.monitor
    }
}

/// Memory for a ledger; given back when this is dropped.
struct Storage(NonNull<[u64]>);

// SAFETY: it is memory that this alone owns.
unsafe impl Send for Storage {}
// SAFETY: a shared reference to it gives access to nothing.
unsafe impl Sync for Storage {}

impl Storage {
    /// Zeroed memory of one word for each page.
    fn new(pages: u64) -> Self {
        Self(NonNull::from(Box::leak(vec![0_u64; pages as usize].into_boxed_slice())))
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // SAFETY: the memory is that of a box. The ledger, and with it whoever could read from it, was dropped before, since
        // `SimulatedMonitor` drops its fields in the order in which they stand.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A machine with the monitor on it.
pub struct World {
    /// The monitor.
    pub monitor: Arc<SimulatedMonitor>,
    /// The machine.
    pub machine: Machine,
    /// Where things are.
    pub layout: Layout,
    /// The boot CPU.
    pub cpu0: TestPlatform,
}

/// INTID of the virtual timer's interrupt.
pub const VIRTUAL_TIMER: u32 = 27;

/// A VM that a test made.
#[derive(Clone, Copy)]
pub struct TestVm {
    /// Its handle.
    pub handle: VmHandle,
    /// The run pages, from the first vCPU's on.
    pub run_page: u64,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A machine with an agreeable firmware.
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// A machine with this firmware.
    pub fn with_firmware(firmware: Firmware, psci_version: u32) -> Self {
        Self::with(Options { firmware, psci_version, ..Options::default() })
    }

    /// A machine whose CPUs have no EL3: an SMC of hyp's own is undefined.
    pub fn without_firmware() -> Self {
        let firmware: Firmware = Arc::new(|_, function, _: [u64; 3]| panic!("SMC {function:#x} is undefined"));
        Self::with(Options { firmware, psci_version: 0, conduit: PsciConduit::None, ..Options::default() })
    }

    /// A machine of this making.
    ///
    /// # Panics
    /// Where the carve-out is too small for the roots of tables.
    pub fn with(options: Options) -> Self {
        let Options { layout, firmware, psci_version, conduit, mut seed, random, pointer_authentication } = options;
        let machine = Machine::new(CPUS.len(), layout.carve_out());
        let arena = Arena::new(RAM, layout.ram_pages);
        let mut cpu0 = TestPlatform::new(&machine, 0, arena.clone(), firmware);
        let config = Stage2Config::new(PA_BITS, PA_BITS);
        let root_pages = config.root_pages().expect("a configuration that is allowed");
        let host = Stage2::new(machine.take_root(root_pages), config, 0).expect("a configuration that is allowed");
        machine.track_stage2(&host);
        for number in 0..CPUS.len() {
            let cpu = machine.cpu(number);
            cpu.load_vttbr(host.vttbr_el2());
            cpu.isb();
        }
        let hyp_config =
            El2Config { va_bits: 40, pa_bits: PA_BITS, hardware_access_flag: false, tlbi: Default::default() };
        let hyp = El2Stage1::new(machine.take_root(1), hyp_config).expect("a configuration that is allowed");
        machine.track_el2(&hyp);
        let storage = Storage::new(layout.ram_pages);
        // SAFETY: the memory is valid for as long as `storage`, which outlives the ledger, and this is the one
        // reference to it that is ever made.
        let entries = unsafe { &mut *storage.0.as_ptr() };
        let ownership = Ownership::new(&mut cpu0, &[layout.ram()], entries, layout.carve_out(), host, hyp);
        let ownership = ownership.expect("a machine that can be taken over");

        // SAFETY: all of `BootInfo` is integers, arrays of them, and an enumeration with a variant 0.
        let mut boot_info: BootInfo = unsafe { std::mem::zeroed() };
        boot_info.cpus[..CPUS.len()].copy_from_slice(&CPUS);
        boot_info.cpu_count = CPUS.len() as u64;
        boot_info.psci_version = psci_version;
        boot_info.psci_conduit = conduit;
        boot_info.virtual_timer = VIRTUAL_TIMER;
        seed.truncate(boot_info.seed.len());
        boot_info.seed[..seed.len()].copy_from_slice(&seed);
        boot_info.seed_size = seed.len() as u64;
        let id_aa64isar0_el1 = if random.is_empty() { 0 } else { 1 << 60 };
        cpu0.random = random.into();
        // A GICv3 with 4 list registers and 5 bits of priority.
        let id = IdRegisters {
            id_aa64isar0_el1,
            id_aa64isar1_el1: u64::from(pointer_authentication) << 4,
            id_aa64pfr0_el1: 1 << 24,
            id_aa64mmfr0_el1: 2,
            midr_el1: 0x410f_d034,
            ich_vtr_el2: 0x9008_0003,
            ..IdRegisters::default()
        };
        let monitor = Monitor::new(&mut cpu0, &boot_info, ownership, id, config);
        let monitor = Arc::new(SimulatedMonitor { monitor, _arena: arena, _storage: storage });
        let world = Self { monitor, machine, layout, cpu0 };
        world.take_firmware_calls();
        world
    }

    /// Another CPU.
    pub fn cpu(&self, index: usize) -> TestPlatform {
        self.cpu0.sibling(index)
    }

    /// A host call on the boot CPU.
    ///
    /// # Errors
    /// What it was refused with.
    pub fn call(&mut self, call: HostCall, arguments: &[u64]) -> Result<[u64; 3], Error> {
        host_call(&self.monitor, &mut self.cpu0, call, arguments)
    }

    /// An SMCCC call on the boot CPU: x0 to x3.
    pub fn smccc(&mut self, exception: Exception, function: u64, arguments: &[u64]) -> [u64; 4] {
        smccc(&self.monitor, &mut self.cpu0, exception, function, arguments)
    }

    /// A PSCI call on the boot CPU, by SMC: x0.
    pub fn psci(&mut self, function: u32, arguments: &[u64]) -> i64 {
        self.smccc(smc(0), u64::from(function), arguments)[0] as i64
    }

    /// The firmware's calls since the last time.
    pub fn take_firmware_calls(&self) -> Vec<(u32, [u64; 3])> {
        std::mem::take(&mut self.cpu0.firmware_calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A VM with `vcpus` vCPUs, from pages of the host's from `first` upwards, and 8 pages for its tables.
    pub fn vm(&mut self, first: u64, protected: bool, vcpus: u64) -> TestVm {
        self.vm_with_cache(first, protected, vcpus, 8)
    }

    /// The same, with `cached` pages for its tables.
    ///
    /// # Panics
    /// Where hyp refuses anything of it.
    pub fn vm_with_cache(&mut self, first: u64, protected: bool, vcpus: u64, cached: u64) -> TestVm {
        let [vm_pages, alignment, vcpu_pages] = self.call(HostCall::VmSizes, &[IPA_BITS, vcpus]).unwrap();
        assert_eq!(first % alignment, 0);
        let [handle, ..] = self.call(HostCall::VmReserve, &[]).unwrap();
        let flags = if protected { VM_PROTECTED } else { 0 };
        let sizes = IPA_BITS | vcpus << 32;
        let arguments = [handle, flags, sizes, first, vm_pages, GUEST_ENTRY, GUEST_RAM.raw()];
        self.call(HostCall::VmInit, &arguments).unwrap();
        let vm = TestVm { handle: VmHandle(handle as u32), run_page: first + vm_pages };
        self.track(vm.handle);
        let mut page = vm.run_page + vcpus;
        for index in 0..vcpus {
            self.call(HostCall::VcpuInit, &[handle, index, page, vcpu_pages, vm.run_page + index]).unwrap();
            page += vcpu_pages;
        }
        if cached != 0 {
            self.call(HostCall::VcpuTopUp, &[handle, 0, page, cached]).unwrap();
        }
        vm
    }

    /// Has the simulated machine watch the VM's stage 2, until its root goes back to the host.
    ///
    /// # Panics
    /// Where there is no such VM, or it does not live.
    pub fn track(&self, handle: VmHandle) {
        let vm = self.monitor.vms().live(handle).unwrap();
        let memory = vm.memory().lock();
        self.machine.track_stage2(memory.stage2());
        self.machine.guard_caches(memory.stage2().root());
        self.cpu0.roots.lock().unwrap_or_else(PoisonError::into_inner).push(memory.stage2().root());
    }

    /// A protected VM with one vCPU, at the start of RAM, and four pages of memory from `GUEST_RAM` on: the pages from
    /// `RAM + 64`.
    pub fn protected_vm(&mut self) -> TestVm {
        let vm = self.vm(RAM, true, 1);
        let handle = u64::from(vm.handle.0);
        self.call(HostCall::VmDonate, &[handle, 0, RAM + 64, GUEST_RAM.raw() >> 12, 4]).unwrap();
        vm
    }

    /// Runs a vCPU on the boot CPU: the exit's reason.
    ///
    /// # Errors
    /// What VCPU_RUN was refused with.
    ///
    /// # Panics
    /// Where x1 and the run page give different reasons.
    pub fn run(&mut self, vm: TestVm, index: u64) -> Result<ExitReason, Error> {
        let [reason, ..] = self.call(HostCall::VcpuRun, &[u64::from(vm.handle.0), index])?;
        let reason = ExitReason::from_register(reason).unwrap();
        assert_eq!(self.run_page(vm.run_page + index).exit_reason, reason as u64);
        Ok(reason)
    }

    /// Runs a vCPU that does `step` and expects the exit.
    ///
    /// # Panics
    /// Where there is another.
    #[track_caller]
    pub fn exits(
        &mut self,
        vm: TestVm,
        step: impl FnMut(&mut VcpuContext) -> GuestTrap + Send + 'static,
        expected: RunExit,
    ) {
        self.cpu0.guest_does(step);
        self.run(vm, 0).unwrap();
        assert_eq!(self.run_page(vm.run_page), expected);
    }

    /// The first words of a run page.
    pub fn run_page(&self, page: u64) -> RunExit {
        let word = |index: u64| self.machine.read_word(PhysAddr::new((page << 12) + index * 8));
        RunExit {
            exit_reason: word(0),
            ipa: word(1),
            size: word(2),
            write: word(3),
            data: word(4),
            peer: word(5),
            timer_lines: word(6),
            virtual_deadline: word(7),
            physical_deadline: word(8),
        }
    }

    /// Writes the host's answer to a run page.
    pub fn answer(&self, page: u64, data: u64) {
        let mut bytes = self.machine.read_page(Pfn::new(page));
        bytes[32..40].copy_from_slice(&data.to_le_bytes());
        self.machine.write_page(0, Pfn::new(page), &bytes);
    }

    /// What the ledger says of a page of RAM.
    ///
    /// # Panics
    /// Where it is none.
    pub fn state(&self, page: u64) -> PageState {
        self.monitor.ownership().state(Pfn::new(page)).unwrap()
    }

    /// Ends a VM, with all that it holds, and checks that every page is the host's again, and empty.
    ///
    /// # Panics
    /// Where that is not so.
    #[track_caller]
    pub fn end(&mut self, vm: TestVm) {
        let handle = u64::from(vm.handle.0);
        self.call(HostCall::VmTeardown, &[handle]).unwrap();
        for page in RAM..RAM + self.layout.ram_pages {
            if let PageState::Guest { .. } | PageState::LentToGuest { .. } = self.state(page) {
                // Another VM's pages are refused.
                let _ = self.call(HostCall::VmReclaim, &[handle, page, 1]);
            }
        }
        self.call(HostCall::VmFinalise, &[handle]).unwrap();
        assert_eq!(self.call(HostCall::VmTeardown, &[handle]), Err(Error::VmGone));
        self.machine.assert_clean();
    }

    /// Checks that every page but the carve-out's is the host's alone.
    ///
    /// # Panics
    /// Where one is not.
    #[track_caller]
    pub fn assert_all_back(&self) {
        for page in RAM..self.layout.carve_out_page() {
            assert_eq!(self.state(page), PageState::HOST_ALONE, "{page:#x}");
        }
    }
}
