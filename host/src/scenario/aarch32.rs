//! A guest that goes to AArch32, of which it is told that there is none: it ends, and nobody else notices.

use super::{Context, take_apart};
use crate::run::{self, Exits, Stop};
use crate::{expect, report};
use abi::payloads::aarch32::FOR_GOOD;

/// Interrupts after which a guest that goes on is not going to end.
const MOST_INTERRUPTS: u64 = 30 * crate::interrupt::TICKS_PER_SECOND;

/// See the module.
pub fn run(context: &Context) {
    for protected in [true, false] {
        let Some(mut neighbour) = context.guest("hello") else { return };
        let Some(mut vm) = context.guest_with("aarch32", "", |setup| setup.protected = protected) else { return };
        let stop = run::run(&mut vm, &mut Exits::default(), MOST_INTERRUPTS);
        // A CPU without AArch32 keeps the guest where it is, which then powers off.
        let entered = vm.spoken().lock().lines.iter().any(|line| line == FOR_GOOD);
        report::value("entered", entered.into());
        let expected = if entered { Stop::Error } else { Stop::Off };
        expect!("ends-for-it", stop, expected);
        // It is over for good.
        let again = run::run(&mut vm, &mut Exits::default(), MOST_INTERRUPTS);
        report::check("does-not-go-on", matches!(again, Stop::Error | Stop::Failed(_)), format_args!("{again:?}"));
        take_apart(vm);
        expect!("neighbour-unharmed", run::run(&mut neighbour, &mut Exits::default(), u64::MAX), Stop::Off);
        take_apart(neighbour);
    }
}
