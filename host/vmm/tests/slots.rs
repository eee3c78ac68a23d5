//! Memory slots against a model that has an entry for each page of a small address space.

use abi::{Gfn, Ipa, PAGE_SIZE};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use vmm::dirty::DirtyBitmap;
use vmm::region::BackingId;
use vmm::slots::{MemorySlots, Slot, SlotDriver, SlotError, SlotFlags, SlotId, SlotSettings};

/// Pages of the address space; slots beyond it are not asked for.
const PAGES: u64 = 40;

/// Keeps which pages the guest was made to lose.
#[derive(Default)]
struct Driver(BTreeSet<u64>);

impl SlotDriver for Driver {
    fn accepts(&self, _settings: &SlotSettings) -> bool {
        true
    }
    fn unmapped(&mut self, slot: &Slot) {
        self.0.extend((0..slot.pages()).map(|page| slot.first().raw() + page));
    }
    fn flags_changed(&mut self, _slot: &Slot, _before: SlotFlags) {}
    fn protect(&mut self, _slot: &Slot, _pages: &DirtyBitmap) {}
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Create { start: u64, size: u64, shift: u64, logging: bool },
    Delete(usize),
    Move(usize, u64, u64),
    Log(usize, bool),
    Write(u64),
    Take(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let shift = || prop_oneof![9 => Just(0), 1 => 1..PAGE_SIZE];
    let page = || 0..PAGES - 10;
    prop_oneof![
        4 => (page(), 0..10u64, shift(), any::<bool>())
            .prop_map(|(start, size, shift, logging)| Step::Create { start, size, shift, logging }),
        1 => any::<usize>().prop_map(Step::Delete),
        3 => (any::<usize>(), page(), shift()).prop_map(|(slot, to, shift)| Step::Move(slot, to, shift)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(slot, on)| Step::Log(slot, on)),
        6 => (0..PAGES).prop_map(Step::Write),
        2 => any::<usize>().prop_map(Step::Take),
    ]
}

#[derive(Clone, Debug)]
struct Known {
    start: u64,
    pages: u64,
    written: Option<BTreeSet<u64>>,
}

/// The model: slots by number, and the question which of them has a page.
#[derive(Default)]
struct Model(BTreeMap<SlotId, Known>);

impl Model {
    fn at(&self, page: u64) -> Option<SlotId> {
        self.0.iter().find(|(_, slot)| (slot.start..slot.start + slot.pages).contains(&page)).map(|(id, _)| *id)
    }
    fn is_free(&self, start: u64, pages: u64, but: Option<SlotId>) -> bool {
        (start..start + pages).all(|page| self.at(page).is_none_or(|id| Some(id) == but))
    }
    fn pick(&self, index: usize) -> Option<SlotId> {
        self.0.keys().nth(index % self.0.len().max(1)).copied()
    }
    fn pages(&self, id: SlotId) -> BTreeSet<u64> {
        (self.0[&id].start..self.0[&id].start + self.0[&id].pages).collect()
    }
}

proptest! {
    #[test]
    fn every_page_is_in_the_slot_that_the_model_says(steps in proptest::collection::vec(step(), 1..60)) {
        let mut slots = MemorySlots::new(Driver::default());
        let mut model = Model::default();
        let mut lost = BTreeSet::new();
        for step in steps {
            match step {
                Step::Create { start, size, shift, logging } => {
                    let settings = SlotSettings {
                        start: Ipa::new(start * PAGE_SIZE + shift),
                        size: size * PAGE_SIZE,
                        backing: BackingId(0),
                        backing_offset: 0,
                        flags: SlotFlags { read_only: false, dirty_logging: logging },
                    };
                    match slots.create(settings) {
                        Ok(id) => {
                            prop_assert!(shift == 0 && size != 0 && model.is_free(start, size, None));
                            let written = logging.then(BTreeSet::new);
                            let known = Known { start, pages: size, written };
                            prop_assert!(model.0.insert(id, known).is_none(), "a number is used again");
                        }
                        Err(SlotError::Unaligned) => prop_assert!(shift != 0),
                        Err(SlotError::BadRange) => prop_assert_eq!(size, 0),
                        Err(error) => {
                            prop_assert_eq!(error, SlotError::Overlap);
                            prop_assert!(!model.is_free(start, size, None));
                        }
                    }
                }
                Step::Delete(index) => if let Some(id) = model.pick(index) {
                    prop_assert_eq!(slots.delete(id), Ok(()));
                    lost.extend(model.pages(id));
                    model.0.remove(&id);
                },
                Step::Move(index, to, shift) => if let Some(id) = model.pick(index) {
                    let free = model.is_free(to, model.0[&id].pages, Some(id));
                    let moved = slots.move_to(id, Ipa::new(to * PAGE_SIZE + shift));
                    let expected = match (shift, free) {
                        (0, true) => Ok(()),
                        (0, false) => Err(SlotError::Overlap),
                        _ => Err(SlotError::Unaligned),
                    };
                    prop_assert_eq!(moved, expected);
                    if moved.is_ok() {
                        lost.extend(model.pages(id));
                        model.0.get_mut(&id).unwrap().start = to;
                    }
                },
                Step::Log(index, on) => if let Some(id) = model.pick(index) {
                    prop_assert_eq!(slots.set_flags(id, SlotFlags { read_only: false, dirty_logging: on }), Ok(()));
                    let known = model.0.get_mut(&id).unwrap();
                    known.written = on.then(|| known.written.take().unwrap_or_default());
                },
                Step::Write(page) => {
                    let news = model.at(page).is_some_and(|id| {
                        let known = model.0.get_mut(&id).unwrap();
                        let in_slot = page - known.start;
                        known.written.as_mut().is_some_and(|written| written.insert(in_slot))
                    });
                    prop_assert_eq!(slots.mark_dirty(Gfn::new(page)), news);
                }
                Step::Take(index) => if let Some(id) = model.pick(index) {
                    let taken = slots.take_dirty(id).unwrap().map(|bitmap| bitmap.iter().collect::<BTreeSet<_>>());
                    let expected = model.0.get_mut(&id).unwrap().written.as_mut().map(std::mem::take);
                    prop_assert_eq!(taken, expected);
                },
            }
            for page in 0..PAGES {
                let found = slots.find(Gfn::new(page)).map(|(slot, index)| (slot.id(), index));
                let expected = model.at(page).map(|id| (id, page - model.0[&id].start));
                prop_assert_eq!(found, expected, "page {} after {:?}", page, step);
            }
            prop_assert_eq!(&slots.driver().0, &lost);
            prop_assert_eq!(slots.iter().count(), model.0.len());
        }
    }
}
