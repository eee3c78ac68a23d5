//! A simulated machine that scripts run on, and on which everything that happens is compared with what should.

mod check;
mod guest;
mod host;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::host::{HostCall, VM_PROTECTED, VmHandle};
use abi::{Error, PAGE_SIZE, Pfn, PhysAddr, PhysRange, psci};
use call_script::{Access, Executor, GuestRequest, Outcome, Places, Request, Status, VmNumber, VmSetup};
use memsim::Machine;
use ownership_spec::Specification;
use simulation::{
    CPUS, DEVICE, GUEST_ENTRY, GUEST_RAM, Layout, Options, PA_BITS, RAM, SimulatedMonitor, TestPlatform, World,
};

use super::actor::Actor;
use super::guard::is_guard_call;
use super::host_calls::{VCPU_PAGES, VM_OBJECT_PAGES, handle_of};
use super::model::Model;
use super::ranks::{as_cpu, watch_locks};
use super::watch::{Interruption, Pending, Watch};

/// Bits of the addresses of guests, and pages of the root of their tables, as the reference host makes them.
const IPA_BITS: u64 = 32;
const ROOT_PAGES: u64 = 4;
/// Pages of the device that scripts name: as many as QEMU's board has to spare.
const DEVICE_PAGES: u64 = 4;
/// Pages for tables that a VM of the setup gets: enough for some frames here and there.
const CACHE_PAGES: u64 = 6;
/// Pages for each VM of the setup, with at most this many vCPUs.
const MAX_SETUP_VCPUS: u64 = 2;
const VM_PAGES: u64 =
    (ROOT_PAGES + VM_OBJECT_PAGES + MAX_SETUP_VCPUS * (1 + VCPU_PAGES) + CACHE_PAGES).next_multiple_of(ROOT_PAGES);
/// Pages of the carve-out, the roots among them: more frames than the tables of so small a machine take.
const CARVE_OUT_PAGES: u64 = 40;
/// Attempts after which a fault, or a guest, is taken not to come to an end.
const ENDLESS: usize = 16;

/// The machine. Clones are the same one.
#[derive(Clone)]
pub struct Bench {
    shared: Arc<Shared>,
}

/// A vCPU's script, which the CPU follows that runs it.
type SharedActor = Arc<Mutex<Actor>>;

struct Shared {
    monitor: Arc<SimulatedMonitor>,
    machine: Machine,
    layout: Layout,
    places: Places,
    /// First page that the next VM of the setup takes.
    next_vm: Mutex<u64>,
    model: Arc<Mutex<Model>>,
    /// Each CPU, unless it is at something.
    cpus: Mutex<Vec<Option<TestPlatform>>>,
    /// What is to happen at a lock boundary of each CPU's.
    pending: Vec<Pending>,
    /// What each vCPU does, by the VM's handle and the vCPU's index.
    actors: Mutex<BTreeMap<(u64, u64), SharedActor>>,
    names: Mutex<BTreeMap<VmNumber, VmHandle>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bench {
    /// A machine with a pool of `pages` pages, and room for `vms` VMs of a setup.
    pub fn new(pages: u64, vms: u64) -> Self {
        watch_locks();
        let first_vm = pages.next_multiple_of(ROOT_PAGES);
        let layout =
            Layout { ram_pages: first_vm + vms * VM_PAGES + CARVE_OUT_PAGES, carve_out_pages: CARVE_OUT_PAGES };
        let World { monitor, machine, layout, cpu0 } = World::with(Options { layout, ..Options::default() });
        let places = Places {
            pool: Pfn::new(RAM),
            pool_pages: pages,
            hyp: Pfn::new(layout.carve_out_page()),
            hyp_pages: layout.carve_out_pages,
            device: Pfn::new(DEVICE),
            device_pages: DEVICE_PAGES,
            frames: Places::FRAMES,
            ipa_bits: IPA_BITS,
            vm_pages: ROOT_PAGES + VM_OBJECT_PAGES,
            vm_alignment: ROOT_PAGES,
            vcpu_pages: VCPU_PAGES,
        };
        let pages_of = |range: PhysRange| Pfn::containing(range.start)..Pfn::containing(range.end);
        let (ram, carve_out) = (pages_of(layout.ram()), pages_of(layout.carve_out()));
        let spec_machine = ownership_spec::Machine::new(&[ram], &[carve_out], (1 << PA_BITS) / PAGE_SIZE);
        let model = Arc::new(Mutex::new(Model::new(Specification::new(spec_machine))));
        let pending: Vec<Pending> = CPUS.iter().map(|_| Pending::default()).collect();
        let cpus = pending.iter().enumerate().map(|(index, pending)| {
            let mut cpu = cpu0.sibling(index);
            cpu.observer = Some(Box::new(Watch::new(model.clone(), pending.clone())));
            Some(cpu)
        });
        let cpus = Mutex::new(cpus.collect());
        let next_vm = Mutex::new(RAM + first_vm);
        let (actors, names) = (Mutex::default(), Mutex::default());
        let shared = Shared { monitor, machine, layout, places, next_vm, model, cpus, pending, actors, names };
        Self { shared: Arc::new(shared) }
    }

    /// What everything should be.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.shared.model)
    }

    /// How much RAM there is.
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// Says which VM a name means from here on.
    pub fn name(&self, number: VmNumber, handle: VmHandle) {
        lock(&self.shared.names).insert(number, handle);
    }

    /// Makes a CPU do something.
    fn on_cpu<T>(&self, index: usize, act: impl FnOnce(&mut TestPlatform) -> T) -> T {
        let taken = lock(&self.shared.cpus).get_mut(index).and_then(Option::take);
        let mut cpu = taken.expect("a CPU that is not at something");
        let result = as_cpu(index, || act(&mut cpu));
        lock(&self.shared.cpus)[index] = Some(cpu);
        self.shared.machine.assert_clean();
        result
    }

    /// Does a request on a CPU.
    fn perform(&self, index: usize, request: &Request, foreseen: bool) -> Outcome {
        match request {
            Request::Call { function, arguments, .. } => {
                Outcome::of_call(self.call(index, *function, arguments, foreseen))
            }
            Request::Access { access, address } => self.host_access(index, *access, *address),
            Request::Guest { vm, vcpu, request } => self.guest_by_name(index, *vm, *vcpu, request, foreseen),
            Request::Frames(_) => Outcome::of(Status::Skipped("this is no step of a CPU's")),
        }
    }

    fn guest_by_name(&self, index: usize, vm: VmNumber, vcpu: u64, request: &GuestRequest, foreseen: bool) -> Outcome {
        let handle = lock(&self.shared.names).get(&vm).copied();
        match handle {
            Some(handle) => self.act(index, handle, vcpu, request, foreseen),
            None => Outcome::of(Status::Skipped("there is no such VM")),
        }
    }

    /// Lets hyp find so many frames.
    fn limit(&self, count: Option<u32>) {
        self.model().has_few_frames = count.is_some();
        match count {
            Some(count) => self.shared.machine.fail_allocations_after(count as usize),
            None => self.shared.machine.allow_allocations(),
        }
    }

    /// A VM of the setup, from pages behind the pool.
    fn create_vm(&self, setup: &VmSetup) -> Result<VmHandle, Error> {
        if setup.vcpus == 0 || setup.vcpus > MAX_SETUP_VCPUS {
            return Err(Error::InvalidParameter);
        }
        let mut page = {
            let mut next = lock(&self.shared.next_vm);
            let page = *next;
            *next += VM_PAGES;
            page
        };
        let done = |call: HostCall, arguments: &[u64]| {
            let mut all = [0; 7];
            all[..arguments.len()].copy_from_slice(arguments);
            let [x0, x1, ..] = self.call(0, call as u64, &all, true);
            Error::from_register(x0).map_or(Ok(x1), Err)
        };
        let handle = done(HostCall::VmReserve, &[])?;
        let flags = if setup.protected { VM_PROTECTED } else { 0 };
        let pages = self.shared.places.vm_pages;
        let shape = IPA_BITS | setup.vcpus << 32;
        done(HostCall::VmInit, &[handle, flags, shape, page, pages, GUEST_ENTRY, GUEST_RAM.raw()])?;
        page += pages;
        for index in 0..setup.vcpus {
            done(HostCall::VcpuInit, &[handle, index, page + 1, VCPU_PAGES, page])?;
            page += 1 + VCPU_PAGES;
        }
        for index in 0..setup.vcpus {
            let count = CACHE_PAGES / setup.vcpus;
            done(HostCall::VcpuTopUp, &[handle, index, page, count])?;
            page += count;
        }
        let handle = handle_of(handle);
        for index in 1..setup.vcpus {
            let arguments = [index, GUEST_ENTRY, 0, 0, 0, 0, 0];
            let request = GuestRequest::Call { function: psci::CPU_ON_64.into(), arguments };
            let outcome = self.act(0, handle, 0, &request, true);
            assert_eq!(outcome.status, Status::Ok, "CPU_ON of vCPU {index}");
        }
        Ok(handle)
    }
}

impl Executor for Bench {
    fn create(&mut self, number: VmNumber, setup: &VmSetup) -> Result<VmHandle, Error> {
        let handle = self.create_vm(setup)?;
        self.name(number, handle);
        Ok(handle)
    }

    fn places(&self) -> Places {
        self.shared.places
    }

    fn host_call(&mut self, cpu: usize, function: u64, arguments: [u64; 7]) -> [u64; 4] {
        self.call(cpu, function, &arguments, true)
    }

    fn guest(&mut self, cpu: usize, vm: VmNumber, vcpu: u64, request: &GuestRequest) -> Outcome {
        self.guest_by_name(cpu, vm, vcpu, request, true)
    }

    fn access(&mut self, cpu: usize, access: Access, address: PhysAddr) -> Outcome {
        self.host_access(cpu, access, address)
    }

    fn limit_frames(&mut self, count: Option<u32>) -> bool {
        self.limit(count);
        true
    }

    fn counts_frames(&self) -> bool {
        true
    }

    fn interleave(
        &mut self,
        boundary: u32,
        outer: (usize, &Request),
        inner: (usize, &Request),
    ) -> Option<(Outcome, Outcome)> {
        if boundary == 0 || excludes(outer.1, inner.1) {
            return None;
        }
        let inside = Arc::new(Mutex::new(None));
        let (bench, slot, request, cpu) = (self.clone(), inside.clone(), *inner.1, inner.0);
        // The guard's calls are no transitions that the model hears of under their locks.
        let foreseen = !guards(outer.1) && !guards(inner.1);
        let interruption: Interruption = Box::new(move || {
            let outcome = bench.perform(cpu, &request, foreseen);
            *lock(&slot) = Some(outcome);
        });
        *lock(&self.shared.pending[outer.0]) = Some((boundary, interruption));
        let outcome = self.perform(outer.0, outer.1, false);
        *lock(&self.shared.pending[outer.0]) = None;
        let inner = lock(&inside).take().unwrap_or_else(|| self.perform(inner.0, inner.1, true));
        Some((outcome, inner))
    }
}

/// True for one of the MMIO guard's calls.
fn guards(request: &Request) -> bool {
    matches!(request, Request::Guest { request, .. } if is_guard_call(request))
}

/// True where the second request waits for the first to end: both make a vCPU, or are one vCPU's.
fn excludes(outer: &Request, inner: &Request) -> bool {
    if let (Request::Guest { vm, vcpu, .. }, Request::Guest { vm: other, vcpu: another, .. }) = (outer, inner) {
        return (vm, vcpu) == (other, another);
    }
    let makes_vcpu =
        |request: &Request| matches!(request, Request::Call { function, .. } if *function == HostCall::VcpuInit as u64);
    makes_vcpu(outer) && makes_vcpu(inner)
}
