//! A host that is curious: while guests run, one of its CPUs tries to read every page that they were given, and every
//! page that hyp was given for them, over and over.

use super::Guests;
use crate::probe::{self, Access};
use crate::{cpu, report};
use abi::{PAGE_SIZE, Pfn, VirtAddr};
use alloc::vec::Vec;

/// What came of the attempts.
#[derive(Default)]
struct Attempts {
    /// Aborts as they should be.
    aborted: u64,
    /// Others.
    other: u64,
    /// Reads that came through.
    read: u64,
}

impl Attempts {
    fn add(&mut self, page: Pfn) {
        let address = VirtAddr::new(page.raw() * PAGE_SIZE);
        // SAFETY: the page was given away, so that the access aborts; where it does not, it reads RAM.
        match unsafe { probe::attempt(Access::Read, address) } {
            Err(abort) if abort.syndrome.is_external_abort() && abort.address == address => self.aborted += 1,
            Err(_) => self.other += 1,
            Ok(_) => self.read += 1,
        }
    }
}

impl Guests {
    /// Tries until no guest is left, and reports what came of it.
    pub(super) fn pry(&self) {
        let (mut attempts, mut passes) = (Attempts::default(), 0u64);
        while self.scheduler.is_any_alive() {
            if let Some(pages) = self.pry_once(&mut attempts) {
                // What was given is given once: no page is counted twice in a pass.
                report::value("pried-in-a-pass", pages);
                passes += 1;
            }
        }
        let Attempts { aborted, other, read } = attempts;
        report::value("pried-passes", passes);
        report::value("pried-pages", aborted);
        report::check("prying-aborts", aborted != 0 && other == 0, format_args!("{aborted} right, {other} other"));
        report::check("prying-reads-nothing", read == 0, format_args!("{read} reads"));
    }

    /// Tries every page of every guest. Returns how many there are; `None` where there are none yet, or a
    /// guest has ended meanwhile.
    fn pry_once(&self, attempts: &mut Attempts) -> Option<u64> {
        let mut tried = 0;
        for guest in &self.guests {
            // While this is held, the guest is not taken apart: its pages stay its own.
            let Some(instance) = guest.instance.lock().clone() else { continue };
            let given: Vec<(Pfn, u64)> = {
                let vm = instance.vm.lock();
                vm.map().runs().chain(vm.objects()).collect()
            };
            for page in given.into_iter().flat_map(|(first, count)| (0..count).map(move |index| first.raw() + index)) {
                if instance.has_ended() {
                    return None;
                }
                attempts.add(Pfn::new(page));
                tried += 1;
            }
        }
        (tried != 0).then_some(tried)
    }

    /// True for the CPU that is to pry: the last, where there are several.
    pub(super) fn is_prying(&self) -> bool {
        self.pries && cpu::all().len() > 1 && cpu::all().last().is_some_and(|last| core::ptr::eq(last, cpu::current()))
    }
}
