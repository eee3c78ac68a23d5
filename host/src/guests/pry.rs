//! A host that is curious: while guests run, one of its CPUs tries to read every page that they were given.

use super::Guests;
use crate::probe::{self, Access};
use crate::{cpu, report};
use abi::{PAGE_SIZE, Pfn, VirtAddr};
use alloc::vec::Vec;

impl Guests {
    /// Tries until no guest is left, and reports what came of it.
    pub(super) fn pry(&self) {
        let (mut aborted, mut other, mut read) = (0u64, 0u64, 0u64);
        while self.scheduler.is_any_alive() {
            for guest in &self.guests {
                // While this is held, the guest is not taken apart: its pages stay its own.
                let Some(instance) = guest.instance.lock().clone() else { continue };
                let runs: Vec<(Pfn, u64)> = instance.vm.lock().map().runs().collect();
                for page in runs.into_iter().flat_map(|(first, count)| (0..count).map(move |index| first.raw() + index))
                {
                    if instance.has_ended() {
                        break;
                    }
                    let address = VirtAddr::new(page * PAGE_SIZE);
                    // SAFETY: the page was given to a guest, so that the access aborts; where it does not, it reads RAM.
                    match unsafe { probe::attempt(Access::Read, address) } {
                        Err(abort) if abort.syndrome.is_external_abort() && abort.address == address => aborted += 1,
                        Err(_) => other += 1,
                        Ok(_) => read += 1,
                    }
                }
            }
        }
        report::value("pried-pages", aborted);
        report::check("prying-aborts", aborted != 0 && other == 0, format_args!("{aborted} right, {other} other"));
        report::check("prying-reads-nothing", read == 0, format_args!("{read} reads"));
    }

    /// True for the CPU that is to pry: the last, where there are several.
    pub(super) fn is_prying(&self) -> bool {
        self.pries && cpu::all().len() > 1 && cpu::all().last().is_some_and(|last| core::ptr::eq(last, cpu::current()))
    }
}
