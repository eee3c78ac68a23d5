//! From a few bytes and the state that there is to a step of a script.
//!
//! Most bytes choose among what the state allows, so that a mutation leads to another call that is likely to succeed; and
//! a step depends on no bytes but its own.

mod guest;
mod help;
mod host;
mod names;

use abi::guest::GuestCall;
use abi::host::HostCall;
use call_script::{Access, Action, GuestAction, GuestFunction, GuestStep, Names, Places};

use super::case::Seed;
use super::model::{Life, Model};

/// What a step may be, and how often, of 256.
const KINDS: &[(u8, What)] = &[
    (6, What::Host(HostCall::HypShare)),
    (5, What::Host(HostCall::HypShareRestricted)),
    (6, What::Host(HostCall::HypUnshare)),
    (5, What::Host(HostCall::VmReserve)),
    (5, What::Host(HostCall::VmInit)),
    (5, What::Host(HostCall::VcpuInit)),
    (5, What::Host(HostCall::VcpuTopUp)),
    (16, What::Host(HostCall::VmDonate)),
    (10, What::Host(HostCall::VmLend)),
    (14, What::Host(HostCall::VmShare)),
    (9, What::Host(HostCall::VmUnshare)),
    (7, What::Host(HostCall::VmReturn)),
    (7, What::Host(HostCall::VmForceReclaim)),
    (5, What::Host(HostCall::VmTeardown)),
    (10, What::Host(HostCall::VmReclaim)),
    (5, What::Host(HostCall::VmFinalise)),
    (5, What::Host(HostCall::VmEndShare)),
    (6, What::Host(HostCall::VmGrantDevice)),
    (5, What::Host(HostCall::VmReclaimDevice)),
    (1, What::Host(HostCall::Version)),
    (1, What::Host(HostCall::MemoryInfo)),
    (1, What::Host(HostCall::InterruptInfo)),
    (1, What::Host(HostCall::VcpuGetRegister)),
    (1, What::Host(HostCall::VcpuSetRegister)),
    (2, What::Host(HostCall::VmSizes)),
    (2, What::Host(HostCall::VcpuRun)),
    (2, What::RawHostCall),
    (7, What::Guest(GuestFunction::MemShare)),
    (6, What::Guest(GuestFunction::MemUnshare)),
    (6, What::Guest(GuestFunction::MemRelinquish)),
    (8, What::Guest(GuestFunction::Own(GuestCall::MemLend))),
    (6, What::Guest(GuestFunction::Own(GuestCall::MemReturn))),
    (9, What::Guest(GuestFunction::Own(GuestCall::MemOffer))),
    (9, What::Guest(GuestFunction::Own(GuestCall::MemAccept))),
    (6, What::Guest(GuestFunction::Own(GuestCall::MemWithdraw))),
    (6, What::Guest(GuestFunction::Own(GuestCall::MemDrop))),
    (1, What::Guest(GuestFunction::Own(GuestCall::VmName))),
    (1, What::Guest(GuestFunction::Features)),
    (1, What::Guest(GuestFunction::HypMeminfo)),
    (2, What::RawGuestCall),
    (6, What::GuestRead),
    (5, What::GuestWrite),
    (2, What::GuestExecute),
    (3, What::Resume),
    (6, What::HostRead),
    (6, What::HostWrite),
    (2, What::HostExecute),
    (4, What::Frames),
    (1, What::Guest(GuestFunction::GuardInfo)),
    (1, What::Guest(GuestFunction::GuardEnroll)),
    (3, What::Guest(GuestFunction::GuardMap)),
    (2, What::Guest(GuestFunction::GuardUnmap)),
];

/// What a step is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Host(HostCall),
    RawHostCall,
    Guest(GuestFunction),
    RawGuestCall,
    GuestRead,
    GuestWrite,
    GuestExecute,
    Resume,
    HostRead,
    HostWrite,
    HostExecute,
    Frames,
}

/// The step that a byte chooses.
fn what(byte: u8) -> What {
    let mut left = u32::from(byte);
    for (weight, what) in KINDS {
        match left.checked_sub(u32::from(*weight)) {
            Some(rest) => left = rest,
            None => return *what,
        }
    }
    What::HostRead
}

/// What a seed says of who does the step, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Which CPU.
    pub cpu: u8,
    /// The step after this one, another CPU's, happens at this lock boundary of this one.
    pub boundary: Option<u32>,
}

/// Who does the step of a seed, and when.
pub fn timing(seed: &Seed) -> Timing {
    let byte = seed[1];
    let boundary = (byte & 0b1100 == 0b1100).then_some(1 + u32::from(byte >> 4 & 0b11));
    Timing { cpu: byte & 0b11, boundary }
}

/// Makes steps.
pub struct Generator<'a> {
    /// The state.
    pub model: &'a Model,
    /// Which VM has which name.
    pub names: &'a Names,
    /// Where things are.
    pub places: &'a Places,
    /// From what.
    pub seed: Seed,
}

impl Generator<'_> {
    /// The step of the seed.
    pub fn action(&self) -> Action {
        let action = self.wish();
        match &action {
            // A guest that is stuck does nothing else; most often it is helped.
            Action::Guest(GuestStep { vm, .. }) if self.seed[7] & 7 != 0 => self.help(*vm).unwrap_or(action),
            Action::Host(step) if self.seed[7] & 7 != 0 => self.helped(step).unwrap_or(action),
            _ => action,
        }
    }

    /// The step of the seed; where nothing of that kind can be done, most often one that leads there.
    fn wish(&self) -> Action {
        let mut what = what(self.seed[0]);
        if self.model.has_few_frames && self.seed[7] & 7 == 7 {
            return Action::Frames(None);
        }
        if !self.is_hostile() && self.seed[7] & 0xf != 0xf {
            // One step may be needed for another; the chain is not longer than this.
            for _ in 0..4 {
                what = self.instead(what);
            }
        }
        match what {
            What::Host(call) => self.host_call(call),
            What::RawHostCall => {
                let base = [0xc600_0100_u64, 0x8600_ff00, 0xc600_0000, 0x4600_0100][self.select(2) % 4];
                Action::RawCall(base + self.number(3) % 0x40, [self.hostile(4), self.hostile(5), 1, 0, 0, 0, 0])
            }
            What::Guest(function) => self.guest_call(function),
            What::RawGuestCall => self.raw_guest_call(),
            What::GuestRead => self.guest_access(GuestAction::Read),
            What::GuestWrite => self.guest_access(|ipa| GuestAction::Write(ipa, 1 + self.number(7))),
            What::GuestExecute => self.guest_access(GuestAction::Execute),
            What::Resume => self.guest(self.vm(2, |vm| vm.life == Life::Live), GuestAction::Resume),
            What::HostRead => self.host_access(Access::Read),
            What::HostWrite => self.host_access(Access::Write(0x100 + self.number(7))),
            What::HostExecute => self.host_access(Access::Execute),
            What::Frames => {
                let count = self.seed[2] & 7;
                Action::Frames((count < 4 && !self.model.has_few_frames).then_some(count.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_chooses_a_step() {
        let total: u32 = KINDS.iter().map(|(weight, _)| u32::from(*weight)).sum();
        assert!((240..=256).contains(&total), "{total}");
        let all: Vec<What> = (0..=255).map(what).collect();
        for (_, kind) in KINDS {
            assert!(all.contains(kind), "{kind:?}");
        }
    }
}
