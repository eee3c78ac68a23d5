//! The states that trials begin in, and the calls that are made there.

use crate::action::{Action, address};
use crate::stage::{DEVICE_FRAME, FRAME, OBJECTS, OTHER, OWNER, PAGE, PLAIN, RESERVED, SPARE, VACANT, VCPUS};
use abi::guest::{GuestCall, MEM_RELINQUISH, MEM_SHARE, MEM_UNSHARE};
use abi::host::{HostCall, RIGHT_EXECUTE, RIGHT_READ, RIGHT_RESTRICTED, RIGHT_WRITE, VM_PROTECTED, VmHandle};
use monitor::object::Object;
use monitor::vcpu::Vcpu;
use monitor::vm::Vm;
use simulation::{DEVICE, GUEST_ENTRY, GUEST_RAM, IPA_BITS};

const FULL: u64 = RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE;
/// The number of a VM's first offer.
const OFFER: u64 = 1;

fn host(call: HostCall, arguments: &[u64]) -> Action {
    Action::Host(call, arguments.to_vec())
}

/// A call that names a VM first.
fn of(call: HostCall, handle: VmHandle, arguments: &[u64]) -> Action {
    let handle = [u64::from(handle.0)];
    Action::Host(call, handle.iter().chain(arguments).copied().collect())
}

fn guest(handle: VmHandle, function: u32, arguments: &[u64]) -> Action {
    // Three of KVM's arguments must be there, and zero.
    let arguments = arguments.iter().copied().chain([0; 2]).collect();
    Action::Guest { handle, function, arguments }
}

fn guest_call(handle: VmHandle, call: GuestCall, arguments: &[u64]) -> Action {
    guest(handle, call as u32, arguments)
}

fn name(handle: VmHandle) -> u64 {
    u64::from(handle.0)
}

fn donate() -> Action {
    of(HostCall::VmDonate, OWNER, &[0, PAGE, FRAME, 1])
}

fn lend() -> Action {
    of(HostCall::VmLend, OWNER, &[0, PAGE, FRAME, 1])
}

fn share(rights: u64) -> Action {
    of(HostCall::VmShare, PLAIN, &[0, PAGE, FRAME, 1, rights])
}

fn grant(handle: VmHandle) -> Action {
    of(HostCall::VmGrantDevice, handle, &[0, DEVICE, DEVICE_FRAME, 1])
}

fn offer() -> Action {
    guest_call(OWNER, GuestCall::MemOffer, &[address(FRAME), name(OTHER), FULL])
}

fn accept(gfn: u64) -> Action {
    guest_call(OTHER, GuestCall::MemAccept, &[name(OWNER), OFFER, address(gfn), FULL])
}

fn lend_host() -> Action {
    guest_call(OWNER, GuestCall::MemLend, &[address(FRAME)])
}

fn share_host() -> Action {
    guest(OWNER, MEM_SHARE, &[address(FRAME)])
}

fn ends(handle: VmHandle) -> Action {
    of(HostCall::VmTeardown, handle, &[])
}

/// VCPU_INIT of the owner's third vCPU.
fn vcpu(objects: u64, run_page: u64) -> Action {
    of(HostCall::VcpuInit, OWNER, &[2, objects, Object::<Vcpu>::PAGES, run_page])
}

fn vm(first: u64) -> Action {
    let arguments =
        [VM_PROTECTED, IPA_BITS | VCPUS << 32, first, 1 + Object::<Vm>::PAGES, GUEST_ENTRY, GUEST_RAM.raw()];
    of(HostCall::VmInit, RESERVED, &arguments)
}

/// States by name, and what leads to them.
pub fn states() -> Vec<(&'static str, Vec<Action>)> {
    let force = of(HostCall::VmForceReclaim, OWNER, &[PAGE, 1]);
    let living = vec![
        ("shared with hyp", vec![host(HostCall::HypShare, &[PAGE, 1])]),
        ("shared with hyp, restricted", vec![host(HostCall::HypShareRestricted, &[PAGE, 1])]),
        ("pinned", vec![vcpu(OBJECTS, PAGE)]),
        ("mapped", vec![share(FULL)]),
        ("mapped, restricted", vec![share(FULL | RIGHT_RESTRICTED)]),
        ("device of a VM that is not protected", vec![grant(PLAIN)]),
    ];
    let owners = vec![
        ("host alone", vec![]),
        ("lent to a guest", vec![lend()]),
        ("hyp's", vec![of(HostCall::VcpuTopUp, OWNER, &[0, PAGE, 1])]),
        ("guest alone", vec![donate()]),
        ("offered", vec![donate(), offer()]),
        ("shared with the host", vec![donate(), share_host()]),
        ("lent to the host", vec![donate(), lend_host()]),
        ("shared with a guest", vec![donate(), offer(), accept(FRAME)]),
        ("poisoned", vec![donate(), force]),
        ("device", vec![grant(OWNER)]),
    ];
    let dying = |(name, script): &(&'static str, Vec<Action>)| {
        let name: &'static str = format!("{name}, owner dying").leak();
        (name, script.iter().cloned().chain([ends(OWNER)]).collect())
    };
    let others = vec![
        ("mapped, VM dying", vec![share(FULL), ends(PLAIN)]),
        ("shared with a guest, which is dying", vec![donate(), offer(), accept(FRAME), ends(OTHER)]),
        ("shared with a guest, both dying", vec![donate(), offer(), accept(FRAME), ends(OTHER), ends(OWNER)]),
        ("reserved VM ended", vec![ends(RESERVED)]),
    ];
    let dying: Vec<_> = owners.iter().map(dying).collect();
    owners.into_iter().chain(living).chain(dying).chain(others).collect()
}

/// Calls that take locks more than once, each of its own.
pub fn composites() -> Vec<Action> {
    let run_page = SPARE + 1;
    vec![
        of(HostCall::VcpuTopUp, OWNER, &[0, PAGE, 1]),
        vm(PAGE),
        vm(OBJECTS),
        vcpu(OBJECTS, PAGE),
        vcpu(PAGE, run_page),
        // There is no room for the vCPU in what is hyp's already.
        vcpu(simulation::RAM, PAGE),
        of(HostCall::VmFinalise, OWNER, &[]),
        of(HostCall::VmFinalise, RESERVED, &[]),
        guest_call(OWNER, GuestCall::MemWithdraw, &[OFFER]),
        accept(FRAME),
        guest_call(OTHER, GuestCall::MemDrop, &[name(OWNER), OFFER]),
        of(HostCall::VmEndShare, OWNER, &[name(OTHER), OFFER]),
        of(HostCall::VmTeardown, OWNER, &[]),
    ]
}

/// Calls of all kinds about the page, its frame and its VMs.
pub fn calls() -> Vec<Action> {
    let all_calls = vec![
        Action::Write(PAGE),
        host(HostCall::HypShare, &[PAGE, 1]),
        host(HostCall::HypShareRestricted, &[PAGE, 1]),
        host(HostCall::HypUnshare, &[PAGE, 1]),
        host(HostCall::HypUnshare, &[SPARE + 1, 1]),
        host(HostCall::VmReserve, &[]),
        donate(),
        of(HostCall::VmDonate, OTHER, &[0, PAGE, VACANT, 1]),
        lend(),
        share(FULL),
        share(RIGHT_READ | RIGHT_RESTRICTED),
        of(HostCall::VmUnshare, PLAIN, &[FRAME, 1]),
        of(HostCall::VmReturn, OWNER, &[PAGE, 1]),
        of(HostCall::VmForceReclaim, OWNER, &[PAGE, 1]),
        of(HostCall::VmReclaim, OWNER, &[PAGE, 1]),
        grant(OWNER),
        of(HostCall::VmDonate, OWNER, &[0, PAGE, DEVICE_FRAME, 1]),
        guest(OWNER, MEM_SHARE, &[address(DEVICE_FRAME)]),
        of(HostCall::VmReclaimDevice, OWNER, &[DEVICE, 1]),
        of(HostCall::VmTeardown, OTHER, &[]),
        of(HostCall::VmTeardown, RESERVED, &[]),
        of(HostCall::VmFinalise, OTHER, &[]),
        share_host(),
        guest(OWNER, MEM_UNSHARE, &[address(FRAME)]),
        guest(OWNER, MEM_RELINQUISH, &[address(FRAME)]),
        lend_host(),
        guest_call(OWNER, GuestCall::MemReturn, &[address(FRAME)]),
        offer(),
        accept(VACANT),
    ];
    composites().into_iter().chain(all_calls).collect()
}
