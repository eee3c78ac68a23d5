//! What must hold of every step, beside what must hold of every state.

use crate::domain::Domain;
use crate::named::Named;
use abi::Pfn;
use ownership_spec::{Borrower, Call, Frame, Owner, Page, Specification};
use std::collections::BTreeSet;

/// Panics with what is wrong where a step breaks a rule.
pub fn check(domain: &Domain, before: &Specification, call: &Call, after: &Specification) {
    if let Some(breach) = after.breach() {
        panic!("{call}: {breach}");
    }
    let named = Named::of(call);
    let pages = touched(before, &named);
    for number in 0..domain.pages {
        let pfn = domain.page(number);
        let (old, new) = (before.page(pfn).expect("RAM"), after.page(pfn).expect("RAM"));
        if !pages.contains(&pfn) && old != new {
            panic!("{call}: page {pfn} was not named and is {new} now");
        }
        if comes_to_host(&old, &new) && !new.wiped {
            panic!("{call}: page {pfn} comes to the host and is not wiped");
        }
    }
    let device = domain.device;
    if before.device(device) != after.device(device) && !pages.contains(&device) {
        panic!("{call}: device page {device} was not named and has changed hands");
    }
    let accepted = named.offer.and_then(|(owner, number)| before.guest(owner).ok()?.offers.get(&number)?.accepted);
    for (vm, guest) in after.guests().filter(|(vm, _)| !named.vms.contains(vm)) {
        let mut expected = before.guest(vm).ok().cloned();
        // Who borrows by the offer that is named loses a frame, and nothing else.
        if let (Some(expected), Some((borrower, gfn))) = (&mut expected, accepted)
            && borrower == vm
            && !expected.dying
        {
            expected.poisoned.insert(gfn);
        }
        if expected.as_ref() != Some(guest) {
            panic!("{call}: guest {vm} was not named and is {guest} now");
        }
    }
}

/// True where the host has a page to itself that somebody else had.
fn comes_to_host(old: &Page, new: &Page) -> bool {
    let others = old.owner != Owner::Host || old.is_lent();
    others && new.owner == Owner::Host && !new.is_lent()
}

/// The pages that a call names, by themselves, by frames, or by an offer.
fn touched(state: &Specification, named: &Named) -> BTreeSet<Pfn> {
    let mut pages = BTreeSet::new();
    if let Some((first, count)) = named.pages {
        pages.extend((0..count).filter_map(|index| first.checked_add(index)));
    }
    if let Some((vm, first, count)) = named.frames {
        for gfn in (0..count).filter_map(|index| first.checked_add(index)) {
            if let Frame::Memory(pfn) | Frame::LentOut(pfn) | Frame::Device(pfn) = state.frame(vm, gfn) {
                pages.insert(pfn);
            }
        }
    }
    pages.extend(named.offer.and_then(|(owner, number)| offered(state, owner, number)));
    pages
}

/// The page of an offer.
pub fn offered(state: &Specification, owner: ownership_spec::Vm, number: u64) -> Option<Pfn> {
    let offer = *state.guest(owner).ok()?.offers.get(&number)?;
    let its = |page: &Page| page.owner == Owner::Guest(owner) && page.at == Some(offer.gfn);
    state.changed_pages().find(|(_, page)| its(page)).map(|(pfn, _)| pfn)
}

/// Takes everything down and gives it back to the host; panics where that is not to be had.
pub fn check_teardown(domain: &Domain, state: &Specification) {
    let mut now = state.clone();
    let apply = |now: &mut Specification, call: Call| match now.apply(&call) {
        Ok((next, _)) => *now = next,
        Err(error) => panic!("{call} in the teardown: {error}"),
    };
    let vms: Vec<_> = state.guests().map(|(vm, _)| vm).collect();
    for vm in vms.iter().copied().filter(|vm| !state.guest(*vm).expect("a VM").dying) {
        apply(&mut now, Call::StartTeardown { vm });
    }
    for owner in vms.iter().copied() {
        let offers = now.guest(owner).expect("a VM").offers.clone();
        for (number, (borrower, _)) in offers.iter().filter_map(|(number, offer)| Some((*number, offer.accepted?))) {
            apply(&mut now, Call::HostEndShare { owner, borrower, number });
        }
    }
    for number in 0..domain.pages {
        let first = domain.page(number);
        let page = now.page(first).expect("RAM");
        match page.owner {
            Owner::Guest(vm) => apply(&mut now, Call::Reclaim { vm, first, count: 1 }),
            Owner::Hyp => apply(&mut now, Call::HypDonateHost { first, count: 1 }),
            Owner::Host => {
                (0..page.pins).for_each(|_| apply(&mut now, Call::HypUnpin { page: first }));
                for borrower in page.borrowers.keys() {
                    let call = match *borrower {
                        Borrower::Guest(vm, _) if page.is_lent() => Call::Reclaim { vm, first, count: 1 },
                        Borrower::Guest(vm, gfn) => Call::HostUnshareGuest { vm, gfn, count: 1 },
                        Borrower::Hyp | Borrower::Host => Call::HostUnshareHyp { first, count: 1 },
                    };
                    apply(&mut now, call);
                }
            }
        }
    }
    let first = domain.device;
    match now.device(first).expect("a device").owner {
        Owner::Guest(vm) => apply(&mut now, Call::ReclaimDevice { vm, first, count: 1 }),
        Owner::Hyp => apply(&mut now, Call::HypDonateDeviceHost { first, count: 1 }),
        Owner::Host => {}
    }
    vms.iter().for_each(|vm| apply(&mut now, Call::Finalise { vm: *vm }));
    now.forget_wipes();
    let rest = now.difference(&Specification::new(domain.machine.clone()));
    assert!(rest.is_none(), "after the teardown: {}", rest.expect("a difference"));
}
