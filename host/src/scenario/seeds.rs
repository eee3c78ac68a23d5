//! Two guests tell the random seeds that the host has given them.

use super::{Context, take_apart};
use crate::run::{self, Exits, Stop};
use crate::{expect, report};

/// See the module.
pub fn run(context: &Context) {
    for name in ["one", "other"] {
        let Some(mut vm) = context.guest_with("seeds", "", |setup| setup.name = name) else { return };
        expect!("guest-powers-off", run::run(&mut vm, &mut Exits::default(), u64::MAX), Stop::Off);
        let end = vm.spoken().lock().end;
        report::check("guest-reports", end.is_some_and(|(_, failed)| failed == 0), format_args!("{end:?}"));
        take_apart(vm);
    }
}
