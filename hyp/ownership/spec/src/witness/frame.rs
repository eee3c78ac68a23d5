//! One state for each thing that a guest can have at a frame.

use super::{DEVICE_PAGE, FRAME, OTHER, OWNER, PAGE, PLAIN, SPARE, cast, donate, grant, machine, name_of, run, share};
use crate::call::Call;
use crate::guest::Vm;
use crate::page::Rights;
use crate::state::Specification;
use abi::{Error, Pfn};
use alloc::vec;
use alloc::vec::Vec;

/// A state, and what a guest has in it at [`FRAME`].
#[derive(Clone, Debug)]
pub struct FrameWitness {
    /// What is there, in words.
    pub title: &'static str,
    /// The guest.
    pub vm: Vm,
    /// The calls that lead to the state, from the start.
    pub script: Vec<Call>,
}

/// A page of a device that stays the host's.
const SPARE_DEVICE: Pfn = Pfn::new(0xa);

impl FrameWitness {
    /// One for each thing that a guest can have, protected and not.
    pub fn all() -> Vec<Self> {
        let force = Call::ForceReclaim { vm: OWNER, first: PAGE, count: 1 };
        let protected = [
            ("vacant", vec![]),
            ("memory", vec![donate(PAGE)]),
            ("device", vec![grant(OWNER, DEVICE_PAGE, FRAME)]),
            ("poisoned", vec![donate(PAGE), force]),
            ("lent out", vec![donate(PAGE), Call::GuestLendHost { vm: OWNER, gfn: FRAME }]),
        ];
        let plain = [
            ("vacant, not protected", vec![]),
            ("memory, not protected", vec![share(PAGE, FRAME, false)]),
            ("device, not protected", vec![grant(PLAIN, DEVICE_PAGE, FRAME)]),
        ];
        let witness = |vm| {
            move |(title, calls): (&'static str, Vec<Call>)| Self {
                title,
                vm,
                script: cast().into_iter().chain(calls).collect(),
            }
        };
        protected.into_iter().map(witness(OWNER)).chain(plain.into_iter().map(witness(PLAIN))).collect()
    }

    /// The state that the script leads to, in which another guest has made an offer to this one.
    ///
    /// # Errors
    /// The refusal of a call of the script, which would be a mistake in the script or the specification.
    pub fn state(&self) -> Result<Specification, Error> {
        let (vm, gfn, receiver, rights) = (OTHER, FRAME, name_of(self.vm), Rights::FULL);
        let offer = [
            Call::HostDonateGuest { vm, first: Pfn::new(0x50), gfn, count: 1 },
            Call::GuestOffer { vm, gfn, receiver, rights },
        ];
        run(run(Specification::new(machine()), &self.script)?, &offer)
    }

    /// Every call that can be made of the frame, with a title. The page that it puts there is the host's alone.
    pub fn calls(&self) -> Vec<(&'static str, Call)> {
        let (vm, gfn, first, count, rights) = (self.vm, FRAME, SPARE, 1, Rights::FULL);
        vec![
            ("host_donate_guest", Call::HostDonateGuest { vm, first, gfn, count }),
            ("host_lend_guest", Call::HostLendGuest { vm, first, gfn, count }),
            ("host_share_guest", Call::HostShareGuest { vm, first, gfn, count, rights, restricted: false }),
            ("host_unshare_guest", Call::HostUnshareGuest { vm, gfn, count }),
            ("host_grant_device", grant(vm, SPARE_DEVICE, gfn)),
            ("guest_share_host", Call::GuestShareHost { vm, gfn }),
            ("guest_unshare_host", Call::GuestUnshareHost { vm, gfn }),
            ("guest_lend_host", Call::GuestLendHost { vm, gfn }),
            ("guest_return", Call::GuestReturn { vm, gfn }),
            ("guest_relinquish", Call::GuestRelinquish { vm, gfn }),
            ("guest_offer", Call::GuestOffer { vm, gfn, receiver: name_of(OTHER), rights }),
            ("guest_accept", Call::GuestAccept { vm, owner: OTHER, number: 1, gfn, rights }),
        ]
    }
}
