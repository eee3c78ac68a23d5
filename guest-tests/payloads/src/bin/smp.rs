//! A guest with several CPUs: the first turns each of the others on by PSCI, hands a number to and fro with it, sees it
//! go off, and does it all again.
#![no_std]
#![no_main]

use aarch64_cpu::asm::barrier::{ISHST, dsb};
use aarch64_cpu::asm::{sev, wfe};
use aarch64_cpu::registers::{CurrentEL, MPIDR_EL1, Readable};
use abi::payloads::smp::STARTS;
use abi::psci::{
    AFFINITY_INFO_64, AFFINITY_OFF, AFFINITY_ON, ALREADY_ON, CPU_OFF, CPU_ON_64, INVALID_ADDRESS, INVALID_PARAMETERS,
    MPIDR_AFFINITY_MASK, SUCCESS,
};
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::hypervisor::call_status;
use payloads::report::Report;
use payloads::secondary::MAX_CPUS;
use payloads::{Machine, payload, println, secondary};

/// How often the number goes to and fro each time.
const TURNS: u64 = 50;
/// What another CPU gets as its argument, but for the number of the start.
const ARGUMENT: u64 = 0xc0ff_ee00_0bad_f000;
/// SCTLR_EL1.M and C, which are 0 when a CPU comes on (Arm DEN0022, section 6.4).
const SCTLR_MMU_AND_CACHES: u64 = 0b101;

/// Odd while it is the other CPU's turn.
static TURN: AtomicU64 = AtomicU64::new(0);
/// What the other CPU saw when it came on: argument, SCTLR_EL1, exception level, affinity.
static SEEN: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

payload!(smp);

fn smp(machine: &mut Machine) {
    let cpus = machine.platform.cpus.min(MAX_CPUS) as u64;
    println!("smp: {cpus} CPUs");
    let mut report = Report::begin("smp");
    let mut expect = |name: &str, seen: i64, expected: i64| {
        report.check(name, seen == expected, format_args!("{seen}, not {expected}"));
    };
    for (other, number) in (1..cpus).flat_map(|other| (0..STARTS).map(move |number| (other, number))) {
        expect("smp.affinity-off", affinity(other), AFFINITY_OFF);
        TURN.store(0, Ordering::Relaxed);
        // SAFETY: The CPU has never been on, or is off by its own doing, as was seen.
        let status = unsafe { secondary::start(&machine.address_space, other, work, ARGUMENT + number) };
        expect("smp.cpu-on", status, SUCCESS);
        for turn in 0..TURNS {
            set_turn(2 * turn + 1);
            wait_for_turn(2 * turn + 2);
        }
        expect("smp.affinity-on", affinity(other), AFFINITY_ON);
        expect("smp.cpu-on-again", call_status(CPU_ON_64, [other, secondary::entry(), 0]), ALREADY_ON);
        let [argument, sctlr, level, own] = SEEN.each_ref().map(|seen| seen.load(Ordering::Acquire));
        expect("smp.argument", argument as i64, (ARGUMENT + number) as i64);
        expect("smp.sctlr-at-entry", (sctlr & SCTLR_MMU_AND_CACHES) as i64, 0);
        expect("smp.exception-level", level as i64, 1);
        expect("smp.affinity", own as i64, other as i64);
        // Off it goes.
        set_turn(2 * TURNS + 1);
        while affinity(other) != AFFINITY_OFF {
            core::hint::spin_loop();
        }
        expect("smp.cpu-on-nowhere", call_status(CPU_ON_64, [other, 1 << 40, 0]), INVALID_ADDRESS);
        expect("smp.still-off", affinity(other), AFFINITY_OFF);
    }
    let nobody = machine.platform.cpus as u64;
    expect("smp.cpu-on-nobody", call_status(CPU_ON_64, [nobody, secondary::entry(), 0]), INVALID_PARAMETERS);
    report.end();
}

/// AFFINITY_INFO of a CPU.
fn affinity(cpu: u64) -> i64 {
    call_status(AFFINITY_INFO_64, [cpu, 0, 0])
}

/// Hands the number on.
fn set_turn(turn: u64) {
    TURN.store(turn, Ordering::Release);
    // WFE is to find the number when it finds the event.
    dsb(ISHST);
    sev();
}

/// Waits for the number, by WFE: where vCPUs take turns, another one's comes.
fn wait_for_turn(turn: u64) {
    while TURN.load(Ordering::Acquire) != turn {
        wfe();
    }
}

/// Another CPU.
extern "C" fn work(argument: u64, sctlr_at_entry: u64) -> ! {
    let own = MPIDR_EL1.get() & MPIDR_AFFINITY_MASK;
    for (seen, value) in SEEN.iter().zip([argument, sctlr_at_entry, CurrentEL.read(CurrentEL::EL), own]) {
        seen.store(value, Ordering::Release);
    }
    for turn in 0..TURNS {
        wait_for_turn(2 * turn + 1);
        set_turn(2 * turn + 2);
    }
    wait_for_turn(2 * TURNS + 1);
    loop {
        call_status(CPU_OFF, [0; 3]);
    }
}
