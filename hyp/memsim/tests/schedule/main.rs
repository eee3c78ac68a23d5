//! Seeded interleavings: one CPU at a time, the same seed the same order, and orders of every kind among the seeds.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::{PhysAddr, PhysRange};
use memsim::{Cpu, Event, Machine, Program};
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};

const WORD: PhysAddr = PhysAddr::new(0x8000_0000);

fn machine(cpus: usize) -> Machine {
    Machine::new(cpus, PhysRange::from_size(PhysAddr::new(0x10_0000), 0x10_0000).unwrap())
}

/// The same program for every CPU.
fn all<'a, R>(cpus: usize, program: impl Fn(&mut Cpu) -> R + Send + Sync + Copy + 'a) -> Vec<Program<'a, R>> {
    (0..cpus).map(|_| Box::new(program) as Program<'a, R>).collect()
}

/// Every kind of operation, on each of the CPUs.
fn events(cpus: usize, seed: u64) -> Vec<(usize, Event)> {
    let machine = machine(cpus);
    machine.interleave(
        seed,
        all(cpus, |cpu: &mut Cpu| {
            let own = WORD.checked_add(8 + 8 * cpu.index() as u64).unwrap();
            for round in 0..5 {
                let frame = cpu.allocate().unwrap();
                cpu.write(own, cpu.read(WORD) + round);
                let _ = cpu.compare_exchange(WORD, round, round + 1);
                cpu.dsb(DsbKind::Ish);
                cpu.tlbi(Tlbi::Alle1Is);
                cpu.isb();
                cpu.load_vttbr(round);
                cpu.clean_invalidate_to_poc(PhysRange::from_size(WORD, 64).unwrap());
                cpu.clean_to_pou(PhysRange::from_size(WORD, 64).unwrap());
                cpu.invalidate_instruction_cache(PhysRange::from_size(WORD, 64).unwrap());
                cpu.free(frame);
            }
        }),
    );
    machine.events()
}

#[test]
fn the_same_seed_gives_the_same_events() {
    for cpus in [1, 2, 4] {
        for seed in [0, 1, 2, 0xdead_beef, u64::MAX] {
            assert_eq!(events(cpus, seed), events(cpus, seed), "seed {seed:#x}");
        }
    }
}

#[test]
fn different_seeds_give_different_events() {
    let orders: HashSet<String> = (0..64).map(|seed| format!("{:?}", events(2, seed))).collect();
    assert!(orders.len() > 48, "{} of 64", orders.len());
}

#[test]
fn results_come_in_the_order_of_the_cpus_and_programs_may_borrow() {
    let machine = machine(3);
    let names = [String::from("a"), String::from("b"), String::from("c")];
    let programs = names.iter().map(|name| -> Program<'_, String> {
        Box::new(move |cpu| {
            cpu.isb();
            format!("{name}{}", cpu.index())
        })
    });
    assert_eq!(machine.interleave(7, programs.collect()), ["a0", "b1", "c2"]);
    assert_eq!(machine.interleave::<()>(7, Vec::new()), []);
}

#[test]
fn exactly_one_program_runs_at_any_time() {
    for seed in 0..50 {
        let machine = machine(4);
        let busy = AtomicBool::new(false);
        machine.interleave(
            seed,
            all(4, |cpu: &mut Cpu| {
                for _ in 0..20 {
                    assert!(!busy.swap(true, Ordering::SeqCst), "two at once");
                    std::thread::yield_now();
                    busy.store(false, Ordering::SeqCst);
                    cpu.isb();
                }
            }),
        );
    }
}

/// How often some seed of many loses an increment, where each of two CPUs does three by `increment`.
fn lost_increments(increment: impl Fn(&mut Cpu) + Send + Sync + Copy) -> usize {
    let seeds = 0..200;
    seeds
        .filter(|seed| {
            let machine = machine(2);
            machine.interleave(*seed, all(2, |cpu: &mut Cpu| (0..3).for_each(|_| increment(cpu))));
            machine.read_word(WORD) != 6
        })
        .count()
}

#[test]
fn a_race_is_met_and_its_cure_is_not_blamed() {
    let plain = lost_increments(|cpu| cpu.write(WORD, cpu.read(WORD) + 1));
    assert!((50..200).contains(&plain), "{plain} of 200");
    let atomic = lost_increments(|cpu| {
        let mut found = cpu.read(WORD);
        while let Err(now) = cpu.compare_exchange(WORD, found, found + 1) {
            found = now;
        }
    });
    assert_eq!(atomic, 0);
}

/// The longest time that a CPU had to wait for its next step, in steps of others, while it had any left.
fn longest_wait(seed: u64) -> usize {
    let machine = machine(4);
    machine.interleave(seed, all(4, |cpu: &mut Cpu| (0..300).for_each(|_| cpu.isb())));
    let mut longest = 0;
    let mut waits = [0; 4];
    let mut left = [300; 4];
    for (cpu, _) in machine.events() {
        left[cpu] -= 1;
        for (other, wait) in waits.iter_mut().enumerate().filter(|(other, _)| left[*other] > 0) {
            *wait = if other == cpu { 0 } else { *wait + 1 };
            longest = longest.max(*wait);
        }
    }
    longest
}

#[test]
fn some_seeds_starve_a_cpu_and_some_are_fair() {
    let waits: Vec<usize> = (0..40).map(longest_wait).collect();
    assert!(waits.iter().any(|wait| *wait > 200), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait < 120), "{waits:?}");
}

#[test]
fn a_cpu_that_waits_lets_the_other_run() {
    for seed in 0..100 {
        let machine = machine(2);
        let waiter: Program<'_, u64> = Box::new(|cpu| {
            let mut turns = 0;
            while cpu.read(WORD) == 0 {
                cpu.relax();
                turns += 1;
            }
            turns
        });
        let writer: Program<'_, u64> = Box::new(|cpu| {
            (0..10).for_each(|_| cpu.isb());
            cpu.write(WORD, 1);
            0
        });
        let turns = machine.interleave(seed, vec![waiter, writer])[0];
        // One for its start, one for each of its eleven steps.
        assert!(turns <= 12, "{turns} turns in seed {seed}");
    }
}

#[test]
fn a_panic_is_passed_on_and_ends_the_others() {
    for seed in 0..20 {
        let machine = machine(3);
        let ended = Mutex::new(0);
        let endless = || -> Program<'_, ()> {
            let ended = &ended;
            Box::new(move |cpu| {
                struct Count<'a>(&'a Mutex<i32>, Cpu);
                impl Drop for Count<'_> {
                    fn drop(&mut self) {
                        // Steps of a program that is ending are steps still.
                        self.1.isb();
                        *self.0.lock().unwrap() += 1;
                    }
                }
                let _count = Count(ended, cpu.clone());
                loop {
                    cpu.relax();
                }
            })
        };
        let failing: Program<'_, ()> = Box::new(|cpu| {
            (0..10).for_each(|_| cpu.isb());
            panic!("the third CPU has had enough");
        });
        let programs = vec![endless(), endless(), failing];
        let panic = catch_unwind(AssertUnwindSafe(|| machine.interleave(seed, programs))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the third CPU has had enough"));
        let started = *ended.lock().unwrap();
        assert!(started <= 2);
        assert_eq!(machine.events().len(), 10 + started as usize, "seed {seed}");
    }
}

#[test]
fn a_cpu_without_a_schedule_is_not_held_up() {
    let machine = machine(2);
    let unscheduled = machine.cpu(1);
    let program: Program<'_, ()> = Box::new(|cpu| {
        cpu.isb();
        unscheduled.isb();
        unscheduled.relax();
    });
    machine.interleave(1, vec![program]);
    assert_eq!(machine.events(), [(0, Event::Isb), (1, Event::Isb)]);
}
