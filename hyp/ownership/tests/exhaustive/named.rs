//! What a call is about.

use abi::{Gfn, Pfn};
use ownership_spec::{Call, Vm};

/// What a call names.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Pages: the first and how many.
    pub pages: Option<(Pfn, u64)>,
    /// Frames of a guest's.
    pub frames: Option<(Vm, Gfn, u64)>,
    /// An offer by its owner and number.
    pub offer: Option<(Vm, u64)>,
    /// VMs.
    pub vms: Vec<Vm>,
}

impl Named {
    /// What `call` names.
    pub fn of(call: &Call) -> Self {
        let none = Self::default();
        match *call {
            Call::Create { vm, .. } | Call::StartTeardown { vm } | Call::Finalise { vm } => {
                Self { vms: vec![vm], ..none }
            }
            Call::HostShareHyp { first, count, .. }
            | Call::HostUnshareHyp { first, count }
            | Call::HostDonateHyp { first, count }
            | Call::HypDonateHost { first, count }
            | Call::HostDonateDeviceHyp { first, count }
            | Call::HypDonateDeviceHost { first, count } => Self { pages: Some((first, count)), ..none },
            Call::HypPin { page } | Call::HypUnpin { page } => Self { pages: Some((page, 1)), ..none },
            Call::HostReturnGuest { vm, first, count }
            | Call::Reclaim { vm, first, count }
            | Call::ForceReclaim { vm, first, count }
            | Call::ReclaimDevice { vm, first, count } => Self { pages: Some((first, count)), vms: vec![vm], ..none },
            Call::HostDonateGuest { vm, first, gfn, count }
            | Call::HostLendGuest { vm, first, gfn, count }
            | Call::HostShareGuest { vm, first, gfn, count, .. }
            | Call::HostGrantDevice { vm, first, gfn, count } => {
                Self { pages: Some((first, count)), frames: Some((vm, gfn, count)), vms: vec![vm], ..none }
            }
            Call::HostUnshareGuest { vm, gfn, count } => Self { frames: Some((vm, gfn, count)), vms: vec![vm], ..none },
            Call::GuestShareHost { vm, gfn }
            | Call::GuestUnshareHost { vm, gfn }
            | Call::GuestLendHost { vm, gfn }
            | Call::GuestReturn { vm, gfn }
            | Call::GuestRelinquish { vm, gfn }
            | Call::GuestOffer { vm, gfn, .. } => Self { frames: Some((vm, gfn, 1)), vms: vec![vm], ..none },
            Call::GuestAccept { vm, owner, number, gfn, .. } => {
                Self { frames: Some((vm, gfn, 1)), offer: Some((owner, number)), vms: vec![vm, owner], ..none }
            }
            Call::GuestWithdraw { vm, number } => Self { offer: Some((vm, number)), vms: vec![vm], ..none },
            Call::GuestDrop { vm, owner, number } | Call::HostEndShare { owner, borrower: vm, number } => {
                Self { offer: Some((owner, number)), vms: vec![vm, owner], ..none }
            }
        }
    }

    /// True where the call names several pages or frames.
    pub fn is_range(&self) -> bool {
        let counts = [self.pages.map(|(_, count)| count), self.frames.map(|(_, _, count)| count)];
        counts.into_iter().flatten().any(|count| count > 1)
    }
}
