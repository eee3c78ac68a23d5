//! PSCI 1.1 for guests (Arm DEN0022): which vCPU is on is decided here; the host is told and does the running.

use crate::exit::Exit;
use crate::guest_call::{self, answer};
use crate::guest_exit::Outcome;
use crate::registers::{GuestRegisters, VcpuContext};
use crate::smccc::Call;
use crate::vcpu::{Vcpu, VcpuState};
use crate::vm::{Vm, VmPower};
use abi::{psci, smccc};

/// MIGRATE_INFO_TYPE: there is no trusted operating system, so nothing that would not migrate.
const MIGRATION_NOT_REQUIRED: i64 = 2;

/// What a call is to PSCI.
pub(crate) enum Psci {
    /// This is the answer.
    Answer(u64),
    /// It takes more than an answer: [`handle`].
    Action,
    /// It is none of PSCI's.
    Other,
}

/// The arguments of a call, x1 to x3, of which a 32-bit call has the low halves.
fn arguments(function: u32, x: &[u64; 31]) -> [u64; 3] {
    let [_, first, second, third, ..] = *x;
    let arguments = [first, second, third];
    if smccc::is_64_bit(function) { arguments } else { arguments.map(|x| x & 0xffff_ffff) }
}

/// Answers a call that changes nothing.
#[inline]
pub(crate) fn answer_at_once(vm: &Vm, registers: &GuestRegisters, function: u32) -> Psci {
    let [first, second, _] = arguments(function, &registers.x);
    Psci::Answer(match function {
        psci::PSCI_VERSION => psci::VERSION_1_1,
        psci::PSCI_FEATURES => features(first) as u64,
        psci::AFFINITY_INFO_32 | psci::AFFINITY_INFO_64 => affinity_info(vm, first, second) as u64,
        psci::MIGRATE_INFO_TYPE => MIGRATION_NOT_REQUIRED as u64,
        psci::CPU_ON_32
        | psci::CPU_ON_64
        | psci::CPU_OFF
        | psci::CPU_SUSPEND_32
        | psci::CPU_SUSPEND_64
        | psci::SYSTEM_OFF
        | psci::SYSTEM_RESET => return Psci::Action,
        psci::SYSTEM_RESET2_32 | psci::SYSTEM_RESET2_64 => match reset_type(first) {
            Ok(()) => return Psci::Action,
            Err(code) => code as u64,
        },
        _ => return Psci::Other,
    })
}

/// Does a PSCI call that changes something; `None` where it is none.
pub(crate) fn handle(vm: &Vm, context: &mut VcpuContext, call: &Call) -> Option<Outcome> {
    let [first, second, third] = arguments(call.function, &context.general.x);
    Some(match call.function {
        psci::CPU_ON_32 | psci::CPU_ON_64 => cpu_on(vm, context, first, second, third),
        psci::CPU_OFF => Outcome::Exit(Exit::CpuOff),
        psci::CPU_SUSPEND_32 | psci::CPU_SUSPEND_64 => {
            // Every state is entered as standby, which PSCI allows.
            context.general.set_x(0, psci::SUCCESS as u64);
            Outcome::Exit(Exit::Wait)
        }
        psci::SYSTEM_OFF => {
            vm.end(VmPower::Off);
            Outcome::Resume
        }
        psci::SYSTEM_RESET | psci::SYSTEM_RESET2_32 | psci::SYSTEM_RESET2_64 => {
            vm.end(VmPower::Reset);
            Outcome::Resume
        }
        _ => return None,
    })
}

/// SYSTEM_RESET2 (section 5.12): of the resets by type, which has 32 bits, there is the architecture's warm one.
fn reset_type(argument: u64) -> Result<(), i64> {
    match argument as u32 {
        psci::SYSTEM_WARM_RESET => Ok(()),
        vendor if vendor & psci::VENDOR_RESET != 0 => Err(psci::NOT_SUPPORTED),
        _ => Err(psci::INVALID_PARAMETERS),
    }
}

/// PSCI_FEATURES: what there is.
fn features(asked: u64) -> i64 {
    match u32::try_from(asked) {
        Ok(
            psci::PSCI_VERSION
            | psci::PSCI_FEATURES
            | psci::CPU_ON_32
            | psci::CPU_ON_64
            | psci::CPU_OFF
            | psci::CPU_SUSPEND_32
            | psci::CPU_SUSPEND_64
            | psci::AFFINITY_INFO_32
            | psci::AFFINITY_INFO_64
            | psci::MIGRATE_INFO_TYPE
            | psci::SYSTEM_OFF
            | psci::SYSTEM_RESET
            | psci::SYSTEM_RESET2_32
            | psci::SYSTEM_RESET2_64
            | smccc::VERSION,
        ) => psci::SUCCESS,
        _ => psci::NOT_SUPPORTED,
    }
}

/// CPU_ON: the target starts at `entry` with `argument` in x0, from the state that a reset leaves.
fn cpu_on(vm: &Vm, context: &mut VcpuContext, target: u64, entry: u64, argument: u64) -> Outcome {
    let Some(vcpu) = vm.vcpu_by_affinity(target) else {
        return answer(context, psci::INVALID_PARAMETERS as u64);
    };
    if !entry.is_multiple_of(4) || entry >> vm.config().ipa_bits != 0 {
        return answer(context, psci::INVALID_ADDRESS as u64);
    }
    match start(vm, vcpu, entry, argument) {
        Ok(()) => {
            context.general.set_x(0, psci::SUCCESS as u64);
            Outcome::Exit(Exit::CpuOn(vcpu.index()))
        }
        Err(VcpuState::Starting | VcpuState::OnPending) => answer(context, psci::ON_PENDING as u64),
        // The host is about to be done with the target's registers.
        Err(VcpuState::Examined) => guest_call::make_again(context),
        Err(VcpuState::Stopped) => answer(context, psci::INTERNAL_FAILURE as u64),
        Err(_) => answer(context, psci::ALREADY_ON as u64),
    }
}

/// Resets a vCPU that is off, and makes it ready; the state that it is in otherwise.
fn start(vm: &Vm, vcpu: &Vcpu, entry: u64, argument: u64) -> Result<(), VcpuState> {
    let mut claim = vcpu.claim_to_start()?;
    claim.context = VcpuContext::reset(vcpu.index(), entry, argument, vm.config().traps, vm.config().counter_offset);
    claim.pending = None;
    claim.set_next(VcpuState::OnPending);
    Ok(())
}

/// AFFINITY_INFO. Only affinity level 0 is supported, which PSCI allows since 1.0.
fn affinity_info(vm: &Vm, target: u64, lowest_level: u64) -> i64 {
    if lowest_level != 0 {
        return psci::INVALID_PARAMETERS;
    }
    match vm.vcpu_by_affinity(target).map(Vcpu::state) {
        None => psci::INVALID_PARAMETERS,
        Some(VcpuState::Off | VcpuState::Stopped) => psci::AFFINITY_OFF,
        Some(VcpuState::Starting | VcpuState::OnPending) => psci::AFFINITY_ON_PENDING,
        Some(VcpuState::Ready | VcpuState::Running(_) | VcpuState::Examined) => psci::AFFINITY_ON,
    }
}
