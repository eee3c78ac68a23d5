//! The run loop of a vCPU: it runs until something happens that is the host's to deal with.

use crate::inject::{Injection, Interrupted};
use crate::mmio::{Access, DEVICE_IPA_LIMIT, skip_instruction};
use crate::monitor::Monitor;
use crate::platform::{GuestTrap, Platform, RunExit};
use crate::registers::VcpuContext;
use crate::syndrome::{Abort, Cause, Exception, FaultKind, Syndrome};
use crate::vcpu::{Claim, Vcpu, VcpuState};
use crate::vm::{Vm, VmPower};
use crate::{guest_call, guest_system_register};
use abi::host::VmHandle;
use abi::run::ExitReason;
use abi::{Error, Ipa, PAGE_SIZE};
use ownership::Presence;
use ownership::annotation::Absence;
use pgtable::{DsbKind, Tlbi};

/// Why a vCPU stops running, and all that the host learns of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A physical interrupt.
    Interrupt,
    /// WFI, WFE, or a CPU_SUSPEND to standby.
    Wait,
    /// A load from a device.
    MmioRead {
        /// Byte address.
        ipa: Ipa,
        /// Bytes.
        size: u64,
    },
    /// A store to a device.
    MmioWrite {
        /// Byte address.
        ipa: Ipa,
        /// Bytes.
        size: u64,
        /// The value.
        data: u64,
    },
    /// No memory at a page.
    MemoryFault {
        /// The page.
        ipa: Ipa,
        /// For a write.
        write: bool,
    },
    /// The guest shared a page.
    Shared(Ipa),
    /// The guest took a page back.
    Unshared(Ipa),
    /// The guest gave a page back.
    Relinquished(Ipa),
    /// The guest lent a page to the host.
    Lent(Ipa),
    /// The guest returned a page that the host had lent.
    Returned(Ipa),
    /// The guest offered a page to another.
    Offered {
        /// The page.
        ipa: Ipa,
        /// The offer's number.
        number: u64,
        /// Whom it is for.
        receiver: VmHandle,
    },
    /// The guest accepted another's offer.
    Accepted {
        /// Where it has the page.
        ipa: Ipa,
        /// The offer's number.
        number: u64,
        /// Whose it was.
        owner: VmHandle,
    },
    /// The guest ended a share: its own, or one of another's.
    Ended {
        /// The offer's number.
        number: u64,
        /// Whose it was, where it was not its own.
        owner: Option<VmHandle>,
    },
    /// A call of the guest's needs pages for tables.
    TopUp,
    /// The guest touched a page that was taken from it by force.
    Poisoned(Ipa),
    /// The VM has ended by SYSTEM_OFF.
    SystemOff,
    /// The VM has ended by SYSTEM_RESET.
    SystemReset,
    /// This vCPU is off.
    CpuOff,
    /// This vCPU turned another on: its index.
    CpuOn(u64),
    /// This vCPU cannot go on. ESR_EL2, for a VM that is not protected.
    Error(u64),
}

impl Exit {
    /// The exit's reason.
    pub const fn reason(&self) -> ExitReason {
        match self {
            Exit::Interrupt => ExitReason::Interrupt,
            Exit::Wait => ExitReason::Wait,
            Exit::MmioRead { .. } | Exit::MmioWrite { .. } => ExitReason::Mmio,
            Exit::MemoryFault { .. } => ExitReason::MemoryFault,
            Exit::Shared(_) => ExitReason::Shared,
            Exit::Unshared(_) => ExitReason::Unshared,
            Exit::Relinquished(_) => ExitReason::Relinquished,
            Exit::Lent(_) => ExitReason::Lent,
            Exit::Returned(_) => ExitReason::Returned,
            Exit::Offered { .. } => ExitReason::Offered,
            Exit::Accepted { .. } => ExitReason::Accepted,
            Exit::Ended { .. } => ExitReason::Ended,
            Exit::TopUp => ExitReason::TopUp,
            Exit::Poisoned(_) => ExitReason::Poisoned,
            Exit::SystemOff => ExitReason::SystemOff,
            Exit::SystemReset => ExitReason::SystemReset,
            Exit::CpuOff => ExitReason::CpuOff,
            Exit::CpuOn(_) => ExitReason::CpuOn,
            Exit::Error(_) => ExitReason::Error,
        }
    }

    /// What goes to the run page. What an exit does not name is zero, so that nothing of an earlier exit is left.
    fn run_exit(&self) -> RunExit {
        let blank = RunExit { exit_reason: self.reason() as u64, ..RunExit::default() };
        match *self {
            Exit::MmioRead { ipa, size } => RunExit { ipa: ipa.raw(), size, ..blank },
            Exit::MmioWrite { ipa, size, data } => RunExit { ipa: ipa.raw(), size, write: 1, data, ..blank },
            Exit::MemoryFault { ipa, write } => RunExit { ipa: ipa.raw(), write: u64::from(write), ..blank },
            Exit::Shared(ipa)
            | Exit::Unshared(ipa)
            | Exit::Relinquished(ipa)
            | Exit::Lent(ipa)
            | Exit::Returned(ipa)
            | Exit::Poisoned(ipa) => RunExit { ipa: ipa.raw(), ..blank },
            Exit::Offered { ipa, number, receiver: peer } | Exit::Accepted { ipa, number, owner: peer } => {
                RunExit { ipa: ipa.raw(), data: number, peer: u64::from(peer.0), ..blank }
            }
            Exit::Ended { number, owner } => {
                RunExit { data: number, peer: owner.map_or(0, |owner| u64::from(owner.0)), ..blank }
            }
            Exit::CpuOn(data) | Exit::Error(data) => RunExit { data, ..blank },
            Exit::Interrupt | Exit::Wait | Exit::SystemOff | Exit::SystemReset | Exit::CpuOff | Exit::TopUp => blank,
        }
    }

    /// What the vCPU does next.
    const fn next_state(&self) -> VcpuState {
        match self {
            Exit::CpuOff => VcpuState::Off,
            Exit::SystemOff | Exit::SystemReset | Exit::Error(_) => VcpuState::Stopped,
            _ => VcpuState::Ready,
        }
    }
}

/// What a trap leads to.
pub(crate) enum Outcome {
    /// The guest goes on.
    Resume,
    /// The guest goes on by taking an exception.
    Inject(Injection),
    /// The host is told.
    Exit(Exit),
}

/// PSTATE.M\[4\]: the guest was in AArch32.
const PSTATE_AARCH32: u64 = 1 << 4;

impl Monitor {
    /// VCPU_RUN: runs the vCPU on the calling CPU, and tells the run page why it stopped.
    pub(crate) fn run_vcpu<P: Platform>(&self, platform: &mut P, vm: &Vm, vcpu: &Vcpu) -> Result<ExitReason, Error> {
        if vm.power() != VmPower::On {
            return Err(Error::WrongState);
        }
        let mut claim = vcpu.claim_to_run(platform.cpu())?;
        if vm.is_change_of_vcpu(platform.cpu(), vcpu.index()) {
            forget_translations(platform, claim.context.traps.vttbr_el2);
        }
        if let Some(pending) = claim.pending_read.take() {
            let data = platform.read_run_data(vcpu.run_page());
            pending.complete(&mut claim.context.general, data);
        }
        let exit = self.run_until_exit(platform, vm, &mut claim);
        claim.context.fp_enabled = 0;
        claim.context.traps.disable_fp();
        claim.set_next(exit.next_state());
        platform.write_run_exit(vcpu.run_page(), &exit.run_exit());
        Ok(exit.reason())
    }

    fn run_until_exit<P: Platform>(&self, platform: &mut P, vm: &Vm, claim: &mut Claim<'_>) -> Exit {
        loop {
            match vm.power() {
                VmPower::On => {}
                VmPower::Off => return Exit::SystemOff,
                VmPower::Reset => return Exit::SystemReset,
            }
            // A physical interrupt ends this loop, whatever the guest does.
            let outcome = match platform.enter_guest(&mut claim.context) {
                GuestTrap::Synchronous(exception) => self.guest_exception(platform, vm, claim, &exception),
                GuestTrap::Interrupt => Outcome::Exit(Exit::Interrupt),
                GuestTrap::SError { esr } => Outcome::Exit(error(vm, esr)),
            };
            match outcome {
                Outcome::Resume => {}
                Outcome::Inject(injection) => self.inject(&mut claim.context, injection),
                Outcome::Exit(exit) => return exit,
            }
        }
    }

    /// Decides a synchronous exception of a guest's.
    fn guest_exception<P: Platform>(
        &self,
        platform: &mut P,
        vm: &Vm,
        claim: &mut Claim<'_>,
        exception: &Exception,
    ) -> Outcome {
        let syndrome = exception.syndrome();
        if claim.context.general.pstate & PSTATE_AARCH32 != 0 {
            // The ID registers say that there is no AArch32: a guest that is in it nonetheless has itself to blame.
            return Outcome::Exit(error(vm, exception.esr));
        }
        match syndrome.cause() {
            Cause::WaitForEvent => {
                skip_instruction(&mut claim.context.general);
                Outcome::Exit(Exit::Wait)
            }
            Cause::FloatingPoint => {
                claim.context.fp_enabled = 1;
                claim.context.traps.enable_fp();
                Outcome::Resume
            }
            Cause::Hypercall { immediate } => guest_call::handle(self, platform, vm, &mut claim.context, immediate),
            Cause::SecureCall { immediate } => {
                // A trapped SMC has not been executed: past it, the guest is where an HVC leaves it.
                skip_instruction(&mut claim.context.general);
                guest_call::handle(self, platform, vm, &mut claim.context, immediate)
            }
            Cause::SystemRegister(access) => {
                let ipa_bits = vm.config().ipa_bits;
                if guest_system_register::emulate(access, &mut claim.context, &self.id, ipa_bits) {
                    skip_instruction(&mut claim.context.general);
                    Outcome::Resume
                } else {
                    Outcome::Inject(Injection::Undefined)
                }
            }
            Cause::DataAbort(abort) => data_abort(platform, vm, claim, exception, abort),
            Cause::InstructionAbort(abort) => instruction_abort(platform, vm, exception, abort),
            Cause::Other => Outcome::Inject(Injection::Undefined),
        }
    }

    /// Makes the guest take an exception to its EL1.
    fn inject(&self, context: &mut VcpuContext, injection: Injection) {
        let taken = injection.take(&Interrupted {
            pc: context.general.pc,
            pstate: context.general.pstate,
            vbar_el1: context.el1.vbar_el1,
            sctlr_el1: context.el1.sctlr_el1,
            features: self.features.exception_features(),
        });
        context.general.pc = taken.pc;
        context.general.pstate = taken.pstate;
        context.el1.elr_el1 = taken.elr_el1;
        context.el1.spsr_el1 = taken.spsr_el1;
        context.el1.esr_el1 = taken.esr_el1;
        if let Some(far) = taken.far_el1 {
            context.el1.far_el1 = far;
        }
    }
}

/// A data abort. Where no memory is, an access below [`DEVICE_IPA_LIMIT`] that the CPU has decoded is the host's to
/// answer, and one that it has not is an external abort; from there upwards, to the end of the guest's address space,
/// the host is asked for memory. Whatever memory there is but does not take the access is an external abort too.
fn data_abort<P: Platform>(
    platform: &P,
    vm: &Vm,
    claim: &mut Claim<'_>,
    exception: &Exception,
    abort: Abort,
) -> Outcome {
    let refused = Outcome::Inject(Injection::for_abort(exception.syndrome(), exception.far));
    let ipa = exception.fault_ipa(abort);
    if abort.kind() != FaultKind::Translation || is_beyond(vm, ipa) {
        return refused;
    }
    match presence(platform, vm, ipa) {
        Presence::Nothing => {}
        Presence::Mapped => return Outcome::Resume,
        Presence::Absent(Absence::Poisoned) => return Outcome::Exit(Exit::Poisoned(ipa.align_down(PAGE_SIZE))),
        Presence::Absent(Absence::LentToHost(_)) => return refused,
    }
    if ipa >= DEVICE_IPA_LIMIT {
        let write = abort.is_write() && !abort.is_cache_maintenance();
        return Outcome::Exit(Exit::MemoryFault { ipa: ipa.align_down(PAGE_SIZE), write });
    }
    match Access::decode(abort, &claim.context.general) {
        Some(Access::Read { size, pending }) => {
            claim.pending_read = Some(pending);
            Outcome::Exit(Exit::MmioRead { ipa, size })
        }
        Some(Access::Write { size, data }) => {
            skip_instruction(&mut claim.context.general);
            Outcome::Exit(Exit::MmioWrite { ipa, size, data })
        }
        None => refused,
    }
}

/// True where the host could not put memory: beyond the address space that the VM was made with.
fn is_beyond(vm: &Vm, ipa: Ipa) -> bool {
    ipa.raw() >> vm.config().ipa_bits != 0
}

/// An instruction abort: as for data, but there are no instructions in devices.
fn instruction_abort<P: Platform>(platform: &P, vm: &Vm, exception: &Exception, abort: Abort) -> Outcome {
    let refused = Outcome::Inject(Injection::for_abort(exception.syndrome(), exception.far));
    let ipa = exception.fault_ipa(abort);
    if abort.kind() != FaultKind::Translation || is_beyond(vm, ipa) {
        return refused;
    }
    let page = ipa.align_down(PAGE_SIZE);
    match presence(platform, vm, ipa) {
        Presence::Nothing if ipa >= DEVICE_IPA_LIMIT => Outcome::Exit(Exit::MemoryFault { ipa: page, write: false }),
        Presence::Mapped => Outcome::Resume,
        Presence::Absent(Absence::Poisoned) => Outcome::Exit(Exit::Poisoned(page)),
        Presence::Nothing | Presence::Absent(Absence::LentToHost(_)) => refused,
    }
}

/// What a guest has where it met a translation fault. By now that may be memory: another CPU has put it there.
fn presence<P: Platform>(platform: &P, vm: &Vm, ipa: Ipa) -> Presence {
    vm.memory().lock().presence(platform, ipa).unwrap_or(Presence::Nothing)
}

/// Drops what the calling CPU's TLB holds of a VM. Its vCPUs share a VMID; yet what one of them maps is no business of
/// another's, which may give the same ASID another meaning, as on a CPU of its own it may.
fn forget_translations<P: Platform>(platform: &P, vttbr_el2: u64) {
    let host = platform.load_vttbr(vttbr_el2);
    platform.isb();
    platform.tlbi(Tlbi::Vmalle1);
    platform.dsb(DsbKind::Nsh);
    platform.load_vttbr(host);
    platform.isb();
}

/// The exit of a vCPU that cannot go on. A protected VM's syndrome is its own business.
fn error(vm: &Vm, esr: u64) -> Exit {
    Exit::Error(if vm.config().protected { 0 } else { Syndrome(esr).0 })
}
