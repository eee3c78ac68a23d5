//! The registers of a vCPU in the hands of the host: all of them where the VM is not protected, and none where it is.

use crate::guest_calls::{exit, exits};
use crate::world::{DEVICE, GUEST_ENTRY, RAM, TestVm, World, abort, host_call, hvc, trap};
use abi::Error;
use abi::host::HostCall;
use abi::psci;
use abi::register::{NamedRegister, Register};
use abi::run::ExitReason;
use monitor::platform::{GuestTrap, RunExit};
use monitor::syndrome::exception_class as class;
use monitor::vcpu::VcpuState;

fn get(world: &mut World, vm: TestVm, index: u64, register: u64) -> Result<u64, Error> {
    world.call(HostCall::VcpuGetRegister, &[vm.handle.0.into(), index, register]).map(|[value, rest @ ..]| {
        assert_eq!(rest, [0; 2]);
        value
    })
}

fn set(world: &mut World, vm: TestVm, index: u64, register: u64, value: u64) -> Result<(), Error> {
    world.call(HostCall::VcpuSetRegister, &[vm.handle.0.into(), index, register, value]).map(|results| {
        assert_eq!(results, [0; 3]);
    })
}

const PC: u64 = Register::Named(NamedRegister::Pc).number();
const PSTATE: u64 = Register::Named(NamedRegister::Pstate).number();
const TTBR1_EL1: u64 = Register::Named(NamedRegister::Ttbr1El1).number();
const V5_UPPER: u64 = Register::Vector { index: 5, upper: true }.number();

#[test]
fn a_guest_finds_what_the_host_has_set_and_the_host_what_the_guest_has() {
    let mut world = World::new();
    let vm = world.vm(RAM, false, 1);
    assert_eq!(get(&mut world, vm, 0, PC), Ok(GUEST_ENTRY));
    for (register, value) in [(7, 0x77), (PC, 0x4100), (PSTATE, 0x3c4), (TTBR1_EL1, 0x8000), (V5_UPPER, 0x55)] {
        assert_eq!(set(&mut world, vm, 0, register, value), Ok(()), "{register:#x}");
    }
    world.cpu0.guest_does(|context| {
        assert_eq!((context.general.x[7], context.general.pc, context.general.pstate), (0x77, 0x4100, 0x3c4));
        assert_eq!((context.el1.ttbr1_el1, context.fp.v[5]), (0x8000, 0x55 << 64));
        (context.general.x[8], context.general.pc) = (0x88, 0x4200);
        GuestTrap::Interrupt
    });
    world.run(vm, 0).unwrap();
    assert_eq!((get(&mut world, vm, 0, 8), get(&mut world, vm, 0, PC)), (Ok(0x88), Ok(0x4200)));
    world.end(vm);
    world.assert_all_back();
}

#[test]
fn a_protected_guests_registers_are_nobodys_business() {
    let mut world = World::new();
    let vm = world.vm(RAM, true, 2);
    for index in [0, 1] {
        for register in (0..0x200).chain([u64::MAX]) {
            assert_eq!(get(&mut world, vm, index, register), Err(Error::NotYours), "{register:#x}");
            assert_eq!(set(&mut world, vm, index, register, 0), Err(Error::NotYours), "{register:#x}");
        }
    }
    // Not even whether it runs.
    let (monitor, mut cpu1, handle) = (world.monitor.clone(), world.cpu(1), u64::from(vm.handle.0));
    world.cpu0.guest_does(move |_| {
        let outcome = host_call(&monitor, &mut cpu1, HostCall::VcpuGetRegister, &[handle, 0, 0]);
        assert_eq!(outcome, Err(Error::NotYours));
        GuestTrap::Interrupt
    });
    world.run(vm, 0).unwrap();
}

#[test]
fn what_is_no_vcpu_no_register_and_no_value_is_refused() {
    let mut world = World::new();
    let vm = world.vm(RAM, false, 1);
    for register in [31, 0x22, 0x59, 0xc2, 1 << 32, u64::MAX] {
        assert_eq!(get(&mut world, vm, 0, register), Err(Error::InvalidParameter), "{register:#x}");
        assert_eq!(set(&mut world, vm, 0, register, 0), Err(Error::InvalidParameter), "{register:#x}");
    }
    // AArch32, EL2, EL3, and a reserved mode.
    for pstate in [0x10, 0x3d3, 0x3c9, 0x3cd, 0x3c1, u64::MAX] {
        assert_eq!(set(&mut world, vm, 0, PSTATE, pstate), Err(Error::InvalidParameter), "{pstate:#x}");
    }
    assert_eq!(get(&mut world, vm, 0, PSTATE), Ok(0x3c5));
    for index in [1, u64::MAX] {
        assert_eq!(get(&mut world, vm, index, 0), Err(Error::VmGone));
    }
    world.call(HostCall::VmTeardown, &[vm.handle.0.into()]).unwrap();
    assert_eq!(get(&mut world, vm, 0, 0), Err(Error::VmGone));
    assert_eq!(set(&mut world, vm, 0, 0, 0), Err(Error::VmGone));
}

#[test]
fn registers_are_the_vcpus_own_while_it_runs() {
    let mut world = World::new();
    let vm = world.vm(RAM, false, 1);
    let (monitor, mut cpu1, handle) = (world.monitor.clone(), world.cpu(1), u64::from(vm.handle.0));
    world.cpu0.guest_does(move |_| {
        for call in [HostCall::VcpuGetRegister, HostCall::VcpuSetRegister] {
            assert_eq!(host_call(&monitor, &mut cpu1, call, &[handle, 0, 3, 0]), Err(Error::Busy));
        }
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 0), Ok(ExitReason::Interrupt));
    assert_eq!(set(&mut world, vm, 0, 3, 4), Ok(()));
}

#[test]
fn a_vcpu_that_is_off_has_registers_and_stays_off() {
    let mut world = World::new();
    let vm = world.vm(RAM, false, 2);
    assert_eq!(set(&mut world, vm, 1, 19, 0x1919), Ok(()));
    assert_eq!(get(&mut world, vm, 1, 19), Ok(0x1919));
    assert_eq!(world.run(vm, 1), Err(Error::WrongState));
    // What CPU_ON starts comes out of reset.
    let started = RunExit { data: 1, ..exit(ExitReason::CpuOn) };
    exits(&mut world, vm, 0, psci::CPU_ON_64, &[1, GUEST_ENTRY, 0], started);
    assert_eq!(get(&mut world, vm, 1, 19), Ok(0));
    assert_eq!(set(&mut world, vm, 1, 19, 0x2020), Ok(()));
    world.cpu0.guest_does(|context| {
        assert_eq!(context.general.x[19], 0x2020);
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 1), Ok(ExitReason::Interrupt));
}

#[test]
fn a_cpu_on_waits_for_the_host_to_be_done() {
    let mut world = World::new();
    let vm = world.vm(RAM, false, 2);
    let monitor = world.monitor.clone();
    let reference = monitor.vms().live(vm.handle).unwrap();
    let target = reference.vcpu(1).unwrap();
    let claim = target.claim_to_examine().unwrap();
    assert_eq!((target.state(), target.claim_to_start().err()), (VcpuState::Off, Some(VcpuState::Examined)));
    assert_eq!(get(&mut world, vm, 1, 0), Err(Error::Busy));
    world.cpu0.guest_does(|context| {
        context.general.x[..4].copy_from_slice(&[psci::CPU_ON_64.into(), 1, GUEST_ENTRY, 0]);
        context.general.pc = GUEST_ENTRY + 4;
        trap(hvc(0))
    });
    world.cpu0.guest_does(|context| {
        let at_the_call = (context.general.pc, context.general.x[0]);
        assert_eq!(at_the_call, (GUEST_ENTRY, psci::CPU_ON_64.into()), "it is made again");
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 0), Ok(ExitReason::Interrupt));
    drop(claim);
    let started = RunExit { data: 1, ..exit(ExitReason::CpuOn) };
    exits(&mut world, vm, 0, psci::CPU_ON_64, &[1, GUEST_ENTRY, 0], started);
}

#[test]
fn a_load_that_waits_for_its_value_still_does() {
    const LOAD: u64 = 1 << 24 | 2 << 22 | 3 << 16 | 0x07;
    let mut world = World::new();
    let vm = world.vm(RAM, false, 1);
    let ipa = DEVICE << 12;
    let load = RunExit { ipa, size: 4, ..exit(ExitReason::Mmio) };
    world.exits(vm, move |_| trap(abort(class::DATA_ABORT_LOWER, LOAD, ipa)), load);
    assert_eq!((set(&mut world, vm, 0, 3, 0x33), set(&mut world, vm, 0, 4, 0x44)), (Ok(()), Ok(())));
    assert_eq!(get(&mut world, vm, 0, PC), Ok(GUEST_ENTRY));
    world.answer(vm.run_page, 0x1234);
    world.cpu0.guest_does(|context| {
        assert_eq!((context.general.x[3], context.general.x[4]), (0x1234, 0x44));
        assert_eq!(context.general.pc, GUEST_ENTRY + 4);
        GuestTrap::Interrupt
    });
    world.run(vm, 0).unwrap();
}
