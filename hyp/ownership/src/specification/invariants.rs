//! What must hold of every state.

use super::{Access, Borrower, Page, Specification};
use crate::state::Component;
use abi::Pfn;
use alloc::collections::BTreeMap;

/// A rule that a state breaks, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breach {
    /// A page of a guest has no frame there, or a page of somebody else has one.
    Frame(Pfn),
    /// The owner borrows from itself, or somebody borrows who may not borrow from this owner.
    Borrower(Pfn),
    /// A borrower has more rights than the owner can give it.
    Rights(Pfn),
    /// A page is pinned that hyp does not borrow.
    Pinned(Pfn),
    /// A page that the boot placed is not hyp's alone.
    Placed(Pfn),
    /// Two pages of one guest are at the same frame.
    SameFrame(Pfn, Pfn),
}

impl Specification {
    /// The first rule that the state breaks; `None` where it breaks none.
    pub fn breach(&self) -> Option<Breach> {
        let mut frames = BTreeMap::new();
        for (pfn, page) in &self.pages {
            let broken = self.page_breach(*pfn, page);
            if broken.is_some() {
                return broken;
            }
            for frame in page.frames() {
                if let Some(other) = frames.insert(frame, *pfn) {
                    return Some(Breach::SameFrame(other, *pfn));
                }
            }
        }
        None
    }

    /// The first rule that a page breaks by itself.
    fn page_breach(&self, pfn: Pfn, page: &Page) -> Option<Breach> {
        let owned_by_guest = matches!(page.owner, Component::Guest(_));
        if page.at.is_some() != owned_by_guest {
            return Some(Breach::Frame(pfn));
        }
        for (borrower, access) in &page.borrowers {
            let may_borrow = match (page.owner, borrower) {
                (Component::Host, Borrower::Hyp) => page.borrowers.len() == 1,
                (Component::Host, Borrower::Guest(slot, _)) => self.guests.get(slot).is_some_and(|it| !it.protected),
                (Component::Guest(slot), Borrower::Host) => self.guests.get(&slot).is_some_and(|it| it.protected),
                _ => false,
            };
            if !may_borrow {
                return Some(Breach::Borrower(pfn));
            }
            if *borrower == Borrower::Host && *access != Access::DATA || !access.read {
                return Some(Breach::Rights(pfn));
            }
        }
        if page.pins != 0 && !page.borrowers.contains_key(&Borrower::Hyp) {
            return Some(Breach::Pinned(pfn));
        }
        if page.placed && (page.owner != Component::Hyp || !page.borrowers.is_empty()) {
            return Some(Breach::Placed(pfn));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::VmSlot;
    use abi::Gfn;

    /// Two guests, protected and not, and four pages of the host's, with page 0 changed.
    fn with(change: impl FnOnce(&mut Page)) -> Specification {
        let slot = |number| VmSlot::new(number).unwrap();
        let state = Specification::new(&[0..2, 2..4], &(3..4), 4).create(slot(1), true, 16).create(slot(2), false, 16);
        let mut state = state.host_donate_guest(slot(1), Pfn::new(1), Gfn::new(5), 1).unwrap();
        change(state.pages.get_mut(&Pfn::new(0)).unwrap());
        state
    }

    #[test]
    fn each_rule_is_noticed_when_it_is_broken() {
        let (first, guest) = (Pfn::new(0), VmSlot::new(1).unwrap());
        let other = VmSlot::new(2).unwrap();
        assert_eq!(with(|_| ()).breach(), None);
        assert_eq!(with(|page| page.at = Some(Gfn::new(0))).breach(), Some(Breach::Frame(first)));
        assert_eq!(with(|page| page.owner = Component::Guest(guest)).breach(), Some(Breach::Frame(first)));
        let lend = |borrower, access| with(move |page| page.borrowers.extend([(borrower, access)]));
        assert_eq!(lend(Borrower::Hyp, Access::DATA).breach(), None);
        assert_eq!(lend(Borrower::Guest(other, Gfn::new(0)), Access::FULL).breach(), None);
        assert_eq!(lend(Borrower::Host, Access::DATA).breach(), Some(Breach::Borrower(first)));
        assert_eq!(lend(Borrower::Guest(guest, Gfn::new(0)), Access::FULL).breach(), Some(Breach::Borrower(first)));
        let nothing = Access { read: false, write: false, execute: false };
        assert_eq!(lend(Borrower::Hyp, nothing).breach(), Some(Breach::Rights(first)));
        assert_eq!(with(|page| page.pins = 1).breach(), Some(Breach::Pinned(first)));
        assert_eq!(with(|page| page.placed = true).breach(), Some(Breach::Placed(first)));
        let twice = with(|page| (page.owner, page.at) = (Component::Guest(guest), Some(Gfn::new(5))));
        assert_eq!(twice.breach(), Some(Breach::SameFrame(first, Pfn::new(1))));
    }
}
