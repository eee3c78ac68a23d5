//! Freehold's own calls of guests: loans, and shares with other guests.

use crate::world::{GUEST_ENTRY, GUEST_RAM, RAM, TestVm, World, abort, hvc, trap};
use abi::guest::GuestCall;
use abi::host::HostCall;
use abi::run::ExitReason;
use abi::{Error, Pfn, guest};
use monitor::HostAction;
use monitor::platform::{GuestTrap, RunExit};
use monitor::registers::HostRegisters;
use monitor::syndrome::exception_class as class;
use ownership::{GuestUse, PageState};
use std::sync::{Arc, Mutex};

const READ: u64 = 1;
const READ_WRITE: u64 = 3;
/// The frame of a guest's page.
const fn ipa(page: u64) -> u64 {
    GUEST_RAM.raw() + (page << 12)
}

/// The page that is the first VM's at `ipa(index)`, and the second's.
const FIRST: u64 = RAM + 64;
const SECOND: u64 = RAM + 68;

/// Two protected VMs, with four pages each.
fn two() -> (World, TestVm, TestVm) {
    let mut world = World::new();
    let first = world.protected_vm();
    let second = world.vm(RAM + 128, true, 1);
    let arguments = [u64::from(second.handle.0), 0, SECOND, GUEST_RAM.raw() >> 12, 4];
    world.call(HostCall::VmDonate, &arguments).unwrap();
    (world, first, second)
}

/// Runs a guest that makes a call: what the host is told, and what the guest finds in x0 and x1 when it goes on.
fn call(world: &mut World, vm: TestVm, function: GuestCall, arguments: &[u64]) -> (RunExit, u64, u64) {
    let seen = Arc::new(Mutex::new((0, 0, 0)));
    let (slot, arguments) = (seen.clone(), arguments.to_vec());
    world.cpu0.guest_does(move |context| {
        context.general.x[0] = u64::from(function as u32);
        context.general.x[1..=arguments.len()].copy_from_slice(&arguments);
        context.general.pc = GUEST_ENTRY;
        trap(hvc(0))
    });
    world.cpu0.guest_does(move |context| {
        *slot.lock().unwrap() = (context.general.x[0], context.general.x[1], context.general.pc);
        GuestTrap::Interrupt
    });
    world.run(vm, 0).unwrap();
    let exit = world.run_page(vm.run_page);
    if exit.exit_reason != ExitReason::Interrupt as u64 {
        world.run(vm, 0).unwrap();
    }
    let (x0, x1, pc) = *seen.lock().unwrap();
    let again = [ExitReason::MemoryFault, ExitReason::TopUp].iter().any(|&reason| exit.exit_reason == reason as u64);
    assert_eq!(pc, if again { GUEST_ENTRY - 4 } else { GUEST_ENTRY }, "only a call to be made again is gone back to");
    (exit, x0, x1)
}

#[track_caller]
fn refused(world: &mut World, vm: TestVm, function: GuestCall, arguments: &[u64], error: Error) {
    let (exit, x0, _) = call(world, vm, function, arguments);
    assert_eq!((exit.exit_reason, x0), (ExitReason::Interrupt as u64, error.to_register()), "{function:?}");
}

#[track_caller]
fn exits(world: &mut World, vm: TestVm, function: GuestCall, arguments: &[u64], expected: RunExit) -> u64 {
    let (exit, x0, x1) = call(world, vm, function, arguments);
    assert_eq!((exit, x0), (expected, 0), "{function:?}");
    x1
}

fn exit(reason: ExitReason) -> RunExit {
    RunExit { exit_reason: reason as u64, ..RunExit::default() }
}

/// Whether the host may make an access, by the syndrome's ISS.
fn host_may(world: &mut World, page: u64, class: u64, iss: u64) -> bool {
    let exception = abort(class, iss, page << 12);
    let mut registers = HostRegisters::new();
    world.monitor.clone().host_exit(&mut world.cpu0, &mut registers, &exception) == HostAction::Resume
}

fn host_may_read(world: &mut World, page: u64) -> bool {
    host_may(world, page, class::DATA_ABORT_LOWER, 0x07)
}

fn name(vm: TestVm) -> u64 {
    u64::from(vm.handle.0)
}

/// What the guest meets when it loads from a page of its own that is not mapped.
fn touches(world: &mut World, vm: TestVm, at: u64) -> RunExit {
    world.cpu0.guest_does(move |_| trap(abort(class::DATA_ABORT_LOWER, 1 << 24 | 2 << 22 | 0x07, at)));
    world.run(vm, 0).unwrap();
    world.run_page(vm.run_page)
}

#[test]
fn a_guest_learns_its_name_and_which_calls_there_are() {
    let mut world = World::new();
    let protected = world.protected_vm();
    let other = world.vm(RAM + 128, false, 1);
    for (vm, bitmap) in [(protected, 0x7f), (other, 1)] {
        let seen = Arc::new(Mutex::new([0; 3]));
        let slot = seen.clone();
        world.cpu0.guest_does(|context| {
            context.general.x[0] = u64::from(GuestCall::VmName as u32);
            trap(hvc(0))
        });
        world.cpu0.guest_does(move |context| {
            slot.lock().unwrap().copy_from_slice(&context.general.x[..3]);
            GuestTrap::Interrupt
        });
        world.run(vm, 0).unwrap();
        assert_eq!(*seen.lock().unwrap(), [0, name(vm), bitmap]);
    }
    for &function in &GuestCall::ALL[1..] {
        refused(&mut world, other, function, &[ipa(0), 1, ipa(0), 1], Error::NotSupported);
    }
}

#[test]
fn a_guest_lends_a_page_to_the_host_and_gets_it_back() {
    let (mut world, vm, _) = two();
    let page = FIRST + 1;
    exits(&mut world, vm, GuestCall::MemLend, &[ipa(1)], RunExit { ipa: ipa(1), ..exit(ExitReason::Lent) });
    assert!(host_may(&mut world, page, class::INSTRUCTION_ABORT_LOWER, 0x07), "all rights");
    refused(&mut world, vm, GuestCall::MemLend, &[ipa(1)], Error::WrongState);
    assert_eq!(touches(&mut world, vm, ipa(1)), exit(ExitReason::Interrupt), "the guest takes an abort");
    world.machine.fill_page(0, Pfn::new(page), 0x77);
    world.call(HostCall::VmReturn, &[name(vm), page, 1]).unwrap();
    assert!(!host_may_read(&mut world, page));
    let state =
        PageState::Guest { slot: slot_of(&world, vm), gfn: abi::Gfn::new(ipa(1) >> 12), usage: GuestUse::Alone };
    assert_eq!(world.state(page), state);
    assert_eq!(world.machine.read_page(Pfn::new(page))[0], 0x77, "with what the host left in it");
    assert_eq!(world.call(HostCall::VmReturn, &[name(vm), page, 1]), Err(Error::WrongState));
    world.end(vm);
}

fn slot_of(world: &World, vm: TestVm) -> ownership::VmSlot {
    world.monitor.vms().initialised(vm.handle).unwrap().memory().lock().slot()
}

#[test]
fn the_host_lends_pages_and_gets_them_back_wiped() {
    let (mut world, vm, _) = two();
    let page = RAM + 80;
    world.machine.fill_page(0, Pfn::new(page), 0x77);
    world.call(HostCall::VmLend, &[name(vm), 0, page, ipa(8) >> 12, 2]).unwrap();
    assert!(!host_may_read(&mut world, page));
    for function in [GuestCall::MemLend, GuestCall::MemOffer] {
        refused(&mut world, vm, function, &[ipa(8), 9, READ], Error::NotYours);
    }
    refused(&mut world, vm, GuestCall::MemReturn, &[ipa(0)], Error::WrongState);
    exits(&mut world, vm, GuestCall::MemReturn, &[ipa(8)], RunExit { ipa: ipa(8), ..exit(ExitReason::Returned) });
    assert!(host_may_read(&mut world, page));
    assert!(world.machine.read_page(Pfn::new(page)).iter().all(|&byte| byte == 0));
    world.end(vm);
    world.machine.assert_clean();
}

#[test]
fn two_guests_share_a_page_by_offer_and_acceptance() {
    let (mut world, owner, receiver) = two();
    let offered = RunExit { ipa: ipa(1), data: 1, peer: name(receiver), ..exit(ExitReason::Offered) };
    let arguments = [ipa(1), name(receiver), READ_WRITE];
    assert_eq!(exits(&mut world, owner, GuestCall::MemOffer, &arguments, offered), 1, "the number");
    let accept = [name(owner), 1, ipa(9), READ_WRITE];
    let accepted = RunExit { ipa: ipa(9), data: 1, peer: name(owner), ..exit(ExitReason::Accepted) };
    exits(&mut world, receiver, GuestCall::MemAccept, &accept, accepted);
    refused(&mut world, receiver, GuestCall::MemAccept, &accept, Error::WrongState);
    assert!(!host_may_read(&mut world, FIRST + 1), "the host has no part in it");

    let reached = world.machine.reachable(slot_of(&world, receiver).number() as u16 + 1, abi::Ipa::new(ipa(9)));
    assert_eq!(reached, [abi::PhysAddr::new((FIRST + 1) << 12)]);
    let end = [name(owner), name(receiver), 1];
    assert_eq!(world.call(HostCall::VmEndShare, &end), Err(Error::Busy), "both live");
    let ended = RunExit { data: 1, ..exit(ExitReason::Ended) };
    exits(&mut world, owner, GuestCall::MemWithdraw, &[1], ended);
    assert!(world.machine.reachable(slot_of(&world, receiver).number() as u16 + 1, abi::Ipa::new(ipa(9))).is_empty());
    refused(&mut world, owner, GuestCall::MemWithdraw, &[1], Error::WrongState);
    world.machine.assert_clean();
}

#[test]
fn a_number_that_the_host_carries_is_good_for_nothing_else() {
    let (mut world, owner, receiver) = two();
    let third = world.vm(RAM + 192, true, 1);
    let offer = |world: &mut World, to: TestVm| {
        let (_, x0, number) = call(world, owner, GuestCall::MemOffer, &[ipa(1), name(to), READ]);
        assert_eq!(x0, 0);
        number
    };
    let number = offer(&mut world, receiver);
    let no = |world: &mut World, vm, owner: u64, number, rights, error| {
        refused(world, vm, GuestCall::MemAccept, &[owner, number, ipa(9), rights], error);
    };
    no(&mut world, third, name(owner), number, READ, Error::WrongState);
    no(&mut world, receiver, name(owner), number + 1, READ, Error::WrongState);
    no(&mut world, receiver, name(owner), 0, READ, Error::WrongState);
    no(&mut world, receiver, name(third), number, READ, Error::WrongState);
    no(&mut world, receiver, 0x1234, number, READ, Error::VmGone);
    no(&mut world, receiver, 1 << 40 | name(owner), number, READ, Error::VmGone);
    no(&mut world, receiver, name(owner), number, READ_WRITE, Error::WrongState);
    no(&mut world, receiver, name(owner), number, 8, Error::InvalidParameter);
    // Once it is withdrawn, the number never comes again.
    call(&mut world, owner, GuestCall::MemWithdraw, &[number]);
    no(&mut world, receiver, name(owner), number, READ, Error::WrongState);
    assert_eq!(offer(&mut world, receiver), number + 1);
    world.machine.assert_clean();
}

#[test]
fn an_offer_is_for_one_vm_and_not_for_the_next_in_its_slot() {
    let (mut world, owner, receiver) = two();
    call(&mut world, owner, GuestCall::MemOffer, &[ipa(1), name(receiver), READ]);
    let slot = slot_of(&world, receiver);
    world.end(receiver);
    let successor = world.vm(RAM + 256, true, 1);
    assert_eq!(slot_of(&world, successor), slot);
    let arguments = [name(owner), 1, ipa(9), READ];
    refused(&mut world, successor, GuestCall::MemAccept, &arguments, Error::WrongState);
}

#[test]
fn the_host_ends_a_share_of_the_dying() {
    for owner_dies in [true, false] {
        let (mut world, owner, receiver) = two();
        call(&mut world, owner, GuestCall::MemOffer, &[ipa(1), name(receiver), READ]);
        call(&mut world, receiver, GuestCall::MemAccept, &[name(owner), 1, ipa(9), READ]);
        let dying = if owner_dies { owner } else { receiver };
        world.call(HostCall::VmTeardown, &[name(dying)]).unwrap();
        if owner_dies {
            let reclaim = [name(owner), FIRST, 4];
            assert_eq!(world.call(HostCall::VmReclaim, &reclaim), Err(Error::Busy), "it is borrowed");
        }
        for wrong in [[name(owner), name(receiver), 2], [name(receiver), name(owner), 1]] {
            assert_eq!(world.call(HostCall::VmEndShare, &wrong), Err(Error::WrongState));
        }
        world.call(HostCall::VmEndShare, &[name(owner), name(receiver), 1]).unwrap();
        if owner_dies {
            world.call(HostCall::VmReclaim, &[name(owner), FIRST, 4]).unwrap();
            assert_eq!(world.state(FIRST + 1), PageState::HOST_ALONE);
        }
        world.machine.assert_clean();
    }
}

#[test]
fn a_borrower_is_told_where_a_share_ended_that_it_kept() {
    for owner_dies in [true, false] {
        let (mut world, owner, receiver) = two();
        call(&mut world, owner, GuestCall::MemOffer, &[ipa(1), name(receiver), READ]);
        call(&mut world, receiver, GuestCall::MemAccept, &[name(owner), 1, ipa(9), READ]);
        if owner_dies {
            world.call(HostCall::VmTeardown, &[name(owner)]).unwrap();
            world.call(HostCall::VmEndShare, &[name(owner), name(receiver), 1]).unwrap();
        } else {
            call(&mut world, owner, GuestCall::MemWithdraw, &[1]);
        }
        for host_call in [HostCall::VmDonate, HostCall::VmLend] {
            let forged = [name(receiver), 0, RAM + 80, ipa(9) >> 12, 1];
            assert_eq!(world.call(host_call, &forged), Err(Error::WrongState), "in the owner's name");
        }
        let poisoned = RunExit { ipa: ipa(9), ..exit(ExitReason::Poisoned) };
        for _ in 0..2 {
            assert_eq!(touches(&mut world, receiver, ipa(9) + 0x10), poisoned);
        }
        refused(&mut world, receiver, GuestCall::MemDrop, &[name(owner), 1], Error::WrongState);
        world.machine.assert_clean();
        world.end(receiver);
        if !owner_dies {
            world.end(owner);
        }
    }
}

#[test]
fn a_borrower_drops_what_it_accepted() {
    let (mut world, owner, receiver) = two();
    call(&mut world, owner, GuestCall::MemOffer, &[ipa(1), name(receiver), READ]);
    refused(&mut world, receiver, GuestCall::MemDrop, &[name(owner), 1], Error::WrongState);
    call(&mut world, receiver, GuestCall::MemAccept, &[name(owner), 1, ipa(9), READ]);
    refused(&mut world, receiver, GuestCall::MemDrop, &[name(owner), 2], Error::WrongState);
    let ended = RunExit { data: 1, peer: name(owner), ..exit(ExitReason::Ended) };
    exits(&mut world, receiver, GuestCall::MemDrop, &[name(owner), 1], ended);
    refused(&mut world, receiver, GuestCall::MemDrop, &[name(owner), 1], Error::WrongState);
    let touched = touches(&mut world, receiver, ipa(9));
    assert_eq!(touched, RunExit { ipa: ipa(9), ..exit(ExitReason::MemoryFault) }, "nothing is there any more");
    world.end(receiver);
    world.end(owner);
}

#[test]
fn a_page_taken_by_force_is_reported_for_ever() {
    let (mut world, vm, _) = two();
    world.machine.fill_page(0, Pfn::new(FIRST + 1), 0x5e);
    world.call(HostCall::VmForceReclaim, &[name(vm), FIRST + 1, 1]).unwrap();
    assert!(world.machine.read_page(Pfn::new(FIRST + 1)).iter().all(|&byte| byte == 0), "wiped");
    assert!(host_may_read(&mut world, FIRST + 1));
    let poisoned = RunExit { ipa: ipa(1), ..exit(ExitReason::Poisoned) };
    for _ in 0..2 {
        assert_eq!(touches(&mut world, vm, ipa(1) + 0x28), poisoned);
    }
    world.cpu0.guest_does(move |_| trap(abort(class::INSTRUCTION_ABORT_LOWER, 0x07, ipa(1))));
    world.run(vm, 0).unwrap();
    assert_eq!(world.run_page(vm.run_page), poisoned);
    for call in [HostCall::VmDonate, HostCall::VmLend] {
        let arguments = [name(vm), 0, RAM + 80, ipa(1) >> 12, 1];
        assert_eq!(world.call(call, &arguments), Err(Error::WrongState), "no page of zeroes comes in its place");
    }
    refused(&mut world, vm, GuestCall::MemLend, &[ipa(1)], Error::WrongState);
    world.end(vm);
}

#[test]
fn a_guest_that_needs_tables_asks_for_them_and_calls_again() {
    let (mut world, owner, _) = two();
    // A VM with no page for its tables.
    let poor = world.vm_with_cache(RAM + 256, true, 1, 0);
    call(&mut world, owner, GuestCall::MemOffer, &[ipa(1), name(poor), READ]);
    let arguments = [name(owner), 1, ipa(9), READ];
    let (seen, ..) = call(&mut world, poor, GuestCall::MemAccept, &arguments);
    assert_eq!(seen, exit(ExitReason::TopUp));
    world.call(HostCall::VcpuTopUp, &[name(poor), 0, RAM + 320, 4]).unwrap();
    let (seen, x0, _) = call(&mut world, poor, GuestCall::MemAccept, &arguments);
    assert_eq!((seen.exit_reason, x0), (ExitReason::Accepted as u64, 0));
}

#[test]
fn calls_about_what_is_not_there_yet_are_made_again() {
    let (mut world, vm, _) = two();
    let fault = RunExit { ipa: ipa(30), write: 1, ..exit(ExitReason::MemoryFault) };
    for function in [GuestCall::MemLend, GuestCall::MemReturn, GuestCall::MemOffer] {
        let (seen, ..) = call(&mut world, vm, function, &[ipa(30), 77, READ]);
        assert_eq!(seen, fault, "{function:?}");
        let device = 0x0900_0000;
        refused(&mut world, vm, function, &[device, 77, READ], Error::NotMemory);
        refused(&mut world, vm, function, &[ipa(0) + 8, 77, READ], Error::InvalidParameter);
        refused(&mut world, vm, function, &[1 << 36, 77, READ], Error::BadRange);
    }
}

#[test]
fn kvms_calls_about_lent_borrowed_and_poisoned_pages_are_invalid() {
    let (mut world, vm, _) = two();
    world.call(HostCall::VmLend, &[name(vm), 0, RAM + 80, ipa(8) >> 12, 1]).unwrap();
    world.call(HostCall::VmForceReclaim, &[name(vm), FIRST + 2, 1]).unwrap();
    call(&mut world, vm, GuestCall::MemLend, &[ipa(1)]);
    call(&mut world, vm, GuestCall::MemOffer, &[ipa(3), 99, READ]);
    for function in [guest::MEM_SHARE, guest::MEM_UNSHARE, guest::MEM_RELINQUISH] {
        for page in [1, 2, 3, 8] {
            world.cpu0.guest_does(move |context| {
                context.general.x[..4].copy_from_slice(&[u64::from(function), ipa(page), 0, 0]);
                trap(hvc(0))
            });
            world.cpu0.guest_does(move |context| {
                assert_eq!(context.general.x[0] as i64, -3, "{function:#x} of page {page}");
                GuestTrap::Interrupt
            });
            world.run(vm, 0).unwrap();
            assert_eq!(world.run_page(vm.run_page), exit(ExitReason::Interrupt));
        }
    }
}
