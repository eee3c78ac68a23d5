//! What the host learns by the exits of a protected guest: the run page tells what an exit is about, and the registers
//! are closed.

use super::words;
use crate::frames::Pages;
use crate::run::{self, Exit, Exits, Stop};
use crate::scenario::actor::Actor;
use crate::scenario::{Context, take_apart};
use crate::vm::Vm;
use crate::{cpu, hypercall, report};
use abi::host::RIGHT_READ;
use abi::register::{NamedRegister, Register};
use abi::run::{ExitReason, MAX_LIST_REGISTERS, NO_DEADLINE, RunPage};
use abi::{Error, Gfn, Ipa, PAGE_SIZE, guest, psci};
use alloc::vec::Vec;
use call_script::{Access, GuestRequest, Outcome};
use core::sync::atomic::Ordering;
use vmm::layout::RAM_BASE;

/// Payloads that run to their end, and with how many vCPUs.
const TO_THE_END: [(&str, u64); 3] = [("hello", 1), ("pages", 1), ("smp", 2)];
/// Payloads that do not end here, for want of a device or by their nature: they run until they have made these exits.
const FOR_A_WHILE: [(&str, &[ExitReason]); 3] = [
    ("watcher", &[ExitReason::Wait]),
    ("spin", &[ExitReason::Interrupt]),
    ("interrupts", &[ExitReason::Timer, ExitReason::Sgi]),
];
/// Ticks for which they run at most.
const MOST_TICKS: u64 = 3_000;
/// What the payload `aarch32` says where the CPU has AArch32, and it goes there to stay.
const FOR_GOOD: &str = "now for good";

/// Registers that are asked for and set: of each class one at least.
const REGISTERS: [Register; 7] = [
    Register::Named(NamedRegister::Pc),
    Register::Named(NamedRegister::Pstate),
    Register::General(0),
    Register::General(30),
    Register::Named(NamedRegister::Ttbr0El1),
    Register::Named(NamedRegister::CntvCvalEl0),
    Register::Vector { index: 0, upper: true },
];
/// What they are set to.
const FORGERY: u64 = 0x4000_1000;

/// Where the host puts a page for an actor, in its RAM; nothing is loaded there.
const PLACE: Ipa = Ipa::new(RAM_BASE.raw() + (8 << 20));
/// Guest frames of 2 MiB each, which take a table each: more than a VM has pages for.
const TABLES: u64 = 200;
/// Bytes that a table of the last level maps.
const TABLE_SPAN: u64 = 2 << 20;

/// What the exits of protected guests came to.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    /// Which exits, a bit for each: see [`kind`].
    kinds: u64,
    /// Words of run pages that an exit left something in, and that it says nothing about.
    leaks: usize,
    /// The last exit that leaked, or opened a register.
    last: Option<ExitReason>,
    /// Registers that were read or set.
    opened: u64,
    /// Attempts, and those of them that were refused for whose registers they are.
    attempts: u64,
    not_yours: u64,
}

/// The bit for an exit: those of MMIO are two kinds, for reads and writes.
fn kind(reason: ExitReason, write: bool) -> u64 {
    1 << (2 * reason as u64 + u64::from(write && reason == ExitReason::Mmio))
}

/// Every kind of exit.
fn every_kind() -> impl Iterator<Item = (ExitReason, bool)> {
    let reasons = (0..).map_while(ExitReason::from_register);
    reasons
        .flat_map(|reason| [(reason, false), (reason, true)])
        .filter(|(reason, write)| !*write || *reason == ExitReason::Mmio)
}

impl Seen {
    /// Looks at what an exit of a protected guest leaves to the host, before it is served.
    pub fn look(&mut self, vm: &Vm, exit: &Exit) {
        self.kinds |= kind(exit.reason, exit.write);
        let mut leaks = 0;
        for vcpu in &vm.vcpus {
            let page = vcpu.run_page();
            let reason = words(page)[word!(exit_reason)].load(Ordering::Relaxed);
            // The one that came out; what the others left was looked at then. One that has not run yet has no deadline
            // there.
            let has_run = words(page)[word!(physical_deadline)].load(Ordering::Relaxed) != 0;
            if reason == exit.reason as u64 && has_run {
                leaks += leaked(page, exit.reason);
            }
        }
        leaks += usize::from(tells_too_much(exit));
        let opened = self.opened;
        for index in 0..vm.vcpus.len() as u64 {
            for register in REGISTERS {
                let read = hypercall::vcpu_get_register(vm.handle(), index, register).map(drop);
                self.note(read);
                // Once one is open the finding is made, and a guest that is led astray would not end.
                if self.is_closed() {
                    self.note(hypercall::vcpu_set_register(vm.handle(), index, register, FORGERY));
                }
            }
        }
        self.leaks += leaks;
        if leaks != 0 || opened != self.opened {
            self.last = Some(exit.reason);
        }
    }

    fn note(&mut self, result: Result<(), Error>) {
        self.attempts += 1;
        self.opened += u64::from(result.is_ok());
        self.not_yours += u64::from(result == Err(Error::NotYours));
    }

    /// True while no register could be read or set.
    pub fn is_closed(&self) -> bool {
        self.opened == 0
    }

    /// Adds what others saw.
    fn add(&mut self, other: &Self) {
        self.kinds |= other.kinds;
        self.leaks += other.leaks;
        self.last = other.last.or(self.last);
        self.opened += other.opened;
        self.attempts += other.attempts;
        self.not_yours += other.not_yours;
    }
}

/// What of a run page an exit may fill besides its reason and the list registers: words by their number.
fn exposed(reason: ExitReason) -> &'static [usize] {
    match reason {
        ExitReason::Mmio => &[word!(ipa), word!(size), word!(write), word!(data)],
        ExitReason::MemoryFault => &[word!(ipa), word!(write)],
        ExitReason::Shared | ExitReason::Unshared | ExitReason::Relinquished | ExitReason::Poisoned => &[word!(ipa)],
        ExitReason::Lent | ExitReason::Returned => &[word!(ipa)],
        ExitReason::CpuOn | ExitReason::Sgi => &[word!(data)],
        ExitReason::Offered | ExitReason::Accepted => &[word!(ipa), word!(data), word!(peer)],
        ExitReason::Ended => &[word!(data), word!(peer)],
        _ => &[],
    }
}

/// True where a word that the exit may fill says more than it is for: what a register holds beyond an access's width,
/// what the guest had in it before a read, where in a page it is at work.
fn tells_too_much(exit: &Exit) -> bool {
    if exit.reason != ExitReason::Mmio {
        return exit.ipa.page_offset() != 0;
    }
    let beyond = exit.data.checked_shr(8 * exit.size as u32).unwrap_or(0);
    !matches!(exit.size, 1 | 2 | 4 | 8) || beyond != 0 || !exit.write && exit.data != 0
}

/// Words of the run page that the exit left something in, and that it says nothing about.
fn leaked(page: *mut RunPage, reason: ExitReason) -> usize {
    let words = words(page);
    let lines_and_deadlines = [word!(timer_lines), word!(virtual_deadline), word!(physical_deadline)];
    let is_known = |index: usize| {
        index == word!(exit_reason)
            || lines_and_deadlines.contains(&index)
            || exposed(reason).contains(&index)
            || (word!(list_registers)..word!(list_registers) + MAX_LIST_REGISTERS).contains(&index)
    };
    let stray = (0..words.len()).filter(|index| !is_known(*index) && words[*index].load(Ordering::Relaxed) != 0);
    let deadline = words[word!(virtual_deadline)].load(Ordering::Relaxed);
    stray.count() + usize::from(reason != ExitReason::Wait && deadline != NO_DEADLINE)
}

/// Provokes every kind of exit, and looks at what each leaves.
pub fn run(context: &Context) {
    let mut seen = Seen::default();
    for (name, vcpus) in TO_THE_END {
        let Some(mut vm) = context.guest_with(name, "", |setup| setup.vcpus = vcpus) else { return };
        let stop = run::run_watched(&mut vm, &mut Exits::default(), u64::MAX, |vm, exit| seen.look(vm, exit));
        report::check("exits-guest-ends", stop == Stop::Off, format_args!("{name}: {stop:?}"));
        take_apart(vm);
    }
    for (name, awaited) in FOR_A_WHILE {
        let Some(mut vm) = context.guest(name) else { return };
        run_for(&mut vm, &mut seen, MOST_TICKS, awaited);
        take_apart(vm);
    }
    let Some(mut vm) = context.guest("aarch32") else { return };
    run_for(&mut vm, &mut seen, MOST_TICKS, &[ExitReason::Error]);
    let has_aarch32 = vm.spoken().lock().lines.iter().any(|line| line == FOR_GOOD);
    take_apart(vm);
    if let Err(error) = act(context, &mut seen) {
        report::check("exits-actors", false, format_args!("{error}"));
    }

    report::check(
        "exits-expose-nothing",
        seen.leaks == 0,
        format_args!("{} words, lastly by {:?}", seen.leaks, seen.last),
    );
    let closed = seen.attempts != 0 && seen.not_yours == seen.attempts;
    let Seen { attempts, not_yours, opened, last, .. } = seen;
    let counts = format_args!("{not_yours} of {attempts} refused, {opened} done, lastly after {last:?}");
    report::check("registers-closed-at-each-exit", closed, counts);
    // Only a guest in AArch32 does what hyp cannot go on from, and only some CPUs have it. QEMU's do not trap WFE.
    let may_miss = |reason| reason == ExitReason::Yield || reason == ExitReason::Error && !has_aarch32;
    let missed: Vec<(ExitReason, bool)> =
        every_kind().filter(|(reason, write)| seen.kinds & kind(*reason, *write) == 0 && !may_miss(*reason)).collect();
    report::check("exits-of-every-kind", missed.is_empty(), format_args!("none by {missed:?}"));
    report::value("exits-kinds", seen.kinds.count_ones().into());
}

/// Runs vCPU 0 of a guest until it stops or has made the kinds of exits that it is there for, no longer than for so
/// many ticks.
fn run_for(vm: &mut Vm, seen: &mut Seen, ticks: u64, awaited: &[ExitReason]) {
    let start = cpu::current().ticks();
    let is_awaited = |seen: &Seen| awaited.iter().any(|reason| seen.kinds & kind(*reason, false) == 0);
    while cpu::current().ticks() - start < ticks && is_awaited(seen) {
        let Ok(reason) = hypercall::vcpu_run(vm.handle(), 0) else { return };
        let exit = run::read_exit(vm, 0, reason);
        seen.look(vm, &exit);
        if run::serve(vm, 0, &exit, &mut Exits::default()).is_some() {
            return;
        }
    }
}

/// A call of an actor's.
fn call(actor: &mut Actor, function: u64, arguments: &[u64]) -> Outcome {
    let mut registers = [0; 7];
    registers[..arguments.len()].copy_from_slice(arguments);
    actor.act(0, &GuestRequest::Call { function, arguments: registers })
}

/// Checks that an exit for `reason` is what came of an action.
fn tells(outcome: &Outcome, reason: ExitReason) -> bool {
    let told = outcome.notice.map(|notice| notice.reason);
    report::check("exit-came", told == Some(reason), format_args!("{outcome:?}, not {reason:?}"))
}

/// What only a guest does that is told to: loans, offers, too few pages for tables, a page taken from it, a reset.
fn act(context: &Context, seen: &mut Seen) -> Result<(), Error> {
    let mut actor = Actor::create(context, true, 1)?;
    let mut other = Actor::create(context, true, 1)?;
    let page_after = |count: u64| Ipa::new(PLACE.raw() + count * PAGE_SIZE);
    for count in 0..3 {
        let page = Pages::zeroed(1).ok_or(Error::OutOfMemory)?;
        actor.vm().give(page, Gfn::containing(page_after(count))).map_err(|_| Error::OutOfMemory)?;
    }

    // To the host and back, and the other way round.
    let frame = Gfn::containing(PLACE);
    let page = actor.vm().page_of(frame).ok_or(Error::WrongState)?;
    tells(&call(&mut actor, guest::GuestCall::MemLend as u64, &[PLACE.raw()]), ExitReason::Lent);
    hypercall::vm_return(actor.handle(), page, 1)?;
    let lent = Pages::zeroed(1).ok_or(Error::OutOfMemory)?;
    let place = page_after(8);
    hypercall::vm_lend(actor.handle(), 0, lent.pfn(), Gfn::containing(place), 1)?;
    let lent = lent.given();
    if tells(&call(&mut actor, guest::GuestCall::MemReturn as u64, &[place.raw()]), ExitReason::Returned) {
        // SAFETY: the guest has given the page back, as was just seen.
        drop(unsafe { lent.returned() });
    }

    // Between guests.
    let (owner, borrower) = (u64::from(actor.handle().0), u64::from(other.handle().0));
    let (offered, borrowed) = (page_after(1), page_after(9));
    let offer = call(&mut actor, guest::GuestCall::MemOffer as u64, &[offered.raw(), borrower, RIGHT_READ]);
    tells(&offer, ExitReason::Offered);
    let number = offer.results[0];
    let accepted = call(&mut other, guest::GuestCall::MemAccept as u64, &[owner, number, borrowed.raw(), RIGHT_READ]);
    tells(&accepted, ExitReason::Accepted);
    tells(&call(&mut other, guest::GuestCall::MemDrop as u64, &[owner, number]), ExitReason::Ended);

    // A mark of the MMIO guard takes a table where there is none.
    let span = |count: u64| call(&mut actor, guest::MMIO_GUARD_MAP.into(), &[count * TABLE_SPAN]);
    let outcome = (100..100 + TABLES).map(span).find(|outcome| outcome.notice.is_some());
    report::check("exit-came", outcome.is_some(), format_args!("no TopUp"));
    if outcome.is_some() {
        actor.vm().top_up(0).map_err(|_| Error::OutOfMemory)?;
        actor.act(0, &GuestRequest::Resume);
    }

    let taken = page_after(2);
    let frame = Gfn::containing(taken);
    let page = actor.vm().page_of(frame).ok_or(Error::WrongState)?;
    hypercall::vm_force_reclaim(actor.handle(), page, 1)?;
    actor.vm().take_relinquished(frame);
    let load = GuestRequest::Access { access: Access::Read, ipa: taken };
    tells(&actor.act(0, &load), ExitReason::Poisoned);
    tells(&call(&mut other, psci::SYSTEM_RESET.into(), &[]), ExitReason::SystemReset);

    for actor in [actor, other] {
        seen.add(actor.seen());
        take_apart(actor.into_vm());
    }
    Ok(())
}
