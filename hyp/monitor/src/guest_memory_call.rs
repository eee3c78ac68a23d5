//! Freehold's own calls of a protected guest: loans between it and the host, and shares with other guests.

use crate::exit::Exit;
use crate::guest_call::refuse;
use crate::guest_exit::Outcome;
use crate::monitor::Monitor;
use crate::platform::Platform;
use crate::registers::VcpuContext;
use crate::vm::Vm;
use crate::vm_table::VmReference;
use abi::guest::GuestCall;
use abi::host::VmHandle;
use abi::{Error, Gfn, Ipa, PAGE_SIZE};
use ownership::{GuestAccount, Rights};

/// What a call that succeeds tells guest and host.
struct Done {
    /// x1.
    result: u64,
    exit: Exit,
}

/// Answers a call. The program counter is past the instruction.
pub(crate) fn handle<P: Platform>(
    monitor: &Monitor,
    platform: &mut P,
    memory: GuestAccount<'_>,
    context: &mut VcpuContext,
    call: GuestCall,
    arguments: &[u64; 7],
) -> Outcome {
    let [x1, _, x3, ..] = *arguments;
    let place = Ipa::new(if call == GuestCall::MemAccept { x3 } else { x1 });
    match make(monitor, platform, memory, call, arguments) {
        Ok(Done { result, exit }) => {
            context.general.set_results([0, result, 0, 0]);
            Outcome::Exit(exit)
        }
        Err(error) => refuse(context, place, error, error.to_register()),
    }
}

fn make<P: Platform>(
    monitor: &Monitor,
    platform: &mut P,
    memory: GuestAccount<'_>,
    call: GuestCall,
    arguments: &[u64; 7],
) -> Result<Done, Error> {
    let (ownership, guest) = (&monitor.ownership, memory.guest());
    let [x1, x2, x3, x4, ..] = *arguments;
    let done = |exit| Ok(Done { result: 0, exit });
    match call {
        GuestCall::VmName => Err(Error::NotSupported),
        GuestCall::MemLend => {
            let (ipa, gfn) = page(x1)?;
            ownership.guest_lend_host(platform, memory, gfn)?;
            done(Exit::Lent(ipa))
        }
        GuestCall::MemReturn => {
            let (ipa, gfn) = page(x1)?;
            ownership.guest_return(platform, memory, gfn)?;
            done(Exit::Returned(ipa))
        }
        GuestCall::MemOffer => {
            let ((ipa, gfn), receiver, rights) = (page(x1)?, handle_of(x2)?, rights(x3)?);
            let number = ownership.guest_offer(platform, guest, gfn, receiver, rights)?;
            Ok(Done { result: number, exit: Exit::Offered { ipa, number, receiver } })
        }
        GuestCall::MemAccept => {
            let ((ipa, gfn), number, rights) = (page(x3)?, x2, rights(x4)?);
            let (owner, name) = other(monitor, x1)?;
            ownership.guest_accept(platform, memory, owner.memory(), number, gfn, rights)?;
            done(Exit::Accepted { ipa, number, owner: name })
        }
        GuestCall::MemWithdraw => {
            let borrower = ownership.acceptor(guest, x1).and_then(|slot| monitor.vms.in_slot(slot));
            ownership.guest_withdraw(platform, guest, borrower.as_deref().map(Vm::memory), x1)?;
            done(Exit::Ended { number: x1, owner: None })
        }
        GuestCall::MemDrop => {
            let (owner, name) = other(monitor, x1)?;
            ownership.guest_drop(platform, guest, owner.memory(), x2)?;
            done(Exit::Ended { number: x2, owner: Some(name) })
        }
    }
}

/// The page at an IPA, which names its first byte.
fn page(ipa: u64) -> Result<(Ipa, Gfn), Error> {
    let ipa = Ipa::new(ipa);
    if ipa.is_aligned(PAGE_SIZE) { Ok((ipa, Gfn::containing(ipa))) } else { Err(Error::InvalidParameter) }
}

fn rights(bits: u64) -> Result<Rights, Error> {
    Rights::from_bits(bits).ok_or(Error::InvalidParameter)
}

/// A VM's handle. A number that does not fit names no VM.
fn handle_of(raw: u64) -> Result<VmHandle, Error> {
    u32::try_from(raw).map(VmHandle).map_err(|_| Error::VmGone)
}

/// Another VM by its handle.
fn other(monitor: &Monitor, raw: u64) -> Result<(VmReference<'_>, VmHandle), Error> {
    let name = handle_of(raw)?;
    Ok((monitor.vms.initialised(name)?, name))
}
