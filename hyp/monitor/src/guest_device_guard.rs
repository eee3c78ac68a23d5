//! The MMIO guard: a protected guest says where it takes devices to be, so that the host cannot make it hand over
//! elsewhere what it means for memory. The numbers are those of Android's pKVM.

use crate::guest_call::{answer, named_page, refuse};
use crate::guest_exit::Outcome;
use crate::mmio::DEVICE_IPA_LIMIT;
use crate::platform::Platform;
use crate::registers::VcpuContext;
use crate::smccc::Call;
use crate::vm::Vm;
use abi::smccc::{INVALID_PARAMETER, SUCCESS};
use abi::{Error, Gfn, Ipa};
use ownership::GuestAccount;

/// MMIO_GUARD_ENROLL.
pub(crate) fn enroll(vm: &Vm, context: &mut VcpuContext, call: &Call) -> Outcome {
    let [0, 0, 0, ..] = call.arguments else { return answer(context, INVALID_PARAMETER as u64) };
    vm.memory().lock().guard_devices();
    answer(context, SUCCESS as u64)
}

/// MMIO_GUARD_MAP. Where tables are missing, the host is asked for pages, and the guest makes its call again.
pub(crate) fn map<P: Platform>(
    platform: &mut P,
    memory: GuestAccount<'_>,
    context: &mut VcpuContext,
    call: &Call,
) -> Outcome {
    let Some(ipa) = device_page(call) else { return answer(context, INVALID_PARAMETER as u64) };
    let marked = memory.lock().mark_device(platform, Gfn::containing(ipa));
    report(context, ipa, marked)
}

/// MMIO_GUARD_UNMAP.
pub(crate) fn unmap<P: Platform>(
    platform: &mut P,
    memory: GuestAccount<'_>,
    context: &mut VcpuContext,
    call: &Call,
) -> Outcome {
    let Some(ipa) = device_page(call) else { return answer(context, INVALID_PARAMETER as u64) };
    let unmarked = memory.lock().unmark_device(platform, Gfn::containing(ipa));
    report(context, ipa, unmarked)
}

/// The page that a call names, where devices may be.
fn device_page(call: &Call) -> Option<Ipa> {
    named_page(call).filter(|ipa| *ipa < DEVICE_IPA_LIMIT)
}

fn report(context: &mut VcpuContext, ipa: Ipa, result: Result<(), Error>) -> Outcome {
    match result {
        Ok(()) => answer(context, SUCCESS as u64),
        Err(error) => refuse(context, ipa, error, INVALID_PARAMETER as u64),
    }
}
