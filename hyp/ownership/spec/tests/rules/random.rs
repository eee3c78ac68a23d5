//! Random calls, most of them likely to be legal, on few pages.

use crate::common::{ALICE, BOB, CAROL, DAVE, start};
use abi::host::VmHandle;
use abi::{Gfn, Pfn};
use ownership_spec::witness::{FrameWitness, Witness, machine, name_of};
use ownership_spec::{Call, Machine, Offer, Owner, Page, Rights, Specification, Substitute, Vm};
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// Draws the operands of a call. The same seed draws the same.
pub struct Dice<'a> {
    state: &'a Specification,
    seed: Cell<u64>,
    /// An offer that calls about offers mostly name, with its number, and the guests between which it is.
    offer: Option<(u64, Offer, [Vm; 2])>,
}

impl<'a> Dice<'a> {
    pub fn new(state: &'a Specification, seed: u64) -> Self {
        let mut dice = Self { state, seed: Cell::new(seed), offer: None };
        let named = |name| state.guests().find(|(_, guest)| guest.name == name).map(|(vm, _)| vm);
        let offers = state.guests().flat_map(|(owner, guest)| guest.offers.iter().map(move |offer| (owner, offer)));
        let offers =
            offers.filter_map(|(owner, (number, offer))| Some((*number, *offer, [owner, named(offer.receiver)?])));
        dice.offer = dice.pick(&offers.collect::<Vec<_>>());
        dice
    }

    /// A number less than `sides` (the SplitMix64 generator).
    pub fn roll(&self, sides: u64) -> u64 {
        let seed = self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed.set(seed);
        let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % sides
    }

    pub fn pick<T: Copy>(&self, choice: &[T]) -> Option<T> {
        choice.get(self.roll(choice.len().max(1) as u64) as usize).copied()
    }

    /// A call of some transition. Those that start what takes long to come about are more frequent, those that end much
    /// are less.
    pub fn transition<'t>(&self, templates: &'t [Call]) -> &'t Call {
        let weight = |call: &&Call| match call.name() {
            "guest_offer" | "guest_accept" | "host_donate_guest" | "create" | "finalise" => 12,
            "start_teardown" => 2,
            "force_reclaim" | "guest_withdraw" | "guest_drop" => 1,
            _ => 3,
        };
        let suits = |index: u64| templates.get(index as usize).filter(|call| self.roll(12) < weight(call));
        std::iter::repeat_with(|| self.roll(templates.len() as u64)).find_map(suits).unwrap()
    }

    /// A call that is legal, if it can be found by trying, or any.
    pub fn call(&self, templates: &[Call]) -> Call {
        let template = self.transition(templates);
        let attempts = if self.roll(5) == 0 { 1 } else { 40 };
        let mut drawn = template.substitute(self);
        for _ in 1..attempts {
            if self.state.apply(&drawn).is_ok() {
                break;
            }
            drawn = template.substitute(self);
        }
        drawn
    }
}

impl Substitute for Dice<'_> {
    fn page(&self, _: Pfn) -> Pfn {
        Pfn::new(match self.roll(40) {
            0 => 0x3f,
            1 => 0x7c,
            2 => u64::MAX - self.roll(2),
            3..=12 => 0x9 + self.roll(3),
            _ => 0x41 + self.roll(6),
        })
    }

    fn count(&self, _: u64) -> u64 {
        match self.roll(40) {
            0 => 0,
            1 => u64::MAX,
            2..=12 => 1 + self.roll(3),
            _ => 1,
        }
    }

    fn vm(&self, _: Vm) -> Vm {
        match (self.roll(40), &self.offer) {
            (0, _) => Vm(9),
            (1..20, Some((.., vms))) => vms[self.roll(2) as usize],
            _ => Vm(self.roll(4) as u8),
        }
    }

    fn frame(&self, _: Gfn) -> Gfn {
        Gfn::new(if self.roll(40) == 0 { 0x3f + self.roll(2) } else { 1 + self.roll(8) })
    }

    fn rights(&self, _: Rights) -> Rights {
        let its = self.offer.as_ref().filter(|_| self.roll(2) == 0).map(|(_, offer, _)| offer.rights);
        its.or_else(|| self.pick(&[Rights::FULL, Rights::DATA, Rights::READ, Rights::NONE])).unwrap()
    }

    fn number(&self, _: u64) -> u64 {
        let its = self.offer.as_ref().filter(|_| self.roll(6) != 0).map(|(number, ..)| *number);
        its.unwrap_or_else(|| self.roll(8))
    }

    fn name(&self, _: VmHandle) -> VmHandle {
        let names: Vec<_> = self.state.guests().map(|(_, guest)| guest.name).collect();
        self.pick(&names).filter(|_| self.roll(6) != 0).unwrap_or(name_of(Vm(self.roll(5) as u8)))
    }

    fn flag(&self, _: bool) -> bool {
        self.roll(2) == 0
    }
}

/// One call of each transition.
pub fn templates() -> Vec<Call> {
    let pages = Witness::all().into_iter();
    let of_pages =
        pages.flat_map(|it| it.script.clone().into_iter().chain(it.calls().into_iter().map(|(_, call)| call)));
    let frames = FrameWitness::all().into_iter().flat_map(|it| it.calls().into_iter().map(|(_, call)| call));
    let by_name: BTreeMap<_, _> = of_pages.chain(frames).map(|call| (call.name(), call)).collect();
    assert_eq!(by_name.len(), Call::NAMES.len());
    by_name.into_values().collect()
}

/// A machine on which counts are soon full, with the guests of the other tests.
pub fn crowded() -> Specification {
    let small = Specification::new(Machine { most: 3, most_offers: 3, longest: 64, ..machine() });
    start()
        .guests()
        .fold(small, |state, (vm, guest)| state.create(vm, guest.name, guest.protected, guest.gfn_limit).unwrap())
}

/// The VMs that a call names, the caller of a guest's call first.
fn named_vms(call: &Call) -> Vec<Vm> {
    struct Seen(Cell<Vec<Vm>>);
    impl Substitute for Seen {
        fn vm(&self, vm: Vm) -> Vm {
            let mut seen = self.0.take();
            seen.push(vm);
            self.0.set(seen);
            vm
        }
    }
    let seen = Seen(Cell::new(Vec::new()));
    let _ = call.substitute(&seen);
    seen.0.into_inner()
}

/// The pages of RAM that a call names: by number, by the frames of the guest that it is about, or by an offer.
pub fn named_pages(state: &Specification, call: &Call) -> Vec<Pfn> {
    #[derive(Default)]
    struct Seen {
        first: Cell<Option<Pfn>>,
        gfn: Cell<Option<Gfn>>,
        count: Cell<u64>,
        number: Cell<Option<u64>>,
    }
    impl Substitute for Seen {
        fn page(&self, page: Pfn) -> Pfn {
            self.first.set(Some(page));
            page
        }
        fn frame(&self, gfn: Gfn) -> Gfn {
            self.gfn.set(Some(gfn));
            gfn
        }
        fn count(&self, count: u64) -> u64 {
            self.count.set(count);
            count
        }
        fn number(&self, number: u64) -> u64 {
            self.number.set(Some(number));
            number
        }
    }
    let seen = Seen { count: Cell::new(1), ..Seen::default() };
    let _ = call.substitute(&seen);
    let count = seen.count.get().min(64);
    let at = |vm: Vm, gfn: Gfn| {
        let its = |page: &Page| page.frames().any(|frame| frame == (vm, gfn));
        state.changed_pages().find(|(_, page)| its(page)).map(|(pfn, _)| pfn)
    };
    let vms = named_vms(call);
    if let Some(number) = seen.number.get() {
        let offers = vms.iter().filter_map(|vm| Some((*vm, state.guest(*vm).ok()?.offers.get(&number)?.gfn)));
        return offers.filter_map(|(vm, gfn)| at(vm, gfn)).collect();
    }
    let numbers = |first: u64| (0..count).filter_map(move |offset| first.checked_add(offset));
    match (seen.first.get(), seen.gfn.get(), vms.first()) {
        (Some(first), ..) => numbers(first.raw()).map(Pfn::new).collect(),
        (None, Some(gfn), Some(vm)) => numbers(gfn.raw()).filter_map(|gfn| at(*vm, Gfn::new(gfn))).collect(),
        _ => Vec::new(),
    }
}

/// Whether `component` may do with the page in the second state what it may not in the first.
fn gains(before: &Specification, after: &Specification, component: Owner, pfn: Pfn) -> bool {
    !after.access(component, pfn).is_subset(&before.access(component, pfn))
}

/// Where a living guest borrows what its owner withdraws: of a guest that the call does not name, all that changes.
fn withdrawn_from(before: &Specification, call: &Call, borrower: Vm) -> Option<Gfn> {
    let Call::GuestWithdraw { vm: owner, number } = call else { return None };
    let (accepted_by, gfn) = before.guest(*owner).ok()?.offers.get(number)?.accepted?;
    let lives = before.guest(borrower).is_ok_and(|guest| !guest.dying);
    (accepted_by == borrower && lives).then_some(gfn)
}

/// What must hold of every step, whatever the rules of the call: said once more, and not by the specification's functions.
fn check_step(before: &Specification, call: &Call, after: &Specification) -> Result<(), TestCaseError> {
    prop_assert_eq!(after.breach(), None, "{}", call);
    let (named, vms) = (named_pages(before, call), named_vms(call));
    let unnamed = |vm: &Vm| !vms.contains(vm);
    let slots = [ALICE, BOB, CAROL, DAVE];
    for vm in slots.iter().filter(|vm| unnamed(vm)) {
        let mut expected = before.guest(*vm).ok().cloned();
        if let (Some(guest), Some(gfn)) = (&mut expected, withdrawn_from(before, call, *vm)) {
            guest.poisoned.insert(gfn);
        }
        prop_assert_eq!(after.guest(*vm).ok(), expected.as_ref(), "{} changes guest {}", call, vm);
    }
    let by_host = call.name().starts_with("host_");
    let caller = vms.first().filter(|_| call.name().starts_with("guest_"));
    let takes_all = matches!(call, Call::Reclaim { .. } | Call::ForceReclaim { .. });
    let pages: BTreeSet<_> = before.changed_pages().chain(after.changed_pages()).map(|(pfn, _)| pfn).collect();
    for pfn in pages {
        let (old, new) = (before.page(pfn).unwrap(), after.page(pfn).unwrap());
        prop_assert!(old == new || named.contains(&pfn), "{} changes page {}", call, pfn);
        let owner_calls = match old.owner {
            Owner::Host => by_host,
            Owner::Hyp => call.name().starts_with("hyp_"),
            Owner::Guest(vm) => caller == Some(&vm),
        };
        let had = |vm: &Vm| old.owner == Owner::Guest(*vm) || old.guest_borrowers().any(|(guest, _)| guest == *vm);
        if old.owner != new.owner {
            let taken = takes_all && vms.first().is_some_and(had);
            prop_assert!(owner_calls || taken, "{} takes page {} from {}", call, pfn, old.owner);
            prop_assert!(new.owner != Owner::Host || new.wiped, "{} gives page {} to the host as it is", call, pfn);
        }
        let loan_ends = old.owner == Owner::Host && old.is_lent() && !new.is_lent();
        prop_assert!(!loan_ends || new.wiped, "{} gives page {} back to the host as it is", call, pfn);
        for component in slots.map(Owner::Guest).into_iter().chain([Owner::Host, Owner::Hyp]) {
            if component == old.owner || !gains(before, after, component, pfn) {
                continue;
            }
            let accepted = matches!(call, Call::GuestAccept { vm, owner, .. }
                if component == Owner::Guest(*vm) && old.offer && old.owner == Owner::Guest(*owner));
            let taken = takes_all && component == Owner::Host && new.owner == Owner::Host;
            prop_assert!(owner_calls || accepted || taken, "{} gives page {} to {}", call, pfn, component);
        }
    }
    Ok(())
}

/// Ends everything, by the calls that a host has for it, and returns the state afterwards.
fn sweep(mut state: Specification) -> Result<Specification, TestCaseError> {
    let done = |state: &mut Specification, call: Call| {
        let next = state.apply(&call).map_err(|error| TestCaseError::fail(format!("{call}: {error}")));
        next.map(|(next, _)| *state = next)
    };
    let vms: Vec<_> = state.guests().map(|(vm, guest)| (vm, guest.clone())).collect();
    for (vm, _) in vms.iter().filter(|(_, guest)| !guest.dying) {
        done(&mut state, Call::StartTeardown { vm: *vm })?;
    }
    for (owner, guest) in &vms {
        for (number, offer) in &guest.offers {
            if let Some((borrower, _)) = offer.accepted {
                done(&mut state, Call::HostEndShare { owner: *owner, borrower, number: *number })?;
            }
        }
    }
    let pages: Vec<_> = state.changed_pages().map(|(pfn, page)| (pfn, page.clone())).collect();
    for (first, page) in pages {
        let count = 1;
        for _ in 0..page.pins {
            done(&mut state, Call::HypUnpin { page: first })?;
        }
        match (page.owner, page.guest_borrowers().next()) {
            (Owner::Guest(vm), _) => done(&mut state, Call::Reclaim { vm, first, count })?,
            (Owner::Host, Some((vm, _))) if page.is_lent() => done(&mut state, Call::Reclaim { vm, first, count })?,
            (Owner::Host, Some(_)) => {
                for (vm, gfn) in page.guest_borrowers() {
                    done(&mut state, Call::HostUnshareGuest { vm, gfn, count })?;
                }
            }
            (Owner::Hyp, _) => done(&mut state, Call::HypDonateHost { first, count })?,
            (Owner::Host, None) if page.borrowers.is_empty() => {}
            (Owner::Host, None) => done(&mut state, Call::HostUnshareHyp { first, count })?,
        }
    }
    let devices: Vec<_> = state.changed_devices().collect();
    for (first, device) in devices {
        match device.owner {
            Owner::Guest(vm) => done(&mut state, Call::ReclaimDevice { vm, first, count: 1 })?,
            _ => done(&mut state, Call::HypDonateDeviceHost { first, count: 1 })?,
        }
    }
    for (vm, _) in vms {
        done(&mut state, Call::Finalise { vm })?;
    }
    state.forget_wipes();
    Ok(state)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_calls_breaks_a_rule_and_everything_comes_back(seeds in vec(any::<u64>(), 1..120)) {
        let templates = templates();
        let mut state = crowded();
        for seed in seeds {
            let call = Dice::new(&state, seed).call(&templates);
            if let Ok((next, _)) = state.apply(&call) {
                check_step(&state, &call, &next)?;
                state = next;
            }
        }
        prop_assert_eq!(sweep(state)?, Specification::new(crowded().machine().clone()));
    }
}
