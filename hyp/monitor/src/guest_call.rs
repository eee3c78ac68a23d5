//! A guest's HVC and SMC calls: PSCI, the Arm Architecture calls, and KVM's vendor-specific hypervisor calls.

use crate::exit::Exit;
use crate::guest_exit::Outcome;
use crate::guest_psci::Psci;
use crate::mmio::DEVICE_IPA_LIMIT;
use crate::monitor::Monitor;
use crate::platform::Platform;
use crate::registers::{GuestRegisters, VcpuContext};
use crate::smccc::{ArchitectureCall, Call, NOT_SUPPORTED_REGISTER, guest_architecture_call, guest_result};
use crate::vcpu::Claim;
use crate::vm::Vm;
use crate::{guest_device_guard, guest_memory_call, guest_psci, guest_trng};
use abi::guest::{self, GuestCall};
use abi::smccc::{self, INVALID_PARAMETER};
use abi::{Error, Gfn, Ipa, PAGE_SIZE};

/// Bytes of an HVC or SMC instruction, past which the program counter is.
const INSTRUCTION_SIZE: u64 = 4;
/// The bitmap that FEATURES returns where memory is not the guest's to share: itself.
const FEATURES_NON_PROTECTED: u32 = 1 << 0;

/// Answers a call by what hyp knows and the guest's general registers; false where it takes more.
pub(crate) fn answer_at_once(monitor: &Monitor, vm: &Vm, registers: &mut GuestRegisters, immediate: u16) -> bool {
    let Some(function) = Call::function(immediate, &registers.x) else {
        registers.set_x(0, NOT_SUPPORTED_REGISTER);
        return true;
    };
    match smccc::owner(function) {
        smccc::OWNER_STANDARD_SECURE => answer_standard_call(monitor, vm, registers, function),
        smccc::OWNER_VENDOR_HYPERVISOR => answer_vendor_call(vm, registers, function),
        smccc::OWNER_ARCHITECTURE => answer_architecture_call(monitor, registers, function),
        _ => {
            registers.set_x(0, NOT_SUPPORTED_REGISTER);
            true
        }
    }
}

/// The same for PSCI and TRNG.
#[inline]
fn answer_standard_call(monitor: &Monitor, vm: &Vm, registers: &mut GuestRegisters, function: u32) -> bool {
    match guest_psci::answer_at_once(vm, registers, function) {
        Psci::Answer(result) => registers.set_x(0, result),
        Psci::Action => return false,
        Psci::Other if guest_trng::is_trng(function) => {
            let call = Call::of(function, &registers.x);
            return guest_trng::answer_at_once(&monitor.entropy, registers, &call);
        }
        Psci::Other => registers.set_x(0, NOT_SUPPORTED_REGISTER),
    }
    true
}

/// The same for the Arm Architecture calls.
#[inline(never)]
fn answer_architecture_call(monitor: &Monitor, registers: &mut GuestRegisters, function: u32) -> bool {
    let result = match guest_architecture_call(&Call::of(function, &registers.x), monitor.firmware) {
        Some(ArchitectureCall::Answer(result)) => result,
        Some(ArchitectureCall::Firmware(_)) => return false,
        None => NOT_SUPPORTED_REGISTER,
    };
    registers.set_x(0, result);
    true
}

/// The same for calls of the vendor-specific hypervisor range.
fn answer_vendor_call(vm: &Vm, registers: &mut GuestRegisters, function: u32) -> bool {
    let protected = vm.config().protected;
    match (GuestCall::from_function(function), function) {
        (Some(GuestCall::VmName), _) => {
            registers.set_results([0, u64::from(vm.config().handle.0), call_bitmap(protected), 0]);
        }
        (Some(_), _) | (_, guest::MEM_SHARE | guest::MEM_UNSHARE | guest::MEM_RELINQUISH) if protected => return false,
        (_, guest::MMIO_GUARD_ENROLL | guest::MMIO_GUARD_MAP | guest::MMIO_GUARD_UNMAP) if protected => return false,
        (_, smccc::VENDOR_HYP_CALL_UID) => {
            registers.set_results(smccc::uuid_words(guest::KVM_UUID).map(u64::from));
        }
        (_, guest::FEATURES) => {
            let bitmap = if protected { guest::FEATURES_BITMAP } else { FEATURES_NON_PROTECTED };
            registers.set_results([u64::from(bitmap), 0, 0, 0]);
        }
        (_, guest::HYP_MEMINFO | guest::MMIO_GUARD_INFO) if protected => {
            let result = if let [_, 0, 0, 0, ..] = registers.x { PAGE_SIZE } else { INVALID_PARAMETER as u64 };
            registers.set_x(0, result);
        }
        _ => registers.set_x(0, NOT_SUPPORTED_REGISTER),
    }
    true
}

/// Does a call that [`answer_at_once`] left. The program counter is past the instruction.
pub(crate) fn handle<P: Platform>(
    monitor: &Monitor,
    platform: &mut P,
    vm: &Vm,
    claim: &mut Claim<'_>,
    immediate: u16,
) -> Outcome {
    let memory = vm.memory_of(claim.vcpu());
    let context = &mut claim.context;
    let Some(call) = Call::decode(immediate, &context.general.x) else {
        return answer(context, NOT_SUPPORTED_REGISTER);
    };
    if let Some(outcome) = guest_psci::handle(vm, context, &call) {
        return outcome;
    }
    if guest_trng::is_trng(call.function) {
        context.general.set_results(guest_trng::random(&monitor.entropy, platform, &call));
        return Outcome::Resume;
    }
    if let Some(ArchitectureCall::Firmware(arguments)) = guest_architecture_call(&call, monitor.firmware) {
        let [result, rest @ ..] = platform.firmware_call(call.function, arguments);
        let [second, third, fourth] = rest;
        context.general.set_results([guest_result(&call, result), second, third, fourth]);
        return Outcome::Resume;
    }
    if let Some(kind) = GuestCall::from_function(call.function) {
        return guest_memory_call::handle(monitor, platform, memory, context, kind, &call.arguments);
    }
    let ownership = &monitor.ownership;
    match call.function {
        guest::MMIO_GUARD_ENROLL => guest_device_guard::enroll(vm, context, &call),
        guest::MMIO_GUARD_MAP => guest_device_guard::map(platform, memory, context, &call),
        guest::MMIO_GUARD_UNMAP => guest_device_guard::unmap(platform, memory, context, &call),
        guest::MEM_SHARE => {
            kvm_memory_call(context, &call, Exit::Shared, |gfn| ownership.guest_share_host(platform, vm.memory(), gfn))
        }
        guest::MEM_UNSHARE => kvm_memory_call(context, &call, Exit::Unshared, |gfn| {
            ownership.guest_unshare_host(platform, vm.memory(), gfn)
        }),
        guest::MEM_RELINQUISH => kvm_memory_call(context, &call, Exit::Relinquished, |gfn| {
            ownership.guest_relinquish(platform, memory, gfn).map(|_| ())
        }),
        _ => answer(context, NOT_SUPPORTED_REGISTER),
    }
}

/// The bitmap of Freehold's own calls that VM_NAME returns.
fn call_bitmap(protected: bool) -> u64 {
    let calls = GuestCall::ALL.iter().filter(|call| protected || **call == GuestCall::VmName);
    calls.fold(0, |bitmap, &call| bitmap | 1 << ((call as u32 - GuestCall::VmName as u32) & 63))
}

/// Returns one result in x0; x1 to x17 are as they were.
pub(crate) fn answer(context: &mut VcpuContext, result: u64) -> Outcome {
    context.general.set_x(0, result);
    Outcome::Resume
}

/// A call of KVM's that concerns the page at the IPA in x1; x2 and x3 must be zero.
fn kvm_memory_call(
    context: &mut VcpuContext,
    call: &Call,
    exit: impl FnOnce(Ipa) -> Exit,
    transition: impl FnOnce(Gfn) -> Result<(), Error>,
) -> Outcome {
    let Some(ipa) = named_page(call) else {
        return answer(context, INVALID_PARAMETER as u64);
    };
    match transition(Gfn::containing(ipa)) {
        Ok(()) => {
            context.general.set_x(0, smccc::SUCCESS as u64);
            Outcome::Exit(exit(ipa))
        }
        Err(error) => refuse(context, ipa, error, INVALID_PARAMETER as u64),
    }
}

/// The page whose IPA a call has in x1, and nothing in x2 and x3.
pub(crate) fn named_page(call: &Call) -> Option<Ipa> {
    let [ipa, 0, 0, ..] = call.arguments else { return None };
    Some(Ipa::new(ipa)).filter(|ipa| ipa.is_aligned(PAGE_SIZE))
}

/// Answers a call that was refused with `result`. But where the host can mend why, it is asked to, and the guest makes
/// its call again: memory may be where none is yet, and pages for tables may be missing.
pub(crate) fn refuse(context: &mut VcpuContext, ipa: Ipa, refusal: Error, result: u64) -> Outcome {
    let outcome = match refusal {
        Error::NotMemory if ipa >= DEVICE_IPA_LIMIT => Outcome::Ask(Exit::MemoryFault { ipa, write: true }, result),
        Error::OutOfMemory => Outcome::Exit(Exit::TopUp),
        _ => return answer(context, result),
    };
    make_again(context);
    outcome
}

/// Has the guest make its call again, at once where this is the outcome.
pub(crate) fn make_again(context: &mut VcpuContext) -> Outcome {
    context.general.pc = context.general.pc.wrapping_sub(INSTRUCTION_SIZE);
    Outcome::Resume
}
