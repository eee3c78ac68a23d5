//! A guest with two vCPUs that starts the second one itself: on one CPU in turns, and on two at once.

use super::{Context, take_apart};
use crate::cpu::Cpu;
use crate::run::{self, Exits, Stop};
use crate::{expect, report, smp};
use abi::payloads::smp::STARTS;
use alloc::vec::Vec;

/// vCPUs of the guest.
const VCPUS: u64 = 2;

/// See the module.
pub fn run(context: &Context) {
    let cpus: Vec<&'static Cpu> = smp::online().take(VCPUS as usize).collect();
    for apart in [false, true] {
        if apart && cpus.len() < VCPUS as usize {
            continue;
        }
        let Some(mut vm) = context.guest_with("smp", "", |setup| setup.vcpus = VCPUS) else { return };
        let mut exits = Exits::default();
        let stop =
            if apart { run::run_apart(&mut vm, &mut exits, &cpus) } else { run::run(&mut vm, &mut exits, u64::MAX) };
        expect!(if apart { "off-on-two-cpus" } else { "off-on-one-cpu" }, stop, Stop::Off);
        expect!("vcpu-starts", exits.starts, STARTS);
        let end = vm.spoken().lock().end;
        let good = end.is_some_and(|(passed, failed)| passed > 0 && failed == 0);
        report::check("guest-reports", good, format_args!("{end:?}"));
        take_apart(vm);
    }
}
