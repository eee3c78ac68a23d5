//! Two CPUs at once on the same pages.

use crate::common::cpu::TestCpu;
use crate::common::interrupted::Interrupted;
use crate::common::{CARVE_OUT, FIRST, LOW, PFN_LIMIT, SECOND, THIRD, World, name};
use abi::{Error, Gfn, Ipa, Pfn, PhysAddr};
use memsim::TreeKind;
use ownership::fault::MOST_FAULTS_PUT_OFF;
use ownership::{Access, GuestUse, HostFault, PageState, Rights, VmSlot};
use pgtable::TableFrames;
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 200;

#[test]
fn cpus_that_want_the_same_page_get_it_one_at_a_time() {
    let world = World::with_guests(&[true, false], 12);
    let barrier = Barrier::new(2);
    let page = Pfn::new(LOW + 3);
    let run = |number: usize| {
        let mut cpu = world.cpu.other(number);
        let mut done = 0;
        for round in 0..ROUNDS {
            barrier.wait();
            let guest = world.memory(FIRST);
            let gfn = Gfn::new(0x40 + number as u64);
            match (round + number) % 2 {
                0 => match world.ownership.host_donate_guest(&mut cpu, guest, page, gfn, 1) {
                    Ok(()) => {
                        done += 1;
                        assert_eq!(
                            world.host_access(&mut cpu, page, Access::Read),
                            HostFault::Inject,
                            "the guest has the page until it gives it back"
                        );
                        assert_eq!(world.ownership.guest_relinquish(&mut cpu, guest, gfn), Ok(page));
                    }
                    Err(error) => assert_eq!(error, Error::WrongState),
                },
                _ => match world.ownership.host_share_hyp(&mut cpu, page, 1, false) {
                    Ok(()) => {
                        done += 1;
                        let fault = world.host_access(&mut cpu, page, Access::Write);
                        assert_eq!(fault, HostFault::Resume);
                        world.ownership.host_unshare_hyp(&mut cpu, page, 1).unwrap();
                    }
                    Err(error) => assert_eq!(error, Error::NotYours),
                },
            }
        }
        done
    };
    let done = thread::scope(|scope| {
        let other = scope.spawn(|| run(1));
        run(0) + other.join().unwrap()
    });
    assert!(done >= ROUNDS, "in each round one of the two gets the page");
    world.compare("after the race");
    world.tear_down();
}

#[test]
fn cpus_that_fault_on_the_same_block_both_go_on() {
    let world = World::new();
    let barrier = Barrier::new(2);
    let run = |number: usize| {
        let mut cpu = world.cpu.other(number);
        for page in 0..64 {
            barrier.wait();
            let page = Pfn::new(LOW + 512 + page);
            assert_eq!(world.host_access(&mut cpu, page, Access::Write), HostFault::Resume);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| run(1));
        run(0);
    });
    world.compare("after the faults");
}

/// Has one CPU in the middle of a transition, with the host's lock and hyp's, while `meanwhile` runs.
fn while_the_host_is_locked(world: &World, meanwhile: &mut (dyn FnMut() + Send)) {
    let cpu = world.cpu.clone();
    let mut cpu = Interrupted { cpu, on_allocate: &mut TestCpu::allocate, in_locks: meanwhile };
    world.ownership.host_share_hyp(&mut cpu, Pfn::new(LOW), 1, false).unwrap();
    world.ownership.host_unshare_hyp(&mut cpu.cpu, Pfn::new(LOW), 1).unwrap();
}

#[test]
fn a_fault_is_put_off_while_another_cpu_holds_the_lock() {
    let world = World::new();
    let mut other = world.cpu.other(1);
    let mut fault_thrice = || {
        for page in [LOW + 3, CARVE_OUT, PFN_LIMIT] {
            let outcome = world.ownership.resolve_host_fault(&mut other, Ipa::new(page << 12), Access::Read);
            assert_eq!(outcome, HostFault::Resume, "the host makes its access to {page:#x} again");
        }
        world.reached_by_host(LOW + 3)
    };
    while_the_host_is_locked(&world, &mut || {
        thread::scope(|scope| {
            let put_off = scope.spawn(&mut fault_thrice);
            let patience = Instant::now();
            while !put_off.is_finished() {
                assert!(patience.elapsed() < Duration::from_secs(10), "the fault waited for the lock");
                thread::yield_now();
            }
            assert_eq!(put_off.join().unwrap(), [], "nothing is mapped meanwhile");
        });
    });
    assert_eq!(world.host_access(&mut other, Pfn::new(LOW + 3), Access::Read), HostFault::Resume);
    assert_eq!(world.host_access(&mut other, Pfn::new(CARVE_OUT), Access::Read), HostFault::Inject);
    world.compare("after the faults");
}

#[test]
fn faults_are_not_put_off_for_ever() {
    let world = World::new();
    let mut other = world.cpu.other(1);
    let ipa = Ipa::new((LOW + 3) << 12);
    let queued = AtomicBool::new(false);
    let fault_until_resolved = || {
        for _ in 0..MOST_FAULTS_PUT_OFF {
            assert_eq!(world.ownership.resolve_host_fault(&mut other, ipa, Access::Read), HostFault::Resume);
        }
        queued.store(true, Ordering::Release);
        assert_eq!(world.ownership.resolve_host_fault(&mut other, ipa, Access::Read), HostFault::Resume);
        world.reached_by_host(LOW + 3)
    };
    let mut fault_until_resolved = Some(fault_until_resolved);
    thread::scope(|scope| {
        let mut waits = None;
        while_the_host_is_locked(&world, &mut || {
            let waiting = scope.spawn(fault_until_resolved.take().expect("one transition"));
            while !queued.load(Ordering::Acquire) {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(20));
            assert!(!waiting.is_finished(), "this one waits for its turn");
            waits = Some(waiting);
        });
        let resolved = waits.expect("a fault waits").join().unwrap();
        assert_eq!(resolved, [LOW + 3], "and is resolved when it comes");
    });
    world.compare("after the faults");
}

/// True where so many faults are all put off while another CPU holds the host's lock, and none waits for it.
fn are_put_off(world: &World, count: u32) -> bool {
    let fault = move || {
        let mut cpu = world.cpu.other(1);
        for _ in 0..count {
            let outcome = world.ownership.resolve_host_fault(&mut cpu, Ipa::new((LOW + 3) << 12), Access::Read);
            assert_eq!(outcome, HostFault::Resume);
        }
    };
    let mut all = false;
    thread::scope(|scope| {
        while_the_host_is_locked(world, &mut || {
            let faults = scope.spawn(fault);
            let patience = Instant::now();
            while !faults.is_finished() && patience.elapsed() < Duration::from_secs(10) {
                thread::yield_now();
            }
            all = faults.is_finished();
        });
    });
    all
}

#[test]
fn once_a_fault_is_resolved_as_many_are_put_off_again() {
    let world = World::new();
    assert!(are_put_off(&world, MOST_FAULTS_PUT_OFF));
    let mut cpu = world.cpu.clone();
    assert_eq!(world.host_access(&mut cpu, Pfn::new(LOW + 3), Access::Read), HostFault::Resume);
    assert!(are_put_off(&world, MOST_FAULTS_PUT_OFF));
    world.compare("after the faults");
}

/// The pages that CPUs are at odds about: both sides of a block's edge.
const PAGES: Range<u64> = LOW + 510..LOW + 515;

/// One CPU makes calls of all kinds on few pages and frames, legal or not.
fn make_calls(world: &World, number: usize, calls: usize, seed: u64) {
    let mut cpu = world.cpu.other(number);
    let real = &world.ownership;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.rotate_left(number as u32) ^ seed;
    for _ in 0..calls {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let page = Pfn::new(PAGES.start + (random >> 8) % 4);
        let gfn = Gfn::new((random >> 16) % 4);
        let count = 1 + (random >> 24) % 2;
        let restricted = random >> 30 & 1 != 0;
        let [one, other] = if random >> 32 & 1 == 0 { [FIRST, SECOND] } else { [SECOND, FIRST] };
        let (guest, second, plain) = (world.memory(one), world.memory(other), world.memory(THIRD));
        let number = (random >> 40) % 6;
        let rights = Rights::FULL;
        let _ = match random % 20 {
            0 => real.host_share_hyp(&mut cpu, page, count, restricted),
            1 => real.host_unshare_hyp(&mut cpu, page, count),
            2 => real.hyp_pin(&mut cpu, page),
            3 => real.hyp_unpin(&mut cpu, page),
            4 => real.host_donate_hyp(&mut cpu, page, count),
            5 => real.hyp_donate_host(&mut cpu, page, count),
            6 => real.host_donate_guest(&mut cpu, guest, page, gfn, count),
            7 => real.guest_share_host(&mut cpu, guest, gfn),
            8 => real.guest_unshare_host(&mut cpu, guest, gfn),
            9 => real.guest_relinquish(&mut cpu, guest, gfn).map(drop),
            10 => real.host_share_guest(&mut cpu, plain, page, gfn, count, rights, restricted),
            11 => real.host_unshare_guest(&mut cpu, plain, gfn, count),
            12 => real.host_lend_guest(&mut cpu, guest, page, gfn, count),
            13 => real.guest_return(&mut cpu, guest, gfn).map(drop),
            14 => real.guest_lend_host(&mut cpu, guest, gfn),
            15 => real.host_return_guest(&mut cpu, guest, page, count),
            16 => real.guest_offer(&mut cpu, guest, gfn, name(other), rights).map(drop),
            17 => real.guest_accept(&mut cpu, guest, second, number, gfn, rights),
            18 => {
                let borrower = real.acceptor(guest, number).map(|_| second);
                real.guest_withdraw(&mut cpu, guest, borrower, number)
            }
            _ => real.guest_drop(&mut cpu, guest, second, number),
        };
        let ipa = Ipa::new((page.raw() << 12) + 8);
        let _ = real.resolve_host_fault(&mut cpu, ipa, Access::Write);
    }
}

/// The stage-2 trees that may reach a page in this state; the host's need not.
fn may_reach(world: &World, state: PageState) -> Vec<TreeKind> {
    const HOST: TreeKind = TreeKind::Stage2 { vmid: 0 };
    let vmid = |slot: VmSlot| {
        let number = world.guests.iter().position(|guest| usize::from(guest.vm.0) == slot.number()).unwrap();
        TreeKind::Stage2 { vmid: number as u16 + 1 }
    };
    match state {
        PageState::Host { guest_mappings: 0, .. } => vec![HOST],
        PageState::Host { .. } => vec![HOST, TreeKind::Stage2 { vmid: 3 }],
        PageState::Hyp => vec![],
        PageState::LentToGuest { slot, .. } => vec![vmid(slot)],
        PageState::Guest { slot, usage, .. } => match usage {
            GuestUse::Alone | GuestUse::Offered => vec![vmid(slot)],
            GuestUse::SharedWithHost => vec![vmid(slot), HOST],
            GuestUse::LentToHost => vec![HOST],
            GuestUse::SharedWithGuest(borrower) => vec![vmid(slot), vmid(borrower)],
        },
    }
}

#[test]
fn whatever_cpus_do_at_once_ledger_and_tables_agree() {
    let world = World::with_guests(&[true, true, false], 12);
    for round in 0..20 {
        thread::scope(|scope| {
            scope.spawn(|| make_calls(&world, 1, 60, round));
            make_calls(&world, 0, 60, round);
        });
        world.machine.assert_clean();
        let guests = world.guests.iter().map(|guest| &guest.memory);
        if let Err(disagreement) = ownership_ghost::abstraction(&world.cpu, &world.ownership, guests) {
            panic!("{disagreement}");
        }
        for page in PAGES {
            let allowed = may_reach(&world, world.ownership.state(Pfn::new(page)).unwrap());
            for tree in world.machine.stage2_of(PhysAddr::new(page << 12)) {
                assert!(allowed.contains(&tree), "{page:#x}: {tree:?} beside {allowed:?}");
            }
        }
    }
}
