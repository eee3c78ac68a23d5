//! The life of a VM: every step can be refused, none can be skipped.

use crate::world::{GUEST_ENTRY, GUEST_RAM, IPA_BITS, Layout, Options, RAM, World, host_call, hvc, trap};
use abi::host::{HostCall, MAX_VCPUS, MAX_VMS, RECLAIM_MOST, VM_PROTECTED};
use abi::run::ExitReason;
use abi::{Error, psci};
use monitor::platform::GuestTrap;
use monitor::vm_table::Life;
use ownership::PageState;
use pgtable::Tlbi;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

#[test]
fn a_vm_lives_and_every_page_comes_back() {
    let mut world = World::new();
    for _ in 0..3 {
        let vm = world.protected_vm();
        assert_eq!(world.monitor.vms().life(vm.handle), Some(Life::Live));
        assert_eq!(world.run(vm, 0), Ok(ExitReason::Interrupt));
        world.end(vm);
        assert_eq!(world.monitor.vms().life(vm.handle), None);
        world.assert_all_back();
    }
}

#[test]
fn pages_come_back_wiped() {
    let mut world = World::new();
    let vm = world.protected_vm();
    for page in RAM + 64..RAM + 68 {
        world.machine.fill_page(0, abi::Pfn::new(page), 0x5a);
    }
    world.end(vm);
    for page in (RAM..vm.run_page).chain(vm.run_page + 1..RAM + 68) {
        assert!(world.machine.read_page(abi::Pfn::new(page)).iter().all(|&byte| byte == 0), "{page:#x}");
    }
}

#[test]
fn one_call_takes_back_so_many_pages_and_no_more() {
    let layout = Layout { ram_pages: 4096, ..Layout::default() };
    let mut world = World::with(Options { layout, ..Options::default() });
    let vm = world.vm_with_cache(RAM, true, 1, 16);
    let handle = vm.handle.0.into();
    let (first, gfn, pages) = (RAM + 1024, GUEST_RAM.raw() >> 12, 2 * RECLAIM_MOST + 3);
    world.call(HostCall::VmDonate, &[handle, 0, first, gfn, pages]).unwrap();
    world.call(HostCall::VmTeardown, &[handle]).unwrap();
    for (done, left) in [(0, RECLAIM_MOST), (RECLAIM_MOST, RECLAIM_MOST), (2 * RECLAIM_MOST, 3)] {
        let result = world.call(HostCall::VmReclaim, &[handle, first + done, pages - done]);
        assert_eq!(result, Ok([left, 0, 0]));
        assert_eq!(world.state(first + done + left - 1), PageState::HOST_ALONE);
        assert_eq!(done + left < pages, world.state(first + done + left) != PageState::HOST_ALONE);
    }
    world.call(HostCall::VmFinalise, &[handle]).unwrap();
    world.assert_all_back();
}

#[test]
fn what_the_host_left_in_a_page_is_no_table_and_no_object() {
    let mut world = World::new();
    for page in RAM..RAM + 32 {
        world.machine.fill_page(0, abi::Pfn::new(page), 0xff);
    }
    let vm = world.vm(RAM, true, 1);
    let objects = [RAM, RAM + 1, vm.run_page + 1];
    for page in objects {
        assert_eq!(world.state(page), PageState::Hyp);
        assert!(world.machine.read_page(abi::Pfn::new(page)).iter().all(|&byte| byte == 0), "{page:#x}");
    }
    let leaf = {
        let vm = world.monitor.vms().live(vm.handle).unwrap();
        let memory = vm.memory().lock();
        memory.lookup(&world.cpu0, GUEST_RAM).unwrap()
    };
    assert!(!leaf.is_valid());
    world.end(vm);
    world.assert_all_back();
}

#[test]
fn no_step_is_skipped() {
    let mut world = World::new();
    let [handle, ..] = world.call(HostCall::VmReserve, &[]).unwrap();
    let gfn = GUEST_RAM.raw() >> 12;
    let donate = [handle, 0, RAM + 64, gfn, 1];
    let vcpu_init = [handle, 0, RAM + 8, 1, RAM + 9];
    let init = [handle, VM_PROTECTED, IPA_BITS | 1 << 32, RAM, 2, GUEST_ENTRY, 0];
    for (call, arguments) in [
        (HostCall::VcpuInit, &vcpu_init[..]),
        (HostCall::VcpuTopUp, &[handle, 0, RAM + 10, 2]),
        (HostCall::VmDonate, &donate),
        (HostCall::VcpuRun, &[handle, 0]),
        (HostCall::VmReclaim, &[handle, RAM + 64, 1]),
        (HostCall::VmFinalise, &[handle]),
    ] {
        assert_eq!(world.call(call, arguments), Err(Error::WrongState), "{call:?} of a reserved VM");
    }
    world.call(HostCall::VmInit, &init).unwrap();
    world.track(abi::host::VmHandle(handle as u32));
    assert_eq!(world.call(HostCall::VcpuRun, &[handle, 0]), Err(Error::VmGone), "no vCPU yet");
    assert_eq!(world.call(HostCall::VmDonate, &donate), Err(Error::VmGone), "no vCPU yet");
    world.call(HostCall::VcpuInit, &vcpu_init).unwrap();
    assert_eq!(world.call(HostCall::VmDonate, &donate), Err(Error::OutOfMemory), "no table pages yet");
    assert_eq!(world.state(RAM + 64), PageState::HOST_ALONE);
    world.call(HostCall::VcpuTopUp, &[handle, 0, RAM + 10, 2]).unwrap();
    world.call(HostCall::VmDonate, &donate).unwrap();
    assert_eq!(world.call(HostCall::VmReclaim, &[handle, RAM + 64, 1]), Err(Error::WrongState), "it lives");
    assert_eq!(world.call(HostCall::VmFinalise, &[handle]), Err(Error::WrongState), "it lives");

    world.call(HostCall::VmTeardown, &[handle]).unwrap();
    assert_eq!(world.call(HostCall::VmTeardown, &[handle]), Err(Error::WrongState));
    for (call, arguments) in [
        (HostCall::VmInit, &init[..]),
        (HostCall::VcpuInit, &[handle, 1, RAM + 20, 1, RAM + 21]),
        (HostCall::VmDonate, &donate),
        (HostCall::VcpuRun, &[handle, 0]),
    ] {
        assert_eq!(world.call(call, arguments), Err(Error::VmGone), "{call:?} of a dying VM");
    }
    assert_eq!(world.call(HostCall::VmFinalise, &[handle]), Err(Error::Busy), "it holds a page");
    assert_eq!(world.call(HostCall::VmReclaim, &[handle, RAM + 63, 1]), Err(Error::NotYours));
    assert_eq!(world.call(HostCall::VmReclaim, &[handle, RAM + 64, 2]), Err(Error::NotYours));
    assert_eq!(world.call(HostCall::VmReclaim, &[handle, RAM + 64, 0]), Err(Error::BadRange));
    assert_eq!(world.call(HostCall::VmReclaim, &[handle, RAM + 64, 1]), Ok([1, 0, 0]));
    world.call(HostCall::VmFinalise, &[handle]).unwrap();
    world.assert_all_back();
}

#[test]
fn as_many_vms_live_and_run_as_there_may_be() {
    let layout = Layout { ram_pages: 1 << 14, ..Layout::default() };
    let mut world = World::with(Options { layout, ..Options::default() });
    let vms: Vec<_> = (0..MAX_VMS as u64).map(|number| world.vm(RAM + 64 * number, number % 2 == 0, 1)).collect();
    let vmids: HashSet<_> =
        vms.iter().map(|vm| world.monitor.vms().live(vm.handle).unwrap().memory().lock().stage2().vmid()).collect();
    assert_eq!(vmids.len(), MAX_VMS, "each has a VMID of its own");
    let one_more = world.call(HostCall::VmReserve, &[]);
    assert_eq!(one_more, Err(Error::Limit));
    for vm in vms.iter().chain(vms.iter().rev()) {
        assert_eq!(world.run(*vm, 0), Ok(ExitReason::Interrupt));
    }
    for vm in vms {
        world.end(vm);
    }
    world.assert_all_back();
    let vm = world.protected_vm();
    world.end(vm);
}

#[test]
fn a_vm_runs_as_many_vcpus_as_it_may_have() {
    let mut world = World::new();
    let vm = world.vm(RAM, true, MAX_VCPUS);
    let mut affinities = HashSet::new();
    for vcpu in 0..MAX_VCPUS {
        if vcpu != 0 {
            // The one before turns it on, to start with its own number.
            world.cpu0.guest_does(move |context| {
                context.general.x = [0; 31];
                context.general.x[..4].copy_from_slice(&[psci::CPU_ON_64.into(), vcpu, GUEST_ENTRY, vcpu]);
                trap(hvc(0))
            });
            assert_eq!(world.run(vm, vcpu - 1), Ok(ExitReason::CpuOn));
        }
        let seen = Arc::new(Mutex::new(None));
        let slot = seen.clone();
        world.cpu0.guest_does(move |context| {
            *slot.lock().unwrap() = Some((context.general.x[0], context.traps.vmpidr_el2));
            GuestTrap::Interrupt
        });
        assert_eq!(world.run(vm, vcpu), Ok(ExitReason::Interrupt));
        let (argument, affinity) = seen.lock().unwrap().take().expect("it ran");
        assert_eq!(argument, if vcpu == 0 { GUEST_RAM.raw() } else { vcpu });
        assert!(affinities.insert(affinity), "vCPU {vcpu} has another's affinity");
    }
    // Each is still the one that it was, the last first.
    for vcpu in (0..MAX_VCPUS).rev() {
        assert_eq!(world.run(vm, vcpu), Ok(ExitReason::Interrupt));
    }
    world.end(vm);
    world.assert_all_back();
}

#[test]
fn a_running_vm_is_busy() {
    let mut world = World::new();
    let vm = world.protected_vm();
    let handle = u64::from(vm.handle.0);
    let (mut cpu1, monitor) = (world.cpu(1), world.monitor.clone());
    world.cpu0.guest_does(move |_| {
        let run = host_call(&monitor, &mut cpu1, HostCall::VcpuRun, &[handle, 0]);
        assert_eq!(run, Err(Error::Busy), "on two CPUs at once");
        let teardown = host_call(&monitor, &mut cpu1, HostCall::VmTeardown, &[handle]);
        assert_eq!(teardown, Err(Error::Busy));
        let donate = [handle, 0, RAM + 100, 0x5_0000, 1];
        assert_eq!(host_call(&monitor, &mut cpu1, HostCall::VmDonate, &donate), Ok([0; 3]), "memory may come");
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 0), Ok(ExitReason::Interrupt));
    assert_eq!(world.run(vm, 0), Ok(ExitReason::Interrupt), "an exit leaves it ready");
    world.end(vm);
    world.assert_all_back();
}

#[test]
fn a_handle_that_was_only_reserved_can_be_dropped() {
    let mut world = World::new();
    let [handle, ..] = world.call(HostCall::VmReserve, &[]).unwrap();
    world.call(HostCall::VmTeardown, &[handle]).unwrap();
    let init = [handle, VM_PROTECTED, IPA_BITS | 1 << 32, RAM, 2, GUEST_ENTRY, 0];
    assert_eq!(world.call(HostCall::VmInit, &init), Err(Error::VmGone));
    world.call(HostCall::VmFinalise, &[handle]).unwrap();
    for call in [HostCall::VmTeardown, HostCall::VmFinalise] {
        assert_eq!(world.call(call, &[handle]), Err(Error::VmGone));
    }
    assert_eq!(world.call(HostCall::VmTeardown, &[0]), Err(Error::VmGone));
    assert_eq!(world.call(HostCall::VmTeardown, &[u64::MAX]), Err(Error::VmGone));
}

#[test]
fn one_of_many_cpus_initialises_and_one_finalises() {
    for _ in 0..50 {
        let mut world = World::new();
        let [handle, ..] = world.call(HostCall::VmReserve, &[]).unwrap();
        let monitor = world.monitor.clone();
        let race = |call: HostCall, arguments: &(dyn Fn(u64) -> Vec<u64> + Sync)| -> usize {
            let mut cpus: Vec<_> = (0..4).map(|index| world.cpu(index)).collect();
            std::thread::scope(|scope| {
                let threads: Vec<_> = cpus
                    .iter_mut()
                    .zip(0..)
                    .map(|(cpu, index)| {
                        let monitor = &monitor;
                        scope.spawn(move || host_call(monitor, cpu, call, &arguments(index)).is_ok())
                    })
                    .collect();
                threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
            })
        };
        let init = |index| vec![handle, VM_PROTECTED, IPA_BITS | 1 << 32, RAM + 8 * index, 2, GUEST_ENTRY, 0];
        assert_eq!(race(HostCall::VmInit, &init), 1);
        assert_eq!(race(HostCall::VcpuInit, &|index| vec![handle, 0, RAM + 40 + index, 1, RAM + 50 + index]), 1);
        assert!(race(HostCall::VcpuRun, &|_| vec![handle, 0]) >= 1);
        assert_eq!(race(HostCall::VmTeardown, &|_| vec![handle]), 1);
        assert_eq!(race(HostCall::VmFinalise, &|_| vec![handle]), 1);
        world.assert_all_back();
    }
}

#[test]
fn a_cpu_forgets_one_vcpus_translations_before_it_runs_another_of_the_vm() {
    let mut world = World::new();
    let vm = world.vm(RAM, true, 2);
    let handle = u64::from(vm.handle.0);
    world.cpu0.guest_does(|context| {
        context.general.x[..4].copy_from_slice(&[u64::from(abi::psci::CPU_ON_64), 1, GUEST_ENTRY, 0]);
        trap(hvc(0))
    });
    assert_eq!(world.run(vm, 0), Ok(ExitReason::CpuOn));
    let mut cpu1 = world.cpu(1);
    let monitor = world.monitor.clone();
    let mut flushes = |on_cpu1: bool, index: u64| {
        let cpu = if on_cpu1 { &mut cpu1 } else { &mut world.cpu0 };
        cpu.tlb_maintenance.lock().unwrap().clear();
        host_call(&monitor, cpu, HostCall::VcpuRun, &[handle, index]).unwrap();
        let done = cpu.tlb_maintenance.lock().unwrap().clone();
        assert!(done.iter().all(|&operation| operation == Tlbi::Vmalle1), "{done:?}");
        done.len()
    };
    assert_eq!(flushes(false, 0), 0, "the same vCPU again");
    assert_eq!(flushes(true, 1), 0, "the first one there");
    assert_eq!(flushes(false, 1), 1, "another than before");
    assert_eq!(flushes(false, 1), 0);
    assert_eq!(flushes(true, 1), 0, "nobody else was there meanwhile");
    assert_eq!(flushes(false, 0), 1);
}
