//! Calls as data.

use crate::guest::Vm;
use crate::operand::{Operand, Substitute};
use crate::page::Rights;
use crate::state::Specification;
use abi::host::VmHandle;
use abi::{Error, Gfn, Pfn};
use core::fmt;

/// What a call returns beside the new state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Output {
    /// Nothing.
    None,
    /// The number of an offer.
    Offer(u64),
}

macro_rules! calls {
    ($($name:ident = $transition:ident($($operand:ident: $type:ty),*);)*) => {
        /// A transition with its operands. It prints as a line of a script: the transition's name and the operands.
        #[derive(Clone, PartialEq, Eq, Debug, Hash)]
        pub enum Call {
            $(
                #[doc = concat!("[`Specification::", stringify!($transition), "`].")]
                $name {
                    $(#[doc = meaning!($operand)] $operand: $type,)*
                },
            )*
        }

        impl Call {
            /// The names of all transitions.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($transition)),*];

            /// The transition's name.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Call::$name { .. } => stringify!($transition),)*
                }
            }

            /// The same call with other operands.
            pub fn substitute(&self, with: &impl Substitute) -> Self {
                match *self {
                    $(Call::$name { $($operand),* } => {
                        Call::$name { $($operand: substitute!($operand, with, $operand)),* }
                    })*
                }
            }
        }

        impl Specification {
            /// The state after a call and what the call returns, or why it is refused.
            ///
            /// # Errors
            /// Those of the transition.
            pub fn apply(&self, call: &Call) -> Result<(Self, Output), Error> {
                match *call {
                    $(Call::$name { $($operand),* } => self.$transition($($operand),*).map(Answer::split),)*
                }
            }
        }

        impl fmt::Display for Call {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())?;
                match self {
                    $(Call::$name { $($operand),* } => {
                        $(Operand::write($operand, stringify!($operand), f)?;)*
                    })*
                }
                Ok(())
            }
        }
    };
}

calls! {
    Create = create(vm: Vm, name: VmHandle, protected: bool, gfn_limit: u64);
    StartTeardown = start_teardown(vm: Vm);
    Finalise = finalise(vm: Vm);
    HostShareHyp = host_share_hyp(first: Pfn, count: u64, restricted: bool);
    HostUnshareHyp = host_unshare_hyp(first: Pfn, count: u64);
    HostDonateHyp = host_donate_hyp(first: Pfn, count: u64);
    HypDonateHost = hyp_donate_host(first: Pfn, count: u64);
    HypPin = hyp_pin(page: Pfn);
    HypUnpin = hyp_unpin(page: Pfn);
    HostDonateGuest = host_donate_guest(vm: Vm, first: Pfn, gfn: Gfn, count: u64);
    HostLendGuest = host_lend_guest(vm: Vm, first: Pfn, gfn: Gfn, count: u64);
    GuestReturn = guest_return(vm: Vm, gfn: Gfn);
    HostShareGuest = host_share_guest(vm: Vm, first: Pfn, gfn: Gfn, count: u64, rights: Rights, restricted: bool);
    HostUnshareGuest = host_unshare_guest(vm: Vm, gfn: Gfn, count: u64);
    GuestShareHost = guest_share_host(vm: Vm, gfn: Gfn);
    GuestUnshareHost = guest_unshare_host(vm: Vm, gfn: Gfn);
    GuestLendHost = guest_lend_host(vm: Vm, gfn: Gfn);
    HostReturnGuest = host_return_guest(vm: Vm, first: Pfn, count: u64);
    GuestRelinquish = guest_relinquish(vm: Vm, gfn: Gfn);
    GuestOffer = guest_offer(vm: Vm, gfn: Gfn, receiver: VmHandle, rights: Rights);
    GuestAccept = guest_accept(vm: Vm, owner: Vm, number: u64, gfn: Gfn, rights: Rights);
    GuestWithdraw = guest_withdraw(vm: Vm, number: u64);
    GuestDrop = guest_drop(vm: Vm, owner: Vm, number: u64);
    HostEndShare = host_end_share(owner: Vm, borrower: Vm, number: u64);
    Reclaim = reclaim(vm: Vm, first: Pfn, count: u64);
    ForceReclaim = force_reclaim(vm: Vm, first: Pfn, count: u64);
    HostGrantDevice = host_grant_device(vm: Vm, first: Pfn, gfn: Gfn, count: u64);
    ReclaimDevice = reclaim_device(vm: Vm, first: Pfn, count: u64);
    HostDonateDeviceHyp = host_donate_device_hyp(first: Pfn, count: u64);
    HypDonateDeviceHost = hyp_donate_device_host(first: Pfn, count: u64);
}

/// What a transition returns where it is done.
trait Answer {
    /// The state apart from the rest.
    fn split(self) -> (Specification, Output);
}

impl Answer for Specification {
    fn split(self) -> (Specification, Output) {
        (self, Output::None)
    }
}

impl Answer for (Specification, u64) {
    fn split(self) -> (Specification, Output) {
        (self.0, Output::Offer(self.1))
    }
}
