//! Who pays for a guest's tables: the vCPU in whose name something is done.

use crate::guest_calls::{exit, exits};
use crate::world::{DEVICE, GUEST_ENTRY, GUEST_RAM, Layout, Options, RAM, TestVm, World, hvc, trap};
use abi::Error;
use abi::guest::{GuestCall, MEM_RELINQUISH, MMIO_GUARD_MAP};
use abi::host::{HostCall, RIGHT_READ};
use abi::psci;
use abi::run::ExitReason;
use monitor::platform::{GuestTrap, RunExit};

/// Pages for tables.
const TABLES: u64 = RAM + 0x80;
/// Pages for the guest, such that they and the guest's frames make a block.
const MEMORY: u64 = RAM + 0x200;
const FRAME: u64 = GUEST_RAM.raw() >> 12;
/// Pages of a block, which a table of the level above names.
const BLOCK: u64 = 512;
/// Tables that it takes to map a first page.
const FOR_A_PAGE: u64 = 2;
/// RAM with a block that is the host's.
const LAYOUT: Layout = Layout { ram_pages: 3 * BLOCK, carve_out_pages: 128 };

fn new_world() -> World {
    World::with(Options { layout: LAYOUT, ..Options::default() })
}

/// A VM with two vCPUs that run, and not a page for its tables.
fn without_pages(world: &mut World, protected: bool) -> TestVm {
    let vm = world.vm_with_cache(RAM, protected, 2, 0);
    exits(world, vm, 0, psci::CPU_ON_64, &[1, GUEST_ENTRY, 0], RunExit { data: 1, ..exit(ExitReason::CpuOn) });
    vm
}

fn top_up(world: &mut World, vm: TestVm, vcpu: u64, first: u64, count: u64) {
    world.call(HostCall::VcpuTopUp, &[vm.handle.0.into(), vcpu, first, count]).unwrap();
}

/// Pages for tables that each vCPU can use.
fn available(world: &World, vm: TestVm) -> [u64; 2] {
    let vm = world.monitor.vms().live(vm.handle).unwrap();
    [0, 1].map(|index| vm.memory_of(vm.vcpu(index).unwrap()).lock().available_pages())
}

/// Makes a call for each vCPU, of which one has a page: it is done for that one alone.
fn paid_by_its_vcpu(protected: bool, call: HostCall, first: u64, frame: u64, more: &[u64]) {
    for payer in [0, 1] {
        let mut world = new_world();
        let vm = without_pages(&mut world, protected);
        top_up(&mut world, vm, payer, TABLES, FOR_A_PAGE);
        let mut result = |vcpu: u64| {
            let arguments = [&[vm.handle.0.into(), vcpu, first, frame, 1], more].concat();
            world.call(call, &arguments)
        };
        assert_eq!(result(1 - payer), Err(Error::OutOfMemory), "{call:?} with the pages of vCPU {payer}");
        assert_eq!(result(payer), Ok([0; 3]), "{call:?} with the pages of vCPU {payer}");
        if !protected {
            world.call(HostCall::VmUnshare, &[vm.handle.0.into(), frame, 1]).unwrap();
        }
        world.end(vm);
        world.assert_all_back();
    }
}

#[test]
fn a_host_call_that_names_a_vcpu_is_paid_by_it() {
    paid_by_its_vcpu(true, HostCall::VmDonate, MEMORY, FRAME, &[]);
    paid_by_its_vcpu(true, HostCall::VmLend, MEMORY, FRAME, &[]);
    paid_by_its_vcpu(false, HostCall::VmShare, MEMORY, FRAME, &[RIGHT_READ]);
}

#[test]
fn a_device_is_paid_by_the_vcpu_that_is_named() {
    for payer in [0, 1] {
        let mut world = new_world();
        let vm = without_pages(&mut world, true);
        let handle = u64::from(vm.handle.0);
        top_up(&mut world, vm, payer, TABLES, FOR_A_PAGE);
        let mut grant = |vcpu: u64| world.call(HostCall::VmGrantDevice, &[handle, vcpu, DEVICE, 0x9000, 1]).map(|_| ());
        assert_eq!(grant(1 - payer), Err(Error::OutOfMemory));
        assert_eq!(grant(payer), Ok(()));
    }
}

/// A VM as of [`without_pages`] with a block of memory, the table for which vCPU 0 has paid.
fn with_block(world: &mut World, call: HostCall) -> TestVm {
    let vm = without_pages(world, call != HostCall::VmShare);
    top_up(world, vm, 0, TABLES, 1);
    world.call(call, &[vm.handle.0.into(), 0, MEMORY, FRAME, BLOCK, RIGHT_READ]).unwrap();
    vm
}

/// Has vCPU 1 make a call for which it takes so many tables: pages of vCPU 0's do not help, its own do.
fn paid_by_its_caller(world: &mut World, vm: TestVm, function: u32, arguments: &[u64], tables: u64, expected: RunExit) {
    top_up(world, vm, 0, TABLES + 8, 4);
    for _ in 0..2 {
        exits(world, vm, 1, function, arguments, exit(ExitReason::TopUp));
    }
    top_up(world, vm, 1, TABLES + 12, tables);
    exits(world, vm, 1, function, arguments, expected);
}

#[test]
fn a_guests_call_is_paid_by_the_vcpu_that_makes_it() {
    let page = GUEST_RAM.raw() + 0x3000;
    let exit_of = |reason| RunExit { ipa: page, ..exit(reason) };
    for (function, reason) in
        [(GuestCall::MemLend as u32, ExitReason::Lent), (MEM_RELINQUISH, ExitReason::Relinquished)]
    {
        let mut world = new_world();
        let vm = with_block(&mut world, HostCall::VmDonate);
        paid_by_its_caller(&mut world, vm, function, &[page, 0, 0], 1, exit_of(reason));
    }
    let mut world = new_world();
    let vm = with_block(&mut world, HostCall::VmLend);
    paid_by_its_caller(&mut world, vm, GuestCall::MemReturn as u32, &[page], 1, exit_of(ExitReason::Returned));
}

#[test]
fn what_a_guest_accepts_is_paid_by_the_vcpu_that_accepts() {
    let mut world = new_world();
    let borrower = without_pages(&mut world, true);
    let owner = world.vm(RAM + 0x100, true, 1);
    let (owner_name, borrower_name) = (u64::from(owner.handle.0), u64::from(borrower.handle.0));
    world.call(HostCall::VmDonate, &[owner_name, 0, MEMORY, FRAME, 1]).unwrap();
    let offer = GuestCall::MemOffer as u32;
    let offered = RunExit { ipa: GUEST_RAM.raw(), data: 1, peer: borrower_name, ..exit(ExitReason::Offered) };
    exits(&mut world, owner, 0, offer, &[GUEST_RAM.raw(), borrower_name, RIGHT_READ], offered);
    let accepted = RunExit { ipa: GUEST_RAM.raw(), data: 1, peer: owner_name, ..exit(ExitReason::Accepted) };
    let arguments = [owner_name, 1, GUEST_RAM.raw(), RIGHT_READ];
    paid_by_its_caller(&mut world, borrower, GuestCall::MemAccept as u32, &arguments, FOR_A_PAGE, accepted);
}

#[test]
fn a_guests_mark_is_paid_by_the_vcpu_that_sets_it() {
    let mut world = new_world();
    let vm = without_pages(&mut world, true);
    let device = DEVICE << 12;
    top_up(&mut world, vm, 0, TABLES + 8, 4);
    exits(&mut world, vm, 1, MMIO_GUARD_MAP, &[device, 0, 0], exit(ExitReason::TopUp));
    top_up(&mut world, vm, 1, TABLES + 12, FOR_A_PAGE);
    // It is done, and the guest is asked what to do next, which nobody has said.
    world.cpu0.guest_does(move |context| {
        context.general.x[..4].copy_from_slice(&[MMIO_GUARD_MAP.into(), device, 0, 0]);
        trap(hvc(0))
    });
    world.cpu0.guest_does(move |context| {
        assert_eq!(context.general.x[0], 0);
        GuestTrap::Interrupt
    });
    assert_eq!(world.run(vm, 1), Ok(ExitReason::Interrupt));
}

#[test]
fn a_call_that_names_no_vcpu_uses_the_pages_of_any() {
    for payer in [0, 1] {
        let mut world = new_world();
        let vm = with_block(&mut world, HostCall::VmShare);
        let unshare = [vm.handle.0.into(), FRAME + 3, 1];
        assert_eq!(world.call(HostCall::VmUnshare, &unshare), Err(Error::OutOfMemory));
        top_up(&mut world, vm, payer, TABLES + 8, 1);
        assert_eq!(world.call(HostCall::VmUnshare, &unshare), Ok([0; 3]));
    }
    for payer in [0, 1] {
        let mut world = new_world();
        let vm = with_block(&mut world, HostCall::VmDonate);
        let take = [vm.handle.0.into(), MEMORY + 3, 1];
        assert_eq!(world.call(HostCall::VmForceReclaim, &take), Err(Error::OutOfMemory));
        top_up(&mut world, vm, payer, TABLES + 8, 1);
        assert_eq!(world.call(HostCall::VmForceReclaim, &take), Ok([0; 3]));
    }
}

#[test]
fn a_table_that_is_not_needed_any_more_is_anyones() {
    let mut world = new_world();
    let vm = without_pages(&mut world, false);
    let handle = u64::from(vm.handle.0);
    top_up(&mut world, vm, 0, TABLES, FOR_A_PAGE);
    let share = |vcpu: u64, page: u64, frame: u64| [handle, vcpu, page, frame, 1, RIGHT_READ];
    assert_eq!(available(&world, vm), [FOR_A_PAGE, 0]);
    world.call(HostCall::VmShare, &share(0, MEMORY, FRAME)).unwrap();
    assert_eq!(available(&world, vm), [0, 0]);
    world.call(HostCall::VmUnshare, &[handle, FRAME, 1]).unwrap();
    assert_eq!(available(&world, vm), [FOR_A_PAGE, FOR_A_PAGE]);
    // vCPU 1 was never given a page.
    world.call(HostCall::VmShare, &share(1, MEMORY, FRAME + BLOCK)).unwrap();
    world.call(HostCall::VmUnshare, &[handle, FRAME + BLOCK, 1]).unwrap();
    world.end(vm);
    world.assert_all_back();
}
