//! The MMIO guard as the model has it: which frames a guest takes for devices'.

use std::collections::BTreeSet;

use abi::{Error, Gfn, Ipa, PAGE_SIZE, guest};
use call_script::{GuestRequest, Status};
use memsim::Frozen;
use ownership::{GuestMemory, Presence};
use ownership_spec::{Frame, Specification};

use super::guest_calls::DEVICE_LIMIT;
use super::model::VmModel;

/// A guest's notes about its devices.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Its accesses reach the host at marked frames only.
    pub is_enrolled: bool,
    /// Frames that it has marked, and that have been vacant since.
    pub marks: BTreeSet<Gfn>,
    /// Frames that a call was about, marked since or not.
    named: BTreeSet<Gfn>,
}

/// True for a call that changes what a guest takes for devices.
pub fn is_guard_call(request: &GuestRequest) -> bool {
    let functions = [guest::MMIO_GUARD_ENROLL, guest::MMIO_GUARD_MAP, guest::MMIO_GUARD_UNMAP];
    matches!(request, GuestRequest::Call { function, .. } if functions.iter().any(|guards| u64::from(*guards) == *function))
}

/// The frame that MAP and UNMAP are about.
pub fn marked_frame(arguments: &[u64; 7]) -> Result<Gfn, Error> {
    match *arguments {
        [ipa, 0, 0, ..] if ipa.is_multiple_of(PAGE_SIZE) && ipa < DEVICE_LIMIT => Ok(Gfn::containing(Ipa::new(ipa))),
        _ => Err(Error::InvalidParameter),
    }
}

impl VmModel {
    /// What the guest takes for devices after one of the guard's calls.
    ///
    /// # Errors
    /// The refusal.
    pub fn guard_after(&self, spec: &Specification, function: u32, arguments: &[u64; 7]) -> Result<Guard, Error> {
        let mut guard = self.guard.clone();
        if function == guest::MMIO_GUARD_ENROLL {
            guard.is_enrolled = true;
            return if arguments[..3] == [0; 3] { Ok(guard) } else { Err(Error::InvalidParameter) };
        }
        let gfn = marked_frame(arguments)?;
        let is_due = match (spec.frame(self.vm(), gfn), function) {
            (Frame::Vacant, guest::MMIO_GUARD_MAP) => guard.marks.insert(gfn) || self.guard.marks.contains(&gfn),
            (Frame::Vacant, _) => guard.marks.remove(&gfn),
            (Frame::Device(_), _) => true,
            _ => false,
        };
        if is_due { Ok(guard) } else { Err(Error::InvalidParameter) }
    }

    /// Forgets the marks of frames that are not vacant any more.
    pub fn forget_marks(&mut self, spec: &Specification) {
        let vm = self.vm();
        self.guard.marks.retain(|gfn| spec.frame(vm, *gfn) == Frame::Vacant);
    }

    /// True where an access at a vacant frame is kept from the host.
    pub fn hides(&self, gfn: Gfn) -> bool {
        self.guard.is_enrolled && !self.guard.marks.contains(&gfn)
    }

    /// Takes note of what came of one of the guard's calls. `foreseen`: nothing else happened meanwhile; otherwise it is
    /// read from the guest's memory.
    pub fn note_guard_call(
        &mut self,
        spec: &Specification,
        request: &GuestRequest,
        status: Status,
        (frozen, memory): (&Frozen<'_>, &GuestMemory),
        foreseen: bool,
    ) {
        let GuestRequest::Call { function, arguments } = request else { return };
        self.guard.named.extend(marked_frame(arguments).ok());
        let after = self.guard_after(spec, *function as u32, arguments);
        if let Ok(guard) = after
            && foreseen
        {
            if status == Status::Ok {
                self.guard = guard;
            }
        } else if let Ok(gfn) = marked_frame(arguments)
            && !foreseen
        {
            self.guard.is_enrolled = memory.guards_devices();
            if is_marked(frozen, memory, gfn) {
                self.guard.marks.insert(gfn)
            } else {
                self.guard.marks.remove(&gfn)
            };
        } else if !foreseen {
            self.guard.is_enrolled = memory.guards_devices();
        }
    }

    /// What of the guard is other in the guest's memory than here.
    pub fn guard_difference(&self, frozen: &Frozen<'_>, memory: &GuestMemory) -> Option<String> {
        if memory.guards_devices() != self.guard.is_enrolled {
            return Some(format!("the guest is enrolled: {}, not {}", memory.guards_devices(), self.guard.is_enrolled));
        }
        let is_due = |gfn: &Gfn| self.guard.marks.contains(gfn);
        let wrong = self.guard.named.iter().find(|gfn| is_marked(frozen, memory, **gfn) != is_due(gfn))?;
        Some(format!("frame {wrong} is marked: {}, not {}", !is_due(wrong), is_due(wrong)))
    }
}

fn is_marked(frozen: &Frozen<'_>, memory: &GuestMemory, gfn: Gfn) -> bool {
    let presence = gfn.checked_address().map(|ipa| memory.presence(frozen, ipa));
    matches!(presence, Some(Ok(Presence::AwaitsDevice)))
}
