//! Guests that never come back by themselves: the tick takes the CPU from them.

use super::{Context, take_apart};
use crate::cpu;
use crate::run::{self, Exits, Stop};
use crate::{expect, report};

/// Ticks for which a guest may run.
const TICKS: u64 = 20;

/// See the module.
pub fn run(context: &Context) {
    for name in ["spin", "fault"] {
        let Some(mut vm) = context.guest(name) else { return };
        let mut exits = Exits::default();
        let before = cpu::current().ticks();
        let stop = run::run(&mut vm, &mut exits, TICKS);
        let ticks = cpu::current().ticks() - before;
        if name == "spin" {
            expect!("spinning-guest-interrupted", stop, Stop::Interrupted);
            report::check("host-ticks", ticks >= TICKS / 2, format_args!("{ticks} ticks in {exits:?}"));
        } else {
            // Whatever such a guest ends in, the host is still here to say so.
            report::check("wild-guest-stopped", stop != Stop::Off, format_args!("{stop:?} {exits:?}"));
        }
        take_apart(vm);
    }
    expect!("stray-interrupts", cpu::all().iter().map(cpu::Cpu::stray_interrupts).sum::<u64>(), 0);
}
