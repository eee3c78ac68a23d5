//! The run loop of a vCPU: it runs until something happens that is the host's to deal with.

use crate::exit::Exit;
use crate::guest_timer::Effect;
use crate::inject::{Injection, Interrupted};
use crate::interrupt::Interface;
use crate::mmio::{Access, Answerable, DEVICE_IPA_LIMIT, Pending, Refused, skip_instruction};
use crate::monitor::Monitor;
use crate::platform::{GuestTrap, Next, Platform, RunEntry};
use crate::registers::VcpuContext;
use crate::syndrome::{Abort, Cause, Exception, FaultKind, Syndrome, SystemRegisterAccess, WaitFor};
use crate::vcpu::{Claim, Vcpu};
use crate::vm::{Vm, VmPower};
use crate::{guest_call, guest_system_register, guest_timer, interrupt};
use abi::guest_register::Policy;
use abi::run::{ExitReason, RESPONSE_ABORT};
use abi::{Error, Ipa, PAGE_SIZE};
use ownership::Presence;
use ownership::annotation::Absence;
use pgtable::{DsbKind, Tlbi};

/// What a trap leads to.
pub(crate) enum Outcome {
    /// The guest goes on.
    Resume,
    /// The guest goes on by taking an exception.
    Inject(Injection),
    /// The host is told.
    Exit(Exit),
    /// The host is asked for memory that a call names; the call's result where there is to be none.
    Ask(Exit, u64),
}

/// PSTATE.M\[4\]: the guest was in AArch32.
const PSTATE_AARCH32: u64 = 1 << 4;

impl Monitor {
    /// VCPU_RUN: runs the vCPU on the calling CPU, and tells the run page why it stopped. What the host has put there
    /// is read once, and checked before anything is done.
    #[inline(always)]
    pub(crate) fn run_vcpu<P: Platform>(&self, platform: &mut P, vm: &Vm, vcpu: &Vcpu) -> Result<ExitReason, Error> {
        if vm.power() != VmPower::On {
            return Err(Error::WrongState);
        }
        let cpu = platform.cpu();
        let mut claim = vcpu.claim_to_run(cpu)?;
        let count = self.features.gic.list_registers;
        let registers = claim.context.interrupts.list_registers.get_mut(..count).unwrap_or(&mut []);
        let RunEntry { data, response, interrupt_control, list_register_bits } =
            platform.read_run_entry(vcpu.run_page(), registers);
        let in_use = if interrupt::is_any_in_use(list_register_bits) {
            interrupt::check_list_registers(registers, self.virtual_timer)?
        } else {
            0
        };
        let ich_hcr_el2 = interrupt::control(interrupt_control)?;
        if response & !RESPONSE_ABORT != 0 {
            return Err(Error::InvalidParameter);
        }
        if vm.is_change_of_vcpu(cpu, vcpu.index()) {
            forget_translations(platform, claim.context.traps.vttbr_el2);
        }
        if let Some(pending) = claim.pending.take() {
            if response & RESPONSE_ABORT == 0 {
                pending.complete(&mut claim.context.general, data);
            } else {
                match pending.refused() {
                    Refused::Injection(injection) => self.inject(&mut claim.context, injection),
                    Refused::Result(result) => {
                        claim.context.general.set_x(0, result);
                        skip_instruction(&mut claim.context.general);
                    }
                }
            }
        }
        claim.context.interrupts.list_registers_in_use = in_use;
        claim.context.traps.ich_hcr_el2 = ich_hcr_el2;
        let exit = self.run_until_exit(platform, vm, &mut claim);
        claim.context.fp_enabled = 0;
        claim.context.traps.disable_fp();
        claim.set_next(exit.next_state());
        let context = &claim.context;
        let reason = exit.reason();
        let mut run_exit = exit.run_exit(reason);
        run_exit.timer_lines = guest_timer::lines(context, || platform.counter());
        run_exit.physical_deadline = context.physical_timer.deadline();
        if exit == Exit::Wait {
            run_exit.virtual_deadline = guest_timer::virtual_deadline(&context.timer);
        }
        // The others are as the host left them: empty.
        let list_registers = context.interrupts.list_registers.get(..in_use).unwrap_or(&[]);
        platform.write_run_exit(vcpu.run_page(), &run_exit, list_registers);
        Ok(reason)
    }

    #[inline(always)]
    fn run_until_exit<P: Platform>(&self, platform: &mut P, vm: &Vm, claim: &mut Claim<'_>) -> Exit {
        loop {
            // A physical interrupt ends this loop, whatever the guest does.
            let mut policy = Policy::Undefined;
            let next = |syndrome, context: &mut VcpuContext| self.next(vm, syndrome, context, &mut policy);
            let trap = platform.run_guest(&mut claim.context, next);
            let outcome = match trap {
                _ if claim.context.general.pstate & PSTATE_AARCH32 != 0 => Outcome::Exit(from_aarch32(vm, &trap)),
                GuestTrap::Synchronous(exception) => self.guest_exception(platform, vm, claim, &exception, policy),
                GuestTrap::Interrupt => Outcome::Exit(Exit::Interrupt),
                GuestTrap::SError { esr } => Outcome::Exit(error(vm, esr)),
            };
            match outcome {
                Outcome::Resume => {}
                Outcome::Inject(injection) => self.inject(&mut claim.context, injection),
                Outcome::Exit(exit) => return exit,
                Outcome::Ask(exit, result) => {
                    claim.pending = Some(Pending::call(result));
                    return exit;
                }
            }
            // It may be this outcome that has ended the VM, or another vCPU.
            match vm.power() {
                VmPower::On => {}
                VmPower::Off => return Exit::SystemOff,
                VmPower::Reset => return Exit::SystemReset,
            }
        }
    }

    /// Deals with a trap by the guest's general registers alone, all else of it being in the CPU still, where that is
    /// possible. `policy` becomes that of the system register that was accessed last.
    #[inline(always)]
    fn next(&self, vm: &Vm, syndrome: Syndrome, context: &mut VcpuContext, policy: &mut Policy) -> Next {
        // Where another vCPU has ended the VM, this one is not to go on.
        if context.general.pstate & PSTATE_AARCH32 != 0 || vm.power() != VmPower::On {
            return Next::Leave;
        }
        let is_done = match syndrome.cause() {
            Cause::Hypercall { immediate } => guest_call::answer_at_once(self, vm, &mut context.general, immediate),
            Cause::SecureCall { immediate } => {
                let is_done = guest_call::answer_at_once(self, vm, &mut context.general, immediate);
                if is_done {
                    // A trapped SMC has not been executed: past it, the guest is where an HVC leaves it.
                    skip_instruction(&mut context.general);
                }
                is_done
            }
            Cause::SystemRegister(access) => {
                *policy = access.policy();
                let is_done = guest_system_register::emulate(*policy, access, context, &self.id, vm.config().ipa_bits);
                if is_done {
                    skip_instruction(&mut context.general);
                } else if *policy == Policy::PointerAuthenticationKey {
                    return self.give_keys(context);
                }
                is_done
            }
            Cause::PointerAuthentication => return self.give_keys(context),
            Cause::FloatingPoint if context.fp_enabled == 0 => {
                context.traps.enable_fp();
                return Next::ResumeWithFp;
            }
            _ => false,
        };
        if is_done { Next::Resume } else { Next::Leave }
    }

    /// The first use of pointer authentication. From now on the guest's keys go in and out with it; most guests that
    /// use them do so all the time, and the others are spared 40 accesses to registers at each exit.
    #[cold]
    fn give_keys(&self, context: &mut VcpuContext) -> Next {
        if !self.features.pauth || context.traps.gives_keys() {
            return Next::Leave;
        }
        context.traps.give_keys();
        Next::ResumeWithKeys
    }

    /// Decides a synchronous exception of a guest's that [`next`](Self::next) left, where it is about a system register
    /// with the policy that it found.
    fn guest_exception<P: Platform>(
        &self,
        platform: &mut P,
        vm: &Vm,
        claim: &mut Claim<'_>,
        exception: &Exception,
        policy: Policy,
    ) -> Outcome {
        let syndrome = exception.syndrome();
        match syndrome.cause() {
            Cause::Wait(what) => {
                skip_instruction(&mut claim.context.general);
                Outcome::Exit(if what == WaitFor::Interrupt { Exit::Wait } else { Exit::Yield })
            }
            Cause::Hypercall { immediate } => guest_call::handle(self, platform, vm, claim, immediate),
            Cause::SecureCall { immediate } => {
                skip_instruction(&mut claim.context.general);
                guest_call::handle(self, platform, vm, claim, immediate)
            }
            Cause::SystemRegister(access) => system_register(platform, &mut claim.context, access, policy),
            Cause::DataAbort(abort) => data_abort(platform, vm, claim, exception, abort),
            Cause::InstructionAbort(abort) => instruction_abort(platform, vm, claim, exception, abort),
            Cause::FloatingPoint | Cause::PointerAuthentication | Cause::Other => Outcome::Inject(Injection::Undefined),
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
/// answer, unless the guest guards itself against it; one that the CPU has not is an external abort; from there upwards, to
/// the end of the guest's address space, the host is asked for memory. So it is with a write to what the host shares for
/// reading only. Whatever else does not take the access is an external abort too.
fn data_abort<P: Platform>(
    platform: &P,
    vm: &Vm,
    claim: &mut Claim<'_>,
    exception: &Exception,
    abort: Abort,
) -> Outcome {
    let abort_instead = Injection::for_abort(exception.syndrome(), exception.far);
    let refused = Outcome::Inject(abort_instead);
    let ipa = exception.fault_ipa(abort);
    if is_beyond(vm, ipa) {
        return refused;
    }
    let lacks_write = lacks_right_to_write(vm, abort);
    if !lacks_write {
        if abort.kind() != FaultKind::Translation {
            return refused;
        }
        let (presence, guards_devices) = found(platform, vm, ipa);
        match presence {
            Presence::Nothing if guards_devices && ipa < DEVICE_IPA_LIMIT => return refused,
            Presence::Nothing | Presence::AwaitsDevice => {}
            Presence::Mapped => return Outcome::Resume,
            Presence::Absent(Absence::Poisoned) => return Outcome::Exit(Exit::Poisoned(ipa.align_down(PAGE_SIZE))),
            Presence::Absent(Absence::LentToHost(_)) => return refused,
        }
    }
    if ipa >= DEVICE_IPA_LIMIT {
        let write = lacks_write || abort.is_write() && !abort.is_cache_maintenance();
        claim.pending = Some(Pending::new(Answerable::Memory, abort_instead));
        return Outcome::Exit(Exit::MemoryFault { ipa: ipa.align_down(PAGE_SIZE), write });
    }
    // The rest of an access that goes on into the next page is about another device, or none.
    let is_within_page = |access: &Access| access.size() <= PAGE_SIZE - ipa.page_offset();
    match Access::decode(abort, &claim.context.general).filter(is_within_page) {
        Some(Access::Read { size, pending }) => {
            claim.pending = Some(Pending::new(Answerable::Read(pending), abort_instead));
            Outcome::Exit(Exit::MmioRead { ipa, size })
        }
        Some(Access::Write { size, data }) => {
            claim.pending = Some(Pending::new(Answerable::Write, abort_instead));
            Outcome::Exit(Exit::MmioWrite { ipa, size, data })
        }
        None => refused,
    }
}

/// True where a guest that is not protected writes what the host shares with it for reading only. A walk of stage 1's
/// tables that lacks a right lacks this one: it sets the access flag or the dirty state (Arm ARM, section D8.5).
fn lacks_right_to_write(vm: &Vm, abort: Abort) -> bool {
    let writes = abort.is_write() || abort.is_stage1_walk();
    abort.kind() == FaultKind::Permission && writes && !vm.config().protected
}

/// A system register of this policy that [`Monitor::next`] left: one of the CPU interface or of a timer, or one that
/// there is not.
fn system_register<P: Platform>(
    platform: &P,
    context: &mut VcpuContext,
    access: SystemRegisterAccess,
    policy: Policy,
) -> Outcome {
    let outcome = if let Some(effect) = interrupt::emulate(policy, access, context) {
        match effect {
            Interface::Done => Outcome::Resume,
            Interface::Sgi(value) => Outcome::Exit(Exit::Sgi(value)),
        }
    } else if let Some(effect) = guest_timer::emulate(policy, access, context, || platform.counter()) {
        match effect {
            Effect::Read => Outcome::Resume,
            Effect::Set => Outcome::Exit(Exit::Timer),
        }
    } else {
        return Outcome::Inject(Injection::Undefined);
    };
    skip_instruction(&mut context.general);
    outcome
}

/// True where the host could not put memory: beyond the address space that the VM was made with.
fn is_beyond(vm: &Vm, ipa: Ipa) -> bool {
    ipa.raw() >> vm.config().ipa_bits != 0
}

/// An instruction abort: as for data, but there are no instructions in devices, and only a walk of stage 1's tables
/// writes.
fn instruction_abort<P: Platform>(
    platform: &P,
    vm: &Vm,
    claim: &mut Claim<'_>,
    exception: &Exception,
    abort: Abort,
) -> Outcome {
    let abort_instead = Injection::for_abort(exception.syndrome(), exception.far);
    let refused = Outcome::Inject(abort_instead);
    let ipa = exception.fault_ipa(abort);
    if is_beyond(vm, ipa) {
        return refused;
    }
    let page = ipa.align_down(PAGE_SIZE);
    if lacks_right_to_write(vm, abort) && ipa >= DEVICE_IPA_LIMIT {
        claim.pending = Some(Pending::new(Answerable::Memory, abort_instead));
        return Outcome::Exit(Exit::MemoryFault { ipa: page, write: true });
    }
    if abort.kind() != FaultKind::Translation {
        return refused;
    }
    match found(platform, vm, ipa).0 {
        Presence::Nothing if ipa >= DEVICE_IPA_LIMIT => {
            claim.pending = Some(Pending::new(Answerable::Memory, abort_instead));
            Outcome::Exit(Exit::MemoryFault { ipa: page, write: false })
        }
        Presence::Mapped => Outcome::Resume,
        Presence::Absent(Absence::Poisoned) => Outcome::Exit(Exit::Poisoned(page)),
        Presence::Nothing | Presence::AwaitsDevice | Presence::Absent(Absence::LentToHost(_)) => refused,
    }
}

/// What a guest has where it met a translation fault, and whether it guards its devices. By now it may have memory:
/// another CPU has put it there.
fn found<P: Platform>(platform: &P, vm: &Vm, ipa: Ipa) -> (Presence, bool) {
    let memory = vm.memory().lock();
    (memory.presence(platform, ipa).unwrap_or(Presence::Nothing), memory.guards_devices())
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

/// The exit of a vCPU that is in AArch32, whatever brought it out. The ID registers say that there is none: a guest
/// that is in it nonetheless has itself to blame. What EL0 does in AArch32 comes by the vectors of AArch64, which EL1
/// is in.
fn from_aarch32(vm: &Vm, trap: &GuestTrap) -> Exit {
    match trap {
        GuestTrap::Synchronous(Exception { esr, .. }) | GuestTrap::SError { esr } => error(vm, *esr),
        GuestTrap::Interrupt => error(vm, 0),
    }
}

/// The exit of a vCPU that cannot go on. A protected VM's syndrome is its own business.
fn error(vm: &Vm, esr: u64) -> Exit {
    Exit::Error(if vm.config().protected { 0 } else { Syndrome(esr).0 })
}
