//! Guests come and go, and leave nothing behind.

use super::{Context, take_apart};
use crate::run::{self, Exits, Stop};
use crate::{expect, frames, hypercall};

/// How many guests follow each other, where the boot argument `rounds` does not say.
const ROUNDS: usize = 20;

/// See the module.
pub fn run(context: &Context) {
    let mut settled = None;
    let asked = context.machine.argument("rounds").and_then(|rounds| rounds.parse().ok());
    for round in 0..asked.unwrap_or(ROUNDS) {
        let Some(mut vm) = context.guest("hello") else { return };
        let mut exits = Exits::default();
        expect!("guest-powers-off", run::run(&mut vm, &mut exits, u64::MAX), Stop::Off);
        let given = vm.map().len();
        let Some(returned) = take_apart(vm) else { return };
        crate::report::check("memory-returned", returned.memory >= given, format_args!("{returned:?} of {given}"));
        // The first round may have split blocks of the host's stage 2, for good.
        let free = (frames::free_count(), hypercall::memory_info().map(|info| info.free_pages));
        match settled {
            None => settled = Some(free),
            Some(settled) if round > 0 => {
                expect!("nothing-leaked", free, settled);
            }
            Some(_) => {}
        }
    }
}
