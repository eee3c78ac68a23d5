//! What invalid descriptors of stage 2 say: in the host's, who has the page that it does not map; in a guest's, why
//! there is nothing.

use crate::state::{GFN_BITS, VmSlot};
use abi::{Gfn, Pfn};
use pgtable::Annotation;

/// Who has a page that the host might have, as the host's stage 2 names him.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// The host itself: there is no annotation.
    Host,
    /// Hyp.
    Hyp,
    /// A protected guest, which owns the memory or has it on loan.
    Guest(VmSlot),
    /// A guest has these pages of a device.
    Device(GrantedDevice),
}

/// Pages of a device that a guest has, at frames that follow each other as the pages do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantedDevice {
    /// Which guest.
    pub slot: VmSlot,
    /// A page's guest frame less its own number, modulo 2^36: the same for every page of a grant, so that a block of
    /// them takes one descriptor.
    offset: u64,
}

/// Why a guest has nothing at a frame at which it may not get anything either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absence {
    /// What was there was taken by force.
    Poisoned,
    /// It is the guest's and lent to the host: which page comes back here.
    LentToHost(Pfn),
}

/// Bits of an annotation that say what kind of holder it is; a guest's slot is above them, and above it the offset.
const KIND_BITS: u32 = 2;
const KIND_MASK: u64 = (1 << KIND_BITS) - 1;
const KIND_HYP: u64 = 1;
const KIND_GUEST: u64 = 2;
const KIND_DEVICE: u64 = 3;
const OFFSET_SHIFT: u32 = 8;
const SLOT_MASK: u64 = (1 << (OFFSET_SHIFT - KIND_BITS)) - 1;
const FRAME_MASK: u64 = (1 << GFN_BITS) - 1;

const POISONED: u64 = 1;
const LENT_TO_HOST: u64 = 2;
const AWAITS_DEVICE: u64 = 3;

impl GrantedDevice {
    /// The grant by which the guest in `slot` has `page` at `gfn`.
    pub const fn new(slot: VmSlot, page: Pfn, gfn: Gfn) -> Self {
        Self { slot, offset: gfn.raw().wrapping_sub(page.raw()) & FRAME_MASK }
    }

    /// Where the guest has a page of the grant.
    pub const fn gfn(&self, page: Pfn) -> Gfn {
        Gfn::new(page.raw().wrapping_add(self.offset) & FRAME_MASK)
    }
}

impl Holder {
    /// The annotation for a page of this holder's; `None` for the host, whose own pages have none.
    pub const fn annotation(self) -> Option<Annotation> {
        match self {
            Holder::Host => None,
            Holder::Hyp => Annotation::new(KIND_HYP),
            Holder::Guest(slot) => Annotation::new(KIND_GUEST | slot_bits(slot)),
            Holder::Device(GrantedDevice { slot, offset }) => {
                Annotation::new(KIND_DEVICE | slot_bits(slot) | offset << OFFSET_SHIFT)
            }
        }
    }

    /// The holder that an annotation names; the host for none. `None` for an annotation that names nobody.
    pub const fn of(annotation: Option<Annotation>) -> Option<Self> {
        let Some(annotation) = annotation else { return Some(Holder::Host) };
        let value = annotation.value();
        let Some(slot) = VmSlot::new((value >> KIND_BITS & SLOT_MASK) as usize) else { return None };
        match (value & KIND_MASK, value >> OFFSET_SHIFT) {
            (KIND_HYP, 0) if value == KIND_HYP => Some(Holder::Hyp),
            (KIND_GUEST, 0) => Some(Holder::Guest(slot)),
            (KIND_DEVICE, offset) if offset <= FRAME_MASK => Some(Holder::Device(GrantedDevice { slot, offset })),
            _ => None,
        }
    }
}

const fn slot_bits(slot: VmSlot) -> u64 {
    (slot.number() as u64) << KIND_BITS
}

impl Absence {
    /// The annotation in the guest's stage 2.
    pub const fn annotation(self) -> Option<Annotation> {
        Annotation::new(match self {
            Absence::Poisoned => POISONED,
            Absence::LentToHost(page) => LENT_TO_HOST | (page.raw() & FRAME_MASK) << KIND_BITS,
        })
    }

    /// What an annotation in a guest's stage 2 says; `None` for one that says nothing.
    pub const fn of(annotation: Annotation) -> Option<Self> {
        let (kind, page) = (annotation.value() & KIND_MASK, annotation.value() >> KIND_BITS);
        match kind {
            POISONED if page == 0 => Some(Absence::Poisoned),
            LENT_TO_HOST if page <= FRAME_MASK => Some(Absence::LentToHost(Pfn::new(page))),
            _ => None,
        }
    }
}

/// The annotation at a frame of a guest's that the guest takes for a device's. It keeps nothing away: to hyp and host
/// there is nothing at the frame.
pub const fn device_mark() -> Option<Annotation> {
    Annotation::new(AWAITS_DEVICE)
}

/// True where an annotation in a guest's stage 2 is [`device_mark`].
pub const fn is_device_mark(annotation: Annotation) -> bool {
    annotation.value() == AWAITS_DEVICE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_mark_is_no_absence() {
        assert!(device_mark().is_some_and(is_device_mark));
        for absence in [Absence::Poisoned, Absence::LentToHost(Pfn::new(0)), Absence::LentToHost(Pfn::new(1))] {
            assert!(!absence.annotation().is_some_and(is_device_mark), "{absence:?}");
        }
        assert_eq!(device_mark().and_then(Absence::of), None);
    }

    #[test]
    fn every_holder_survives_the_annotation() {
        for slot in (0..VmSlot::COUNT).filter_map(VmSlot::new) {
            for (page, gfn) in [(0, 0), (0x9000, 0x8000), (0x8000, 0x9000), (FRAME_MASK, 0), (0, FRAME_MASK)] {
                let (page, gfn) = (Pfn::new(page), Gfn::new(gfn));
                let device = GrantedDevice::new(slot, page, gfn);
                assert_eq!(Holder::of(Holder::Device(device).annotation()), Some(Holder::Device(device)));
                assert_eq!(device.gfn(page), gfn);
            }
            assert_eq!(Holder::of(Holder::Guest(slot).annotation()), Some(Holder::Guest(slot)));
        }
        for holder in [Holder::Host, Holder::Hyp] {
            assert_eq!(Holder::of(holder.annotation()), Some(holder));
        }
    }

    #[test]
    fn foreign_annotations_name_nobody() {
        for value in [4, 1 | 1 << KIND_BITS, 1 | 1 << OFFSET_SHIFT, 2 | 1 << OFFSET_SHIFT, Annotation::MAX] {
            assert_eq!(Holder::of(Annotation::new(value)), None, "{value:#x}");
        }
        for value in [3, 4, 1 | 1 << KIND_BITS, 2 | 1 << (KIND_BITS + GFN_BITS), Annotation::MAX] {
            assert_eq!(Absence::of(Annotation::new(value).unwrap()), None, "{value:#x}");
        }
    }

    #[test]
    fn every_absence_survives_the_annotation() {
        for absence in [Absence::Poisoned, Absence::LentToHost(Pfn::new(0)), Absence::LentToHost(Pfn::new(FRAME_MASK))]
        {
            assert_eq!(absence.annotation().and_then(Absence::of), Some(absence));
        }
    }
}
