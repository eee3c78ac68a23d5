//! Two CPUs at once on the same pages.

use crate::common::{LOW, World};
use abi::{Error, Gfn, Ipa, Pfn};
use ownership::{Access, HostFault};
use std::sync::Barrier;
use std::thread;

const ROUNDS: usize = 200;

#[test]
fn cpus_that_want_the_same_page_get_it_one_at_a_time() {
    let world = World::with_guests(&[true, false], 12);
    let barrier = Barrier::new(2);
    let page = Pfn::new(LOW + 3);
    let ipa = Ipa::new((LOW + 3) << 12);
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
                            world.ownership.resolve_host_fault(&mut cpu, ipa, Access::Read),
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
                        let fault = world.ownership.resolve_host_fault(&mut cpu, ipa, Access::Write);
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
            let ipa = Ipa::new((LOW + 512 + page) << 12);
            assert_eq!(world.ownership.resolve_host_fault(&mut cpu, ipa, Access::Write), HostFault::Resume);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| run(1));
        run(0);
    });
    world.compare("after the faults");
}
