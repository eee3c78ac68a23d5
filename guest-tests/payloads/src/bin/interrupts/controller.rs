//! What the interrupt controller does with an interrupt before and after it is taken: enable, priority, mask,
//! pre-emption, and the two ways to end it (Arm IHI 0069, chapter 4).

use crate::{Bench, comes, comes_once, take};
use payloads::cpus::{self, count};
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

/// A shared interrupt that no device of QEMU's board or of a guest raises while nobody uses it.
const SHARED: u32 = 63;
/// Interrupts that are pending at once: SGIs, both timers' and a shared one, in the order in which they are made
/// pending. That is more than the four list registers that QEMU's CPUs have, and many others.
const MANY: [u32; 13] = [9, 2, 13, timer::VIRTUAL.intid, 1, 12, SHARED, 7, 4, 10, timer::PHYSICAL.intid, 3, 6];
/// The priority of the most urgent of them, and how much less urgent each is than the one before it, in the order of
/// [`BY_URGENCY`].
const FIRST_PRIORITY: u8 = 0x10;
const STEP: u8 = 0x10;
/// The same, from the most urgent one on.
const BY_URGENCY: [u32; 13] = [6, timer::PHYSICAL.intid, 12, 1, SHARED, 13, 3, 10, timer::VIRTUAL.intid, 2, 9, 4, 7];
/// How often all of them are pending.
const FILLS: u32 = 5;

pub fn run(bench: &mut Bench) {
    disabled(bench);
    masked(bench);
    priorities(bench);
    end_modes(bench);
    more_than_fit(bench);
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

/// More interrupts are pending than a virtual CPU interface has room for: all are taken, in the order of their
/// priorities, once each; with interrupts masked and taken by hand, and by the handler.
fn more_than_fit(bench: &mut Bench) {
    let gic = bench.cpus.gic;
    gic.enable_shared(SHARED, 0);
    for (intid, priority) in BY_URGENCY.into_iter().zip((FIRST_PRIORITY..).step_by(STEP.into())) {
        gic.set_priority(0, intid, priority);
    }
    let (mut in_order, mut slowest) = (0, 0);
    let mut seen = [0; BY_URGENCY.len()];
    for _ in 0..FILLS {
        gic::mask();
        make_pending(bench);
        let start = timer::now();
        for place in &mut seen {
            *place = take();
            timers_off(*place);
            gic::end(*place);
        }
        slowest = slowest.max(timer::now() - start);
        in_order += u32::from(seen == BY_URGENCY && gic::acknowledge() >= gic::FIRST_SPECIAL);
        gic::unmask();
    }
    let right = in_order == FILLS;
    bench.report.check("interrupts.more-than-fit.by-urgency", right, format_args!("{in_order}; lastly {seen:?}"));
    // Time in which it is done where no one else takes the CPU.
    bench.report.value("interrupts.more-than-fit-us", timer::microseconds(slowest));

    // The handler ends each before the next: each comes once, and none is lost.
    cpus::set_action(Some(|_, intid| timers_off(intid)));
    let before = BY_URGENCY.map(|intid| count(0, intid));
    for fill in 1..=FILLS {
        gic::mask();
        make_pending(bench);
        gic::unmask();
        timer::wait_until(|| BY_URGENCY.iter().zip(before).all(|(intid, before)| count(0, *intid) - before >= fill));
    }
    timer::spin(crate::QUIET);
    let taken: [u32; BY_URGENCY.len()] = core::array::from_fn(|index| count(0, BY_URGENCY[index]) - before[index]);
    // `wait_until` has the virtual timer for its alarm clock.
    let right = BY_URGENCY
        .iter()
        .zip(taken)
        .all(|(intid, taken)| taken == FILLS || *intid == timer::VIRTUAL.intid && taken > FILLS);
    bench.report.check("interrupts.more-than-fit.each-once", right, format_args!("{taken:?} of {FILLS}"));
    cpus::set_action(None);
    gic.set(0, Bits::ClearEnable, SHARED);
    for intid in BY_URGENCY {
        gic.set_priority(0, intid, PRIORITY);
    }
}

/// Makes all of [`MANY`] pending.
fn make_pending(bench: &Bench) {
    for intid in MANY {
        match intid {
            SHARED => bench.cpus.gic.set(0, Bits::SetPending, SHARED),
            intid if intid == timer::VIRTUAL.intid => assert_timer(timer::VIRTUAL),
            intid if intid == timer::PHYSICAL.intid => assert_timer(timer::PHYSICAL),
            intid => gic::send(intid, 0),
        }
    }
    timer::spin(crate::QUIET);
}

/// Has a timer's deadline be over.
fn assert_timer(timer: timer::Timer) {
    (timer.set_compare)(0);
    (timer.set_control)(timer::ENABLE);
}

/// Turns the timer off whose interrupt it is.
fn timers_off(intid: u32) {
    for timer in [timer::VIRTUAL, timer::PHYSICAL] {
        if intid == timer.intid {
            (timer.set_control)(0);
        }
    }
}
