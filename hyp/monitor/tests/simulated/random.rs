//! Whatever host and guests do: nothing panics, a call that is refused changes nothing, and in the end everything is the
//! host's again.

use crate::world::{CARVE_OUT, DEVICE, GUEST_ENTRY, GUEST_RAM, IPA_BITS, RAM, RAM_PAGES, World, abort, hvc, smc, trap};
use abi::host::{HostCall, VmHandle};
use abi::{Error, Ipa, PAGE_SIZE};
use core::ops::ControlFlow;
use monitor::platform::{GuestTrap, RunExit};
use monitor::registers::HostRegisters;
use monitor::syndrome::Exception;
use monitor::vm_table::Life;
use ownership::PageState;
use proptest::prelude::*;

/// One thing that happens, in numbers that are made sense of when it does.
#[derive(Clone, Debug)]
enum Step {
    /// A host call, with arguments that are likely to mean something.
    Call { call: HostCall, vm: usize, index: u64, page: u64, gfn: u64, count: u64, odd: Option<(usize, u64)> },
    /// An exception of the host's, of any kind.
    Exception { esr: u64, far: u64, hpfar: u64, x: Vec<u64> },
    /// A guest runs, and does this.
    Guest { vm: usize, index: u64, traps: Vec<GuestStep> },
}

#[derive(Clone, Debug)]
struct GuestStep {
    kind: u8,
    esr: u64,
    far: u64,
    page: u64,
    function: u64,
    arguments: [u64; 3],
    pstate: u64,
}

fn guest_step() -> impl Strategy<Value = GuestStep> {
    let functions = prop_oneof![
        4 => prop::sample::select(vec![
            0xc600_0003_u64, 0xc600_0004, 0xc600_0009, 0xc400_0003, 0x8400_0002, 0x8400_0008, 0xc400_0004,
            0xc600_0181, 0xc600_0182, 0xc600_0183, 0xc600_0184, 0xc600_0185, 0xc600_0186,
        ]),
        1 => any::<u32>().prop_map(u64::from),
        1 => any::<u64>(),
    ];
    let kind = prop::sample::select(vec![0_u8, 1, 2, 2, 2, 2, 3, 3, 4, 5, 5, 5, 6, 6, 7]);
    (kind, any::<u64>(), any::<u64>(), 0..12_u64, functions, any::<[u64; 3]>(), any::<u64>()).prop_map(
        |(kind, esr, far, page, function, arguments, pstate)| GuestStep {
            kind,
            esr,
            far,
            page,
            function,
            arguments,
            pstate,
        },
    )
}

impl GuestStep {
    fn trap(&self, context: &mut monitor::registers::VcpuContext) -> GuestTrap {
        let ipa = GUEST_RAM.raw() + self.page * 0x1000;
        match self.kind {
            0 => GuestTrap::Interrupt,
            1 => GuestTrap::SError { esr: self.esr },
            2 | 3 => {
                context.general.x[0] = self.function;
                context.general.x[1] = ipa;
                context.general.x[2] = if self.kind == 2 { 0 } else { GUEST_ENTRY };
                context.general.x[3] = 0;
                trap(hvc(0))
            }
            4 => {
                context.general.x[0] = self.function;
                context.general.x[1..4].copy_from_slice(&self.arguments);
                context.general.x[1] &= 3;
                trap(smc(0))
            }
            5 => trap(abort(0x24, 1 << 24 | self.esr & 0xff_ffc0 | 7, ipa)),
            6 => trap(Exception { esr: self.esr, far: self.far, hpfar: self.arguments[0] }),
            _ => {
                context.general.pstate = self.pstate;
                trap(Exception { esr: self.esr & 0x3f << 26, far: self.far, hpfar: 0 })
            }
        }
    }
}

/// Host calls, those more often that take a VM on in its life, and those rarely that end it.
fn host_call() -> impl Strategy<Value = HostCall> {
    let frequent = vec![
        HostCall::VmDonate,
        HostCall::VmShare,
        HostCall::VmUnshare,
        HostCall::VcpuTopUp,
        HostCall::VmInit,
        HostCall::VcpuInit,
        HostCall::HypShare,
        HostCall::HypUnshare,
        HostCall::VmReclaim,
    ];
    prop_oneof![4 => prop::sample::select(frequent), 1 => prop::sample::select(HostCall::ALL)]
}

/// The number of a VM, or of a vCPU: small, and 0 most often.
fn small() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0_usize), 3 => Just(1), 2 => Just(2), 1 => 3..6_usize]
}

fn step() -> impl Strategy<Value = Step> {
    let number = prop_oneof![Just(0), Just(u64::MAX), Just(1 << 52), Just(0x9000), Just(CARVE_OUT), any::<u64>()];
    let odd = prop::option::weighted(0.1, (0..7_usize, number));
    prop_oneof![
        6 => (host_call(), small(), 0..2_u64, 0..160_u64, 0..12_u64, 1..5_u64, odd).prop_map(
            |(call, vm, index, page, gfn, count, odd)| Step::Call { call, vm, index, page, gfn, count, odd },
        ),
        1 => (any::<u64>(), any::<u64>(), any::<u64>(), prop::collection::vec(any::<u64>(), 8)).prop_map(
            |(esr, far, hpfar, x)| Step::Exception { esr, far, hpfar, x },
        ),
        3 => (small(), prop_oneof![4 => Just(0_u64), 1 => Just(1)], prop::collection::vec(guest_step(), 1..6))
            .prop_map(|(vm, index, traps)| Step::Guest { vm, index, traps }),
    ]
}

/// The handles that were given out, and some that were not.
struct Host {
    handles: Vec<u64>,
}

impl Host {
    fn handle(&self, vm: usize) -> u64 {
        self.handles.get(vm).copied().unwrap_or(0x1234)
    }

    /// The arguments of a call that is likely to succeed, with at most one odd number.
    fn arguments(&self, call: HostCall, numbers: (usize, u64, u64, u64, u64)) -> [u64; 7] {
        let (vm, index, page, gfn, count) = numbers;
        let (handle, page, gfn) = (self.handle(vm), RAM + page, (GUEST_RAM.raw() >> 12) + gfn);
        match call {
            HostCall::Version | HostCall::MemoryInfo | HostCall::InterruptInfo | HostCall::VmReserve => [0; 7],
            HostCall::HypShare | HostCall::HypShareRestricted | HostCall::HypUnshare => [page, count, 0, 0, 0, 0, 0],
            HostCall::VmSizes => [IPA_BITS, count, 0, 0, 0, 0, 0],
            HostCall::VmInit => [handle, index & 1, IPA_BITS | 2 << 32, page, 2, GUEST_ENTRY, gfn],
            HostCall::VcpuInit => [handle, index, page, 1, page + count, 0, 0],
            HostCall::VcpuTopUp => [handle, index, page, count, 0, 0, 0],
            HostCall::VmDonate | HostCall::VmLend => [handle, index, page, gfn, count, 0, 0],
            // On both sides of where a protected guest's memory begins.
            HostCall::VmGrantDevice => [handle, index, DEVICE + gfn % 4, gfn - 8, count, 0, 0],
            HostCall::VmReturn | HostCall::VmForceReclaim => [handle, page, count, 0, 0, 0, 0],
            HostCall::VmReclaimDevice => [handle, DEVICE + gfn % 4, count, 0, 0, 0, 0],
            HostCall::VmEndShare => [handle, self.handle(vm ^ 1), count, 0, 0, 0, 0],
            HostCall::VmShare => [handle, index, page, gfn, count, 2 * count - 1, 0],
            HostCall::VmUnshare => [handle, gfn, count, 0, 0, 0, 0],
            HostCall::VcpuRun => [handle, index, 0, 0, 0, 0, 0],
            HostCall::VcpuGetRegister => [handle, index, page % 0x100, 0, 0, 0, 0],
            HostCall::VcpuSetRegister => [handle, index, page % 0x100, count, 0, 0, 0],
            HostCall::VmTeardown | HostCall::VmFinalise => [handle, 0, 0, 0, 0, 0, 0],
            HostCall::VmReclaim => [handle, page, count, 0, 0, 0, 0],
        }
    }
}

/// What a refused call must leave as it was.
#[derive(PartialEq, Debug)]
struct Snapshot {
    pages: Vec<PageState>,
    host_may_touch: Vec<bool>,
    lives: Vec<Option<Life>>,
    held: Vec<(u64, u64)>,
    run_pages: Vec<RunExit>,
}

fn snapshot(world: &World, host: &Host) -> Snapshot {
    let range = RAM..RAM + 200;
    let vms = world.monitor.vms();
    let handles = || host.handles.iter().map(|handle| VmHandle(*handle as u32));
    Snapshot {
        pages: range.clone().map(|page| world.state(page)).collect(),
        host_may_touch: range
            .clone()
            .map(|page| {
                let leaf = world.monitor.ownership().host_leaf(&world.cpu0, Ipa::new(page << 12)).unwrap();
                leaf.annotation().is_none()
            })
            .collect(),
        lives: handles().map(|handle| vms.life(handle)).collect(),
        held: handles()
            .filter_map(|handle| vms.initialised(handle).ok())
            .map(|vm| {
                let memory = vm.memory().lock();
                (memory.pages_held(), memory.cached_pages())
            })
            .collect(),
        run_pages: range.map(|page| world.run_page(page)).collect(),
    }
}

/// Makes a call, and checks what must hold whatever comes of it.
fn call(world: &mut World, host: &mut Host, call: HostCall, arguments: &[u64; 7]) {
    let before = snapshot(world, host);
    match world.call(call, arguments) {
        Ok(results) => match call {
            HostCall::VmReserve => host.handles.push(results[0]),
            HostCall::VmInit => world.track(VmHandle(arguments[0] as u32)),
            _ => {}
        },
        Err(_) => assert_eq!(before, snapshot(world, host), "{call:?} {arguments:x?} was refused"),
    }
}

/// The guest frames at which a VM has memory, wherever the calls have put it.
fn mapped_frames(world: &World, handle: u64) -> Vec<u64> {
    let Ok(vm) = world.monitor.vms().initialised(VmHandle(handle as u32)) else { return Vec::new() };
    let memory = vm.memory().lock();
    let stage2 = memory.stage2();
    let mut frames = Vec::new();
    let visited = stage2.visit(&world.cpu0, Ipa::new(0), stage2.geometry().input_size(), |leaf| {
        if leaf.is_valid() {
            let first = leaf.base.raw() / PAGE_SIZE;
            frames.extend(first..first + leaf.size / PAGE_SIZE);
        }
        ControlFlow::<()>::Continue(())
    });
    assert_eq!(visited, Ok(ControlFlow::Continue(())));
    frames
}

/// Who borrows of a VM, by name, and by which offer.
fn shares(world: &World, owner: u64) -> Vec<(u64, u64)> {
    let Ok(vm) = world.monitor.vms().initialised(VmHandle(owner as u32)) else { return Vec::new() };
    let memory = vm.memory().lock();
    let accepted = memory.offers().iter().filter(|offer| offer.accepted.is_some());
    accepted.map(|offer| (u64::from(offer.receiver.0), offer.number)).collect()
}

/// Ends every VM and takes back what hyp borrows: then nothing is left but the host.
fn end_all(world: &mut World, host: &Host) {
    for &handle in &host.handles {
        let _ = world.call(HostCall::VmTeardown, &[handle]);
    }
    for &owner in &host.handles {
        for (borrower, number) in shares(world, owner) {
            assert_eq!(world.call(HostCall::VmEndShare, &[owner, borrower, number]), Ok([0; 3]));
        }
    }
    for &handle in &host.handles {
        for page in RAM..RAM + RAM_PAGES {
            if let PageState::Guest { .. } | PageState::LentToGuest { .. } = world.state(page) {
                let _ = world.call(HostCall::VmReclaim, &[handle, page, 1]);
            }
        }
        for page in DEVICE..DEVICE + 16 {
            let _ = world.call(HostCall::VmReclaimDevice, &[handle, page, 1]);
        }
        for gfn in mapped_frames(world, handle) {
            let _ = world.call(HostCall::VmUnshare, &[handle, gfn, 1]);
        }
        if world.monitor.vms().life(VmHandle(handle as u32)).is_some() {
            assert_eq!(world.call(HostCall::VmFinalise, &[handle]), Ok([0; 3]));
        }
    }
    for page in RAM..CARVE_OUT {
        let _ = world.call(HostCall::HypUnshare, &[page, 1]);
    }
    world.assert_all_back();
    world.machine.assert_clean();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_a_refusal_changes_nothing(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let mut host = Host { handles: Vec::new() };
        for protected in [true, false] {
            let vm = world.vm(RAM + 96 + 32 * u64::from(protected), protected, 2);
            host.handles.push(u64::from(vm.handle.0));
        }
        let gfn = GUEST_RAM.raw() >> 12;
        let (first, second) = (host.handle(0), host.handle(1));
        call(&mut world, &mut host, HostCall::VmDonate, &[first, 0, RAM + 180, gfn, 6, 0, 0]);
        call(&mut world, &mut host, HostCall::VmShare, &[second, 0, RAM + 190, gfn, 6, 7, 0]);
        call(&mut world, &mut host, HostCall::VmReserve, &[0; 7]);
        for step in steps {
            match step {
                Step::Call { call: which, vm, index, page, gfn, count, odd } => {
                    let mut arguments = host.arguments(which, (vm, index, page, gfn, count));
                    if let Some((place, value)) = odd {
                        arguments[place] = value;
                    }
                    call(&mut world, &mut host, which, &arguments);
                }
                Step::Exception { esr, far, hpfar, x } => {
                    let mut registers = HostRegisters::new();
                    registers.x[..8].copy_from_slice(&x);
                    let exception = Exception { esr, far, hpfar };
                    world.monitor.clone().host_exit(&mut world.cpu0, &mut registers, &exception);
                }
                Step::Guest { vm, index, traps } => {
                    for step in traps {
                        world.cpu0.guest_does(move |context| step.trap(context));
                    }
                    let arguments = [host.handle(vm), index, 0, 0, 0, 0, 0];
                    let run = world.call(HostCall::VcpuRun, &arguments);
                    if run == Err(Error::Busy) {
                        panic!("nothing else runs");
                    }
                    world.cpu0.guest.clear();
                }
            }
            world.machine.assert_clean();
        }
        end_all(&mut world, &host);
    }
}
