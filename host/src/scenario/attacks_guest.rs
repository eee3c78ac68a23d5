//! A hostile guest: it attacks, and reports what came of it.

use super::{Context, take_apart};
use crate::run::{self, Exits, Stop};
use crate::{expect, report};

/// Interrupts after which a guest that goes on is stuck: four minutes', which it takes on no machine.
const MOST_INTERRUPTS: u64 = 240 * crate::interrupt::TICKS_PER_SECOND;

/// See the module.
pub fn run(context: &Context) {
    // A neighbour, whose memory the attacker must not reach.
    let Some(mut neighbour) = context.guest("hello") else { return };
    let Some(mut attacker) = context.guest("attacker") else { return };
    let mut exits = Exits::default();
    expect!("attacker-powers-off", run::run(&mut attacker, &mut exits, MOST_INTERRUPTS), Stop::Off);
    let end = attacker.spoken().lock().end;
    report::check(
        "attacker-reports",
        end.is_some_and(|(passed, failed)| passed > 0 && failed == 0),
        format_args!("{end:?}"),
    );
    take_apart(attacker);

    let mut exits = Exits::default();
    expect!("neighbour-unharmed", run::run(&mut neighbour, &mut exits, MOST_INTERRUPTS), Stop::Off);
    take_apart(neighbour);
}
