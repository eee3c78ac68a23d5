//! A guest with two CPUs: the first turns the second on by PSCI, hands a number to and fro with it, sees it go off, and
//! does it all again.
#![no_std]
#![no_main]

use aarch64_cpu::registers::{CurrentEL, MPIDR_EL1, Readable};
use abi::psci::{
    AFFINITY_INFO_64, AFFINITY_OFF, AFFINITY_ON, ALREADY_ON, CPU_OFF, CPU_ON_64, CPU_SUSPEND_64, INVALID_ADDRESS,
    INVALID_PARAMETERS, MPIDR_AFFINITY_MASK, SUCCESS,
};
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::hypervisor::call_status;
use payloads::report::Report;
use payloads::{Machine, payload, println, secondary};

/// How often the second CPU is turned on.
const STARTS: u64 = 3;
/// How often the number goes to and fro each time.
const TURNS: u64 = 50;
/// Affinity of the second CPU.
const SECOND: u64 = 1;
/// What the second CPU gets as its argument, but for the number of the start.
const ARGUMENT: u64 = 0xc0ff_ee00_0bad_f000;
/// SCTLR_EL1.M and C, which are 0 when a CPU comes on (Arm DEN0022, section 6.4).
const SCTLR_MMU_AND_CACHES: u64 = 0b101;

/// Odd while it is the second CPU's turn.
static TURN: AtomicU64 = AtomicU64::new(0);
/// What the second CPU saw when it came on: argument, SCTLR_EL1, exception level, affinity.
static SEEN: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// Calls to wait that did not return success.
static BAD_WAITS: AtomicU64 = AtomicU64::new(0);

payload!(smp);

fn smp(machine: &mut Machine) {
    println!("smp: {} CPUs", machine.platform.cpus);
    let mut report = Report::begin("smp");
    let mut expect = |name: &str, seen: i64, expected: i64| {
        report.check(name, seen == expected, format_args!("{seen}, not {expected}"));
    };
    expect("smp.cpus", machine.platform.cpus as i64, 2);
    for number in 0..STARTS {
        expect("smp.affinity-off", affinity(), AFFINITY_OFF);
        TURN.store(0, Ordering::Relaxed);
        // SAFETY: The second CPU has never been on, or is off by its own doing, as was seen.
        let status = unsafe { secondary::start(&machine.address_space, SECOND, second, ARGUMENT + number) };
        expect("smp.cpu-on", status, SUCCESS);
        for turn in 0..TURNS {
            TURN.store(2 * turn + 1, Ordering::Release);
            wait_until(|| TURN.load(Ordering::Acquire) == 2 * turn + 2);
        }
        expect("smp.affinity-on", affinity(), AFFINITY_ON);
        expect("smp.cpu-on-again", call_status(CPU_ON_64, [SECOND, secondary::entry(), 0]), ALREADY_ON);
        let [argument, sctlr, level, own] = SEEN.each_ref().map(|seen| seen.load(Ordering::Acquire));
        expect("smp.argument", argument as i64, (ARGUMENT + number) as i64);
        expect("smp.sctlr-at-entry", (sctlr & SCTLR_MMU_AND_CACHES) as i64, 0);
        expect("smp.exception-level", level as i64, 1);
        expect("smp.affinity", own as i64, SECOND as i64);
        // Off it goes.
        TURN.store(2 * TURNS + 1, Ordering::Release);
        wait_until(|| affinity() == AFFINITY_OFF);
    }
    expect("smp.cpu-on-nobody", call_status(CPU_ON_64, [2, secondary::entry(), 0]), INVALID_PARAMETERS);
    expect("smp.cpu-on-nowhere", call_status(CPU_ON_64, [SECOND, 1 << 40, 0]), INVALID_ADDRESS);
    expect("smp.still-off", affinity(), AFFINITY_OFF);
    expect("smp.waits", BAD_WAITS.load(Ordering::Relaxed) as i64, 0);
    report.end();
}

/// AFFINITY_INFO of the second CPU.
fn affinity() -> i64 {
    call_status(AFFINITY_INFO_64, [SECOND, 0, 0])
}

/// Gives the CPU to the other vCPU until `condition` holds.
fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        if call_status(CPU_SUSPEND_64, [0; 3]) != SUCCESS {
            BAD_WAITS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The second CPU.
extern "C" fn second(argument: u64, sctlr_at_entry: u64) -> ! {
    let own = MPIDR_EL1.get() & MPIDR_AFFINITY_MASK;
    for (seen, value) in SEEN.iter().zip([argument, sctlr_at_entry, CurrentEL.read(CurrentEL::EL), own]) {
        seen.store(value, Ordering::Release);
    }
    for turn in 0..TURNS {
        wait_until(|| TURN.load(Ordering::Acquire) == 2 * turn + 1);
        TURN.store(2 * turn + 2, Ordering::Release);
    }
    wait_until(|| TURN.load(Ordering::Acquire) == 2 * TURNS + 1);
    loop {
        call_status(CPU_OFF, [0; 3]);
        BAD_WAITS.fetch_add(1, Ordering::Relaxed);
    }
}
