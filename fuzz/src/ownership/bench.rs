//! A simulated machine that scripts run on, and on which everything that happens is compared with what should.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::host::{HostCall, VM_PROTECTED, VmHandle};
use abi::run::ExitReason;
use abi::{Error, Gfn, Ipa, PAGE_SIZE, Pfn, PhysAddr, PhysRange, psci};
use call_script::{Access, Executor, GuestRequest, Notice, Outcome, Places, Request, Status, VmNumber, VmSetup};
use memsim::{Fault, Machine, TreeKind};
use monitor::HostAction;
use monitor::registers::HostRegisters;
use monitor::syndrome::Exception;
use monitor::vcpu::VcpuState;
use monitor::vm::VmPower;
use monitor::vm_table;
use ownership::{Component, VmSlot};
use ownership_spec::{Frame, Guest, Owner, Specification, Vm};
use simulation::{
    CPUS, DEVICE, GUEST_ENTRY, GUEST_RAM, Layout, Options, PA_BITS, RAM, SimulatedMonitor, TestPlatform, World, hvc,
    smccc,
};

use super::actor::{Actor, Touched, exception, is_passed_over, touch};
use super::guest_calls::Expected;
use super::host_calls::{Results, VCPU_PAGES, VM_OBJECT_PAGES, handle_of};
use super::model::{Life, Model, Stuck, VmModel};
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

    /// Compares all that ledger and tables say with what they should.
    ///
    /// # Panics
    /// Where they say something else.
    pub fn check(&self) {
        let Shared { monitor, machine, model, .. } = &*self.shared;
        let model = lock(model);
        let vms: Vec<_> =
            model.vms.keys().filter_map(|handle| monitor.vms().initialised(handle_of(*handle)).ok()).collect();
        let guests = vms.iter().map(|vm| vm.memory());
        let seen = ownership_ghost::abstraction(&machine.freeze(), monitor.ownership(), guests);
        let seen = seen.unwrap_or_else(|wrong| panic!("{wrong}"));
        if let Some(difference) = comparable(&seen).difference(&comparable(&model.spec)) {
            panic!("{difference}");
        }
        self.check_owners(&model);
        self.check_lives(&model);
        machine.assert_clean();
    }

    /// Compares what hyp and people are told of each page with what they should be.
    fn check_owners(&self, model: &Model) {
        let Shared { monitor, layout, places, .. } = &*self.shared;
        let ownership = monitor.ownership();
        let mut told = String::new();
        for pfn in (0..layout.ram_pages).map(|index| Pfn::new(RAM + index)) {
            let state = ownership.state(pfn).unwrap_or_else(|| panic!("page {pfn} is RAM"));
            let owner = model.spec.page(pfn).expect("RAM").owner;
            let expected = match owner {
                Owner::Host => Component::Host,
                Owner::Hyp => Component::Hyp,
                Owner::Guest(vm) => component(vm),
            };
            assert_eq!(state.owner(), expected, "page {pfn}: {state}");
            assert_eq!(ownership.is_host_memory(pfn, 1), expected == Component::Host, "page {pfn}: {state}");
            told.clear();
            let _ = write!(told, "{state}");
            let is_told = match owner {
                Owner::Host => told.starts_with("host"),
                Owner::Hyp => told == "hyp",
                Owner::Guest(vm) => told.split(' ').nth(1).and_then(|slot| slot.parse().ok()) == Some(vm.0),
            };
            assert!(is_told, "page {pfn} is said to be \"{told}\", where it is of: {owner:?}");
        }
        assert_eq!(ownership.state(places.device), None, "a device is no RAM");
        assert!(!ownership.is_host_memory(places.device, 1), "a device is no memory of the host's");
    }

    /// Compares how far each VM is, of those that there are and were, with how far it should be.
    fn check_lives(&self, model: &Model) {
        for handle in 0..=u64::from(model.last_handle) + 1 {
            let expected = model.vms.get(&handle).map(|vm| match vm.life {
                Life::Reserved => vm_table::Life::Reserved,
                Life::Changing => vm_table::Life::Changing,
                Life::Live => vm_table::Life::Live,
                Life::Dying => vm_table::Life::Dying,
            });
            assert_eq!(self.shared.monitor.vms().life(handle_of(handle)), expected, "VM {handle}");
        }
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

    /// Makes a host call, by registers: x0 to x3, and whether a lack of frames is a reason for a refusal.
    fn registers_of_call(&self, index: usize, function: u64, arguments: &[u64; 7]) -> ([u64; 4], bool) {
        self.model().cache_was_short = false;
        let (registers, refused) = self.on_cpu(index, |cpu| {
            let refused = cpu.frames_refused;
            let registers = smccc(&self.shared.monitor, cpu, hvc(0), function, arguments);
            (registers, cpu.frames_refused != refused)
        });
        (registers, refused || self.model().cache_was_short)
    }

    /// Makes a host call and compares what comes of it. `foreseen`: nothing else happens meanwhile.
    fn call(&self, index: usize, function: u64, arguments: &[u64; 7], foreseen: bool) -> [u64; 4] {
        let call = u32::try_from(function).ok().and_then(HostCall::from_function);
        let Some(call) = call else {
            let (registers, _) = self.registers_of_call(index, function, arguments);
            return registers;
        };
        let expected = self.model().host_call(&self.shared.layout, call, arguments);
        let used = self.use_vms(call, arguments);
        if call == HostCall::VcpuRun {
            let handle = handle_of(arguments[0]);
            if self.model().with_vcpu(arguments[0], arguments[1]).is_ok() {
                lock(&self.actor(handle, arguments[1])).look_away();
            }
            self.prepare_run(index, handle, arguments[1]);
        }
        let (registers, starved) = self.registers_of_call(index, function, arguments);
        self.release_vms(used);
        if call == HostCall::VcpuRun {
            self.check_word(handle_of(arguments[0]), arguments[1]);
        }
        let [x0, results @ ..] = registers;
        let result = match Error::from_register(x0) {
            None if x0 == 0 => Ok(results),
            None => panic!("{call:?} returns x0 = {x0:#x}"),
            Some(error) => {
                assert_eq!(results, [0; 3], "{call:?} is refused with {error:?}, and has results");
                Err(error)
            }
        };
        let as_expected = match (result, expected) {
            (Ok(results), Ok(Results::These(expected))) => results == expected,
            (Ok(_), Ok(Results::Any)) => true,
            (Err(Error::OutOfMemory), Ok(_)) => starved,
            // A vCPU may be off, or at it on another CPU.
            (Err(Error::WrongState | Error::Busy), Ok(Results::Any)) => true,
            (Err(error), Err(expected)) => error == expected,
            _ => false,
        };
        assert!(as_expected || !foreseen, "{call:?} {arguments:#x?}: {result:x?}, expected {expected:x?}");
        self.note_tables(call, arguments[0], result);
        if let Ok(results) = result {
            self.note(call, arguments, results);
        } else if call == HostCall::VmFinalise {
            self.note_unfinished(arguments[0]);
        }
        registers
    }

    /// Takes note of what a call that was done has changed beside memory.
    fn note(&self, call: HostCall, arguments: &[u64; 7], results: [u64; 3]) {
        let Shared { monitor, machine, .. } = &*self.shared;
        self.model().note_host_call(call, arguments, results);
        if call == HostCall::VmInit {
            let vm = monitor.vms().live(handle_of(arguments[0])).expect("a VM that was just made");
            let memory = vm.memory().lock();
            machine.track_stage2(memory.stage2());
            machine.guard_caches(memory.stage2().root());
            let cpus = lock(&self.shared.cpus);
            let cpu = cpus.iter().flatten().next().expect("a CPU");
            lock(&cpu.roots).push(memory.stage2().root());
        }
    }

    /// A VM could not be finalised altogether: some of its vCPUs may be gone.
    fn note_unfinished(&self, handle: u64) {
        let mut model = self.model();
        let Some(vm) = model.vms.get_mut(&handle).filter(|vm| vm.life == Life::Dying && vm.has_object) else { return };
        if let Ok(object) = self.shared.monitor.vms().initialised(handle_of(handle)) {
            let left = (0..).take_while(|index| object.vcpu(*index).is_ok()).count();
            vm.run_pages.truncate(left);
        }
    }

    /// Notes, for steps in the midst of a call, what the call does with VMs; undone by `release_vms`.
    fn use_vms(&self, call: HostCall, arguments: &[u64; 7]) -> Vec<(u64, Option<Life>)> {
        let mut model = self.model();
        let changes = matches!(call, HostCall::VmInit | HostCall::VmFinalise);
        let names_two = call == HostCall::VmEndShare;
        let names_none = matches!(
            call,
            HostCall::Version
                | HostCall::MemoryInfo
                | HostCall::InterruptInfo
                | HostCall::HypShare
                | HostCall::HypShareRestricted
                | HostCall::HypUnshare
                | HostCall::VmSizes
                | HostCall::VmReserve
        );
        let named = arguments.iter().take(if names_none { 0 } else { 1 + usize::from(names_two) });
        let mut used = Vec::new();
        for handle in named {
            let Some(vm) = model.vms.get_mut(handle) else { continue };
            vm.users += 1;
            used.push((*handle, changes.then_some(vm.life)));
            if changes {
                vm.life = Life::Changing;
            }
        }
        used
    }

    fn release_vms(&self, used: Vec<(u64, Option<Life>)>) {
        let mut model = self.model();
        for (handle, life) in used {
            if let Some(vm) = model.vms.get_mut(&handle) {
                vm.users -= 1;
                if let Some(life) = life {
                    vm.life = life;
                }
            }
        }
    }

    /// What a vCPU does.
    fn actor(&self, handle: VmHandle, vcpu: u64) -> SharedActor {
        lock(&self.shared.actors).entry((handle.0.into(), vcpu)).or_default().clone()
    }

    /// Lets a CPU's guest do what the vCPU's script says.
    fn prepare_run(&self, index: usize, handle: VmHandle, vcpu: u64) {
        let Ok(vm) = self.shared.monitor.vms().live(handle) else { return };
        let vmid = vm.memory().lock().stage2().vmid();
        let actor = self.actor(handle, vcpu);
        let mut cpus = lock(&self.shared.cpus);
        if let Some(platform) = &mut cpus[index] {
            let (cpu, ram) = (platform.cpu.clone(), self.shared.layout.ram());
            platform.resident = Some(Box::new(move |context| lock(&actor).run(&cpu, &ram, vmid, context)));
        }
    }

    /// What is in a run page.
    fn notice(&self, page: Pfn, reason: ExitReason) -> Notice {
        let word = |index: u64| self.shared.machine.read_word(PhysAddr::new(page.raw() * PAGE_SIZE + 8 * index));
        assert_eq!(word(0), reason as u64, "the run page and x1 say why the guest exits");
        Notice { reason, ipa: word(1), data: word(4), peer: word(5) }
    }

    /// What keeps a vCPU from running, if anything does.
    fn obstacle(&self, handle: VmHandle, vcpu: u64) -> Option<Error> {
        if let Err(error) = self.model().with_vcpu(handle.0.into(), vcpu) {
            return Some(error);
        }
        let vm = self.shared.monitor.vms().live(handle).expect("the model says that it lives");
        let state = vm.vcpu(vcpu).expect("the model says that it is there").state();
        match state {
            _ if vm.power() != VmPower::On => Some(Error::WrongState),
            VcpuState::Off | VcpuState::Stopped => Some(Error::WrongState),
            VcpuState::Starting | VcpuState::Running(_) | VcpuState::Examined => Some(Error::Busy),
            VcpuState::OnPending | VcpuState::Ready => None,
        }
    }

    /// Has a vCPU do something, and compares what comes of it. `foreseen`: nothing else happens meanwhile.
    fn act(&self, index: usize, handle: VmHandle, vcpu: u64, request: &GuestRequest, foreseen: bool) -> Outcome {
        let actor = self.actor(handle, vcpu);
        let pending = lock(&actor).pending();
        if *request == GuestRequest::Resume && pending.is_none() {
            return Outcome::of(Status::Skipped("the guest has nothing to go on with"));
        }
        if let Some(error) = self.obstacle(handle, vcpu) {
            if error != Error::Busy {
                lock(&actor).stop();
            }
            let run = HostCall::VcpuRun as u64;
            let [x0, ..] = self.call(index, run, &[handle.0.into(), vcpu, 0, 0, 0, 0, 0], foreseen);
            assert_eq!(x0, error.to_register(), "VCPU_RUN where there is {error:?}");
            return Outcome::of(Status::NotRun(error));
        }
        let request = pending.filter(|_| *request == GuestRequest::Resume).unwrap_or(*request);
        if pending != Some(request) {
            lock(&actor).start(request);
        }
        let foreseen = foreseen && !lock(&actor).is_unwatched();
        let expected = self.model().guest_action(handle, &request);
        let others = self.others(handle, &request);
        self.change_users(&others, 1);
        let (outcome, starved) = self.run(index, handle, vcpu, &actor);
        self.change_users(&others, -1);
        if let Some(expected) = expected.filter(|_| foreseen) {
            compare(&request, &outcome, &expected, starved);
        }
        self.note_stuck(handle, &outcome);
        self.check_word(handle, vcpu);
        outcome
    }

    /// Takes note that a VM's tables need pages, or that it got some.
    fn note_tables(&self, call: HostCall, handle: u64, result: Result<[u64; 3], Error>) {
        let mut model = self.model();
        if call == HostCall::VcpuTopUp && result.is_ok() && model.stuck.get(&handle) == Some(&Stuck::Tables) {
            model.stuck.remove(&handle);
        }
        if result == Err(Error::OutOfMemory) && model.cache_was_short {
            model.stuck.entry(handle).or_insert(Stuck::Tables);
        }
    }

    fn note_stuck(&self, handle: VmHandle, outcome: &Outcome) {
        let stuck = match (outcome.status, outcome.notice) {
            (Status::Stopped, Some(Notice { reason: ExitReason::MemoryFault, ipa, .. })) => {
                Some(Stuck::Memory(Gfn::containing(Ipa::new(ipa))))
            }
            (Status::Stopped, Some(Notice { reason: ExitReason::TopUp, .. })) => Some(Stuck::Tables),
            (Status::Stopped | Status::NotRun(_), _) => Some(Stuck::ForGood),
            _ => None,
        };
        let mut model = self.model();
        match stuck {
            Some(stuck) => model.stuck.insert(handle.0.into(), stuck),
            None => model.stuck.remove(&handle.0.into()),
        };
    }

    /// The VMs that an action of a guest's uses beside its own.
    fn others(&self, handle: VmHandle, request: &GuestRequest) -> Option<u64> {
        let model = self.model();
        model.vm(handle).and_then(|vm| model.others_used(vm, request))
    }

    fn change_users(&self, handle: &Option<u64>, change: i32) {
        if let Some(vm) = handle.and_then(|handle| self.model().vms.get_mut(&handle).map(|vm| vm.users)) {
            let users = vm.saturating_add_signed(change);
            if let Some(handle) = handle {
                self.model().vms.entry(*handle).and_modify(|vm| vm.users = users);
            }
        }
    }

    /// Runs a vCPU that may run until it has done what it is to do, or cannot come past it; and says whether a lack of
    /// frames is a reason for that.
    fn run(&self, index: usize, handle: VmHandle, vcpu: u64, actor: &SharedActor) -> (Outcome, bool) {
        let (mut notice, mut starved) = (None, false);
        for _ in 0..ENDLESS {
            self.prepare_run(index, handle, vcpu);
            let arguments = [handle.0.into(), vcpu, 0, 0, 0, 0, 0];
            let used = self.use_vms(HostCall::VcpuRun, &arguments);
            let run_page = self.model().vm(handle).and_then(|vm| vm.run_pages.get(vcpu as usize).copied());
            let run = HostCall::VcpuRun as u64;
            let ([x0, reason, ..], lacks_frames) = self.registers_of_call(index, run, &arguments);
            self.release_vms(used);
            starved |= lacks_frames;
            if let Some(error) = Error::from_register(x0) {
                return (Outcome::of(Status::NotRun(error)), starved);
            }
            let reason = ExitReason::from_register(reason).expect("a reason that there is");
            let told = self.notice(run_page.expect("a vCPU has a run page"), reason);
            if reason == ExitReason::Interrupt {
                let outcome = lock(actor).take_outcome().expect("a guest that has done what it was to do");
                return (Outcome { notice, ..outcome }, starved);
            }
            notice = Some(told);
            if !is_passed_over(reason) {
                return (Outcome { notice, ..Outcome::of(Status::Stopped) }, starved);
            }
        }
        panic!("the guest does not come to an end: {notice:x?}");
    }

    /// What a guest reads must be what was written last, and what it writes is.
    fn check_word(&self, handle: VmHandle, vcpu: u64) {
        let mut model = self.model();
        if model.with_vcpu(handle.0.into(), vcpu).is_err() {
            return;
        }
        let touched = lock(&self.actor(handle, vcpu)).take_touched();
        let Some(Touched { access, ipa, value }) = touched.filter(|touched| touched.ipa.page_offset() < 8) else {
            return;
        };
        let Some(vm) = model.vm(handle).map(VmModel::vm) else { return };
        if let Frame::Memory(pfn) = model.spec.frame(vm, Gfn::containing(ipa)) {
            model.accessed(pfn, access, value);
        }
    }

    /// The host touches memory, until it is done or aborts.
    fn host_access(&self, index: usize, access: Access, address: PhysAddr) -> Outcome {
        let expected = self.model().host_access(access, address);
        let (monitor, ram) = (&self.shared.monitor, self.shared.layout.ram());
        let (outcome, starved) = self.on_cpu(index, |cpu| {
            let refused = cpu.frames_refused;
            for _ in 0..ENDLESS {
                let simulated = cpu.cpu.clone();
                let stage2 = TreeKind::Stage2 { vmid: 0 };
                let fault: Fault = match touch(&simulated, &ram, stage2, address.raw(), access) {
                    Ok((reached, value)) => {
                        assert_eq!(reached, address.align_down(8), "the host's addresses are physical");
                        let value = if access == Access::Read { value } else { 0 };
                        return (Outcome { results: [value, 0, 0], ..Outcome::of(Status::Ok) }, false);
                    }
                    Err(fault) => fault,
                };
                let exception: Exception = exception(access, address.raw(), fault);
                if monitor.host_exit(cpu, &mut HostRegisters::new(), &exception) != HostAction::Resume {
                    return (Outcome::of(Status::Abort), cpu.frames_refused != refused);
                }
            }
            panic!("the host's access to {address} does not come to an end");
        });
        let as_expected = outcome.status == expected || starved && outcome.status == Status::Abort;
        assert!(as_expected, "{access:x?} by the host at {address}: {}, expected {expected}", outcome.status);
        if outcome.status == Status::Ok && address.page_offset() < 8 && ram.contains(address) {
            self.model().accessed(Pfn::containing(address), access, outcome.results[0]);
        }
        outcome
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
        done(HostCall::VcpuTopUp, &[handle, 0, page, CACHE_PAGES])?;
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

/// What came of a guest's action must be what should have.
fn compare(request: &GuestRequest, outcome: &Outcome, expected: &Expected, starved: bool) {
    let lacks_tables = outcome.notice.is_some_and(|notice| notice.reason == ExitReason::TopUp);
    if lacks_tables && starved && expected.status == Status::Ok {
        return;
    }
    let exit = outcome.notice.map(|Notice { reason, ipa, data, peer }| (reason, ipa, data, peer));
    let first = expected.first.is_none_or(|first| first == outcome.results[0]);
    let as_expected = outcome.status == expected.status && exit == expected.exit && first;
    assert!(as_expected, "{request:x?}: {outcome:x?}, expected {expected:x?}");
}

/// The VM as hyp knows it.
fn component(vm: Vm) -> Component {
    Component::Guest(VmSlot::new(vm.0.into()).expect("a slot that there is"))
}

/// A state without what is not in any table: the offers and poisoned frames of VMs that are dying.
fn comparable(state: &Specification) -> Specification {
    let mut comparable = state.clone();
    for (vm, guest) in state.guests().filter(|(_, guest)| guest.dying && !guest.poisoned.is_empty()) {
        comparable.set_guest(vm, Guest { poisoned: Default::default(), ..guest.clone() });
    }
    comparable
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
        let interruption: Interruption = Box::new(move || {
            let outcome = bench.perform(cpu, &request, true);
            *lock(&slot) = Some(outcome);
        });
        *lock(&self.shared.pending[outer.0]) = Some((boundary, interruption));
        let outcome = self.perform(outer.0, outer.1, false);
        *lock(&self.shared.pending[outer.0]) = None;
        let inner = lock(&inside).take().unwrap_or_else(|| self.perform(inner.0, inner.1, true));
        Some((outcome, inner))
    }
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
