//! What each action of a guest's should come to, and each access of the host's.

use abi::guest::{self, GuestCall};
use abi::host::VmHandle;
use abi::run::ExitReason;
use abi::{Error, Gfn, Ipa, PAGE_SIZE, Pfn, PhysAddr, smccc};
use call_script::{Access, GuestRequest, Status};
use ownership_spec::{Call, Frame, Owner, Rights, Vm};

use super::host_calls::handle_of;
use super::model::{Model, VmModel};

/// Guests' addresses below this one are devices.
pub const DEVICE_LIMIT: u64 = 1 << 30;
/// KVM_UUID as the call returns it, in x0 to x3.
const UUID: [u32; 4] = smccc::uuid_words(guest::KVM_UUID);

/// What should come of an action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// How it ends.
    pub status: Status,
    /// Why the guest exits meanwhile, and with what in the run page: the address, `data` and `peer`.
    pub exit: Option<(ExitReason, u64, u64, u64)>,
    /// x1, where that is known.
    pub first: Option<u64>,
}

impl Expected {
    const fn of(status: Status) -> Self {
        Self { status, exit: None, first: None }
    }

    const fn stopped(reason: ExitReason, ipa: u64) -> Self {
        Self { status: Status::Stopped, exit: Some((reason, ipa, 0, 0)), first: None }
    }

    /// A store that the host is to make.
    fn device_write(ipa: Ipa, value: u64) -> Self {
        Self::done(ExitReason::Mmio, ipa.raw(), Access::word(value), 0)
    }

    fn done(reason: ExitReason, ipa: u64, data: u64, peer: u64) -> Self {
        Self { status: Status::Ok, exit: Some((reason, ipa, data, peer)), first: None }
    }
}

/// True where `rights` allow an access.
fn allows(rights: Rights, access: Access) -> bool {
    match access {
        Access::Read => rights.read,
        Access::Write(_) => rights.write,
        Access::Execute => rights.execute,
    }
}

impl Model {
    /// What should come of an access by the host.
    pub fn host_access(&self, access: Access, address: PhysAddr) -> Status {
        let mut rights = self.spec.access(Owner::Host, Pfn::containing(address)).into_iter();
        if rights.any(|(_, rights)| allows(rights, access)) { Status::Ok } else { Status::Abort }
    }

    /// What should come of an action of a vCPU that may run, of a VM that lives; `None` where that is not foreseen.
    pub fn guest_action(&self, handle: VmHandle, request: &GuestRequest) -> Option<Expected> {
        let vm = self.vm(handle)?;
        match request {
            GuestRequest::Call { function, arguments } => self.guest_call(handle, vm, *function, arguments),
            GuestRequest::Access { access, ipa } => Some(self.guest_access(vm, *access, *ipa)),
            GuestRequest::Resume => None,
        }
    }

    /// What a guest may do at a frame.
    fn rights_at(&self, vm: Vm, gfn: Gfn, pfn: Pfn) -> Rights {
        let rights = self.spec.access(Owner::Guest(vm), pfn).into_iter().find(|(at, _)| *at == Some(gfn));
        rights.map_or(Rights::NONE, |(_, rights)| rights)
    }

    fn guest_access(&self, vm: &VmModel, access: Access, ipa: Ipa) -> Expected {
        let (gfn, page) = (Gfn::containing(ipa), ipa.align_down(PAGE_SIZE).raw());
        if ipa.raw() >> vm.ipa_bits != 0 {
            return Expected::of(Status::Abort);
        }
        match self.spec.frame(vm.vm(), gfn) {
            Frame::Memory(pfn) | Frame::Device(pfn) => {
                if allows(self.rights_at(vm.vm(), gfn, pfn), access) {
                    return Expected::of(Status::Ok);
                }
                match access {
                    // What the guest may only read is a matter for the host where it is written.
                    Access::Write(_) if !vm.protected && ipa.raw() >= DEVICE_LIMIT => {
                        Expected::stopped(ExitReason::MemoryFault, page)
                    }
                    Access::Write(value) if !vm.protected => Expected::device_write(ipa, value),
                    _ => Expected::of(Status::Abort),
                }
            }
            Frame::LentOut(_) => Expected::of(Status::Abort),
            Frame::Poisoned => Expected::stopped(ExitReason::Poisoned, page),
            Frame::Vacant if ipa.raw() >= DEVICE_LIMIT => Expected::stopped(ExitReason::MemoryFault, page),
            Frame::Vacant if vm.hides(gfn) => Expected::of(Status::Abort),
            Frame::Vacant => match access {
                Access::Execute => Expected::of(Status::Abort),
                Access::Read => {
                    Expected { status: Status::Ok, exit: Some((ExitReason::Mmio, ipa.raw(), 0, 0)), first: None }
                }
                Access::Write(value) => Expected::device_write(ipa, value),
            },
        }
    }

    fn guest_call(&self, handle: VmHandle, vm: &VmModel, function: u64, arguments: &[u64; 7]) -> Option<Expected> {
        let refused = |error| Some(Expected::of(Status::Error(error)));
        let number = match u32::try_from(function) {
            Ok(number) if smccc::is_fast(number) => number,
            _ => return refused(Error::NotSupported),
        };
        if let Some(call) = GuestCall::from_function(number) {
            return Some(match call {
                GuestCall::VmName => Expected { first: Some(handle.0.into()), ..Expected::of(Status::Ok) },
                _ if !vm.protected => Expected::of(Status::Error(Error::NotSupported)),
                _ => self.own_call(vm, call, arguments),
            });
        }
        let protected = vm.protected;
        match number {
            smccc::VENDOR_HYP_CALL_UID => {
                let first = Some(UUID[1].into());
                Some(Expected { first, ..Expected::of(Status::Value(UUID[0].into())) })
            }
            guest::FEATURES => {
                let bitmap = if protected { guest::FEATURES_BITMAP } else { 1 };
                Some(Expected::of(Status::Value(bitmap.into())))
            }
            guest::HYP_MEMINFO | guest::MMIO_GUARD_INFO if protected => match arguments {
                [0, 0, 0, ..] => Some(Expected::of(Status::Value(PAGE_SIZE))),
                _ => refused(Error::InvalidParameter),
            },
            guest::MEM_SHARE | guest::MEM_UNSHARE | guest::MEM_RELINQUISH if protected => {
                Some(self.kvm_call(vm.vm(), number, arguments))
            }
            guest::MMIO_GUARD_ENROLL | guest::MMIO_GUARD_MAP | guest::MMIO_GUARD_UNMAP if protected => {
                Some(match vm.guard_after(&self.spec, number, arguments) {
                    Ok(_) => Expected::of(Status::Ok),
                    Err(error) => Expected::of(Status::Error(error)),
                })
            }
            // PSCI, the architecture's, and the firmware's.
            _ if number & 0x3f00_0000 != 0x0600_0000 => None,
            _ => refused(Error::NotSupported),
        }
    }

    /// A call that a refusal ends, unless the host can mend why.
    fn outcome(&self, call: &Call, ipa: u64, done: Expected) -> Expected {
        match self.spec.apply(call) {
            Ok(_) => done,
            Err(Error::NotMemory) if ipa >= DEVICE_LIMIT => {
                Expected { exit: Some((ExitReason::MemoryFault, ipa, 0, 0)), ..Expected::of(Status::Stopped) }
            }
            Err(error) => Expected::of(Status::Error(error)),
        }
    }

    fn kvm_call(&self, vm: Vm, function: u32, arguments: &[u64; 7]) -> Expected {
        let [ipa, second, third, ..] = *arguments;
        let (gfn, aligned) = (Gfn::containing(Ipa::new(ipa)), ipa.is_multiple_of(PAGE_SIZE));
        if second != 0 || third != 0 || !aligned {
            return Expected::of(Status::Error(Error::InvalidParameter));
        }
        let (call, reason) = match function {
            guest::MEM_SHARE => (Call::GuestShareHost { vm, gfn }, ExitReason::Shared),
            guest::MEM_UNSHARE => (Call::GuestUnshareHost { vm, gfn }, ExitReason::Unshared),
            _ => (Call::GuestRelinquish { vm, gfn }, ExitReason::Relinquished),
        };
        let expected = self.outcome(&call, ipa, Expected::done(reason, ipa, 0, 0));
        match expected.status {
            Status::Error(_) => Expected::of(Status::Error(Error::InvalidParameter)),
            _ => expected,
        }
    }

    fn own_call(&self, vm: &VmModel, call: GuestCall, arguments: &[u64; 7]) -> Expected {
        match self.decode_own_call(vm.vm(), call, arguments) {
            Ok((transition, ipa, done)) => self.outcome(&transition, ipa, done),
            Err(error) => Expected::of(Status::Error(error)),
        }
    }

    /// The transition that a call asks for, the address that it is about, and what comes of it if it is done.
    fn decode_own_call(&self, vm: Vm, call: GuestCall, arguments: &[u64; 7]) -> Result<(Call, u64, Expected), Error> {
        let [x1, x2, x3, x4, ..] = *arguments;
        let frame = |ipa: u64| {
            if ipa.is_multiple_of(PAGE_SIZE) {
                Ok(Gfn::containing(Ipa::new(ipa)))
            } else {
                Err(Error::InvalidParameter)
            }
        };
        let rights = |bits: u64| match bits {
            bits if bits & 1 == 0 || bits & !7 != 0 => Err(Error::InvalidParameter),
            bits => Ok(Rights { read: true, write: bits & 2 != 0, execute: bits & 4 != 0 }),
        };
        let named = |bits: u64| u32::try_from(bits).map(VmHandle).map_err(|_| Error::VmGone);
        Ok(match call {
            GuestCall::VmName => return Err(Error::NotSupported),
            GuestCall::MemLend => {
                (Call::GuestLendHost { vm, gfn: frame(x1)? }, x1, Expected::done(ExitReason::Lent, x1, 0, 0))
            }
            GuestCall::MemReturn => {
                (Call::GuestReturn { vm, gfn: frame(x1)? }, x1, Expected::done(ExitReason::Returned, x1, 0, 0))
            }
            GuestCall::MemOffer => {
                let (gfn, receiver, rights) = (frame(x1)?, named(x2)?, rights(x3)?);
                let number = self.spec.guest(vm).map_or(0, |guest| guest.last_number + 1);
                let done = Expected { first: Some(number), ..Expected::done(ExitReason::Offered, x1, number, x2) };
                (Call::GuestOffer { vm, gfn, receiver, rights }, x1, done)
            }
            GuestCall::MemAccept => {
                let (gfn, rights) = (frame(x3)?, rights(x4)?);
                let owner = self.initialised(named(x1)?)?.vm();
                let accept = Call::GuestAccept { vm, owner, number: x2, gfn, rights };
                (accept, x3, Expected::done(ExitReason::Accepted, x3, x2, x1))
            }
            GuestCall::MemWithdraw => {
                (Call::GuestWithdraw { vm, number: x1 }, x1, Expected::done(ExitReason::Ended, 0, x1, 0))
            }
            GuestCall::MemDrop => {
                let owner = self.initialised(named(x1)?)?.vm();
                (Call::GuestDrop { vm, owner, number: x2 }, x1, Expected::done(ExitReason::Ended, 0, x2, x1))
            }
        })
    }

    /// The VMs, by handle, that an action of a guest's uses beside its own.
    pub fn others_used(&self, vm: &VmModel, request: &GuestRequest) -> Option<u64> {
        let GuestRequest::Call { function, arguments } = request else { return None };
        let call = u32::try_from(*function).ok().and_then(GuestCall::from_function)?;
        match call {
            GuestCall::MemAccept | GuestCall::MemDrop => {
                self.initialised(handle_of(arguments[0])).ok().map(|_| arguments[0])
            }
            GuestCall::MemWithdraw => {
                let guest = self.spec.guest(vm.vm()).ok()?;
                let (borrower, _) = guest.offers.get(&arguments[0])?.accepted?;
                self.in_slot(borrower).map(|(handle, _)| handle)
            }
            _ => None,
        }
    }
}
