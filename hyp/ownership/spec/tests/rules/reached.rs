//! Each state of a page is reached by chance too, and each call is made in it, with the result that the witness has: no
//! cell of the table is an accident of the way in which its witness came about.

use crate::random::{Dice, crowded, named_pages, templates};
use abi::host::VmHandle;
use abi::{Error, Gfn, Pfn};
use ownership_spec::witness::Witness;
use ownership_spec::{Call, Kind, Rights, Specification, Substitute, Vm};
use std::collections::{BTreeMap, BTreeSet};

/// A call in a state of a page, and what came of it.
type Cell = (Kind, String, Result<Option<Kind>, Error>);

/// The call's name, and whether the host restricts itself by it.
fn title(call: &Call) -> String {
    let restricted = matches!(call, Call::HostShareHyp { restricted: true, .. })
        || matches!(call, Call::HostShareGuest { restricted: true, .. });
    format!("{}{}", call.name(), if restricted { " restricted" } else { "" })
}

/// Adds what a call does with the one page that it names, or with every page that its VM has.
fn note(cells: &mut BTreeSet<Cell>, state: &Specification, call: &Call) {
    let of_vm = match call {
        Call::StartTeardown { vm } | Call::Finalise { vm } => Some(*vm),
        _ => None,
    };
    let pages: Vec<_> = match of_vm {
        Some(vm) => {
            let its = state.changed_pages().filter(|(_, page)| page.frames().any(|(guest, _)| guest == vm));
            let devices =
                state.changed_devices().filter(|(_, device)| device.frame().is_some_and(|(guest, _)| guest == vm));
            its.map(|(pfn, _)| pfn).chain(devices.map(|(pfn, _)| pfn)).collect()
        }
        None => match frame_of_device(state, call) {
            Some(pfn) => vec![pfn],
            None => named_pages(state, call),
        },
    };
    if of_vm.is_none() && pages.len() != 1 {
        return;
    }
    let result = state.apply(call);
    for pfn in pages {
        let after = result.as_ref().map(|(next, _)| next.kind(pfn)).map_err(|error| *error);
        cells.extend(state.kind(pfn).map(|kind| (kind, title(call), after)));
    }
}

/// The page of a device at the frame that a guest's call names.
fn frame_of_device(state: &Specification, call: &Call) -> Option<Pfn> {
    let (vm, gfn) = match *call {
        Call::GuestShareHost { vm, gfn } | Call::GuestUnshareHost { vm, gfn } | Call::GuestLendHost { vm, gfn } => {
            (vm, gfn)
        }
        Call::GuestReturn { vm, gfn } | Call::GuestRelinquish { vm, gfn } | Call::GuestOffer { vm, gfn, .. } => {
            (vm, gfn)
        }
        Call::HostUnshareGuest { vm, gfn, count: 1 } => (vm, gfn),
        _ => return None,
    };
    state.changed_devices().find(|(_, device)| device.frame() == Some((vm, gfn))).map(|(pfn, _)| pfn)
}

/// Draws operands that have to do with one page, as far as there are any.
struct About<'a> {
    dice: Dice<'a>,
    page: Pfn,
    frames: Vec<(Vm, Gfn)>,
}

impl<'a> About<'a> {
    /// A page of one of the kinds that there are, or any.
    fn new(state: &'a Specification, seed: u64) -> Self {
        let dice = Dice::new(state, seed);
        let changed = state.changed_pages().map(|(pfn, _)| pfn).chain(state.changed_devices().map(|(pfn, _)| pfn));
        let kinds: BTreeMap<_, _> = changed.map(|pfn| (state.kind(pfn), pfn)).collect();
        let page = dice.pick(&kinds.into_values().collect::<Vec<_>>()).filter(|_| dice.roll(8) != 0);
        let page = page.unwrap_or_else(|| dice.page(Pfn::new(0)));
        let memory = state.page(page).into_iter().flat_map(|page| page.frames().collect::<Vec<_>>());
        let device = state.device(page).and_then(|device| device.frame());
        Self { dice, page, frames: memory.chain(device).collect() }
    }
}

impl Substitute for About<'_> {
    fn page(&self, _: Pfn) -> Pfn {
        self.page
    }

    fn count(&self, _: u64) -> u64 {
        1
    }

    fn vm(&self, vm: Vm) -> Vm {
        let its = self.dice.pick(&self.frames).filter(|_| self.dice.roll(2) != 0);
        its.map_or_else(|| self.dice.vm(vm), |(vm, _)| vm)
    }

    fn frame(&self, gfn: Gfn) -> Gfn {
        let its = self.dice.pick(&self.frames).filter(|_| self.dice.roll(2) != 0);
        its.map_or_else(|| self.dice.frame(gfn), |(_, gfn)| gfn)
    }

    fn rights(&self, rights: Rights) -> Rights {
        self.dice.rights(rights)
    }

    fn number(&self, number: u64) -> u64 {
        self.dice.number(number)
    }

    fn name(&self, name: VmHandle) -> VmHandle {
        self.dice.name(name)
    }

    fn flag(&self, flag: bool) -> bool {
        self.dice.flag(flag)
    }
}

#[test]
fn every_cell_of_the_table_is_reached_by_random_calls() {
    let mut missing = BTreeSet::new();
    for witness in Witness::all() {
        let state = witness.state().unwrap();
        for (title, call) in witness.calls() {
            let after = state.apply(&call).map(|(next, _)| next.kind(witness.page));
            missing.insert((witness.kind, title.to_string(), after));
        }
    }
    let (wanted, templates) = (missing.len(), templates());
    let mut seen = BTreeSet::new();
    let mut steps = 0_u64;
    while !missing.is_empty() && steps < 400_000 {
        let mut state = crowded();
        for _ in 0..150 {
            steps += 1;
            let call = Dice::new(&state, steps).call(&templates);
            for side in 1..4 {
                let about = About::new(&state, steps.wrapping_mul(side << 32));
                note(&mut seen, &state, &about.dice.transition(&templates).substitute(&about));
            }
            if let Ok((next, _)) = state.apply(&call) {
                state = next;
            }
        }
        missing.retain(|cell| !seen.contains(cell));
    }
    println!("{wanted} cells reached by {steps} random calls, which reached {} in all", seen.len());
    assert!(missing.is_empty(), "not reached: {missing:#?}");
}
