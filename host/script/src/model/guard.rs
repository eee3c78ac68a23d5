//! The MMIO guard: which frames a guest takes for devices'.

use super::life::Initialised;
use super::{Judged, Model};
use crate::expectation::{Outcome, Status};
use crate::guest_step::GuestFunction;
use abi::host::VmHandle;
use abi::run::ExitReason;
use abi::{Error, Gfn, Ipa, PAGE_SIZE};
use alloc::collections::BTreeSet;
use alloc::format;
use ownership_spec::{Frame, Specification};

use super::guest::DEVICE_LIMIT;
use super::life::Life;

/// A guest's notes about its devices.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Guard {
    /// Its accesses reach the host at marked frames only.
    pub is_enrolled: bool,
    /// Frames that it has marked and that have been vacant since.
    pub marks: BTreeSet<Gfn>,
}

impl Guard {
    /// True where an access at a vacant frame is kept from the host.
    pub fn hides(&self, gfn: Gfn) -> bool {
        self.is_enrolled && !self.marks.contains(&gfn)
    }
}

/// Forgets the marks of a VM's frames that are not vacant any more.
pub(super) fn forget_marks(vm: &mut Initialised, memory: &Specification) {
    let slot = vm.vm;
    vm.guard.marks.retain(|gfn| memory.frame(slot, *gfn) == Frame::Vacant);
}

impl Model {
    /// ENROLL, MAP and UNMAP of a protected guest's.
    pub(super) fn judge_guard_call(
        &self,
        handle: VmHandle,
        vm: &Initialised,
        function: GuestFunction,
        arguments: &[u64; 7],
        outcome: &Outcome,
    ) -> Judged {
        match self.guard_after(vm, function, arguments) {
            Err(error) => super::refused(error, outcome),
            Ok(_) if is_short_of_tables(outcome) => Ok(None),
            Ok(guard) if outcome.status == Status::Ok && outcome.notice.is_none() => {
                let mut next = self.clone();
                if let Some(Life::Initialised(vm)) = next.vms.get_mut(&handle) {
                    vm.guard = guard;
                }
                Ok(Some(next))
            }
            Ok(_) => Err(format!("ok is due, not {outcome}")),
        }
    }

    fn guard_after(&self, vm: &Initialised, function: GuestFunction, arguments: &[u64; 7]) -> Result<Guard, Error> {
        let mut guard = vm.guard.clone();
        if function == GuestFunction::GuardEnroll {
            let [0, 0, 0, ..] = *arguments else { return Err(Error::InvalidParameter) };
            guard.is_enrolled = true;
            return Ok(guard);
        }
        let gfn = marked_frame(arguments)?;
        let marks = function == GuestFunction::GuardMap;
        match self.specification().frame(vm.vm, gfn) {
            Frame::Vacant if marks => guard.marks.insert(gfn),
            Frame::Vacant => guard.marks.remove(&gfn).then_some(true).ok_or(Error::InvalidParameter)?,
            // A device that is there needs no mark, and has none.
            Frame::Device(_) => true,
            Frame::Memory(_) | Frame::LentOut(_) | Frame::Poisoned => return Err(Error::InvalidParameter),
        };
        Ok(guard)
    }
}

/// The frame that MAP and UNMAP are about.
fn marked_frame(arguments: &[u64; 7]) -> Result<Gfn, Error> {
    let [ipa, 0, 0, ..] = *arguments else { return Err(Error::InvalidParameter) };
    let ipa = Ipa::new(ipa);
    if ipa.is_aligned(PAGE_SIZE) && ipa < DEVICE_LIMIT {
        Ok(Gfn::containing(ipa))
    } else {
        Err(Error::InvalidParameter)
    }
}

/// Pages for tables are not the model's subject.
fn is_short_of_tables(outcome: &Outcome) -> bool {
    outcome.status == Status::Stopped && outcome.notice.is_some_and(|notice| notice.reason == ExitReason::TopUp)
}
