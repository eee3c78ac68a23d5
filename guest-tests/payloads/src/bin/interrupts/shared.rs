//! A shared, level-sensitive interrupt: the PL011's, raised by a byte that it has sent.

use crate::{Bench, QUIET};
use abi::Ipa;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use payloads::cpus::{self, count};
use payloads::gic::Bits;
use payloads::mmio::{read32, write32};
use payloads::timer::{self, wait_until};

/// UARTDR.
const DR: u64 = 0x00;
/// UARTIMSC.
const IMSC: u64 = 0x38;
/// UARTRIS.
const RIS: u64 = 0x3c;
/// UARTICR.
const ICR: u64 = 0x44;
/// The transmit interrupt.
const TX: u32 = 1 << 5;
/// All of the interrupts.
const ALL: u32 = 0x7ff;

/// How often the handler lets the line stay as it is.
const REPEATS: u32 = 3;

/// The PL011, the interrupt, and how often it may still come before the handler masks it.
static UART: AtomicU64 = AtomicU64::new(0);
static INTID: AtomicU32 = AtomicU32::new(0);
static LEFT: AtomicU32 = AtomicU32::new(0);

fn transmitted(_: usize, intid: u32) {
    if intid != INTID.load(Ordering::Relaxed) {
        return;
    }
    if LEFT.fetch_sub(1, Ordering::AcqRel) <= 1 {
        // SAFETY: A register of the PL011, which `run` was given.
        unsafe { write32(UART.load(Ordering::Relaxed) + IMSC, 0) };
    }
}

pub fn run(bench: &mut Bench, uart: Ipa, intid: u32) {
    let base = uart.raw();
    let gic = bench.cpus.gic;
    UART.store(base, Ordering::Relaxed);
    INTID.store(intid, Ordering::Relaxed);
    cpus::set_action(Some(transmitted));
    // SAFETY: Registers of the PL011; an empty line is all that comes of them.
    let set = |register: u64, value: u32| unsafe { write32(base + register, value) };
    set(IMSC, 0);
    set(ICR, ALL);
    gic.enable_shared(intid, 0);

    let mut targets = [0, bench.cpus.count - 1, 0];
    if bench.cpus.count == 1 {
        targets = [0; 3];
    }
    for (round, target) in targets.into_iter().enumerate() {
        gic.route(intid, target);
        // The line rises once a byte has been sent, and stays up: after each end the interrupt comes again, until the
        // handler masks it in the device.
        LEFT.store(REPEATS, Ordering::Release);
        let before = count(target, intid);
        let elsewhere = total(bench, intid) - before;
        set(DR, u32::from(b'\n'));
        // SAFETY: As for `set`.
        let raised = wait_until(|| unsafe { read32(base + RIS) } & TX != 0);
        set(IMSC, TX);
        let came = wait_until(|| count(target, intid) == before + REPEATS);
        timer::spin(QUIET);
        let right = raised && came && count(target, intid) == before + REPEATS;
        let name = ["level-comes-until-masked", "level-comes-where-routed", "level-comes-where-routed-back"][round];
        let seen = count(target, intid) - before;
        bench.report.check_in("interrupts", name, right, format_args!("{seen} on CPU {target}"));
        let others = total(bench, intid) - count(target, intid);
        bench.expect("interrupts", "level-comes-nowhere-else", u64::from(others - elsewhere), 0);
        set(ICR, ALL);
    }

    // Pending while it is off, it follows where it is routed to.
    let last = bench.cpus.count - 1;
    gic.set(0, Bits::ClearEnable, intid);
    gic.route(intid, 0);
    LEFT.store(1, Ordering::Release);
    set(DR, u32::from(b'\n'));
    // SAFETY: As for `set`.
    let raised = wait_until(|| unsafe { read32(base + RIS) } & TX != 0);
    set(IMSC, TX);
    timer::spin(QUIET);
    let pending = gic.is_set(0, Bits::SetPending, intid);
    let before = count(last, intid);
    gic.route(intid, last);
    gic.set(0, Bits::SetEnable, intid);
    let came = wait_until(|| count(last, intid) != before);
    bench.expect("interrupts", "level-pending-while-disabled", u64::from(raised && pending), 1);
    bench.expect("interrupts", "level-follows-its-route", came.into(), 1);

    // A line that falls before the interrupt is taken takes it along.
    gic.set(0, Bits::ClearEnable, intid);
    LEFT.store(1, Ordering::Release);
    set(IMSC, TX);
    timer::spin(QUIET);
    set(IMSC, 0);
    let pending = gic.is_set(0, Bits::SetPending, intid);
    let before = total(bench, intid);
    gic.set(0, Bits::SetEnable, intid);
    timer::spin(QUIET);
    bench.expect("interrupts", "level-falls", u64::from(!pending && total(bench, intid) == before), 1);
    gic.set(0, Bits::ClearEnable, intid);
    set(ICR, ALL);
    cpus::set_action(None);
}

/// How often all CPUs together have taken it.
fn total(bench: &Bench, intid: u32) -> u32 {
    (0..bench.cpus.count).map(|cpu| count(cpu, intid)).sum()
}
