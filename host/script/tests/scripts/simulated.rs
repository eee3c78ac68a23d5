//! A simulated machine with the real hyp on it: its host calls go through the decoder, its guests' calls and accesses
//! through their exits, and the machine objects to every mistake in the maintenance of tables.

use abi::host::{HostCall, VM_PROTECTED, VmHandle};
use abi::run::ExitReason;
use abi::{Error, Pfn, PhysAddr};
use call_script::{Access, Executor, GuestRequest, Notice, Outcome, Places, Status, VmNumber, VmSetup};
use memsim::{Cpu, Fault, TreeKind};
use monitor::HostAction;
use monitor::platform::GuestTrap;
use monitor::registers::{HostRegisters, VcpuContext};
use monitor::syndrome::{Exception, exception_class};
use ownership_spec::Machine;
use simulation::{
    DEVICE, GUEST_ENTRY, GUEST_RAM, IPA_BITS, Layout, Options, PA_BITS, RAM, TestPlatform, World, abort, hvc, smccc,
    trap,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Pages that a VM of a setup takes at most.
const VM_PAGES: u64 = 64;
/// Pages for the tables of one.
const CACHE_PAGES: u64 = 40;
/// Where a guest's instructions lie; nothing is there in truth.
const CODE: u64 = 0x4100_0000;
/// The register that a guest loads and stores.
const REGISTER: u64 = 1;
/// ISS of a data abort whose instruction the CPU has decoded: a doubleword, that register, 64 bits.
const DECODED: u64 = 1 << 24 | 0b11 << 22 | REGISTER << 16 | 1 << 15;
/// ISS.WnR.
const WRITE: u64 = 1 << 6;

/// How far a guest is with what it was told.
#[derive(Clone, Copy)]
enum Progress {
    New(GuestRequest),
    Tried(GuestRequest),
    Done(Outcome),
}

/// The machine.
pub(crate) struct Simulated {
    world: World,
    cpus: Vec<TestPlatform>,
    places: Places,
    next_page: u64,
    /// The run pages of VMs of the setup.
    vms: BTreeMap<VmNumber, (VmHandle, Vec<u64>)>,
    stopped: BTreeMap<(VmNumber, u64), GuestRequest>,
}

impl Simulated {
    /// A machine with a pool of `pages` pages and room for so many VMs, one after the other or at the same time.
    pub(crate) fn new(pages: u64, vms: u64) -> Self {
        let layout = Layout { ram_pages: pages + VM_PAGES * vms + 128, carve_out_pages: 128 };
        let mut world = World::with(Options { layout, ..Options::default() });
        let cpus = (0..4).map(|index| world.cpu(index)).collect();
        let [vm_pages, vm_alignment, vcpu_pages] = world.call(HostCall::VmSizes, &[IPA_BITS, 1]).unwrap();
        let places = Places {
            pool: Pfn::new(RAM),
            pool_pages: pages,
            hyp: Pfn::new(layout.carve_out_page()),
            hyp_pages: layout.carve_out_pages,
            device: Pfn::new(DEVICE),
            device_pages: 4,
            frames: Places::FRAMES,
            ipa_bits: IPA_BITS,
            vm_pages,
            vm_alignment,
            vcpu_pages,
        };
        Self { world, cpus, places, next_page: RAM + pages, vms: BTreeMap::new(), stopped: BTreeMap::new() }
    }

    fn call(&mut self, call: HostCall, operands: &[u64]) -> Result<u64, Error> {
        let mut arguments = [0; 7];
        arguments[..operands.len()].copy_from_slice(operands);
        let [x0, x1, ..] = self.host_call(0, call as u64, arguments);
        Error::from_register(x0).map_or(Ok(x1), Err)
    }

    fn notice(&self, page: u64, reason: ExitReason) -> Notice {
        let run_page = self.world.run_page(page);
        Notice { reason, ipa: run_page.ipa, data: run_page.data, peer: run_page.peer }
    }
}

impl Executor for Simulated {
    fn create(&mut self, number: VmNumber, setup: &VmSetup) -> Result<VmHandle, Error> {
        let Places { vm_pages, vcpu_pages, .. } = self.places;
        let handle = self.call(HostCall::VmReserve, &[])?;
        let flags = if setup.protected { VM_PROTECTED } else { 0 };
        let shape = IPA_BITS | setup.vcpus << 32;
        let mut page = self.next_page;
        self.call(HostCall::VmInit, &[handle, flags, shape, page, vm_pages, GUEST_ENTRY, GUEST_RAM.raw()])?;
        page += vm_pages;
        let mut run_pages = Vec::new();
        for index in 0..setup.vcpus {
            self.call(HostCall::VcpuInit, &[handle, index, page + 1, vcpu_pages, page])?;
            run_pages.push(page);
            page += 1 + vcpu_pages;
        }
        self.call(HostCall::VcpuTopUp, &[handle, 0, page, CACHE_PAGES])?;
        self.next_page += VM_PAGES;
        assert!(page + CACHE_PAGES <= self.next_page, "a VM of the setup takes more pages than were set apart");
        let handle = VmHandle(handle as u32);
        self.world.track(handle);
        self.vms.insert(number, (handle, run_pages));
        Ok(handle)
    }

    fn places(&self) -> Places {
        self.places
    }

    fn machine(&self) -> Option<Machine> {
        let layout = self.world.layout;
        let page = |number| Pfn::new(number);
        let end = page(RAM + layout.ram_pages);
        let placed = page(layout.carve_out_page())..end;
        Some(Machine::new(&[page(RAM)..end], &[placed], 1 << (PA_BITS - abi::PAGE_SHIFT)))
    }

    fn host_call(&mut self, cpu: usize, function: u64, arguments: [u64; 7]) -> [u64; 4] {
        let registers = smccc(&self.world.monitor, &mut self.cpus[cpu], hvc(0), function, &arguments);
        if function == HostCall::VmInit as u64 && registers[0] == 0 && self.next_page > arguments[3] + VM_PAGES {
            // One that a script has made; `create` says so itself, after the vCPUs.
            self.world.track(VmHandle(arguments[0] as u32));
        }
        self.world.machine.assert_clean();
        registers
    }

    fn guest(&mut self, cpu: usize, vm: VmNumber, vcpu: u64, request: &GuestRequest) -> Outcome {
        let Some((handle, run_pages)) = self.vms.get(&vm).cloned() else {
            return Outcome::of(Status::Skipped("there is no guest in this VM"));
        };
        let request = match request {
            GuestRequest::Resume => self.stopped[&(vm, vcpu)],
            request => *request,
        };
        let progress = Arc::new(Mutex::new(Progress::New(request)));
        let mut notice = None;
        loop {
            if let Ok(live) = self.world.monitor.vms().live(handle) {
                let vmid = live.memory().lock().stage2().vmid();
                let (simulated, progress) = (self.cpus[cpu].cpu.clone(), progress.clone());
                let step = move |context: &mut VcpuContext| run_guest(&simulated, vmid, context, &progress);
                self.cpus[cpu].resident = Some(Box::new(step));
            }
            let [x0, reason, ..] =
                self.host_call(cpu, HostCall::VcpuRun as u64, [handle.0.into(), vcpu, 0, 0, 0, 0, 0]);
            if let Some(error) = Error::from_register(x0) {
                return Outcome { notice, ..Outcome::of(Status::NotRun(error)) };
            }
            let reason = ExitReason::from_register(reason).unwrap();
            match reason {
                ExitReason::Interrupt => {
                    let Progress::Done(outcome) = *progress.lock().unwrap() else { panic!("the guest is not done") };
                    self.stopped.remove(&(vm, vcpu));
                    return Outcome { notice, ..outcome };
                }
                ExitReason::MemoryFault | ExitReason::Poisoned | ExitReason::TopUp => {
                    self.stopped.insert((vm, vcpu), request);
                    let notice = Some(self.notice(run_pages[vcpu as usize], reason));
                    return Outcome { notice, ..Outcome::of(Status::Stopped) };
                }
                _ => notice = Some(self.notice(run_pages[vcpu as usize], reason)),
            }
        }
    }

    fn access(&mut self, cpu: usize, access: Access, address: PhysAddr) -> Outcome {
        loop {
            let fault = match touch(&self.cpus[cpu].cpu, TreeKind::Stage2 { vmid: 0 }, address.raw(), access) {
                Ok(outcome) => return outcome,
                Err(fault) => fault,
            };
            let exception = exception(access, address.raw(), fault);
            let action = self.world.monitor.host_exit(&mut self.cpus[cpu], &mut HostRegisters::new(), &exception);
            self.world.machine.assert_clean();
            if action != HostAction::Resume {
                return Outcome::of(Status::Abort);
            }
        }
    }

    fn finalised(&mut self, number: VmNumber) {
        self.vms.remove(&number);
        self.stopped.retain(|(vm, _), _| *vm != number);
    }
}

/// Runs a guest until its next trap.
fn run_guest(cpu: &Cpu, vmid: u16, context: &mut VcpuContext, progress: &Mutex<Progress>) -> GuestTrap {
    let mut progress = progress.lock().unwrap();
    let general = &mut context.general;
    match *progress {
        Progress::Done(_) => return GuestTrap::Interrupt,
        Progress::New(GuestRequest::Call { function, arguments }) => {
            general.x[0] = function;
            general.x[1..8].copy_from_slice(&arguments);
        }
        Progress::New(_) => general.pc = CODE,
        // Past its instruction, or in an exception handler, it is done.
        Progress::Tried(GuestRequest::Call { function, .. }) if general.pc == CODE + 4 => {
            let [x0, x1, x2, x3, ..] = general.x;
            *progress = Progress::Done(Outcome::of_guest_call(function, [x0, x1, x2, x3]));
            return GuestTrap::Interrupt;
        }
        Progress::Tried(_) if general.pc == CODE + 4 => {
            *progress = Progress::Done(Outcome::of(Status::Ok));
            return GuestTrap::Interrupt;
        }
        Progress::Tried(_) if general.pc != CODE => {
            *progress = Progress::Done(Outcome::of(Status::Abort));
            return GuestTrap::Interrupt;
        }
        Progress::Tried(_) => {}
    }
    let (Progress::New(request) | Progress::Tried(request)) = *progress else { return GuestTrap::Interrupt };
    *progress = Progress::Tried(request);
    match request {
        GuestRequest::Call { .. } => {
            general.pc = CODE + 4;
            trap(hvc(0))
        }
        GuestRequest::Access { access, ipa } => match touch(cpu, TreeKind::Stage2 { vmid }, ipa.raw(), access) {
            Ok(outcome) => {
                *progress = Progress::Done(outcome);
                GuestTrap::Interrupt
            }
            Err(fault) => trap(exception(access, ipa.raw(), fault)),
        },
        GuestRequest::Resume => GuestTrap::Interrupt,
    }
}

/// An access behind a stage 2.
fn touch(cpu: &Cpu, tree: TreeKind, input: u64, access: Access) -> Result<Outcome, Fault> {
    let kind = match access {
        Access::Read => memsim::Access::Read,
        Access::Write(_) => memsim::Access::Write,
        Access::Execute => memsim::Access::Execute,
    };
    let address = cpu.access(tree, input, kind)?;
    let mut outcome = Outcome::of(Status::Ok);
    let is_ram = address.raw() >> abi::PAGE_SHIFT >= RAM;
    match access {
        Access::Write(value) if is_ram => {
            cpu.machine().write_word(cpu.index(), address.align_down(8), Access::word(value))
        }
        Access::Read if is_ram => outcome.results[0] = cpu.machine().read_word(address.align_down(8)),
        _ => {}
    }
    Ok(outcome)
}

/// How the hardware reports a fault (Arm ARM, ISS encodings of instruction and data aborts).
fn exception(access: Access, input: u64, fault: Fault) -> Exception {
    let status = match fault {
        Fault::AddressSize { level } => u64::from(level),
        Fault::Translation { level } => 0b00_0100 | u64::from(level),
        Fault::AccessFlag { level } => 0b00_1000 | u64::from(level),
        Fault::Permission { level } => 0b00_1100 | u64::from(level),
    };
    let data = exception_class::DATA_ABORT_LOWER;
    match access {
        Access::Read => abort(data, DECODED | status, input),
        Access::Write(_) => abort(data, DECODED | WRITE | status, input),
        Access::Execute => abort(exception_class::INSTRUCTION_ABORT_LOWER, status, input),
    }
}
