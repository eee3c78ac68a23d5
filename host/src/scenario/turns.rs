//! Two vCPUs share one page and take it back in turns, each on a CPU of its own, while a third CPU reads it and answers,
//! by the code that messages of guests are read and answered with.

use super::{Context, take_apart};
use crate::cpu::Cpu;
use crate::run::{self, Exits, Stop};
use crate::vm::{Vm, VmError};
use crate::{expect, hypercall, interrupt, report, smp};
use abi::payloads::turns::{ROUNDS, WORDS, round};
use abi::run::ExitReason;
use abi::{Gfn, Pfn};
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use spin::Mutex;

/// vCPUs of the guest; one CPU more reads.
const VCPUS: usize = 2;

/// What the reading CPU met.
#[derive(Default)]
struct Seen {
    /// Reads that found the page closed, that it was closed to meanwhile, and that came to its end.
    closed: u64,
    cut: u64,
    whole: u64,
    /// Answers that were written as a whole.
    answers: u64,
    /// Words that the guest did not put there to be read, and one of them.
    stray: u64,
    last_stray: Option<String>,
}

/// The guest and the page, for all CPUs.
struct Run {
    state: Mutex<(Vm, Exits)>,
    /// The page, once it is known: 0 until then.
    page: AtomicU64,
    stop: Mutex<Option<Stop>>,
    is_over: AtomicBool,
}

/// See the module.
pub fn run(context: &Context) {
    let cpus: Vec<&'static Cpu> = smp::online().take(VCPUS + 1).collect();
    if !expect!("enough-cpus", cpus.len(), VCPUS + 1) {
        return;
    }
    let Some(vm) = context.guest_with("turns", "", |setup| setup.vcpus = VCPUS as u64) else { return };
    let run = Run {
        state: Mutex::new((vm, Exits::default())),
        page: AtomicU64::new(0),
        stop: Mutex::new(None),
        is_over: AtomicBool::new(false),
    };
    let (next, seen) = (AtomicUsize::new(0), Mutex::new(Seen::default()));
    smp::run_on(&cpus, || match next.fetch_add(1, Ordering::Relaxed) {
        index if index < VCPUS => run.run_vcpu(index),
        _ => *seen.lock() = run.read(),
    });
    let (vm, exits) = run.state.into_inner();
    let Seen { closed, cut, whole, answers, stray, last_stray } = seen.into_inner();
    expect!("guest-powers-off", run.stop.into_inner(), Some(Stop::Off));
    let turns = exits.shares >= ROUNDS && exits.unshares == exits.shares;
    report::check("page-shared-in-turns", turns, format_args!("{exits:?}"));
    report::check("words-for-the-host-only", stray == 0, format_args!("{stray}, lastly {last_stray:?}"));
    report::check("page-read", cut + whole != 0, format_args!("never"));
    report::check("page-closed-to-the-host", closed != 0, format_args!("never"));
    for (name, count) in [("closed", closed), ("cut", cut), ("whole", whole), ("answers", answers)] {
        report::value(&alloc::format!("reads.{name}"), count);
    }
    let end = vm.spoken().lock().end;
    let good = end.is_some_and(|(passed, failed)| passed == 5 && failed == 0);
    report::check("guest-reports", good, format_args!("{end:?}"));
    take_apart(vm);
}

impl Run {
    /// Runs a vCPU until the guest ends.
    fn run_vcpu(&self, index: usize) {
        let handle = self.state.lock().0.handle();
        while !self.is_over.load(Ordering::Acquire) {
            if !self.state.lock().0.vcpus[index].is_on() {
                // The tick ends this at the latest.
                interrupt::sleep_unless(|| false);
                continue;
            }
            let stop = match hypercall::vcpu_run(handle, index as u64) {
                Ok(reason) => self.serve(index, reason),
                // Where the other vCPU ended the guest, its exit says how.
                Err(_) if self.is_over.load(Ordering::Acquire) => None,
                Err(error) => Some(Stop::Failed(VmError::Refused("VCPU_RUN", error))),
            };
            if let Some(stop) = stop {
                self.stop.lock().get_or_insert(stop);
                self.is_over.store(true, Ordering::Release);
            }
        }
    }

    fn serve(&self, index: usize, reason: ExitReason) -> Option<Stop> {
        let mut state = self.state.lock();
        let (vm, exits) = &mut *state;
        let exit = run::read_exit(vm, index, reason);
        match reason {
            // The reading CPU reads the page and answers.
            ExitReason::Shared => {
                exits.shares += 1;
                let page = vm.page_of(Gfn::containing(exit.ipa)).map_or(0, Pfn::raw);
                self.page.store(page, Ordering::Release);
                None
            }
            _ => run::serve(vm, index, &exit, exits),
        }
    }

    /// Reads the page and answers, over and over, until the guest ends.
    fn read(&self) -> Seen {
        let mut seen = Seen::default();
        while !self.is_over.load(Ordering::Acquire) {
            let page = Pfn::new(self.page.load(Ordering::Acquire));
            if page.raw() == 0 {
                core::hint::spin_loop();
                continue;
            }
            let message = run::read_message(page);
            match message.len() {
                0 => seen.closed += 1,
                length if length < WORDS * 8 => seen.cut += 1,
                _ => seen.whole += 1,
            }
            for word in message.as_bytes().chunks(8).filter(|word| round(word).is_none()) {
                seen.stray += 1;
                seen.last_stray = Some(String::from_utf8_lossy(word).into_owned());
            }
            if !message.is_empty() {
                seen.answers += u64::from(run::answer_message(page));
            }
        }
        seen
    }
}
