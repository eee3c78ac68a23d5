//! Two CPUs at once on the same pages.

use crate::common::{CARVE_OUT, LOW, PFN_LIMIT, World};
use abi::{Error, Gfn, Ipa, Pfn, PhysAddr};
use memsim::TreeKind;
use ownership::fault::MOST_FAULTS_PUT_OFF;
use ownership::{Access, HostFault, PageState, Rights};
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
        let mut cpu = world.cpu.clone();
        cpu.0 = world.machine.cpu(number);
        let mut done = 0;
        for round in 0..ROUNDS {
            barrier.wait();
            let guest = &world.guests[0].memory;
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
                _ => match world.ownership.host_share_hyp(&mut cpu, page, 1) {
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
        let mut cpu = world.cpu.clone();
        cpu.0 = world.machine.cpu(number);
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

/// A proof holds the host's lock until it is committed or dropped: here, on one CPU while another faults.
#[test]
fn a_fault_is_put_off_while_another_cpu_holds_the_lock() {
    let world = World::new();
    let (mut holder, mut other) = (world.cpu.clone(), world.cpu.clone());
    other.0 = world.machine.cpu(1);
    let proof = world.ownership.check_host_share_hyp(&mut holder, Pfn::new(LOW), 1).unwrap();
    thread::scope(|scope| {
        let put_off = scope.spawn(|| {
            for page in [LOW + 3, CARVE_OUT, PFN_LIMIT] {
                let outcome = world.ownership.resolve_host_fault(&mut other, Ipa::new(page << 12), Access::Read);
                assert_eq!(outcome, HostFault::Resume, "the host makes its access to {page:#x} again");
            }
            world.reached_by_host(Pfn::new(LOW + 3))
        });
        let patience = Instant::now();
        while !put_off.is_finished() && patience.elapsed() < Duration::from_secs(10) {
            thread::yield_now();
        }
        let was_put_off = put_off.is_finished();
        drop(proof);
        assert!(put_off.join().unwrap().is_empty() && was_put_off, "the fault waited for the lock");
    });
    assert_eq!(world.host_access(&mut other, Pfn::new(LOW + 3), Access::Read), HostFault::Resume);
    assert_eq!(world.host_access(&mut other, Pfn::new(CARVE_OUT), Access::Read), HostFault::Inject);
    world.compare("after the faults");
}

#[test]
fn faults_are_not_put_off_for_ever() {
    let world = World::new();
    let (mut holder, mut other) = (world.cpu.clone(), world.cpu.clone());
    other.0 = world.machine.cpu(1);
    let proof = world.ownership.check_host_share_hyp(&mut holder, Pfn::new(LOW), 1).unwrap();
    let ipa = Ipa::new((LOW + 3) << 12);
    let queued = AtomicBool::new(false);
    thread::scope(|scope| {
        let waits = scope.spawn(|| {
            for _ in 0..MOST_FAULTS_PUT_OFF {
                assert_eq!(world.ownership.resolve_host_fault(&mut other, ipa, Access::Read), HostFault::Resume);
            }
            queued.store(true, Ordering::Release);
            assert_eq!(world.ownership.resolve_host_fault(&mut other, ipa, Access::Read), HostFault::Resume);
            world.reached_by_host(Pfn::new(LOW + 3))
        });
        while !queued.load(Ordering::Acquire) {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(20));
        assert!(!waits.is_finished(), "this one waits for its turn");
        drop(proof);
        assert_eq!(waits.join().unwrap(), [PhysAddr::new(ipa.raw())], "and is resolved when it comes");
    });
    world.compare("after the faults");
}

/// One CPU makes calls of all kinds on few pages and frames, legal or not.
fn make_calls(world: &World, number: usize, calls: usize) {
    let mut cpu = world.cpu.clone();
    cpu.0 = world.machine.cpu(number);
    let real = &world.ownership;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.rotate_left(number as u32);
    for _ in 0..calls {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let page = Pfn::new(LOW + 510 + (random >> 8) % 4);
        let gfn = Gfn::new((random >> 16) % 4);
        let count = 1 + (random >> 24) % 2;
        let guest = &world.guests[(random >> 32) as usize % 2].memory;
        let borrower = &world.guests[2].memory;
        let _ = match random % 12 {
            0 => real.host_share_hyp(&mut cpu, page, count),
            1 => real.host_unshare_hyp(&mut cpu, page, count),
            2 => real.hyp_pin(page),
            3 => real.hyp_unpin(page),
            4 => real.host_donate_hyp(&mut cpu, page, count),
            5 => real.hyp_donate_host(&mut cpu, page, count),
            6 => real.host_donate_guest(&mut cpu, guest, page, gfn, count),
            7 => real.guest_share_host(&mut cpu, guest, gfn),
            8 => real.guest_unshare_host(&mut cpu, guest, gfn),
            9 => real.guest_relinquish(&mut cpu, guest, gfn).map(drop),
            10 => real.host_share_guest(&mut cpu, borrower, page, gfn, count, Rights::FULL),
            _ => real.host_unshare_guest(&mut cpu, borrower, gfn, count),
        };
        let ipa = Ipa::new((page.raw() << 12) + 8);
        let _ = real.resolve_host_fault(&mut cpu, ipa, Access::Write);
    }
}

#[test]
fn whatever_cpus_do_at_once_ledger_and_tables_agree() {
    const HOST: TreeKind = TreeKind::Stage2 { vmid: 0 };
    let world = World::with_guests(&[true, true, false], 12);
    let vmid = |guest: usize| TreeKind::Stage2 { vmid: guest as u16 + 1 };
    for _ in 0..20 {
        thread::scope(|scope| {
            scope.spawn(|| make_calls(&world, 1, 60));
            make_calls(&world, 0, 60);
        });
        world.machine.assert_clean();
        for page in LOW + 510..LOW + 515 {
            let reached_by = world.machine.stage2_of(PhysAddr::new(page << 12));
            let others: Vec<_> = reached_by.iter().copied().filter(|kind| *kind != HOST).collect();
            match world.ownership.state(Pfn::new(page)).unwrap() {
                PageState::Host { guest_mappings: 0, .. } => assert!(others.is_empty(), "{page:#x}: {others:?}"),
                PageState::Host { .. } => assert_eq!(others, [vmid(2)], "{page:#x}"),
                PageState::Hyp => assert!(reached_by.is_empty(), "{page:#x}: {reached_by:?}"),
                PageState::Guest { slot, gfn, host_borrows } => {
                    let owner = world.guests.iter().position(|guest| guest.slot == slot).unwrap();
                    assert_eq!(others, [vmid(owner)], "{page:#x}");
                    assert_eq!(reached_by.contains(&HOST), host_borrows, "{page:#x}");
                    assert_eq!(world.reached_by_guest(owner, gfn), [PhysAddr::new(page << 12)]);
                }
            }
        }
    }
}
