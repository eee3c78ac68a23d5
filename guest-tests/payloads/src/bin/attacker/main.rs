//! A malicious guest: tries to reach what is not its own, by memory accesses, calls and registers, and reports what
//! came of each attempt.
//!
//! Without a hypervisor below, only those checks run that hold on a bare machine as well.
#![no_std]
#![no_main]

mod calls;
mod holes;
mod registers;
mod sharing;
mod state;

use payloads::hypervisor::KvmCalls;
use payloads::probe::enable_simd;
use payloads::report::Report;
use payloads::{Machine, payload, println};

payload!(attack);

fn attack(machine: &mut Machine) {
    let calls = KvmCalls::find();
    if calls.is_none() {
        println!("attacker: no pKVM here; what only a hypervisor refuses is left out");
    }
    enable_simd();
    let mut report = Report::begin("attacker");
    holes::attack(machine, &mut report, calls.is_some());
    registers::attack(machine, &mut report, calls.is_some());
    state::attack(machine, &mut report);
    if let Some(calls) = calls {
        calls::attack(&mut report);
        sharing::attack(machine, &mut report, &calls);
    }
    report.end();
}
