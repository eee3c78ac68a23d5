//! What one guest's table and records say.

use crate::cursor::Cursor;
use crate::disagreement::{Disagreement, Table};
use crate::mapped::Mapped;
use crate::translate;
use abi::{Gfn, Ipa, PAGE_SIZE, Pfn};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use ownership::GuestMemory;
use ownership::annotation::{Absence, is_device_mark};
use ownership_spec::{Guest, Rights, Vm};
use pgtable::stage2::Stage2Regime;
use pgtable::{Leaf, TableFrames};

/// What a guest has at a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum At {
    /// Memory, its own or borrowed.
    Memory { page: Pfn, rights: Rights, borrowed: bool },
    /// A page of a device.
    Device(Pfn),
    /// Nothing: the guest has lent the page that was there.
    LentOut(Pfn),
    /// Nothing: what was there was taken by force.
    Poisoned,
}

/// A guest, as far as it was looked at.
pub(crate) struct SeenGuest {
    /// What hyp knows of it. Of poisoned frames, those that were looked at.
    pub(crate) guest: Guest,
    /// The pages that it offers.
    pub(crate) offered: BTreeMap<u64, Pfn>,
    /// What it counts.
    pub(crate) held: u64,
    /// What it has at those frames that were looked at.
    frames: BTreeMap<Gfn, At>,
    /// At which of these frames it may use a page.
    uses: BTreeMap<Pfn, Vec<Gfn>>,
    vm: Vm,
}

/// What a leaf says of one of its pages, by the page's number in the guest's address space.
fn at(leaf: &Leaf<Stage2Regime>, gfn: Gfn, vm: Vm) -> Result<Option<At>, Disagreement> {
    let frame = Pfn::new(gfn.raw());
    let Some((_, attributes)) = leaf.mapping() else {
        let Some(annotation) = leaf.annotation() else { return Ok(None) };
        return match Absence::of(annotation) {
            Some(Absence::Poisoned) => Ok(Some(At::Poisoned)),
            Some(Absence::LentToHost(page)) => Ok(Some(At::LentOut(page))),
            // The guest's own note, which keeps nothing away.
            None if is_device_mark(annotation) => Ok(None),
            None => {
                let seen = format!("says {annotation:?} at frame {gfn}, which means nothing");
                Err(Disagreement::new(frame, None, Table::Guest(vm), seen))
            }
        };
    };
    let ipa = gfn.checked_address().unwrap_or(leaf.base);
    let page = Pfn::containing(leaf.output_of(ipa).unwrap_or_default());
    match Mapped::of(attributes) {
        Mapped::Memory { rights, borrowed } => Ok(Some(At::Memory { page, rights, borrowed })),
        Mapped::Device { granted: true } => Ok(Some(At::Device(page))),
        other => Err(Disagreement::new(page, None, Table::Guest(vm), format!("{other} at frame {gfn}"))),
    }
}

impl SeenGuest {
    /// What there is without looking at a frame.
    fn new(memory: &GuestMemory) -> Self {
        let mut guest = Guest::new(memory.name(), memory.is_protected(), memory.gfn_limit());
        guest.dying = memory.is_dying();
        guest.last_number = memory.offers().last_number();
        guest.offers = memory.offers().iter().map(|offer| (offer.number, translate::offer(offer))).collect();
        let offered = memory.offers().iter().map(|offer| (offer.number, offer.page.first())).collect();
        let (frames, uses) = (BTreeMap::new(), BTreeMap::new());
        let vm = translate::vm(memory.slot());
        Self { guest, offered, held: memory.pages_held(), frames, uses, vm }
    }

    /// Looks at some frames; those that do not exist are left out.
    pub(crate) fn at_frames<F: TableFrames>(
        frames: &F,
        memory: &GuestMemory,
        wanted: &BTreeSet<Gfn>,
    ) -> Result<Self, Disagreement> {
        let mut seen = Self::new(memory);
        let mut cursor = Cursor::new(frames, memory.stage2(), Table::Guest(seen.vm));
        for gfn in wanted.iter().take_while(|gfn| gfn.raw() < memory.gfn_limit()) {
            let leaf = cursor.at(gfn.raw())?;
            seen.note(*gfn, at(&leaf, *gfn, seen.vm)?);
        }
        Ok(seen)
    }

    /// Looks at all frames.
    pub(crate) fn at_all_frames<F: TableFrames>(frames: &F, memory: &GuestMemory) -> Result<Self, Disagreement> {
        let mut seen = Self::new(memory);
        let vm = seen.vm;
        let size = memory.stage2().geometry().input_size();
        let outcome = memory.stage2().visit(frames, Ipa::new(0), size, |leaf| {
            if leaf.is_vacant() {
                return ControlFlow::Continue(());
            }
            let first = Gfn::containing(leaf.base).raw();
            for gfn in (first..first.saturating_add(leaf.size / PAGE_SIZE)).map(Gfn::new) {
                match at(&leaf, gfn, vm) {
                    Ok(at) => seen.note(gfn, at),
                    Err(disagreement) => return ControlFlow::Break(disagreement),
                }
            }
            ControlFlow::Continue(())
        });
        match outcome {
            Ok(ControlFlow::Continue(())) => Ok(seen),
            Ok(ControlFlow::Break(disagreement)) => Err(disagreement),
            Err(_) => Err(Disagreement::new(Pfn::new(0), None, Table::Guest(vm), "cannot be read")),
        }
    }

    fn note(&mut self, gfn: Gfn, at: Option<At>) {
        let Some(at) = at else { return };
        self.frames.insert(gfn, at);
        match at {
            At::Memory { page, .. } => self.uses.entry(page).or_default().push(gfn),
            At::Poisoned => {
                self.guest.poisoned.insert(gfn);
            }
            At::Device(_) | At::LentOut(_) => {}
        }
    }

    /// What it has at a frame that was looked at.
    pub(crate) fn at(&self, gfn: Gfn) -> Option<At> {
        self.frames.get(&gfn).copied()
    }

    /// The frames at which it has something, of those that were looked at.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (Gfn, At)> + '_ {
        self.frames.iter().map(|(gfn, at)| (*gfn, *at))
    }

    /// At which of these frames it may use a page.
    pub(crate) fn uses(&self, page: Pfn) -> &[Gfn] {
        self.uses.get(&page).map_or(&[], Vec::as_slice)
    }

    /// Its slot.
    pub(crate) const fn vm(&self) -> Vm {
        self.vm
    }

    /// Its own offer of the page at a frame, with the number.
    pub(crate) fn offer_of(&self, gfn: Gfn) -> Option<(u64, ownership_spec::Offer)> {
        self.guest.offers.iter().find(|(_, offer)| offer.gfn == gfn).map(|(number, offer)| (*number, *offer))
    }
}
