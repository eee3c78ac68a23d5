//! The machine and the VMs that every trial begins with.

use crate::action::{Action, Seen};
use abi::host::{HostCall, VM_PROTECTED, VmHandle};
use abi::{Error, Ipa, psci};
use memsim::Cpu;
use monitor::vcpu::VcpuState;
use monitor::vm_table::Life;
use ownership::{Access, Call, HostFault, LockedMemory};
use ownership_ghost::{Ghost, Settings};
use ownership_spec::{Borrower, Owner, Specification, Vm};
use simulation::{GUEST_ENTRY, GUEST_RAM, IPA_BITS, Layout, Observer, Options, RAM, TestPlatform, World};
use std::cell::RefCell;
use std::rc::Rc;

/// A protected VM, whose page it mostly is.
pub const OWNER: VmHandle = VmHandle(1);
/// Another protected VM.
pub const OTHER: VmHandle = VmHandle(2);
/// A VM that is not protected.
pub const PLAIN: VmHandle = VmHandle(3);
/// A VM that is not initialised.
pub const RESERVED: VmHandle = VmHandle(4);
/// Handles that are looked at: these, and some that calls may make.
pub const HANDLES: std::ops::RangeInclusive<u32> = 1..=6;

/// The page that calls are about.
pub const PAGE: u64 = RAM + 0x50;
/// Another, which is the host's.
pub const SPARE: u64 = PAGE + 1;
/// Where pages begin that a VM and a vCPU can be made of.
pub const OBJECTS: u64 = RAM + 0x60;
/// The frame that calls are about.
pub const FRAME: u64 = GUEST_RAM.raw() >> 12;
/// Another, at which nobody has anything.
pub const VACANT: u64 = FRAME + 1;
/// The frame that devices come to: the last at which a protected guest may have one.
pub const DEVICE_FRAME: u64 = FRAME - 1;
/// The pages of a VM's tables that are not used yet.
const CACHED: u64 = 4;
/// The vCPUs that a VM may have.
pub const VCPUS: u64 = 3;
/// Pages that a VM may take.
const VM_PAGES: u64 = 0x18;
const LAYOUT: Layout = Layout { ram_pages: 0xa0, carve_out_pages: 0x20 };

/// Compares each transition with the specification, under its locks.
struct Watch(Ghost);

impl Observer for Watch {
    fn before(&mut self, cpu: &Cpu, memory: &LockedMemory<'_>, call: &Call) {
        if let Err(report) = self.0.before(&cpu.machine().freeze(), memory, call) {
            panic!("{report}");
        }
    }

    fn after(&mut self, cpu: &Cpu, memory: &LockedMemory<'_>, _call: &Call, result: Result<(), Error>) {
        if let Err(report) = self.0.after(&cpu.machine().freeze(), memory, result) {
            panic!("{report}");
        }
    }

    fn fault(&mut self, cpu: &Cpu, memory: &LockedMemory<'_>, ipa: Ipa, access: Access, fault: HostFault) {
        if let Err(report) = self.0.fault(&cpu.machine().freeze(), memory, ipa, access, fault, false) {
            panic!("{report}");
        }
    }
}

/// The machine, with two CPUs that act.
pub struct Stage {
    pub world: World,
    pub other_cpu: Rc<RefCell<TestPlatform>>,
}

/// All that can be seen of a machine between calls.
#[derive(Clone, PartialEq, Debug)]
pub struct State {
    pub memory: Specification,
    /// Of each VM: how far it is, how many pages it has for tables, and what its vCPUs do.
    pub vms: Vec<Option<(Life, u64, Vec<VcpuState>)>>,
}

impl Stage {
    /// A machine with three VMs and a reserved one. Those that run have two vCPUs, both ready, of three.
    pub fn new() -> Self {
        let world = World::with(Options { layout: LAYOUT, ..Options::default() });
        let other_cpu = Rc::new(RefCell::new(world.cpu(1)));
        let mut stage = Self { world, other_cpu };
        for (handle, first, flags) in
            [(OWNER, RAM, VM_PROTECTED), (OTHER, RAM + 0x18, VM_PROTECTED), (PLAIN, RAM + 0x30, 0)]
        {
            stage.make_vm(handle, first, flags);
        }
        stage.must(&Action::Host(HostCall::VmReserve, vec![]));
        stage
    }

    fn make_vm(&mut self, handle: VmHandle, first: u64, flags: u64) {
        let [vm_pages, _, vcpu_pages] = self.world.call(HostCall::VmSizes, &[IPA_BITS, VCPUS]).unwrap();
        let vm = u64::from(handle.0);
        self.must(&Action::Host(HostCall::VmReserve, vec![]));
        let sizes = IPA_BITS | VCPUS << 32;
        let arguments = vec![vm, flags, sizes, first, vm_pages, GUEST_ENTRY, GUEST_RAM.raw()];
        self.must(&Action::Host(HostCall::VmInit, arguments));
        self.world.track(handle);
        let mut page = first + vm_pages;
        for index in 0..2 {
            self.must(&Action::Host(HostCall::VcpuInit, vec![vm, index, page + 1, vcpu_pages, page]));
            page += 1 + vcpu_pages;
        }
        for index in 0..2 {
            self.must(&Action::Host(HostCall::VcpuTopUp, vec![vm, index, page, CACHED]));
            page += CACHED;
        }
        assert!(page <= first + VM_PAGES);
        self.must(&Action::Guest { handle, function: psci::CPU_ON_64, arguments: vec![1, GUEST_ENTRY, 0] });
        let run = Action::Host(HostCall::VcpuRun, vec![vm, 1]);
        assert!(run.take(&self.world.monitor, &mut self.other_cpu.borrow_mut()).refusal().is_none());
    }

    /// From here on each transition is compared.
    pub fn watch(&mut self) {
        self.world.cpu0.observer = Some(Box::new(Watch(Ghost::new(Settings::ALL))));
        self.other_cpu.borrow_mut().observer = Some(Box::new(Watch(Ghost::new(Settings::ALL))));
    }

    /// Has the simulated machine watch a VM that has come to be.
    pub fn adopt(&self) {
        let is_live = |handle: &VmHandle| self.world.monitor.vms().life(*handle) == Some(Life::Live);
        for handle in HANDLES.map(VmHandle).filter(|handle| *handle >= RESERVED && is_live(handle)) {
            self.world.track(handle);
        }
    }

    /// Does something that is not refused.
    pub fn must(&mut self, action: &Action) {
        let seen = action.take(&self.world.monitor, &mut self.world.cpu0);
        assert!(seen.refusal().is_none() && !matches!(seen, Seen::Guest { x0: Some(_), .. }), "{action}: {seen:?}");
    }

    /// What there is now. New VMs are watched from here on.
    pub fn state(&self) -> State {
        let vms = self.world.monitor.vms();
        let handles: Vec<_> = HANDLES.map(VmHandle).collect();
        let references: Vec<_> = handles.iter().filter_map(|handle| vms.initialised(*handle).ok()).collect();
        let memory = ownership_ghost::abstraction(
            &self.world.machine.freeze(),
            self.world.monitor.ownership(),
            references.iter().map(|vm| vm.memory()),
        );
        let vm_state = |handle: &VmHandle| {
            let life = vms.life(*handle)?;
            let vm = vms.initialised(*handle).ok();
            let cached = vm.as_ref().map_or(0, |vm| vm.memory().lock().cached_pages());
            let vcpus = vm.iter().flat_map(|vm| (0..3).filter_map(|index| Some(vm.vcpu(index).ok()?.state())));
            Some((life, cached, vcpus.collect()))
        };
        let memory = memory.unwrap_or_else(|disagreement| panic!("{disagreement}"));
        State { memory, vms: handles.iter().map(vm_state).collect() }
    }

    /// Ends every VM by the host's calls, and checks that everything is the host's again.
    pub fn tear_down(mut self, state: &State) {
        self.world.cpu0.observer = None;
        for handle in HANDLES.filter(|handle| state.vms[*handle as usize - 1].is_some()) {
            if state.vms[handle as usize - 1].as_ref().is_some_and(|(life, ..)| *life != Life::Dying) {
                self.must(&Action::Host(HostCall::VmTeardown, vec![u64::from(handle)]));
            }
        }
        let memory = &state.memory;
        for (vm, guest) in memory.guests() {
            for (number, (borrower, _)) in
                guest.offers.iter().filter_map(|(number, offer)| Some((*number, offer.accepted?)))
            {
                self.must(&Action::Host(HostCall::VmEndShare, vec![handle_of(vm), handle_of(borrower), number]));
            }
        }
        for (pfn, page) in memory.changed_pages() {
            for borrower in page.borrowers.keys() {
                match borrower {
                    Borrower::Guest(vm, _) if page.is_lent() => {
                        self.must(&Action::Host(HostCall::VmReclaim, vec![handle_of(*vm), pfn.raw(), 1]));
                    }
                    Borrower::Guest(vm, gfn) if page.owner == Owner::Host => {
                        self.must(&Action::Host(HostCall::VmUnshare, vec![handle_of(*vm), gfn.raw(), 1]));
                    }
                    Borrower::Hyp if page.pins == 0 => {
                        self.must(&Action::Host(HostCall::HypUnshare, vec![pfn.raw(), 1]));
                    }
                    _ => {}
                }
            }
            if let Owner::Guest(vm) = page.owner {
                self.must(&Action::Host(HostCall::VmReclaim, vec![handle_of(vm), pfn.raw(), 1]));
            }
        }
        for (pfn, device) in memory.changed_devices() {
            if let Owner::Guest(vm) = device.owner {
                self.must(&Action::Host(HostCall::VmReclaimDevice, vec![handle_of(vm), pfn.raw(), 1]));
            }
        }
        for handle in HANDLES.filter(|handle| state.vms[*handle as usize - 1].is_some()) {
            self.must(&Action::Host(HostCall::VmFinalise, vec![u64::from(handle)]));
        }
        self.world.assert_all_back();
        self.world.machine.assert_clean();
    }
}

/// The handle of the VM in a slot, as long as no slot has had another.
fn handle_of(vm: Vm) -> u64 {
    u64::from(vm.0) + 1
}
