//! One state for each kind of page, reached by calls, and how each call is made of the page in it.
//!
//! Tables of what every call does in every state are computed from these, and an implementation can be walked through
//! them: each is a script from the start.

mod frame;

use crate::call::Call;
use crate::guest::Vm;
use crate::kind::Kind;
use crate::machine::Machine;
use crate::page::Rights;
use crate::state::Specification;
use abi::host::VmHandle;
use abi::{Error, Gfn, Pfn};
use alloc::vec;
use alloc::vec::Vec;

pub use frame::FrameWitness;

/// The page of RAM that the witnesses are about.
pub const PAGE: Pfn = Pfn::new(0x41);
/// A page that stays the host's alone.
pub const SPARE: Pfn = Pfn::new(0x42);
/// A page that the boot placed.
pub const PLACED_PAGE: Pfn = Pfn::new(0x7c);
/// A page of a device.
pub const DEVICE_PAGE: Pfn = Pfn::new(0x9);
/// A protected guest, which owns the page or has it on loan.
pub const OWNER: Vm = Vm(0);
/// A protected guest, which borrows the page from the owner.
pub const OTHER: Vm = Vm(1);
/// A guest that is not protected.
pub const PLAIN: Vm = Vm(2);
/// A protected guest that has nothing to do with the page.
pub const BYSTANDER: Vm = Vm(3);
/// A protected guest that is dying and has nothing.
pub const DYING: Vm = Vm(4);
/// A guest that is not protected, is dying and has nothing.
pub const DYING_PLAIN: Vm = Vm(5);
/// Where a guest has the page.
pub const FRAME: Gfn = Gfn::new(0x10);
/// A frame at which no guest has anything.
pub const VACANT: Gfn = Gfn::new(0x20);
/// Guest frames below this one exist.
pub const GFN_LIMIT: u64 = 0x40;
/// The number of a guest's first offer.
pub const OFFER: u64 = 1;

/// The machine of the witnesses.
pub fn machine() -> Machine {
    let pages = |first, end| Pfn::new(first)..Pfn::new(end);
    Machine::new(&[pages(0x40, 0x80)], &[pages(0x7c, 0x80)], 0x100)
}

/// A VM's handle.
pub const fn name_of(vm: Vm) -> VmHandle {
    VmHandle(0x100 + vm.0 as u32)
}

/// A state and the page in it that it is the witness for.
#[derive(Clone, Debug)]
pub struct Witness {
    /// What kind of state the page is in.
    pub kind: Kind,
    /// The guest that has to do with the page, and where it has it.
    pub view: Option<(Vm, Gfn)>,
    /// The calls that lead to the state, from the start.
    pub script: Vec<Call>,
    /// The page.
    pub page: Pfn,
}

impl Witness {
    /// One for each kind, in the order of [`Kind::ALL`]; where one guest borrows from another there is one for each of the
    /// two, the owner first.
    pub fn all() -> Vec<Self> {
        let borrower = |kind| Self { view: Some((OTHER, FRAME)), ..Self::of(kind) };
        let witnesses = Kind::ALL.iter().flat_map(|&kind| match kind {
            Kind::SharedWithGuest | Kind::SharedWithDyingGuest | Kind::DyingSharedWithGuest => {
                vec![Self::of(kind), borrower(kind)]
            }
            _ => vec![Self::of(kind)],
        });
        witnesses.collect()
    }

    /// The witness of a kind, as the owner sees it where that is a guest.
    pub fn of(kind: Kind) -> Self {
        let (dies, other_dies) = (Call::StartTeardown { vm: OWNER }, Call::StartTeardown { vm: OTHER });
        let calls = match kind {
            Kind::HostAlone | Kind::Placed | Kind::DeviceHosts => vec![],
            Kind::SharedWithHyp => vec![share_hyp(PAGE, false)],
            Kind::SharedWithHypRestricted => vec![share_hyp(PAGE, true)],
            Kind::Pinned => vec![share_hyp(PAGE, false), Call::HypPin { page: PAGE }],
            Kind::Mapped => vec![share(PAGE, FRAME, false)],
            Kind::MappedRestricted => vec![share(PAGE, FRAME, true)],
            Kind::LentToGuest => vec![lend(PAGE)],
            Kind::LentToDyingGuest => vec![lend(PAGE), dies],
            Kind::Hyps => vec![Call::HostDonateHyp { first: PAGE, count: 1 }],
            Kind::GuestsAlone => vec![donate(PAGE)],
            Kind::Offered => vec![donate(PAGE), offer()],
            Kind::SharedWithHost => vec![donate(PAGE), Call::GuestShareHost { vm: OWNER, gfn: FRAME }],
            Kind::LentToHost => vec![donate(PAGE), Call::GuestLendHost { vm: OWNER, gfn: FRAME }],
            Kind::SharedWithGuest => vec![donate(PAGE), offer(), accept(FRAME)],
            Kind::SharedWithDyingGuest => vec![donate(PAGE), offer(), accept(FRAME), other_dies],
            Kind::DyingAlone => vec![donate(PAGE), dies],
            Kind::DyingOffered => vec![donate(PAGE), offer(), dies],
            Kind::DyingSharedWithHost => vec![donate(PAGE), Call::GuestShareHost { vm: OWNER, gfn: FRAME }, dies],
            Kind::DyingLentToHost => vec![donate(PAGE), Call::GuestLendHost { vm: OWNER, gfn: FRAME }, dies],
            Kind::DyingSharedWithGuest => vec![donate(PAGE), offer(), accept(FRAME), dies],
            Kind::DeviceGuests => vec![grant(OWNER, DEVICE_PAGE, FRAME)],
            Kind::DeviceDyingGuests => vec![grant(OWNER, DEVICE_PAGE, FRAME), dies],
            Kind::DeviceHyps => vec![Call::HostDonateDeviceHyp { first: DEVICE_PAGE, count: 1 }],
        };
        let page = match kind {
            Kind::Placed => PLACED_PAGE,
            Kind::DeviceHosts | Kind::DeviceGuests | Kind::DeviceDyingGuests | Kind::DeviceHyps => DEVICE_PAGE,
            _ => PAGE,
        };
        let view = match kind {
            Kind::HostAlone | Kind::SharedWithHyp | Kind::SharedWithHypRestricted | Kind::Pinned => None,
            Kind::Hyps | Kind::Placed | Kind::DeviceHosts | Kind::DeviceHyps => None,
            Kind::Mapped | Kind::MappedRestricted => Some((PLAIN, FRAME)),
            _ => Some((OWNER, FRAME)),
        };
        Self { kind, view, script: cast().into_iter().chain(calls).collect(), page }
    }

    /// The state that the script leads to.
    ///
    /// # Errors
    /// The refusal of a call of the script, which would be a mistake in the script or the specification.
    pub fn state(&self) -> Result<Specification, Error> {
        run(Specification::new(machine()), &self.script)
    }

    /// Every call that can be made of the page, with a title. A call that names a VM names the one that has to do with the
    /// page, or one that it is meant for; frames that it fills are vacant.
    pub fn calls(&self) -> Vec<(&'static str, Call)> {
        let (first, count) = (self.page, 1);
        let (vm, gfn) = (BYSTANDER, VACANT);
        let (rights, number, owner, borrower) = (Rights::FULL, OFFER, OWNER, OTHER);
        let living = self.view.map_or(BYSTANDER, |(vm, _)| vm);
        let dying = self.view.map_or(DYING, |(vm, _)| vm);
        let mut calls = vec![
            ("host_share_hyp", Call::HostShareHyp { first, count, restricted: false }),
            ("host_share_hyp restricted", Call::HostShareHyp { first, count, restricted: true }),
            ("host_unshare_hyp", Call::HostUnshareHyp { first, count }),
            ("host_donate_hyp", Call::HostDonateHyp { first, count }),
            ("hyp_donate_host", Call::HypDonateHost { first, count }),
            ("hyp_pin", Call::HypPin { page: first }),
            ("hyp_unpin", Call::HypUnpin { page: first }),
            ("host_donate_guest", Call::HostDonateGuest { vm, first, gfn, count }),
            ("host_lend_guest", Call::HostLendGuest { vm, first, gfn, count }),
            ("host_share_guest", Call::HostShareGuest { vm: PLAIN, first, gfn, count, rights, restricted: false }),
            (
                "host_share_guest restricted",
                Call::HostShareGuest { vm: PLAIN, first, gfn, count, rights, restricted: true },
            ),
            ("host_return_guest", Call::HostReturnGuest { vm: living, first, count }),
            ("reclaim", Call::Reclaim { vm: dying, first, count }),
            ("force_reclaim", Call::ForceReclaim { vm: living, first, count }),
            ("host_grant_device", Call::HostGrantDevice { vm, first, gfn, count }),
            ("reclaim_device", Call::ReclaimDevice { vm: dying, first, count }),
            ("host_donate_device_hyp", Call::HostDonateDeviceHyp { first, count }),
            ("hyp_donate_device_host", Call::HypDonateDeviceHost { first, count }),
        ];
        if let Some((vm, gfn)) = self.view {
            calls.extend([
                ("start_teardown", Call::StartTeardown { vm }),
                ("finalise", Call::Finalise { vm }),
                ("host_unshare_guest", Call::HostUnshareGuest { vm, gfn, count }),
                ("guest_return", Call::GuestReturn { vm, gfn }),
                ("guest_share_host", Call::GuestShareHost { vm, gfn }),
                ("guest_unshare_host", Call::GuestUnshareHost { vm, gfn }),
                ("guest_lend_host", Call::GuestLendHost { vm, gfn }),
                ("guest_relinquish", Call::GuestRelinquish { vm, gfn }),
                ("guest_offer", Call::GuestOffer { vm, gfn, receiver: name_of(BYSTANDER), rights }),
            ]);
        }
        if self.script.contains(&offer()) {
            calls.extend([
                ("guest_accept", accept(VACANT)),
                ("guest_withdraw", Call::GuestWithdraw { vm: owner, number }),
                ("guest_drop", Call::GuestDrop { vm: borrower, owner, number }),
                ("host_end_share", Call::HostEndShare { owner, borrower, number }),
            ]);
        }
        calls
    }
}

/// The state that calls lead to.
///
/// # Errors
/// The first refusal.
pub fn run(start: Specification, script: &[Call]) -> Result<Specification, Error> {
    script.iter().try_fold(start, |state, call| Ok(state.apply(call)?.0))
}

/// The calls that make the VMs.
pub fn cast() -> Vec<Call> {
    let protected = |vm| ![PLAIN, DYING_PLAIN].contains(&vm);
    let create = |vm| Call::Create { vm, name: name_of(vm), protected: protected(vm), gfn_limit: GFN_LIMIT };
    let all = [OWNER, OTHER, PLAIN, BYSTANDER, DYING, DYING_PLAIN].map(create);
    all.into_iter().chain([DYING, DYING_PLAIN].map(|vm| Call::StartTeardown { vm })).collect()
}

fn share_hyp(first: Pfn, restricted: bool) -> Call {
    Call::HostShareHyp { first, count: 1, restricted }
}

fn share(first: Pfn, gfn: Gfn, restricted: bool) -> Call {
    Call::HostShareGuest { vm: PLAIN, first, gfn, count: 1, rights: Rights::FULL, restricted }
}

/// The host donates a page to the owner.
pub fn donate(first: Pfn) -> Call {
    Call::HostDonateGuest { vm: OWNER, first, gfn: FRAME, count: 1 }
}

fn lend(first: Pfn) -> Call {
    Call::HostLendGuest { vm: OWNER, first, gfn: FRAME, count: 1 }
}

/// The host grants a page of a device to a guest.
pub fn grant(vm: Vm, first: Pfn, gfn: Gfn) -> Call {
    Call::HostGrantDevice { vm, first, gfn, count: 1 }
}

fn offer() -> Call {
    Call::GuestOffer { vm: OWNER, gfn: FRAME, receiver: name_of(OTHER), rights: Rights::FULL }
}

fn accept(gfn: Gfn) -> Call {
    Call::GuestAccept { vm: OTHER, owner: OWNER, number: OFFER, gfn, rights: Rights::FULL }
}
