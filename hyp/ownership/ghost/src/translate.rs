//! The implementation's words in the specification's.

use ownership::offer::Offer;
use ownership::{Call, VmSlot};
use ownership_spec as spec;
use ownership_spec::Vm;

/// A VM's slot.
pub(crate) const fn vm(slot: VmSlot) -> Vm {
    Vm(slot.number() as u8)
}

/// What a borrower may do.
pub const fn rights(rights: ownership::Rights) -> spec::Rights {
    spec::Rights { read: true, write: rights.write, execute: rights.execute }
}

/// An offer, without its number and its page.
pub(crate) fn offer(offer: &Offer) -> spec::Offer {
    let accepted = offer.accepted.map(|(slot, gfn)| (vm(slot), gfn));
    spec::Offer { gfn: offer.gfn, rights: rights(offer.rights), receiver: offer.receiver, accepted }
}

macro_rules! operand {
    (slot, $value:expr) => {
        vm($value)
    };
    (owner, $value:expr) => {
        vm($value)
    };
    (borrower, $value:expr) => {
        vm($value)
    };
    (rights, $value:expr) => {
        rights($value)
    };
    ($other:ident, $value:expr) => {
        $value
    };
}

macro_rules! calls {
    ($($name:ident { $($from:ident => $to:ident),* },)*) => {
        /// A transition.
        pub fn call(call: &Call) -> spec::Call {
            match *call {
                $(Call::$name { $($from),* } => spec::Call::$name { $($to: operand!($from, $from)),* },)*
            }
        }
    };
}

calls! {
    HostShareHyp { first => first, count => count, restricted => restricted },
    HostUnshareHyp { first => first, count => count },
    HostDonateHyp { first => first, count => count },
    HypDonateHost { first => first, count => count },
    HypPin { page => page },
    HypUnpin { page => page },
    HostDonateGuest { slot => vm, first => first, gfn => gfn, count => count },
    HostLendGuest { slot => vm, first => first, gfn => gfn, count => count },
    HostShareGuest {
        slot => vm, first => first, gfn => gfn, count => count, rights => rights, restricted => restricted
    },
    HostUnshareGuest { slot => vm, gfn => gfn, count => count },
    HostReturnGuest { slot => vm, first => first, count => count },
    GuestShareHost { slot => vm, gfn => gfn },
    GuestUnshareHost { slot => vm, gfn => gfn },
    GuestLendHost { slot => vm, gfn => gfn },
    GuestReturn { slot => vm, gfn => gfn },
    GuestRelinquish { slot => vm, gfn => gfn },
    GuestOffer { slot => vm, gfn => gfn, receiver => receiver, rights => rights },
    GuestAccept { slot => vm, owner => owner, number => number, gfn => gfn, rights => rights },
    GuestWithdraw { slot => vm, number => number },
    GuestDrop { slot => vm, owner => owner, number => number },
    HostEndShare { owner => owner, borrower => borrower, number => number },
    Reclaim { slot => vm, first => first, count => count },
    ForceReclaim { slot => vm, first => first, count => count },
    HostGrantDevice { slot => vm, first => first, gfn => gfn, count => count },
    ReclaimDevice { slot => vm, first => first, count => count },
    HostDonateDeviceHyp { first => first, count => count },
    HypDonateDeviceHost { first => first, count => count },
}
