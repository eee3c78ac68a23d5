//! What must hold of every state.

use super::{Access, Borrower, Page, Specification};
use crate::state::Component;
use abi::Pfn;

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
        self.pages.iter().find_map(|(pfn, page)| self.page_breach(*pfn, page))
    }

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
            if let Borrower::Guest(slot, gfn) = *borrower {
                let there = self.at(slot, gfn)?;
                if there != pfn {
                    return Some(Breach::SameFrame(there, pfn));
                }
            }
        }
        if page.pins != 0 && !page.borrowers.contains_key(&Borrower::Hyp) {
            return Some(Breach::Pinned(pfn));
        }
        if page.placed && (page.owner != Component::Hyp || !page.borrowers.is_empty()) {
            return Some(Breach::Placed(pfn));
        }
        if let (Component::Guest(slot), Some(gfn)) = (page.owner, page.at) {
            let there = self.at(slot, gfn)?;
            if there != pfn {
                return Some(Breach::SameFrame(there, pfn));
            }
        }
        None
    }
}
