//! A vCPU that does what a script says, one request at a time.

use abi::run::ExitReason;
use abi::{Ipa, PhysAddr, PhysRange};
use call_script::{Access, GuestRequest, Outcome, Status};
use memsim::{Cpu, Fault, TreeKind};
use monitor::platform::GuestTrap;
use monitor::registers::VcpuContext;
use monitor::syndrome::{Exception, exception_class};
use simulation::{abort, hvc, trap};

/// Address of the guest's HVC instruction.
const CALL: u64 = 0x4100_0000;
/// Address of its load, store, or the instruction that it fetches from elsewhere.
const ACCESS: u64 = 0x4100_0100;
/// Bytes of an instruction.
const INSTRUCTION: u64 = 4;
/// The register that is loaded or stored.
const REGISTER: usize = 1;

/// How far a request has got.
#[derive(Clone, Copy, Debug)]
enum Progress {
    /// There is none.
    Idle,
    /// It has not begun.
    New(GuestRequest),
    /// The instruction was executed, or tried.
    Tried(GuestRequest),
    /// It is done.
    Done(Outcome),
}

/// One vCPU's script.
#[derive(Clone, Copy, Debug)]
pub struct Actor {
    progress: Progress,
    /// Somebody has run it since the request was made, and did not look what came of it.
    unwatched: bool,
    /// What it read or wrote last, since somebody asked.
    touched: Option<Touched>,
}

/// An access that was made, and not by the host in the guest's place.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    /// How.
    pub access: Access,
    /// Where.
    pub ipa: Ipa,
    /// What was read.
    pub value: u64,
}

impl Default for Actor {
    fn default() -> Self {
        Self { progress: Progress::Idle, unwatched: false, touched: None }
    }
}

impl Actor {
    /// Gives it something to do, in the place of what it may not have come past.
    pub fn start(&mut self, request: GuestRequest) {
        *self = Self { progress: Progress::New(request), ..Self::default() };
    }

    /// The vCPU is run by somebody who does not look what comes of its request.
    pub fn look_away(&mut self) {
        self.unwatched = true;
    }

    /// True where some of what comes of its request may have come already.
    pub fn is_unwatched(&self) -> bool {
        self.unwatched
    }

    /// What it read or wrote since this was asked last.
    pub fn take_touched(&mut self) -> Option<Touched> {
        self.touched.take()
    }

    /// Takes away what it has to do.
    pub fn stop(&mut self) {
        self.progress = Progress::Idle;
    }

    /// What it has to do still.
    pub fn pending(&self) -> Option<GuestRequest> {
        match self.progress {
            Progress::New(request) | Progress::Tried(request) => Some(request),
            Progress::Idle | Progress::Done(_) => None,
        }
    }

    /// What came of the request, once; `None` while it is not done.
    pub fn take_outcome(&mut self) -> Option<Outcome> {
        let Progress::Done(outcome) = self.progress else { return None };
        self.progress = Progress::Idle;
        Some(outcome)
    }

    /// Runs on a CPU, with `vmid` in VTTBR_EL2, until the next trap.
    pub fn run(&mut self, cpu: &Cpu, ram: &PhysRange, vmid: u16, context: &mut VcpuContext) -> GuestTrap {
        let (request, tried) = match self.progress {
            Progress::New(request) => (request, false),
            Progress::Tried(request) => (request, true),
            Progress::Idle | Progress::Done(_) => return GuestTrap::Interrupt,
        };
        match request {
            GuestRequest::Call { function, arguments } => self.call(context, request, function, arguments, tried),
            GuestRequest::Access { access, ipa } => {
                let touch = |access| touch(cpu, ram, TreeKind::Stage2 { vmid }, ipa.raw(), access);
                self.access(context, request, (access, ipa), tried, touch)
            }
            GuestRequest::Resume => GuestTrap::Interrupt,
        }
    }

    fn done(&mut self, outcome: Outcome) -> GuestTrap {
        self.progress = Progress::Done(outcome);
        GuestTrap::Interrupt
    }

    fn call(
        &mut self,
        context: &mut VcpuContext,
        request: GuestRequest,
        function: u64,
        arguments: [u64; 7],
        tried: bool,
    ) -> GuestTrap {
        let general = &mut context.general;
        if !tried {
            general.x[0] = function;
            general.x[1..8].copy_from_slice(&arguments);
        } else if general.pc == CALL + INSTRUCTION {
            let [x0, x1, x2, x3, ..] = general.x;
            return self.done(Outcome::of_call([x0, x1, x2, x3]));
        } else if general.pc != CALL {
            // PSCI has started the vCPU anew.
            return self.done(Outcome::of(Status::Ok));
        }
        self.progress = Progress::Tried(request);
        general.pc = CALL + INSTRUCTION;
        trap(hvc(0))
    }

    fn access(
        &mut self,
        context: &mut VcpuContext,
        request: GuestRequest,
        (access, ipa): (Access, Ipa),
        tried: bool,
        touch: impl FnOnce(Access) -> Result<(PhysAddr, u64), Fault>,
    ) -> GuestTrap {
        let general = &mut context.general;
        if tried && general.pc == ACCESS + INSTRUCTION {
            // The host has answered it.
            return self.done(read_outcome(access, general.x[REGISTER]));
        }
        if tried && general.pc != ACCESS {
            return self.done(Outcome::of(Status::Abort));
        }
        if let Access::Write(value) = access {
            general.x[REGISTER] = Access::word(value);
        }
        match touch(access) {
            Ok((_, value)) => {
                self.touched = Some(Touched { access, ipa, value });
                self.done(read_outcome(access, value))
            }
            Err(fault) => {
                self.progress = Progress::Tried(request);
                general.pc = ACCESS;
                trap(exception(access, ipa.raw(), fault))
            }
        }
    }
}

fn read_outcome(access: Access, value: u64) -> Outcome {
    let read = if access == Access::Read { value } else { 0 };
    Outcome { results: [read, 0, 0], ..Outcome::of(Status::Ok) }
}

/// An access of 64 bits behind a stage 2: where it goes, and what it reads there. What is not in `ram` is a device, which
/// reads as zero.
pub fn touch(
    cpu: &Cpu,
    ram: &PhysRange,
    stage2: TreeKind,
    input: u64,
    access: Access,
) -> Result<(PhysAddr, u64), Fault> {
    let kind = match access {
        Access::Read => memsim::Access::Read,
        Access::Write(_) => memsim::Access::Write,
        Access::Execute => memsim::Access::Execute,
    };
    let address = cpu.access(stage2, input, kind)?.align_down(8);
    if !ram.contains(address) {
        return Ok((address, 0));
    }
    if let Access::Write(value) = access {
        cpu.machine().write_word(cpu.index(), address, Access::word(value));
    }
    Ok((address, cpu.machine().read_word(address)))
}

/// How the hardware reports the fault of an access (Arm ARM, ISS encodings of instruction and data aborts).
pub fn exception(access: Access, input: u64, fault: Fault) -> Exception {
    let status = match fault {
        Fault::AddressSize { level } => u64::from(level),
        Fault::Translation { level } => 0b00_0100 | u64::from(level),
        Fault::AccessFlag { level } => 0b00_1000 | u64::from(level),
        Fault::Permission { level } => 0b00_1100 | u64::from(level),
    };
    const VALID_DOUBLEWORD: u64 = 1 << 24 | 0b11 << 22 | (REGISTER as u64) << 16 | 1 << 15;
    const WRITE: u64 = 1 << 6;
    match access {
        Access::Read => abort(exception_class::DATA_ABORT_LOWER, VALID_DOUBLEWORD | status, input),
        Access::Write(_) => abort(exception_class::DATA_ABORT_LOWER, VALID_DOUBLEWORD | WRITE | status, input),
        Access::Execute => abort(exception_class::INSTRUCTION_ABORT_LOWER, status, input),
    }
}

/// True of an exit that only tells the host something, so that the guest goes on.
pub const fn is_passed_over(reason: ExitReason) -> bool {
    use ExitReason as Reason;
    matches!(
        reason,
        Reason::Mmio
            | Reason::Shared
            | Reason::Unshared
            | Reason::Relinquished
            | Reason::Lent
            | Reason::Returned
            | Reason::Offered
            | Reason::Accepted
            | Reason::Ended
            | Reason::CpuOn
            | Reason::Wait
            | Reason::Yield
            | Reason::Timer
            | Reason::Sgi
    )
}
