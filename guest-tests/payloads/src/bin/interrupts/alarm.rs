//! The PL031's interrupt (Arm DDI 0224, chapter 3): it comes by time alone, when the clock shows what was set.

use crate::{Bench, QUIET};
use abi::Ipa;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use payloads::cpus::{self, count};
use payloads::gic::Bits;
use payloads::mmio::{read32, write32};
use payloads::timer::{self, wait_until};

/// RTCDR: the time in seconds.
const DR: u64 = 0x000;
/// RTCMR: when the interrupt comes.
const MR: u64 = 0x004;
/// RTCIMSC: 1 lets it through.
const IMSC: u64 = 0x010;
/// RTCRIS: 1 while it is raised.
const RIS: u64 = 0x014;
/// RTCICR: 1 ends it.
const ICR: u64 = 0x01c;

/// The PL031 and its interrupt.
static CLOCK: AtomicU64 = AtomicU64::new(0);
static INTID: AtomicU32 = AtomicU32::new(0);

fn read(register: u64) -> u32 {
    // SAFETY: A register of the PL031, which is mapped.
    unsafe { read32(CLOCK.load(Ordering::Relaxed) + register) }
}

fn write(register: u64, value: u32) {
    // SAFETY: As for `read`.
    unsafe { write32(CLOCK.load(Ordering::Relaxed) + register, value) };
}

fn rang(_: usize, intid: u32) {
    if intid == INTID.load(Ordering::Relaxed) {
        write(IMSC, 0);
    }
}

pub fn run(bench: &mut Bench, clock: Ipa, intid: u32) {
    CLOCK.store(clock.raw(), Ordering::Relaxed);
    INTID.store(intid, Ordering::Relaxed);
    cpus::set_action(Some(rang));
    let gic = bench.cpus.gic;
    gic.enable_shared(intid, 0);
    write(ICR, 1);
    let before = count(0, intid);
    let due = read(DR).wrapping_add(1);
    write(MR, due);
    write(IMSC, 1);
    let came = wait_until(|| count(0, intid) != before);
    let now = read(DR);
    timer::spin(QUIET);
    bench.expect("interrupts", "alarm-comes", came.into(), 1);
    bench.expect("interrupts", "alarm-comes-once", (count(0, intid) - before).into(), 1);
    let late = now.wrapping_sub(due);
    bench.report.check_in("interrupts", "alarm-not-early", late < 1 << 31, format_args!("{now}, not {due}"));
    let raised = read(RIS);
    write(ICR, 1);
    bench.expect("interrupts", "alarm-cleared", u64::from(raised == 1 && read(RIS) == 0), 1);
    gic.set(0, Bits::ClearEnable, intid);
    cpus::set_action(None);
}
