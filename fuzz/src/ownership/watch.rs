//! Watching the transitions of a CPU, and stepping in between them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use abi::{Error, Gfn, Ipa, Pfn};
use memsim::{Cpu, Frozen};
use ownership::{Access, Call, GuestMemory, HostFault, LockedMemory, PageState, VmSlot};
use ownership_ghost::{Ghost, Settings};
use pgtable::geometry::{LAST_LEVEL, entry_size};
use simulation::Observer;

use super::model::Model;
use super::ranks::as_test;

/// Something that another CPU does at a lock boundary.
pub type Interruption = Box<dyn FnOnce() + Send>;

/// At which of a CPU's lock boundaries something else is to happen, and what.
pub type Pending = Arc<Mutex<Option<(u32, Interruption)>>>;

/// Compares each transition of a CPU with the specification: for the components whose locks it has, by what ledger and
/// tables say before and after; and for everything, by the model.
pub struct Watch {
    ghost: Ghost,
    model: Arc<Mutex<Model>>,
    pending: Pending,
}

impl Watch {
    /// A watch that keeps `model` up to date, and makes what is `pending` happen.
    pub fn new(model: Arc<Mutex<Model>>, pending: Pending) -> Self {
        Self { ghost: Ghost::new(Settings::ALL), model, pending }
    }
}

impl Observer for Watch {
    fn before(&mut self, cpu: &Cpu, memory: &LockedMemory<'_>, call: &Call) {
        let report = self.ghost.before(&cpu.machine().freeze(), memory, call);
        if let Err(report) = report {
            panic!("{report}");
        }
    }

    fn after(&mut self, cpu: &Cpu, memory: &LockedMemory<'_>, call: &Call, result: Result<(), Error>) {
        let report = self.ghost.after(&cpu.machine().freeze(), memory, result);
        if let Err(report) = report {
            panic!("{report}");
        }
        let is_short = result == Err(Error::OutOfMemory) && is_short(&cpu.machine().freeze(), memory, call);
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        model.cache_was_short |= is_short;
        if let Err(wrong) = model.transition(cpu.machine(), &ownership_ghost::call(call), result) {
            drop(model);
            panic!("{wrong}");
        }
    }

    fn unlocked(&mut self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let due = pending.as_mut().is_some_and(|(boundary, _)| {
            *boundary = boundary.saturating_sub(1);
            *boundary == 0
        });
        let interruption = if due { pending.take() } else { None };
        drop(pending);
        if let Some((_, interrupt)) = interruption {
            as_test(interrupt);
        }
    }

    fn fault(&mut self, cpu: &Cpu, memory: &LockedMemory<'_>, ipa: Ipa, access: Access, fault: HostFault) {
        // Whether there was a frame is looked at where the outcome is.
        let report = self.ghost.fault(&cpu.machine().freeze(), memory, ipa, access, fault, true);
        if let Err(report) = report {
            panic!("{report}");
        }
    }
}

/// True where who pays for a guest's tables has fewer pages than it takes to change one frame alone.
pub fn is_short_for(frozen: &Frozen<'_>, guest: &GuestMemory, gfn: Gfn) -> bool {
    missing_tables(frozen, guest, &[gfn], None) > guest.available_pages()
}

/// True where who pays for a guest's tables has fewer pages than it may take to change the frames that a call names alone.
fn is_short(frozen: &Frozen<'_>, memory: &LockedMemory<'_>, call: &Call) -> bool {
    let pages = |first: Pfn, count: u64| (0..count.min(1 << 12)).filter_map(move |index| first.checked_add(index));
    let range =
        |gfn: Gfn, count: u64| (0..count.min(1 << 12)).filter_map(move |index| gfn.checked_add(index)).collect();
    let (slot, frames, output): (VmSlot, Vec<Gfn>, Option<Pfn>) = match *call {
        Call::HostDonateGuest { slot, first, gfn, count }
        | Call::HostLendGuest { slot, first, gfn, count }
        | Call::HostShareGuest { slot, first, gfn, count, .. }
        | Call::HostGrantDevice { slot, first, gfn, count } => (slot, range(gfn, count), Some(first)),
        Call::HostUnshareGuest { slot, gfn, count } => (slot, range(gfn, count), None),
        Call::GuestLendHost { slot, gfn }
        | Call::GuestReturn { slot, gfn }
        | Call::GuestRelinquish { slot, gfn }
        | Call::GuestAccept { slot, gfn, .. } => (slot, vec![gfn], None),
        Call::ForceReclaim { slot, first, count } => {
            let frame = |page| match memory.ledger.state(page)? {
                PageState::Guest { gfn, .. } | PageState::LentToGuest { gfn, .. } => Some(gfn),
                _ => None,
            };
            (slot, pages(first, count).filter_map(frame).collect(), None)
        }
        _ => return false,
    };
    let guest = memory.guests.into_iter().flatten().find(|guest| guest.slot() == slot);
    guest.is_some_and(|guest| missing_tables(frozen, guest, &frames, output) > guest.available_pages())
}

/// How many tables it takes to change the descriptors of `frames` alone: one for each part of the address space that a
/// table covers, where a larger leaf stands, unless the frames fill it. `output`: the first is to be mapped to this page.
fn missing_tables(frozen: &Frozen<'_>, guest: &GuestMemory, frames: &[Gfn], output: Option<Pfn>) -> u64 {
    let named: BTreeSet<u64> = frames.iter().map(|gfn| gfn.raw()).collect();
    let mut tables = BTreeSet::new();
    for gfn in frames {
        let Some(leaf) = gfn.checked_address().and_then(|ipa| guest.lookup(frozen, ipa).ok()) else { continue };
        for level in leaf.level..LAST_LEVEL {
            let pages = entry_size(level) >> 12;
            let base = gfn.raw() & !(pages - 1);
            let is_block = level > 0
                && output.zip(frames.first()).is_none_or(|(page, first)| (page.raw() ^ first.raw()) & (pages - 1) == 0)
                && named.range(base..base + pages).count() as u64 == pages;
            if is_block {
                break;
            }
            tables.insert((level, base));
        }
    }
    tables.len() as u64
}
