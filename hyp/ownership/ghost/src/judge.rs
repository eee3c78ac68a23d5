//! The state of pages, from ledger and tables, which must agree on them.

use crate::cursor::Cursor;
use crate::disagreement::{Disagreement, Table};
use crate::guest::{At, SeenGuest};
use crate::translate;
use abi::host::VmHandle;
use abi::{Pfn, PhysRange};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;
use ownership::{GuestUse, LockedMemory, PageState, VmSlot};
use ownership_spec::{Guest, Machine, Offer, Specification, Vm};
use pgtable::TableFrames;
use pgtable::el2::El2Regime;
use pgtable::stage2::Stage2Regime;

/// The state in which the machine starts.
pub(crate) fn at_start(memory: &LockedMemory<'_>) -> Specification {
    let pages = |range: &PhysRange| Pfn::containing(range.start)..Pfn::containing(range.end);
    let ram: Vec<Range<Pfn>> = memory.ledger.banks().map(|bank| pages(&bank)).collect();
    Specification::new(Machine::new(&ram, &[pages(&memory.carve_out)], memory.pfn_limit))
}

/// A state, as far as it was looked at.
pub(crate) struct Seen {
    /// The state. It breaks no rule.
    pub(crate) state: Specification,
    /// The VMs in it that were not looked at, and of which it has only what their pages tell.
    pub(crate) stubs: BTreeMap<Vm, Guest>,
    /// For each VM that was looked at, how many pages it counts that were not.
    pub(crate) held_elsewhere: BTreeMap<Vm, u64>,
}

/// Reads ledger and tables.
pub(crate) struct Judge<'a, F> {
    pub(crate) memory: LockedMemory<'a>,
    pub(crate) host: Option<Cursor<'a, F, Stage2Regime>>,
    pub(crate) hyp: Option<Cursor<'a, F, El2Regime>>,
    pub(crate) guests: BTreeMap<Vm, SeenGuest>,
    /// These are all guests, with all that they have.
    pub(crate) complete: bool,
    stubs: BTreeMap<Vm, Guest>,
}

impl<'a, F: TableFrames> Judge<'a, F> {
    /// Of the guests there is what was seen of them.
    pub(crate) fn new(frames: &'a F, memory: LockedMemory<'a>, guests: Vec<SeenGuest>, complete: bool) -> Self {
        let host = memory.host.map(|table| Cursor::new(frames, table, Table::Host));
        let hyp = memory.hyp.map(|table| Cursor::new(frames, table, Table::Hyp));
        let guests = guests.into_iter().map(|guest| (guest.vm(), guest)).collect();
        Self { memory, host, hyp, guests, complete, stubs: BTreeMap::new() }
    }

    /// The state of these pages, to which those are added that guests have at the frames that were looked at.
    pub(crate) fn state(mut self, start: &Specification, pages: &mut BTreeSet<Pfn>) -> Result<Seen, Disagreement> {
        let mut state = start.clone();
        pages.append(&mut self.pages_of_guests()?);
        for pfn in pages.iter().copied() {
            match self.memory.ledger.state(pfn) {
                Some(known) => state.set_page(pfn, self.page(pfn, known)?),
                None if pfn.raw() < self.memory.pfn_limit => state.set_device(pfn, self.device(pfn)?),
                None => {}
            }
        }
        for guest in self.guests.values() {
            state.set_guest(guest.vm(), guest.guest.clone());
        }
        for (vm, guest) in &self.stubs {
            state.set_guest(*vm, guest.clone());
        }
        if let Some(breach) = state.breach() {
            return Err(Disagreement::Rule(breach));
        }
        let held_elsewhere = self.held_elsewhere(&state)?;
        Ok(Seen { state, stubs: self.stubs, held_elsewhere })
    }

    /// The pages that guests have at the frames that were looked at. Memory must be RAM there, devices must be none.
    fn pages_of_guests(&self) -> Result<BTreeSet<Pfn>, Disagreement> {
        let mut pages = BTreeSet::new();
        for guest in self.guests.values() {
            for (gfn, at) in guest.frames() {
                let (page, is_ram) = match at {
                    At::Memory { page, .. } => (page, true),
                    At::Device(page) => (page, false),
                    At::LentOut(page) if !guest.guest.dying => (page, true),
                    // A dying guest's note may outlive the loan.
                    At::LentOut(_) | At::Poisoned => continue,
                };
                let state = self.memory.ledger.state(page);
                let lent_to_host = match state {
                    Some(PageState::Guest { slot, gfn: from, usage: GuestUse::LentToHost }) => {
                        translate::vm(slot) == guest.vm() && from == gfn
                    }
                    _ => false,
                };
                let is_wrong_loan = at == At::LentOut(page) && !lent_to_host;
                if state.is_some() != is_ram || is_wrong_loan || page.raw() >= self.memory.pfn_limit {
                    let seen = format!("has {at:?} at frame {gfn}");
                    return Err(Disagreement::new(page, state, Table::Guest(guest.vm()), seen));
                }
                pages.insert(page);
            }
        }
        Ok(pages)
    }

    /// For each guest how many pages it counts that are not in the state, which are none if all are.
    fn held_elsewhere(&self, state: &Specification) -> Result<BTreeMap<Vm, u64>, Disagreement> {
        let mut found: BTreeMap<Vm, u64> = self.guests.keys().map(|vm| (*vm, 0)).collect();
        let memory = state.changed_pages().flat_map(|(_, page)| page.frames());
        let devices = state.changed_devices().filter_map(|(_, device)| device.frame());
        for (vm, _) in memory.chain(devices) {
            found.entry(vm).and_modify(|count| *count = count.saturating_add(1));
        }
        for (vm, count) in &mut found {
            let counted = self.guests.get(vm).map_or(0, |guest| guest.held);
            match counted.checked_sub(*count) {
                Some(elsewhere) if elsewhere == 0 || !self.complete => *count = elsewhere,
                _ => return Err(Disagreement::Held { vm: *vm, counted, found: *count }),
            }
        }
        Ok(found)
    }

    /// A guest's slot, for a page that only a protected guest can have, or a device; the guest is among those of the state.
    pub(crate) fn known(&mut self, slot: VmSlot) -> Vm {
        let vm = translate::vm(slot);
        self.stub(vm, true);
        vm
    }

    pub(crate) fn stub(&mut self, vm: Vm, protected: bool) {
        if !self.guests.contains_key(&vm) {
            self.stubs.entry(vm).or_insert_with(|| Guest::new(name_of_stub(vm), protected, u64::MAX));
        }
    }

    /// Notes that a guest that was not looked at has made an offer which somebody has accepted.
    pub(crate) fn stub_with_offer(&mut self, vm: Vm, offer: Offer) {
        self.stub(vm, true);
        if let Some(guest) = self.stubs.get_mut(&vm) {
            guest.last_number = guest.last_number.saturating_add(1);
            guest.offers.insert(guest.last_number, offer);
        }
    }
}

/// The name of a VM that was not looked at: one that no VM has for as long as a machine lasts.
pub(crate) const fn name_of_stub(vm: Vm) -> VmHandle {
    VmHandle(u32::MAX - vm.0 as u32)
}
