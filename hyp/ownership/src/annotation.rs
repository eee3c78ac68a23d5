//! How the host's stage 2 names the owner of a page that it does not map: the annotation in an invalid descriptor.

use crate::state::{Component, VmSlot};
use pgtable::Annotation;

/// Bits of an annotation that say what kind of owner it is; a guest's slot is above them.
const KIND_BITS: u32 = 2;
const KIND_MASK: u64 = (1 << KIND_BITS) - 1;
const KIND_HYP: u64 = 1;
const KIND_GUEST: u64 = 2;

/// The annotation of an owner; `None` for the host, whose own pages have none.
pub const fn of_owner(owner: Component) -> Option<Annotation> {
    match owner {
        Component::Host => None,
        Component::Hyp => Annotation::new(KIND_HYP),
        Component::Guest(slot) => Annotation::new(KIND_GUEST | (slot.number() as u64) << KIND_BITS),
    }
}

/// The owner that an annotation names; the host for none. `None` for an annotation that names nobody.
pub const fn owner(annotation: Option<Annotation>) -> Option<Component> {
    let Some(annotation) = annotation else { return Some(Component::Host) };
    let number = annotation.value() >> KIND_BITS;
    match annotation.value() & KIND_MASK {
        KIND_HYP if number == 0 => Some(Component::Hyp),
        KIND_GUEST if number < VmSlot::COUNT as u64 => match VmSlot::new(number as usize) {
            Some(slot) => Some(Component::Guest(slot)),
            None => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owner_survives_the_annotation() {
        let guests = (0..VmSlot::COUNT).filter_map(VmSlot::new).map(Component::Guest);
        for component in guests.chain([Component::Host, Component::Hyp]) {
            assert_eq!(owner(of_owner(component)), Some(component));
        }
    }

    #[test]
    fn foreign_annotations_name_nobody() {
        for value in [3, 1 | 1 << KIND_BITS, 2 | 64 << KIND_BITS, Annotation::MAX] {
            assert_eq!(owner(Annotation::new(value)), None);
        }
    }
}
