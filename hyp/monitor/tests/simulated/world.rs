//! A machine with its monitor, and the calls that host and guests make.

use crate::platform::{Arena, Firmware, FirmwareCalls, TestPlatform};
use abi::boot::{BootInfo, PsciConduit};
use abi::host::{HostCall, VM_PROTECTED, VmHandle};
use abi::run::ExitReason;
use abi::{Error, Ipa, Pfn, PhysAddr, PhysRange, psci};
use memsim::Machine;
use monitor::features::IdRegisters;
use monitor::platform::{GuestTrap, RunExit};
use monitor::registers::HostRegisters;
use monitor::syndrome::{Exception, exception_class};
use monitor::{HostAction, Monitor};
use ownership::{Ownership, PageState};
use pgtable::{El2Config, El2Stage1, Maintenance, Stage2, Stage2Config};
use std::sync::{Arc, Mutex};

/// First page of RAM, and how many there are; the carve-out is at the end.
pub const RAM: u64 = 0x4_0000;
pub const RAM_PAGES: u64 = 1024;
/// First page of the carve-out.
pub const CARVE_OUT: u64 = RAM + 896;
pub const CARVE_OUT_PAGES: u64 = 128;
pub const PA_BITS: u32 = 40;
/// Bits of guests' addresses: one root page.
pub const IPA_BITS: u64 = 36;
/// The CPUs' affinities.
pub const CPUS: [u64; 4] = [0x0, 0x1, 0x100, 0x1_0000_0000];
/// Where a guest's memory begins.
pub const GUEST_RAM: Ipa = Ipa::new(0x4000_0000);
pub const GUEST_ENTRY: u64 = 0x4020_0000;

pub fn range_of(first: u64, count: u64) -> PhysRange {
    PhysRange::from_size(PhysAddr::new(first << 12), count << 12).unwrap()
}

pub const fn esr(class: u64, iss: u64) -> u64 {
    class << 26 | 1 << 25 | iss
}

/// The exception of an HVC.
pub fn hvc(immediate: u16) -> Exception {
    Exception { esr: esr(exception_class::HVC64, u64::from(immediate)), far: 0, hpfar: 0 }
}

/// The exception of an SMC.
pub fn smc(immediate: u16) -> Exception {
    Exception { esr: esr(exception_class::SMC64, u64::from(immediate)), far: 0, hpfar: 0 }
}

/// The exception of a stage-2 fault at `ipa`.
pub fn abort(class: u64, iss: u64, ipa: u64) -> Exception {
    Exception { esr: esr(class, iss), far: 0xffff_0000_0000_0000 | ipa & 0xfff, hpfar: ipa >> 12 << 4 }
}

/// A guest's trap.
pub fn trap(exception: Exception) -> GuestTrap {
    GuestTrap::Synchronous(exception)
}

/// Where a guest finds itself next to its script: a firmware that says yes.
pub fn agreeable_firmware() -> Firmware {
    Arc::new(|_, function, _| match function {
        psci::AFFINITY_INFO_64 => [psci::AFFINITY_OFF as u64, 0, 0, 0],
        _ => [psci::SUCCESS as u64, 0, 0, 0],
    })
}

pub struct World {
    pub monitor: Arc<Monitor>,
    pub machine: Machine,
    pub arena: Arena,
    pub firmware: Firmware,
    pub firmware_calls: FirmwareCalls,
    /// The boot CPU.
    pub cpu0: TestPlatform,
}

/// A VM that a test made.
#[derive(Clone, Copy)]
pub struct TestVm {
    pub handle: VmHandle,
    /// The run pages, from the first vCPU's on.
    pub run_page: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with_firmware(agreeable_firmware(), psci::VERSION_1_1 as u32)
    }

    pub fn with_firmware(firmware: Firmware, psci_version: u32) -> Self {
        Self::with_conduit(firmware, psci_version, PsciConduit::Smc)
    }

    /// A machine whose CPUs have no EL3: an SMC of hyp's own is undefined.
    pub fn without_firmware() -> Self {
        let undefined = Arc::new(|_, function, _: [u64; 3]| panic!("SMC {function:#x} is undefined"));
        Self::with_conduit(undefined, 0, PsciConduit::None)
    }

    fn with_conduit(firmware: Firmware, psci_version: u32, conduit: PsciConduit) -> Self {
        let machine = Machine::new(CPUS.len(), range_of(CARVE_OUT, CARVE_OUT_PAGES));
        let arena = Arena::new(RAM, RAM_PAGES);
        let firmware_calls = Arc::new(Mutex::new(Vec::new()));
        let mut cpu0 = TestPlatform {
            cpu: machine.cpu(0),
            arena,
            guest: Default::default(),
            firmware: firmware.clone(),
            firmware_calls: firmware_calls.clone(),
            tlb_maintenance: Mutex::default(),
        };
        let config = Stage2Config::new(PA_BITS, PA_BITS);
        let host = Stage2::new(machine.take_root(config.root_pages().unwrap()), config, 0).unwrap();
        machine.track_stage2(&host);
        for number in 0..CPUS.len() {
            let cpu = machine.cpu(number);
            cpu.load_vttbr(host.vttbr_el2());
            cpu.isb();
        }
        let hyp_config =
            El2Config { va_bits: 40, pa_bits: PA_BITS, hardware_access_flag: false, tlbi: Default::default() };
        let hyp = El2Stage1::new(machine.take_root(1), hyp_config).unwrap();
        machine.track_el2(&hyp);
        let storage = Vec::leak(vec![0; RAM_PAGES as usize]);
        let carve_out = range_of(CARVE_OUT, CARVE_OUT_PAGES);
        let ownership = Ownership::new(&mut cpu0, &[range_of(RAM, RAM_PAGES)], storage, carve_out, host, hyp).unwrap();

        // SAFETY: all of `BootInfo` is integers, arrays of them, and an enumeration with a variant 0.
        let mut boot_info: BootInfo = unsafe { std::mem::zeroed() };
        boot_info.cpus[..CPUS.len()].copy_from_slice(&CPUS);
        boot_info.cpu_count = CPUS.len() as u64;
        boot_info.psci_version = psci_version;
        boot_info.psci_conduit = conduit;
        let id = IdRegisters { id_aa64mmfr0_el1: 2, midr_el1: 0x410f_d034, ..IdRegisters::default() };
        let monitor = Arc::new(Monitor::new(&mut cpu0, &boot_info, ownership, id, config));
        firmware_calls.lock().unwrap().clear();
        Self { monitor, machine, arena, firmware, firmware_calls, cpu0 }
    }

    /// Another CPU.
    pub fn cpu(&self, index: usize) -> TestPlatform {
        TestPlatform {
            cpu: self.machine.cpu(index),
            arena: self.arena,
            guest: Default::default(),
            firmware: self.firmware.clone(),
            firmware_calls: self.firmware_calls.clone(),
            tlb_maintenance: Mutex::default(),
        }
    }

    /// A host call on the boot CPU.
    pub fn call(&mut self, call: HostCall, arguments: &[u64]) -> Result<[u64; 3], Error> {
        host_call(&self.monitor, &mut self.cpu0, call, arguments)
    }

    /// An SMCCC call on the boot CPU: x0 to x3.
    pub fn smccc(&mut self, exception: Exception, function: u64, arguments: &[u64]) -> [u64; 4] {
        smccc(&self.monitor, &mut self.cpu0, exception, function, arguments)
    }

    /// The firmware's calls since the last time.
    pub fn take_firmware_calls(&self) -> Vec<(u32, [u64; 3])> {
        std::mem::take(&mut self.firmware_calls.lock().unwrap())
    }

    /// A VM with `vcpus` vCPUs, from pages of the host's from `first` upwards, and 8 pages for its tables.
    pub fn vm(&mut self, first: u64, protected: bool, vcpus: u64) -> TestVm {
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
        self.call(HostCall::VcpuTopUp, &[handle, 0, page, 8]).unwrap();
        vm
    }

    /// Has the simulated machine watch the VM's stage 2.
    pub fn track(&self, handle: VmHandle) {
        let vm = self.monitor.vms().live(handle).unwrap();
        let memory = vm.memory().lock();
        self.machine.track_stage2(memory.stage2());
        self.machine.guard_caches(memory.stage2().root());
    }

    /// A protected VM with one vCPU, at the start of RAM, and four pages of memory from `GUEST_RAM` on: the pages from
    /// `RAM + 64`.
    pub fn protected_vm(&mut self) -> TestVm {
        let vm = self.vm(RAM, true, 1);
        let handle = u64::from(vm.handle.0);
        self.call(HostCall::VmDonate, &[handle, 0, RAM + 64, GUEST_RAM.raw() >> 12, 4]).unwrap();
        vm
    }

    /// Runs a vCPU on the boot CPU.
    pub fn run(&mut self, vm: TestVm, index: u64) -> Result<ExitReason, Error> {
        let [reason, ..] = self.call(HostCall::VcpuRun, &[u64::from(vm.handle.0), index])?;
        let reason = ExitReason::from_register(reason).unwrap();
        assert_eq!(self.run_page(vm.run_page + index).exit_reason, reason as u64);
        Ok(reason)
    }

    /// Runs a vCPU that does `step` and expects the exit.
    #[track_caller]
    pub fn exits(
        &mut self,
        vm: TestVm,
        step: impl FnMut(&mut monitor::registers::VcpuContext) -> GuestTrap + Send + 'static,
        expected: RunExit,
    ) {
        self.cpu0.guest_does(step);
        self.run(vm, 0).unwrap();
        assert_eq!(self.run_page(vm.run_page), expected);
    }

    /// The first words of a run page.
    pub fn run_page(&self, page: u64) -> RunExit {
        let word = |index: u64| self.machine.read_word(PhysAddr::new((page << 12) + index * 8));
        RunExit { exit_reason: word(0), ipa: word(1), size: word(2), write: word(3), data: word(4) }
    }

    /// Writes the host's answer to a run page.
    pub fn answer(&self, page: u64, data: u64) {
        let mut bytes = self.machine.read_page(Pfn::new(page));
        bytes[32..40].copy_from_slice(&data.to_le_bytes());
        self.machine.write_page(0, Pfn::new(page), &bytes);
    }

    pub fn state(&self, page: u64) -> PageState {
        self.monitor.ownership().state(Pfn::new(page)).unwrap()
    }

    /// Ends a VM, with all that it holds, and checks that every page is the host's again, and empty.
    #[track_caller]
    pub fn end(&mut self, vm: TestVm) {
        let handle = u64::from(vm.handle.0);
        let root = {
            let vm = self.monitor.vms().live(vm.handle).unwrap();
            vm.memory().lock().stage2().root()
        };
        self.call(HostCall::VmTeardown, &[handle]).unwrap();
        for page in RAM..RAM + RAM_PAGES {
            if let PageState::Guest { .. } = self.state(page) {
                // Another VM's pages are refused.
                let _ = self.call(HostCall::VmReclaim, &[handle, page, 1]);
            }
        }
        self.machine.forget(root);
        self.call(HostCall::VmFinalise, &[handle]).unwrap();
        assert_eq!(self.call(HostCall::VmTeardown, &[handle]), Err(Error::VmGone));
        self.machine.assert_clean();
    }

    /// Checks that every page but the carve-out's is the host's alone.
    #[track_caller]
    pub fn assert_all_back(&self) {
        for page in RAM..CARVE_OUT {
            assert_eq!(self.state(page), PageState::HOST_ALONE, "{page:#x}");
        }
    }
}

/// An SMCCC call by a CPU: x0 to x3. The other registers must survive it, and the program counter be as the
/// instruction leaves it.
#[track_caller]
pub fn smccc(
    monitor: &Monitor,
    cpu: &mut TestPlatform,
    exception: Exception,
    function: u64,
    arguments: &[u64],
) -> [u64; 4] {
    const SS_BTYPE: u64 = 1 << 21 | 0b11 << 10;
    let mut registers = HostRegisters { elr: 0x1000, spsr: 0x3c5 | SS_BTYPE, ..HostRegisters::new() };
    for (index, register) in registers.x.iter_mut().enumerate() {
        *register = 0xdead_0000 + index as u64;
    }
    registers.x[0] = function;
    registers.x[1..=arguments.len()].copy_from_slice(arguments);
    let before = registers;
    let action = monitor.host_exit(cpu, &mut registers, &exception);
    assert_eq!(action, HostAction::Resume);
    assert_eq!(registers.x[4..], before.x[4..], "x4 to x30 are kept");
    // A trapped SMC is skipped, and leaves what an instruction that is done leaves.
    let after = match exception.syndrome().exception_class() {
        exception_class::SMC64 => (before.elr + 4, before.spsr & !SS_BTYPE),
        _ => (before.elr, before.spsr),
    };
    assert_eq!((registers.elr, registers.spsr), after);
    [registers.x[0], registers.x[1], registers.x[2], registers.x[3]]
}

/// A host call by a CPU.
#[track_caller]
pub fn host_call(
    monitor: &Monitor,
    cpu: &mut TestPlatform,
    call: HostCall,
    arguments: &[u64],
) -> Result<[u64; 3], Error> {
    let [x0, x1, x2, x3] = smccc(monitor, cpu, hvc(0), u64::from(call as u32), arguments);
    if x0 == 0 {
        return Ok([x1, x2, x3]);
    }
    assert_eq!([x1, x2, x3], [0; 3], "a call that fails has no results");
    Err(Error::from_register(x0).unwrap())
}
