//! A guest that has its PL011 talk to itself (Arm DDI 0183): loop-back, FIFOs, levels, overrun, and the interrupts of
//! all of them.
//!
//! Models of a PL011 may know neither levels nor overrun, as QEMU's, which besides lets out what goes round: then that
//! is reported as not there.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use payloads::cpus::{self, Cpus, count};
use payloads::mmio::{read32, write32};
use payloads::report::Report;
use payloads::timer::{self, wait_until};
use payloads::{Machine, payload, println};

/// UARTDR, and in what it reads, UARTDR.OE.
const DR: u64 = 0x00;
const DR_OVERRUN: u32 = 1 << 11;
/// UARTFR: RXFE, RXFF.
const FR: u64 = 0x18;
const FR_RECEIVE_EMPTY: u32 = 1 << 4;
const FR_RECEIVE_FULL: u32 = 1 << 6;
/// UARTLCR_H: FEN, eight bits.
const LCR_H: u64 = 0x2c;
const LCR_FIFOS: u32 = 1 << 4;
const LCR_EIGHT_BITS: u32 = 0b11 << 5;
/// UARTCR: UARTEN, LBE, TXE, RXE.
const CR: u64 = 0x30;
const CR_ON: u32 = 1 << 0 | 1 << 8 | 1 << 9;
const CR_LOOP_BACK: u32 = 1 << 7;
/// UARTIFLS: the receive interrupt at half a FIFO.
const IFLS: u64 = 0x34;
const IFLS_HALF: u32 = 0b010 << 3 | 0b010;
/// UARTIMSC, UARTRIS, UARTMIS, UARTICR, and in them receive, receive time-out and overrun.
const IMSC: u64 = 0x38;
const RIS: u64 = 0x3c;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;
const INTERRUPT_RECEIVE: u32 = 1 << 4;
const INTERRUPT_TIME_OUT: u32 = 1 << 6;
const INTERRUPT_OVERRUN: u32 = 1 << 10;
const INTERRUPT_ALL: u32 = 0x7ff;

/// Bytes that a FIFO holds.
const DEPTH: u32 = 16;
/// Bytes that go round one by one.
const ROUNDS: u32 = 64;
/// Microseconds in which an interrupt would have come.
const QUIET: u64 = 3_000;

/// The PL011, the interrupt, and what the handler received: how many bytes, and their sum weighted by their order.
static UART: AtomicU64 = AtomicU64::new(0);
static INTID: AtomicU32 = AtomicU32::new(0);
static RECEIVED: AtomicU32 = AtomicU32::new(0);
static SUM: AtomicU32 = AtomicU32::new(0);

payload!(uart);

fn read(register: u64) -> u32 {
    // SAFETY: A register of the PL011, which is mapped.
    unsafe { read32(UART.load(Ordering::Relaxed) + register) }
}

fn write(register: u64, value: u32) {
    // SAFETY: As for `read`.
    unsafe { write32(UART.load(Ordering::Relaxed) + register, value) };
}

/// Reads all that has been received.
fn received(_: usize, intid: u32) {
    if intid != INTID.load(Ordering::Relaxed) {
        return;
    }
    // Cleared first: the next byte may come as soon as the last one is counted.
    write(ICR, INTERRUPT_RECEIVE | INTERRUPT_TIME_OUT);
    while read(FR) & FR_RECEIVE_EMPTY == 0 {
        let byte = read(DR) & 0xff;
        SUM.fetch_add((RECEIVED.load(Ordering::Relaxed) + 1) * byte, Ordering::AcqRel);
        RECEIVED.fetch_add(1, Ordering::AcqRel);
    }
}

/// Checks' results are collected, since nothing can be printed in loop-back.
struct Results {
    results: [(&'static str, bool, u32); 32],
    count: usize,
    has_levels: bool,
    has_overrun: bool,
}

impl Results {
    fn check(&mut self, name: &'static str, holds: bool, seen: u32) {
        self.results[self.count] = (name, holds, seen);
        self.count += 1;
    }
}

fn uart(machine: &mut Machine) {
    println!("uart: the console talks to itself");
    let mut report = Report::begin("uart");
    let (Some(base), Some(intid)) = (machine.platform.uart, machine.platform.uart_interrupt) else {
        report.check("uart.there", false, format_args!("no PL011, or it has no interrupt"));
        return report.end();
    };
    let Some(cpus) = Cpus::start(machine) else {
        report.check("uart.interrupts", false, format_args!("no GICv3"));
        return report.end();
    };
    UART.store(base.raw(), Ordering::Relaxed);
    INTID.store(intid, Ordering::Relaxed);
    let before = [CR, LCR_H, IFLS].map(read);
    let mut results = Results { results: [("", true, 0); 32], count: 0, has_levels: true, has_overrun: true };
    write(IMSC, 0);
    write(LCR_H, LCR_EIGHT_BITS);
    write(CR, CR_ON | CR_LOOP_BACK);
    drain();
    write(ICR, INTERRUPT_ALL);
    by_polling(&mut results);
    cpus::set_action(Some(received));
    // Each CPU in turn serves it.
    for cpu in 0..cpus.count {
        cpus.gic.enable_shared(intid, cpu);
        by_interrupt(&mut results, cpu, intid);
    }
    write(LCR_H, LCR_EIGHT_BITS | LCR_FIFOS);
    write(IFLS, IFLS_HALF);
    at_level(&mut results, cpus.count - 1, intid);
    cpus::set_action(None);
    overrun(&mut results);
    drain();
    write(IMSC, 0);
    write(ICR, INTERRUPT_ALL);
    for (register, value) in [CR, LCR_H, IFLS].into_iter().zip(before) {
        write(register, value);
    }
    report.value("uart.levels", results.has_levels.into());
    report.value("uart.overrun", results.has_overrun.into());
    for (name, holds, seen) in &results.results[..results.count] {
        report.check_in("uart", name, *holds, format_args!("{seen:#x}"));
    }
    report.value("uart.interrupts", (0..cpus.count).map(|cpu| u64::from(count(cpu, intid))).sum());
    report.end();
}

fn drain() {
    while read(FR) & FR_RECEIVE_EMPTY == 0 {
        read(DR);
    }
}

fn by_polling(results: &mut Results) {
    results.check("empty-at-first", read(FR) & (FR_RECEIVE_EMPTY | FR_RECEIVE_FULL) == FR_RECEIVE_EMPTY, read(FR));
    let mut wrong = 0;
    for byte in 0..=0xff {
        write(DR, byte);
        let came = wait_until(|| read(FR) & FR_RECEIVE_EMPTY == 0);
        let raised = read(RIS) & INTERRUPT_RECEIVE != 0;
        wrong += u32::from(!came || !raised || read(DR) != byte || read(RIS) & INTERRUPT_RECEIVE != 0);
    }
    results.check("loop-back-of-every-byte", wrong == 0, wrong);
    results.check("masked-interrupts-are-not-shown", read(MIS) == 0, read(MIS));
}

/// Bytes go round one after the other, by interrupts to `cpu`.
fn by_interrupt(results: &mut Results, cpu: usize, intid: u32) {
    RECEIVED.store(0, Ordering::Release);
    SUM.store(0, Ordering::Release);
    let before = count(cpu, intid);
    write(IMSC, INTERRUPT_RECEIVE);
    let mut expected = 0;
    for round in 1..=ROUNDS {
        expected += round * (round + 0x20);
        write(DR, round + 0x20);
        if !wait_until(|| RECEIVED.load(Ordering::Acquire) == round) {
            break;
        }
    }
    write(IMSC, 0);
    // One interrupt may bring two bytes, and counts when its handler is done.
    let taken = wait_until(|| count(cpu, intid) - before >= ROUNDS / 4);
    let seen = RECEIVED.load(Ordering::Acquire);
    results.check("bytes-by-interrupt", taken && seen == ROUNDS, seen);
    results.check("bytes-in-order", SUM.load(Ordering::Acquire) == expected, SUM.load(Ordering::Acquire));
}

/// With FIFOs the interrupt waits for half of one.
fn at_level(results: &mut Results, cpu: usize, intid: u32) {
    write(DR, 0);
    wait_until(|| read(FR) & FR_RECEIVE_EMPTY == 0);
    results.has_levels = read(RIS) & INTERRUPT_RECEIVE == 0;
    drain();
    write(ICR, INTERRUPT_ALL);
    if !results.has_levels {
        return;
    }
    RECEIVED.store(0, Ordering::Release);
    let before = count(cpu, intid);
    write(IMSC, INTERRUPT_RECEIVE);
    for byte in 1..DEPTH / 2 {
        write(DR, byte);
    }
    timer::spin(QUIET);
    results.check("quiet-below-its-level", count(cpu, intid) == before, read(RIS));
    write(DR, DEPTH / 2);
    let came = wait_until(|| RECEIVED.load(Ordering::Acquire) == DEPTH / 2);
    results.check("comes-at-its-level", came && count(cpu, intid) != before, RECEIVED.load(Ordering::Acquire));
    write(IMSC, 0);
    drain();
}

/// One byte more than there is room for is lost, and said to be.
fn overrun(results: &mut Results) {
    write(ICR, INTERRUPT_ALL);
    for byte in 0..DEPTH {
        write(DR, byte);
    }
    let full = wait_until(|| read(FR) & FR_RECEIVE_FULL != 0);
    results.check("full-at-its-depth", full, read(FR));
    write(DR, DEPTH);
    timer::spin(QUIET);
    results.has_overrun = read(RIS) & INTERRUPT_OVERRUN != 0;
    if !results.has_overrun {
        return;
    }
    results.check("overrun-raised", read(RIS) & INTERRUPT_OVERRUN != 0, read(RIS));
    let mut wrong = 0;
    let mut said = 0;
    for byte in 0..DEPTH {
        let seen = read(DR);
        said |= seen & DR_OVERRUN;
        wrong += u32::from(seen & 0xff != byte);
    }
    results.check("full-fifo-in-order", wrong == 0, wrong);
    results.check("overrun-in-the-data", said != 0, said);
    results.check("empty-again", read(FR) & FR_RECEIVE_EMPTY != 0, read(FR));
}
