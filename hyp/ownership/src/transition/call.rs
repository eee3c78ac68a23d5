//! Transitions as data: what a witness is told.

use crate::guest_memory::Rights;
use crate::state::VmSlot;
use abi::host::VmHandle;
use abi::{Gfn, Pfn};

macro_rules! calls {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty),* },)*) => {
        /// A transition and its arguments. Guests are named by slot; the fields mean what the arguments of the method of
        /// [`Ownership`](crate::Ownership) do that has the same name.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs, reason = "the methods of the same names say what their arguments are")]
        pub enum Call {
            $($(#[$meta])* $name { $($field: $type),* },)*
        }
    };
}

calls! {
    HostShareHyp { first: Pfn, count: u64, restricted: bool },
    HostUnshareHyp { first: Pfn, count: u64 },
    HostDonateHyp { first: Pfn, count: u64 },
    HypDonateHost { first: Pfn, count: u64 },
    HypPin { page: Pfn },
    HypUnpin { page: Pfn },
    HostDonateGuest { slot: VmSlot, first: Pfn, gfn: Gfn, count: u64 },
    HostLendGuest { slot: VmSlot, first: Pfn, gfn: Gfn, count: u64 },
    HostShareGuest { slot: VmSlot, first: Pfn, gfn: Gfn, count: u64, rights: Rights, restricted: bool },
    HostUnshareGuest { slot: VmSlot, gfn: Gfn, count: u64 },
    HostReturnGuest { slot: VmSlot, first: Pfn, count: u64 },
    GuestShareHost { slot: VmSlot, gfn: Gfn },
    GuestUnshareHost { slot: VmSlot, gfn: Gfn },
    GuestLendHost { slot: VmSlot, gfn: Gfn },
    GuestReturn { slot: VmSlot, gfn: Gfn },
    GuestRelinquish { slot: VmSlot, gfn: Gfn },
    GuestOffer { slot: VmSlot, gfn: Gfn, receiver: VmHandle, rights: Rights },
    GuestAccept { slot: VmSlot, owner: VmSlot, number: u64, gfn: Gfn, rights: Rights },
    GuestWithdraw { slot: VmSlot, number: u64 },
    GuestDrop { slot: VmSlot, owner: VmSlot, number: u64 },
    HostEndShare { owner: VmSlot, borrower: VmSlot, number: u64 },
    Reclaim { slot: VmSlot, first: Pfn, count: u64 },
    ForceReclaim { slot: VmSlot, first: Pfn, count: u64 },
    HostGrantDevice { slot: VmSlot, first: Pfn, gfn: Gfn, count: u64 },
    ReclaimDevice { slot: VmSlot, first: Pfn, count: u64 },
    HostDonateDeviceHyp { first: Pfn, count: u64 },
    HypDonateDeviceHost { first: Pfn, count: u64 },
}
