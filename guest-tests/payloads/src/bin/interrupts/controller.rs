//! What the interrupt controller does with an interrupt before and after it is taken: enable, priority, mask, pre-emption, and the
//! two ways to end it (Arm IHI 0069, chapter 4).

use crate::{Bench, comes, comes_once, take};
use payloads::cpus::count;
use payloads::gic::{self, Bits, CONTROL_EOI_MODE, PRIORITY};
use payloads::timer;

/// An interrupt that tests send to their own CPU.
const SGI: u32 = 5;
/// One that is more urgent than [`PRIORITY`].
const URGENT: u32 = 6;
/// One that is less urgent.
const IDLE: u32 = 7;
/// More urgent than [`PRIORITY`].
const PRIORITY_URGENT: u8 = 0x40;
/// Less urgent.
const PRIORITY_IDLE: u8 = 0xd0;
/// A mask that keeps out [`PRIORITY`] and all that is less urgent.
const MASK: u64 = 0x80;

pub fn run(bench: &mut Bench) {
    disabled(bench);
    masked(bench);
    priorities(bench);
    end_modes(bench);
}

/// An interrupt that is off stays pending, and comes when it is on; unless its pending state is cleared by then.
fn disabled(bench: &mut Bench) {
    let gic = bench.cpus.gic;
    gic.set(0, Bits::ClearEnable, SGI);
    let before = count(0, SGI);
    gic::send(SGI, 0);
    let kept = !comes(0, SGI) && gic.is_set(0, Bits::SetPending, SGI);
    bench.report.check("interrupts.disabled-stays-pending", kept, format_args!("{} taken", count(0, SGI) - before));
    let came = comes_once(0, SGI, || gic.set(0, Bits::SetEnable, SGI));
    bench.report.check("interrupts.comes-when-enabled", came, format_args!("{} taken", count(0, SGI) - before));
    bench.expect("interrupts", "not-pending-afterwards", gic.is_set(0, Bits::SetPending, SGI).into(), 0);

    gic.set(0, Bits::ClearEnable, SGI);
    gic::send(SGI, 0);
    timer::spin(crate::QUIET);
    gic.set(0, Bits::ClearPending, SGI);
    gic.set(0, Bits::SetEnable, SGI);
    bench.expect("interrupts", "cleared-before-enabled", comes(0, SGI).into(), 0);

    // By its register an interrupt can be made pending as well.
    let came = comes_once(0, SGI, || gic.set(0, Bits::SetPending, SGI));
    bench.expect("interrupts", "made-pending", came.into(), 1);
}

/// The priority mask keeps an interrupt out until it is raised.
fn masked(bench: &mut Bench) {
    gic::set_priority_mask(MASK);
    gic::send(SGI, 0);
    let kept_out = !comes(0, SGI);
    let came = comes_once(0, SGI, || gic::set_priority_mask(0xf0));
    gic::set_priority_mask(0xff);
    bench.expect("interrupts", "priority-mask-keeps-out", kept_out.into(), 1);
    bench.expect("interrupts", "priority-mask-lets-in", came.into(), 1);
    gic::set_group_one(0);
    gic::send(SGI, 0);
    let kept_out = !comes(0, SGI);
    let came = comes_once(0, SGI, || gic::set_group_one(1));
    bench.expect("interrupts", "group-enable-keeps-out", kept_out.into(), 1);
    bench.expect("interrupts", "group-enable-lets-in", came.into(), 1);
}

/// The more urgent one is taken first; and while one is active, only a more urgent one is.
fn priorities(bench: &mut Bench) {
    let gic = bench.cpus.gic;
    gic.set_priority(0, URGENT, PRIORITY_URGENT);
    gic.set_priority(0, IDLE, PRIORITY_IDLE);
    gic::mask();
    for intid in [IDLE, SGI, URGENT] {
        gic::send(intid, 0);
    }
    timer::spin(crate::QUIET);
    for (name, expected) in [("first", URGENT), ("second", SGI), ("third", IDLE)] {
        let taken = take();
        gic::end(taken);
        bench.expect("interrupts.by-urgency", name, taken.into(), expected.into());
    }

    gic::send(SGI, 0);
    let outer = take();
    gic::send(IDLE, 0);
    timer::spin(crate::QUIET);
    let while_active = gic::acknowledge();
    gic::send(URGENT, 0);
    let inner = take();
    gic::end(inner);
    gic::end(outer);
    let last = take();
    gic::end(last);
    gic::unmask();
    bench.expect("interrupts.preemption", "outer", outer.into(), SGI.into());
    bench.report.check(
        "interrupts.preemption.less-urgent-waits",
        while_active >= gic::FIRST_SPECIAL,
        format_args!("{while_active}"),
    );
    bench.expect("interrupts.preemption", "inner", inner.into(), URGENT.into());
    bench.expect("interrupts.preemption", "less-urgent-follows", last.into(), IDLE.into());
    gic.set_priority(0, URGENT, PRIORITY);
    gic.set_priority(0, IDLE, PRIORITY);
}

/// With EOImode the end drops the priority alone, so that the interrupt stays active, and does not come again, until it is
/// deactivated; without, the end does both.
fn end_modes(bench: &mut Bench) {
    let gic = bench.cpus.gic;
    gic::mask();
    for (name, mode) in [("split", CONTROL_EOI_MODE), ("joint", 0)] {
        gic::set_control(gic::control() & !CONTROL_EOI_MODE | mode);
        gic::send(SGI, 0);
        let first = take();
        let active = gic.is_set(0, Bits::SetActive, SGI);
        gic::end(first);
        let still_active = gic.is_set(0, Bits::SetActive, SGI);
        gic::send(SGI, 0);
        timer::spin(crate::QUIET);
        // Another one passes, since the priority has been dropped.
        gic::send(IDLE, 0);
        let second = take();
        gic::end(second);
        if mode != 0 {
            gic::deactivate(second);
            gic::deactivate(SGI);
        }
        let third = take();
        gic::end(third);
        if mode != 0 {
            gic::deactivate(third);
        }
        let rest = gic::acknowledge();
        let group = if mode != 0 { "interrupts.end-split" } else { "interrupts.end-joint" };
        bench.expect(group, "taken", first.into(), SGI.into());
        bench.expect(group, "active", active.into(), 1);
        bench.expect(group, "active-after-end", still_active.into(), u64::from(mode != 0));
        let (next, then) = if mode != 0 { (IDLE, SGI) } else { (SGI, IDLE) };
        bench.expect(group, "next", second.into(), next.into());
        bench.expect(group, "then", third.into(), then.into());
        bench.report.check_in(group, "nothing-left", rest >= gic::FIRST_SPECIAL, format_args!("{name}: {rest}"));
        bench.expect(group, "inactive", gic.is_set(0, Bits::SetActive, SGI).into(), 0);
    }
    gic::unmask();
}
