//! Every kind of exit, provoked: a payload does what the host knows of, or has told it to, so that the host knows what
//! to expect whatever hyp says.

use super::exits::{Kinds, Seen};
use crate::frames::Pages;
use crate::run::{self, Exit, Exits, Stop};
use crate::scenario::actor::Actor;
use crate::scenario::{Context, take_apart};
use crate::vm::Vm;
use crate::{cpu, hypercall, report};
use abi::actor::Command;
use abi::host::RIGHT_READ;
use abi::payloads::{aarch32, pages, smp, spin};
use abi::run::ExitReason;
use abi::{Error, Gfn, Ipa, PAGE_SIZE, guest, psci};
use alloc::format;
use alloc::vec::Vec;
use call_script::{Access, GuestRequest, Outcome, Status};
use core::cell::Cell;
use core::iter::{once, repeat_n};
use vmm::layout::{RAM_BASE, UART_BASE};

/// The console's data register, which the payloads only write, and its flag register, which they only read.
const UARTDR: u64 = 0x000;
const UARTFR: u64 = 0x018;
/// Ticks for which a payload runs at most that does not end.
const MOST_TICKS: u64 = 3_000;
/// Exits of a guest that spins, before it is believed that nothing else comes.
const SPINS: u64 = 3;

/// Where the host puts pages for an actor, in its RAM; nothing is loaded there.
const PLACE: Ipa = Ipa::new(RAM_BASE.raw() + (8 << 20));
/// How many pages.
const PLACES: u64 = 5;
/// Guest frames of 2 MiB each, which take a table each: more than a VM has pages for.
const TABLES: u64 = 200;
/// Bytes that a table of the last level maps.
const TABLE_SPAN: u64 = 2 << 20;
/// What an actor writes to ICC_SGI1R_EL1: SGI 5, to the CPUs of Aff0 0 and 1.
const SGI: u64 = 5 << 24 | 0b11;

/// The exits that a payload makes, in their order, besides those by its console: each with its vCPU.
struct Course(Vec<(usize, ExitReason)>);

impl Course {
    /// Of a payload that runs to its end, with its vCPUs.
    fn of(payload: &str) -> (Self, u64) {
        use ExitReason::{CpuOff, CpuOn, MemoryFault, Relinquished, Shared, SystemOff, Unshared};
        let first = |reasons: &[ExitReason]| reasons.iter().map(|reason| (0, *reason)).collect::<Vec<_>>();
        let mut course = match payload {
            "hello" => first(&[Shared, Unshared]),
            "pages" => {
                let (touched, back) = (pages::TOUCHED as usize, (pages::TOUCHED as usize).div_ceil(pages::GIVEN_BACK));
                let reasons = repeat_n(MemoryFault, touched).chain(repeat_n(Relinquished, back));
                let reasons = reasons.chain(repeat_n(MemoryFault, back));
                // The second page that it shares it has never touched.
                first(&reasons.chain([Shared, MemoryFault, Shared]).collect::<Vec<_>>())
            }
            "smp" => (0..smp::STARTS).flat_map(|_| [(0, CpuOn), (1, CpuOff)]).collect(),
            _ => Vec::new(),
        };
        course.push((0, SystemOff));
        (Self(course), if payload == "smp" { 2 } else { 1 })
    }

    /// True for an exit that comes next, or that may come at any time.
    fn is_due(&mut self, vm: &Vm, exit: &Exit) -> bool {
        match exit.reason {
            ExitReason::Interrupt => true,
            ExitReason::Yield => vm.vcpus.len() > 1,
            ExitReason::Mmio => is_console(exit),
            reason => {
                let is_next = self.0.first() == Some(&(exit.vcpu, reason));
                self.0.drain(..usize::from(is_next));
                is_next
            }
        }
    }
}

/// True for an access to the console's registers, as the payloads' driver makes them.
fn is_console(exit: &Exit) -> bool {
    let register = if exit.write { UARTDR } else { UARTFR };
    exit.reason == ExitReason::Mmio && exit.ipa.raw() == UART_BASE.raw() + register
}

/// Every kind of exit, and a word for it.
fn every_kind() -> impl Iterator<Item = (&'static str, Kinds, ExitReason)> {
    let reasons = (0..).map_while(ExitReason::from_register).filter(|reason| *reason != ExitReason::Mmio);
    let others = reasons.map(|reason| ("", Kinds::of(reason), reason));
    let reads = once(("-read", Kinds::mmio(false), ExitReason::Mmio));
    others.chain(reads).chain(once(("-write", Kinds::mmio(true), ExitReason::Mmio)))
}

/// Provokes every kind of exit, and looks at what each leaves.
pub fn run(context: &Context) {
    let mut seen = Seen::default();
    for payload in ["hello", "pages", "smp"] {
        let (mut course, vcpus) = Course::of(payload);
        let Some(mut vm) = context.guest_with(payload, "", |setup| setup.vcpus = vcpus) else { return };
        let stop = run::run_watched(&mut vm, &mut Exits::default(), u64::MAX, |vm, exit| {
            let is_due = course.is_due(vm, exit);
            seen.look(vm, exit, is_due);
        });
        let left = course.0;
        let ended = stop == Stop::Off && left.is_empty();
        report::check("exits-come-in-their-order", ended, format_args!("{payload}: {stop:?}, {left:?} did not come"));
        take_apart(vm);
    }
    spins(context, &mut seen);
    let has_aarch32 = goes_to_aarch32(context, &mut seen);
    told(context, &mut seen);

    let Seen { undue, last_undue, leaks, last, attempts, not_yours, opened, .. } = seen;
    report::check("exits-as-due", undue == 0, format_args!("{undue} were not, lastly {last_undue:?}"));
    report::check("exits-expose-nothing", leaks == 0, format_args!("{leaks} words, lastly by {last:?}"));
    let closed = attempts != 0 && not_yours == attempts;
    let counts = format_args!("{not_yours} of {attempts} refused, {opened} done, lastly after {last:?}");
    report::check("registers-closed-at-each-exit", closed, counts);
    for (word, kind, reason) in every_kind() {
        // Only a guest in AArch32 does what hyp cannot go on from, and only some CPUs have it. QEMU's do not trap WFE.
        let may_miss = reason == ExitReason::Yield || reason == ExitReason::Error && !has_aarch32;
        if !may_miss || seen.kinds.intersects(kind) {
            let name = format!("exit-came.{reason:?}{word}");
            report::check(&name, seen.kinds.intersects(kind), format_args!("it did not"));
        }
    }
    report::value("exits-with-aarch32", has_aarch32.into());
    report::value("exits-kinds", seen.kinds.count().into());
}

/// Runs vCPU 0 of a guest until it stops or `is_enough` of its exits, before each of which `look` has a look.
fn run_until(vm: &mut Vm, mut look: impl FnMut(&Vm, &Exit), mut is_enough: impl FnMut() -> bool) -> Option<Stop> {
    let start = cpu::current().ticks();
    while cpu::current().ticks() - start < MOST_TICKS && !is_enough() {
        let reason = hypercall::vcpu_run(vm.handle(), 0).ok()?;
        let exit = run::read_exit(vm, 0, reason);
        look(vm, &exit);
        if let Some(stop) = run::serve(vm, 0, &exit, &mut Exits::default()) {
            return Some(stop);
        }
    }
    None
}

/// True once a payload has said this line.
fn has_said(vm: &Vm, line: &str) -> bool {
    vm.spoken().lock().lines.iter().any(|said| said == line)
}

/// A guest that has said that it spins comes out for nothing but interrupts.
fn spins(context: &Context, seen: &mut Seen) {
    let Some(mut vm) = context.guest("spin") else { return };
    let interrupts = Cell::new(0);
    let look = |vm: &Vm, exit: &Exit| {
        let (is_interrupt, is_spinning) = (exit.reason == ExitReason::Interrupt, has_said(vm, spin::SPINNING));
        interrupts.set(interrupts.get() + u64::from(is_interrupt && is_spinning));
        seen.look(vm, exit, is_interrupt || !is_spinning && is_console(exit));
    };
    let stop = run_until(&mut vm, look, || interrupts.get() >= SPINS);
    let right = stop.is_none() && interrupts.get() >= SPINS;
    report::check("spinning-guest-interrupted", right, format_args!("{stop:?} after {}", interrupts.get()));
    take_apart(vm);
}

/// A guest that has said that it goes to AArch32 ends for it; where the CPU has none, it does not say so and powers off.
/// Returns whether the CPU has it.
fn goes_to_aarch32(context: &Context, seen: &mut Seen) -> bool {
    let Some(mut vm) = context.guest("aarch32") else { return false };
    let look = |vm: &Vm, exit: &Exit| {
        let end = if has_said(vm, aarch32::FOR_GOOD) { ExitReason::Error } else { ExitReason::SystemOff };
        let is_due = exit.reason == ExitReason::Interrupt || exit.reason == end || is_console(exit);
        seen.look(vm, exit, is_due);
    };
    let stop = run_until(&mut vm, look, || false);
    let has_aarch32 = has_said(&vm, aarch32::FOR_GOOD);
    let expected = if has_aarch32 { Stop::Error } else { Stop::Off };
    report::check("guest-in-aarch32-ends", stop == Some(expected), format_args!("{stop:?}, not {expected:?}"));
    take_apart(vm);
    has_aarch32
}

/// What actors are told to do.
fn told(context: &Context, seen: &mut Seen) {
    let mut actors = [(); 2].map(|()| Actor::create(context, true, 2));
    if let [Ok(actor), Ok(other)] = &mut actors {
        let done = provoke(actor, other, seen);
        report::check("actors-obey", done.is_ok(), format_args!("{done:?}"));
    }
    for actor in actors {
        match actor {
            Ok(actor) => {
                take_apart(actor.into_vm());
            }
            Err(error) => {
                report::check("actor-created", false, format_args!("{error}"));
            }
        }
    }
}

/// Checks that the exit that was due for an action came, and no other.
fn came(actor: &mut Actor, all: &mut Seen, due: ExitReason, outcome: Outcome) -> Outcome {
    let seen = actor.take_seen();
    let right = seen.undue == 0 && seen.kinds.intersects(Kinds::of(due));
    report::check("due-exit-came", right, format_args!("{due:?}, but {:?}: {outcome:?}", seen.last_undue));
    all.add(&seen);
    outcome
}

/// A call of an actor's, for which one exit is due.
fn call(
    actor: &mut Actor,
    vcpu: u64,
    (function, arguments): (u64, &[u64]),
    due: ExitReason,
    seen: &mut Seen,
) -> Outcome {
    let mut registers = [0; 7];
    registers[..arguments.len()].copy_from_slice(arguments);
    let request = GuestRequest::Call { function, arguments: registers };
    let outcome = actor.act_with_due(vcpu, &request, Some(Kinds::of(due)));
    came(actor, seen, due, outcome)
}

/// Everything that only a guest does which is told to: each exit is known before it comes.
fn provoke(actor: &mut Actor, other: &mut Actor, seen: &mut Seen) -> Result<(), Error> {
    let page_after = |count: u64| Ipa::new(PLACE.raw() + count * PAGE_SIZE);
    for count in 0..PLACES {
        let page = Pages::zeroed(1).ok_or(Error::OutOfMemory)?;
        actor.vm().give(page, Gfn::containing(page_after(count))).map_err(|_| Error::OutOfMemory)?;
    }

    // The CPU, its timer, its interrupts, and the other CPU.
    for (command, argument, due) in [
        (Command::Wait, 0, ExitReason::Wait),
        (Command::SetTimer, u64::MAX >> 1, ExitReason::Timer),
        (Command::SendSgi, SGI, ExitReason::Sgi),
    ] {
        let outcome = actor.obey(command, argument, Kinds::of(due));
        came(actor, seen, due, outcome);
    }
    call(actor, 0, (psci::CPU_SUSPEND_64.into(), &[]), ExitReason::Wait, seen);
    call(actor, 1, (psci::CPU_OFF.into(), &[]), ExitReason::CpuOff, seen);
    let entry = actor.vm().layout().image().raw();
    call(actor, 0, (psci::CPU_ON_64.into(), &[1, entry]), ExitReason::CpuOn, seen);

    // Memory that it has not got, and pages that it shares and gives back.
    let nothing = page_after(PLACES);
    let load = |ipa| GuestRequest::Access { access: Access::Read, ipa };
    let outcome = actor.act_with_due(0, &load(nothing), Some(Kinds::of(ExitReason::MemoryFault)));
    came(actor, seen, ExitReason::MemoryFault, outcome);
    actor.vm().serve_fault(nothing, false, 0).map_err(|_| Error::OutOfMemory)?;
    actor.act_with_due(0, &GuestRequest::Resume, Some(Kinds::NONE));
    let (shared, back) = (page_after(3), page_after(4));
    call(actor, 0, (guest::MEM_SHARE.into(), &[shared.raw()]), ExitReason::Shared, seen);
    call(actor, 0, (guest::MEM_UNSHARE.into(), &[shared.raw()]), ExitReason::Unshared, seen);
    call(actor, 0, (guest::MEM_RELINQUISH.into(), &[back.raw()]), ExitReason::Relinquished, seen);
    actor.vm().take_relinquished(Gfn::containing(back));

    // To the host and back, and the other way round.
    let page = actor.vm().page_of(Gfn::containing(PLACE)).ok_or(Error::WrongState)?;
    call(actor, 0, (guest::GuestCall::MemLend as u64, &[PLACE.raw()]), ExitReason::Lent, seen);
    hypercall::vm_return(actor.handle(), page, 1)?;
    let lent = Pages::zeroed(1).ok_or(Error::OutOfMemory)?;
    let place = page_after(8);
    hypercall::vm_lend(actor.handle(), 0, lent.pfn(), Gfn::containing(place), 1)?;
    let lent = lent.given();
    let returned = (guest::GuestCall::MemReturn as u64, &[place.raw()][..]);
    let outcome = call(actor, 0, returned, ExitReason::Returned, seen);
    if outcome.status == Status::Ok {
        // SAFETY: the guest has given the page back, as was just seen.
        drop(unsafe { lent.returned() });
    }

    // Between guests.
    let (owner, borrower) = (u64::from(actor.handle().0), u64::from(other.handle().0));
    let (offered, borrowed) = (page_after(1), page_after(9));
    let offer = (guest::GuestCall::MemOffer as u64, &[offered.raw(), borrower, RIGHT_READ][..]);
    let number = call(actor, 0, offer, ExitReason::Offered, seen).results[0];
    let accept = (guest::GuestCall::MemAccept as u64, &[owner, number, borrowed.raw(), RIGHT_READ][..]);
    call(other, 0, accept, ExitReason::Accepted, seen);
    call(other, 0, (guest::GuestCall::MemDrop as u64, &[owner, number]), ExitReason::Ended, seen);

    // A mark of the MMIO guard takes a table where there is none.
    let marked = (100..100 + TABLES).map(|count| {
        let arguments = [count * TABLE_SPAN, 0, 0, 0, 0, 0, 0];
        let request = GuestRequest::Call { function: guest::MMIO_GUARD_MAP.into(), arguments };
        actor.act_with_due(0, &request, Some(Kinds::of(ExitReason::TopUp)))
    });
    let outcome = marked.into_iter().find(|outcome| outcome.status == Status::Stopped);
    came(actor, seen, ExitReason::TopUp, outcome.unwrap_or(Outcome::of(Status::Ok)));
    actor.vm().top_up(0).map_err(|_| Error::OutOfMemory)?;
    actor.act_with_due(0, &GuestRequest::Resume, Some(Kinds::NONE));

    let taken = page_after(2);
    let frame = Gfn::containing(taken);
    let page = actor.vm().page_of(frame).ok_or(Error::WrongState)?;
    hypercall::vm_force_reclaim(actor.handle(), page, 1)?;
    actor.vm().take_relinquished(frame);
    let outcome = actor.act_with_due(0, &load(taken), Some(Kinds::of(ExitReason::Poisoned)));
    came(actor, seen, ExitReason::Poisoned, outcome);
    call(other, 0, (psci::SYSTEM_RESET.into(), &[]), ExitReason::SystemReset, seen);
    Ok(())
}
