//! The host's calls and accesses, and what is to be noted of them.

use abi::host::HostCall;
use abi::{Error, Pfn, PhysAddr};
use call_script::{Access, HostStep, Kind, Outcome, Status};
use memsim::{Fault, TreeKind};
use monitor::HostAction;
use monitor::registers::HostRegisters;
use monitor::syndrome::Exception;
use simulation::{hvc, smccc};

use super::super::actor::{exception, touch};
use super::super::host_calls::{Results, handle_of};
use super::super::model::{Life, Stuck};
use super::{Bench, ENDLESS, Shared, lock};

impl Bench {
    /// Makes a host call, by registers: x0 to x3, and whether a lack of frames is a reason for a refusal.
    pub(super) fn registers_of_call(&self, index: usize, function: u64, arguments: &[u64; 7]) -> ([u64; 4], bool) {
        self.model().cache_was_short = false;
        let (registers, refused) = self.on_cpu(index, |cpu| {
            let refused = cpu.frames_refused;
            let registers = smccc(&self.shared.monitor, cpu, hvc(0), function, arguments);
            (registers, cpu.frames_refused != refused)
        });
        (registers, refused || self.model().cache_was_short)
    }

    /// Makes a host call and compares what comes of it. `foreseen`: nothing else happens meanwhile.
    pub(super) fn call(&self, index: usize, function: u64, arguments: &[u64; 7], foreseen: bool) -> [u64; 4] {
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
        self.note_tables(call, arguments, result);
        if let Ok(results) = result {
            self.note(call, arguments, results);
        } else if call == HostCall::VmFinalise {
            self.note_unfinished(arguments[0]);
        }
        registers
    }

    /// Takes note of what a call that was done has changed beside memory.
    pub(super) fn note(&self, call: HostCall, arguments: &[u64; 7], results: [u64; 3]) {
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
    pub(super) fn note_unfinished(&self, handle: u64) {
        let mut model = self.model();
        let Some(vm) = model.vms.get_mut(&handle).filter(|vm| vm.life == Life::Dying && vm.has_object) else { return };
        if let Ok(object) = self.shared.monitor.vms().initialised(handle_of(handle)) {
            let left = (0..).take_while(|index| object.vcpu(*index).is_ok()).count();
            vm.run_pages.truncate(left);
        }
    }

    /// Notes, for steps in the midst of a call, what the call does with VMs; undone by `release_vms`.
    pub(super) fn use_vms(&self, call: HostCall, arguments: &[u64; 7]) -> Vec<(u64, Option<Life>)> {
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

    pub(super) fn release_vms(&self, used: Vec<(u64, Option<Life>)>) {
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

    /// Takes note that a VM's tables need pages, or that it got some.
    pub(super) fn note_tables(&self, call: HostCall, arguments: &[u64; 7], result: Result<[u64; 3], Error>) {
        let [handle, vcpu, ..] = *arguments;
        let names_vcpu = HostStep::kinds(call).get(1) == Some(&Kind::Vcpu);
        let lacking = Stuck::Tables(if names_vcpu { vcpu } else { 0 });
        let mut model = self.model();
        if call == HostCall::VcpuTopUp && result.is_ok() && model.stuck.get(&handle) == Some(&lacking) {
            model.stuck.remove(&handle);
        }
        if result == Err(Error::OutOfMemory) && model.cache_was_short {
            model.stuck.entry(handle).or_insert(lacking);
        }
    }

    /// The host touches memory, until it is done or aborts.
    pub(super) fn host_access(&self, index: usize, access: Access, address: PhysAddr) -> Outcome {
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
}
