//! Calls by the names of the transitions, with plain numbers.

use super::{FIRST, SECOND, name};
use abi::{Gfn, Pfn};
use ownership_spec::{Call, Rights, Vm};

const fn page(number: u64) -> Pfn {
    Pfn::new(number)
}

const fn frame(number: u64) -> Gfn {
    Gfn::new(number)
}

pub fn start_teardown(vm: Vm) -> Call {
    Call::StartTeardown { vm }
}

pub fn host_share_hyp(first: u64, count: u64) -> Call {
    Call::HostShareHyp { first: page(first), count, restricted: false }
}

pub fn host_share_hyp_restricted(first: u64, count: u64) -> Call {
    Call::HostShareHyp { first: page(first), count, restricted: true }
}

pub fn host_unshare_hyp(first: u64, count: u64) -> Call {
    Call::HostUnshareHyp { first: page(first), count }
}

pub fn host_donate_hyp(first: u64, count: u64) -> Call {
    Call::HostDonateHyp { first: page(first), count }
}

pub fn hyp_donate_host(first: u64, count: u64) -> Call {
    Call::HypDonateHost { first: page(first), count }
}

pub fn hyp_pin(number: u64) -> Call {
    Call::HypPin { page: page(number) }
}

pub fn hyp_unpin(number: u64) -> Call {
    Call::HypUnpin { page: page(number) }
}

pub fn host_donate_guest(vm: Vm, first: u64, gfn: u64, count: u64) -> Call {
    Call::HostDonateGuest { vm, first: page(first), gfn: frame(gfn), count }
}

pub fn host_lend_guest(vm: Vm, first: u64, gfn: u64, count: u64) -> Call {
    Call::HostLendGuest { vm, first: page(first), gfn: frame(gfn), count }
}

pub fn guest_return(vm: Vm, gfn: u64) -> Call {
    Call::GuestReturn { vm, gfn: frame(gfn) }
}

pub fn host_share_guest(vm: Vm, first: u64, gfn: u64, count: u64) -> Call {
    host_share_guest_with(vm, first, gfn, count, Rights::FULL)
}

pub fn host_share_guest_with(vm: Vm, first: u64, gfn: u64, count: u64, rights: Rights) -> Call {
    Call::HostShareGuest { vm, first: page(first), gfn: frame(gfn), count, rights, restricted: false }
}

pub fn host_share_guest_restricted(vm: Vm, first: u64, gfn: u64, count: u64) -> Call {
    let rights = Rights::FULL;
    Call::HostShareGuest { vm, first: page(first), gfn: frame(gfn), count, rights, restricted: true }
}

pub fn host_unshare_guest(vm: Vm, gfn: u64, count: u64) -> Call {
    Call::HostUnshareGuest { vm, gfn: frame(gfn), count }
}

pub fn guest_share_host(vm: Vm, gfn: u64) -> Call {
    Call::GuestShareHost { vm, gfn: frame(gfn) }
}

pub fn guest_unshare_host(vm: Vm, gfn: u64) -> Call {
    Call::GuestUnshareHost { vm, gfn: frame(gfn) }
}

pub fn guest_lend_host(vm: Vm, gfn: u64) -> Call {
    Call::GuestLendHost { vm, gfn: frame(gfn) }
}

pub fn host_return_guest(vm: Vm, first: u64, count: u64) -> Call {
    Call::HostReturnGuest { vm, first: page(first), count }
}

pub fn guest_relinquish(vm: Vm, gfn: u64) -> Call {
    Call::GuestRelinquish { vm, gfn: frame(gfn) }
}

pub fn guest_offer(vm: Vm, gfn: u64, receiver: Vm, rights: Rights) -> Call {
    Call::GuestOffer { vm, gfn: frame(gfn), receiver: name(receiver), rights }
}

pub fn guest_accept(vm: Vm, owner: Vm, number: u64, gfn: u64, rights: Rights) -> Call {
    Call::GuestAccept { vm, owner, number, gfn: frame(gfn), rights }
}

pub fn guest_withdraw(vm: Vm, number: u64) -> Call {
    Call::GuestWithdraw { vm, number }
}

pub fn guest_drop(vm: Vm, owner: Vm, number: u64) -> Call {
    Call::GuestDrop { vm, owner, number }
}

pub fn host_end_share(owner: Vm, borrower: Vm, number: u64) -> Call {
    Call::HostEndShare { owner, borrower, number }
}

pub fn reclaim(vm: Vm, first: u64, count: u64) -> Call {
    Call::Reclaim { vm, first: page(first), count }
}

pub fn force_reclaim(vm: Vm, first: u64, count: u64) -> Call {
    Call::ForceReclaim { vm, first: page(first), count }
}

pub fn host_grant_device(vm: Vm, first: u64, gfn: u64, count: u64) -> Call {
    Call::HostGrantDevice { vm, first: page(first), gfn: frame(gfn), count }
}

pub fn reclaim_device(vm: Vm, first: u64, count: u64) -> Call {
    Call::ReclaimDevice { vm, first: page(first), count }
}

pub fn host_donate_device_hyp(first: u64, count: u64) -> Call {
    Call::HostDonateDeviceHyp { first: page(first), count }
}

pub fn hyp_donate_device_host(first: u64, count: u64) -> Call {
    Call::HypDonateDeviceHost { first: page(first), count }
}

/// Calls that want pages which the host has to itself, for the first protected guest and the first other one.
pub fn calls_for_pages_of_the_hosts(first: u64, count: u64) -> [Call; 7] {
    [
        host_share_hyp(first, count),
        host_share_hyp_restricted(first, count),
        host_donate_hyp(first, count),
        host_donate_guest(FIRST, first, 0x100, count),
        host_lend_guest(FIRST, first, 0x100, count),
        host_share_guest(SECOND, first, 0x100, count),
        host_share_guest_restricted(SECOND, first, 0x100, count),
    ]
}
