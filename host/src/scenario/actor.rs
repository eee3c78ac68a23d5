//! The guest `actor` from the host's side: it is told what to do, word by word, and its exits are taken down.

use super::forged::exits::{Kinds, Seen};
use super::{Context, take_apart};
use crate::hypercall;
use crate::interrupt;
use crate::report;
use crate::run::{self, Exit, Exits};
use crate::vm::{Setup, Vm, VmError};
use abi::actor::{ARGUMENT, COMMAND, Command, MAILBOX, MAX_ARGUMENTS, MAX_RESULTS, RESULT, UNABLE};
use abi::host::VmHandle;
use abi::run::ExitReason;
use abi::{Error, Ipa};
use call_script::{Access, GuestFunction, GuestRequest, Notice, Outcome, Status};
use core::hint::spin_loop;

/// How often each vCPU gets pages for tables before the script begins: frames for scripts here and there need no more.
const TOP_UPS: usize = 4;
/// Exits after which an actor that has not asked for a command will not.
const MOST_EXITS: usize = 100_000;
/// Microseconds for which an actor waits for a vCPU whose registers another CPU reads or sets: that one may be emulated,
/// and have nothing to run on for a while.
const PATIENCE: u64 = 5_000_000;

/// What a vCPU of an actor is at.
#[derive(Clone, Copy)]
struct Progress {
    /// What for, where it is for a request.
    request: Option<GuestRequest>,
    command: Command,
    arguments: [u64; MAX_ARGUMENTS],
    /// Arguments that it has read.
    read: usize,
    results: [u64; MAX_RESULTS],
    /// Results that it has written.
    written: usize,
    notice: Option<Notice>,
    /// Which exits are due for it besides those by the mailbox, until one of them has come; `None` where nobody says.
    due: Option<Kinds>,
}

/// An actor.
pub struct Actor {
    vm: Vm,
    /// What each vCPU is at that has not come past it.
    progress: [Option<Progress>; 2],
    /// What the host saw by its exits, where it is protected.
    seen: Seen,
    /// How often a vCPU was in use on another CPU.
    waits: u64,
}

/// Where an exit leaves an action.
enum Next {
    /// It goes on.
    Run,
    /// The actor wants to know what to do.
    Command,
    /// It does not come past this.
    Stopped(Notice),
}

impl Actor {
    /// Most vCPUs of an actor; the second makes calls only.
    pub const MAX_VCPUS: u64 = 2;

    /// An actor that waits for its first command.
    ///
    /// # Errors
    /// Why there is none; the reason is printed as a failed check.
    pub fn create(context: &Context, protected: bool, vcpus: u64) -> Result<Self, Error> {
        if !(1..=Self::MAX_VCPUS).contains(&vcpus) {
            return Err(Error::InvalidParameter);
        }
        let change = |setup: &mut Setup<'_>| {
            setup.protected = protected;
            setup.vcpus = vcpus;
        };
        let mut vm = context.guest_with("actor", "", change).ok_or(Error::OutOfMemory)?;
        for vcpu in 0..vcpus as usize {
            for _ in 0..TOP_UPS {
                if let Err(error) = vm.top_up(vcpu) {
                    take_apart(vm);
                    return Err(refusal(&error));
                }
            }
        }
        let mut actor = Self { vm, progress: [None; 2], seen: Seen::default(), waits: 0 };
        if let Err(error) = actor.wait_for_commands(vcpus) {
            take_apart(actor.vm);
            return Err(error);
        }
        Ok(actor)
    }

    /// Its handle.
    pub fn handle(&self) -> VmHandle {
        self.vm.handle()
    }

    /// True where a vCPU has not come past what it was told.
    pub fn is_stopped(&self, vcpu: usize) -> bool {
        self.progress.get(vcpu).is_some_and(Option::is_some)
    }

    /// Its VM, to be changed while it waits.
    pub fn vm(&mut self) -> &mut Vm {
        &mut self.vm
    }

    /// What the host saw by its exits since this was last asked, where it is protected.
    pub fn take_seen(&mut self) -> Seen {
        core::mem::take(&mut self.seen)
    }

    /// How often a vCPU was in use on another CPU, and was waited for.
    pub fn waits(&self) -> u64 {
        self.waits
    }

    /// The VM, to be taken apart.
    pub fn into_vm(self) -> Vm {
        self.vm
    }

    /// Takes back the memory that it runs in, where it is dying: it is about to be finalised.
    ///
    /// # Errors
    /// The call that hyp refused.
    pub fn take_memory_back(&mut self) -> Result<(), VmError> {
        // The run page is never the VM's own: one that is dying answers so, one that lives does not come so far.
        match hypercall::vm_reclaim(self.handle(), self.vm.vcpus[0].run_page_pfn(), 1) {
            Err(Error::NotYours) => self.vm.take_memory_back(),
            _ => Ok(()),
        }
    }

    /// Runs each vCPU until it asks for its first command.
    fn wait_for_commands(&mut self, vcpus: u64) -> Result<(), Error> {
        let mut exits = Exits::default();
        for vcpu in 0..vcpus {
            let index = vcpu as usize;
            let mut waiting = false;
            for _ in 0..MOST_EXITS {
                let reason = self.enter(index)?;
                let exit = self.read_exit(index, reason, |exit| {
                    is_register(exit, COMMAND) && !exit.write || exit.reason == ExitReason::CpuOn && vcpus > 1
                });
                waiting = is_register(&exit, COMMAND) && !exit.write;
                if waiting || run::serve(&mut self.vm, index, &exit, &mut exits).is_some() {
                    break;
                }
            }
            if !waiting {
                return Err(Error::WrongState);
            }
        }
        Ok(())
    }

    /// VCPU_RUN, once no other CPU has the vCPU: what has begun must not be lost because of one that is at its registers.
    fn enter(&mut self, index: usize) -> Result<ExitReason, Error> {
        let begin = interrupt::microseconds();
        loop {
            match hypercall::vcpu_run(self.vm.handle(), index as u64) {
                Err(Error::Busy) if interrupt::microseconds() - begin < PATIENCE => self.waits += 1,
                result => return result,
            }
            spin_loop();
        }
    }

    /// An exit; `is_due` says whether it is one that there is a reason for. The registers of a protected guest are tried
    /// after each.
    fn read_exit(&mut self, index: usize, reason: ExitReason, is_due: impl FnOnce(&Exit) -> bool) -> Exit {
        let exit = run::read_exit(&self.vm, index, reason);
        if self.vm.is_protected() {
            let is_due = reason == ExitReason::Interrupt || is_due(&exit);
            self.seen.look(&self.vm, &exit, is_due);
            if !self.seen.is_closed() {
                report::check("registers-closed", false, format_args!("after {reason:?}"));
            }
        }
        exit
    }

    /// Has a vCPU do something, or go on with what it could not finish.
    pub fn act(&mut self, vcpu: u64, request: &GuestRequest) -> Outcome {
        self.act_with_due(vcpu, request, None)
    }

    /// The same where it is known which exits are due for it.
    pub fn act_with_due(&mut self, vcpu: u64, request: &GuestRequest, due: Option<Kinds>) -> Outcome {
        let Some(index) = usize::try_from(vcpu).ok().filter(|index| *index < self.vm.vcpus.len()) else {
            return self.act_without(vcpu);
        };
        match (request, self.progress[index].take()) {
            (GuestRequest::Resume, Some(progress)) => self.go_on(index, Progress { due, ..progress }),
            (GuestRequest::Resume, None) => Outcome::of(Status::Skipped("the guest has nothing to go on with")),
            (request, _) => self.start(index, Progress { due, ..Progress::begin(*request) }),
        }
    }

    /// Has vCPU 0 obey a command that is no request of a script's, for which these exits are due.
    pub fn obey(&mut self, command: Command, argument: u64, due: Kinds) -> Outcome {
        let mut progress = Progress { due: Some(due), ..Progress::of(command) };
        progress.arguments[0] = argument;
        self.start(0, progress)
    }

    fn start(&mut self, index: usize, progress: Progress) -> Outcome {
        run::answer_read(self.vm.vcpus[index].run_page(), progress.command.word());
        self.go_on(index, progress)
    }

    /// Runs a vCPU that there is not, which hyp must refuse.
    fn act_without(&self, vcpu: u64) -> Outcome {
        match hypercall::vcpu_run(self.vm.handle(), vcpu) {
            Ok(_) => Outcome::of(Status::Ok),
            Err(error) => Outcome::of(Status::NotRun(error)),
        }
    }

    fn go_on(&mut self, index: usize, mut progress: Progress) -> Outcome {
        loop {
            let reason = match self.enter(index) {
                Ok(reason) => reason,
                Err(error) => return Outcome { notice: progress.notice, ..Outcome::of(Status::NotRun(error)) },
            };
            let exit = self.read_exit(index, reason, |exit| progress.is_due(exit));
            progress.due = progress.due.map(|due| if due.has(&exit) { Kinds::NONE } else { due });
            match self.serve(index, &exit, &mut progress) {
                Next::Run => {}
                Next::Command => return progress.outcome(),
                Next::Stopped(notice) => {
                    self.progress[index] = Some(progress);
                    return Outcome { notice: Some(notice), ..Outcome::of(Status::Stopped) };
                }
            }
        }
    }

    fn serve(&mut self, index: usize, exit: &Exit, progress: &mut Progress) -> Next {
        let page = self.vm.vcpus[index].run_page();
        let notice = Notice { reason: exit.reason, ipa: exit.ipa.raw(), data: exit.data, peer: exit.peer };
        match exit.reason {
            // The host took the interrupt when the call returned.
            ExitReason::Interrupt | ExitReason::Wait | ExitReason::Yield | ExitReason::Timer | ExitReason::Sgi => {}
            ExitReason::Mmio if is_register(exit, COMMAND) => {
                // Whoever runs the vCPU next without a command for it finds it idle.
                run::answer_read(page, Command::Idle.word());
                return Next::Command;
            }
            ExitReason::Mmio if is_register(exit, ARGUMENT) => {
                run::answer_read(page, progress.arguments.get(progress.read).copied().unwrap_or(0));
                progress.read += 1;
            }
            ExitReason::Mmio if is_register(exit, RESULT) => {
                if let Some(result) = progress.results.get_mut(progress.written) {
                    *result = exit.data;
                }
                progress.written += 1;
            }
            ExitReason::Mmio => {
                run::answer_read(page, 0);
                progress.notice = Some(Notice { data: 0, ..notice });
            }
            ExitReason::CpuOn => self.vm.vcpus[1].turned_on(),
            ExitReason::Shared
            | ExitReason::Unshared
            | ExitReason::Relinquished
            | ExitReason::Lent
            | ExitReason::Returned
            | ExitReason::Offered
            | ExitReason::Accepted
            | ExitReason::Ended => progress.notice = Some(notice),
            ExitReason::MemoryFault
            | ExitReason::Poisoned
            | ExitReason::TopUp
            | ExitReason::SystemOff
            | ExitReason::SystemReset
            | ExitReason::CpuOff
            | ExitReason::Error => return Next::Stopped(notice),
        }
        Next::Run
    }
}

impl Progress {
    /// A command, nothing of which has been done yet.
    fn of(command: Command) -> Self {
        let (arguments, results) = ([0; MAX_ARGUMENTS], [0; MAX_RESULTS]);
        Self { request: None, command, arguments, read: 0, results, written: 0, notice: None, due: None }
    }

    /// True for an exit that there is a reason for, whatever hyp calls it.
    fn is_due(&self, exit: &Exit) -> bool {
        let Some(due) = self.due else { return true };
        let is_mailbox = |offset, write| is_register(exit, offset) && exit.write == write;
        if self.read < self.command.arguments() {
            is_mailbox(ARGUMENT, false)
        } else if self.written < self.command.results() {
            self.written == 0 && due.has(exit) || is_mailbox(RESULT, true)
        } else {
            due.has(exit) || is_mailbox(COMMAND, false)
        }
    }

    /// The command for a request, nothing of which has been done yet.
    fn begin(request: GuestRequest) -> Self {
        let mut arguments = [0; MAX_ARGUMENTS];
        let command = match request {
            GuestRequest::Call { function, arguments: registers } => {
                arguments[0] = function;
                arguments[1..].copy_from_slice(&registers);
                let used = arguments.iter().rposition(|argument| *argument != 0).map_or(1, |last| last + 1);
                let results = GuestFunction::from_register(function).map_or(MAX_RESULTS, |it| it.results() + 1);
                Command::Call { arguments: used as u8, results: results as u8 }
            }
            GuestRequest::Access { access, ipa } => {
                arguments[0] = ipa.raw();
                match access {
                    Access::Read => Command::Load,
                    Access::Write(value) => {
                        arguments[1] = Access::word(value);
                        Command::Store
                    }
                    Access::Execute => Command::Execute,
                }
            }
            GuestRequest::Resume => Command::Idle,
        };
        Self { request: Some(request), arguments, ..Self::of(command) }
    }

    /// What came of it, now that the actor asks for the next.
    fn outcome(&self) -> Outcome {
        if self.written != self.command.results() {
            return Outcome::of(Status::Skipped("what the actor answered was lost"));
        }
        let outcome = match self.request {
            Some(GuestRequest::Call { function, .. }) => Outcome::of_guest_call(function, self.results),
            Some(GuestRequest::Access { .. }) => match self.results[0] {
                UNABLE => Outcome::of(Status::Skipped("the guest's own tables do not reach so far")),
                0 => Outcome { results: [self.results[1], 0, 0], ..Outcome::of(Status::Ok) },
                esr if is_external_abort(esr) => Outcome::of(Status::Abort),
                esr => Outcome::of(Status::Value(esr)),
            },
            Some(GuestRequest::Resume) | None => Outcome::of(Status::Ok),
        };
        Outcome { notice: self.notice, ..outcome }
    }
}

/// True for an MMIO exit by that register of the mailbox.
fn is_register(exit: &Exit, offset: u64) -> bool {
    exit.reason == ExitReason::Mmio && Some(exit.ipa) == Ipa::checked_add(MAILBOX, offset)
}

/// True where ESR_EL1 is that of a synchronous external abort, which is what hyp injects.
fn is_external_abort(esr: u64) -> bool {
    crate::exception::Syndrome(esr).is_external_abort()
}

/// The refusal behind an error.
pub fn refusal(error: &VmError) -> Error {
    match error {
        VmError::Refused(_, error) => *error,
        _ => Error::OutOfMemory,
    }
}
