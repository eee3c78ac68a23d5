//! Who owns and who uses a page of RAM, by the ledger and by the tables of those who do.

use crate::disagreement::{Disagreement, Table};
use crate::guest::At;
use crate::judge::{Judge, name_of_stub};
use crate::translate;
use abi::{Gfn, Pfn};
use alloc::format;
use ownership::{GuestUse, PageState};
use ownership_spec::{Borrower, Offer, Owner, Page, Rights, Vm};
use pgtable::TableFrames;

/// Stands for all guests that borrow a page and cannot be seen. No VM has that slot.
const OTHERS: Vm = Vm(u8::MAX);

/// What somebody has of a page, by his own table.
#[derive(PartialEq, Eq)]
struct Use {
    vm: Vm,
    gfn: Gfn,
    rights: Rights,
    borrowed: bool,
}

impl<F: TableFrames> Judge<'_, F> {
    /// A page of RAM.
    pub(crate) fn page(&mut self, pfn: Pfn, state: PageState) -> Result<Page, Disagreement> {
        self.check_host(pfn, state)?;
        self.check_hyp(pfn, state)?;
        match state {
            PageState::Host { hyp_borrows, restricted, pins, guest_mappings } => {
                let mut page = self.mapped_page(pfn, state, guest_mappings)?;
                if hyp_borrows {
                    page.borrowers.insert(Borrower::Hyp, Rights::DATA);
                }
                if restricted {
                    page.owner_rights = Rights::READ;
                }
                Ok(Page { pins: u64::from(pins), ..page })
            }
            PageState::LentToGuest { slot, gfn } => {
                let (vm, rights) = (self.known(slot), Rights::FULL);
                self.check_uses(pfn, state, &[Use { vm, gfn, rights, borrowed: true }])?;
                let borrowers = [(Borrower::Guest(vm, gfn), rights)].into();
                Ok(Page { owner_rights: Rights::NONE, borrowers, ..Page::HOST_ALONE })
            }
            PageState::Hyp => {
                self.check_uses(pfn, state, &[])?;
                Ok(if self.is_placed(pfn) { Page::PLACED } else { Page::of(Owner::Hyp, None) })
            }
            PageState::Guest { slot, gfn, usage } => {
                let vm = self.known(slot);
                let page = Page::of(Owner::Guest(vm), Some(gfn));
                let own = Use { vm, gfn, rights: Rights::FULL, borrowed: false };
                if self.guests.contains_key(&vm) {
                    self.page_of_seen(pfn, state, page, own, usage)
                } else {
                    self.page_of_unseen(pfn, state, page, own, usage)
                }
            }
        }
    }

    /// A page of the host's, with the guests that borrow it.
    fn mapped_page(&mut self, pfn: Pfn, state: PageState, mappings: u16) -> Result<Page, Disagreement> {
        let mut page = Page::HOST_ALONE;
        for guest in self.guests.values() {
            for gfn in guest.uses(pfn) {
                let Some(At::Memory { rights, borrowed, .. }) = guest.at(*gfn) else { continue };
                if !borrowed || guest.guest.protected {
                    return Err(unexpected_use(pfn, state, guest.vm(), *gfn));
                }
                page.borrowers.insert(Borrower::Guest(guest.vm(), *gfn), rights);
            }
        }
        let mappings = u64::from(mappings);
        let seen = page.borrowers.len() as u64;
        if seen > mappings || self.complete && seen != mappings {
            return Err(Disagreement::new(
                pfn,
                Some(state),
                Table::Ledger,
                format!("counts wrong: guests map it {seen} times"),
            ));
        }
        // Without the host's lock the count may change at any time.
        if self.host.is_some() && seen != mappings {
            self.stub(OTHERS, false);
            let first = pfn.raw().wrapping_mul(u64::from(u16::MAX) + 1);
            for number in 0..mappings.saturating_sub(seen) {
                let borrower = Borrower::Guest(OTHERS, Gfn::new(first.wrapping_add(number)));
                page.borrowers.insert(borrower, Rights::READ);
            }
        }
        Ok(page)
    }

    /// A page of a guest that was looked at.
    fn page_of_seen(
        &mut self,
        pfn: Pfn,
        state: PageState,
        page: Page,
        own: Use,
        usage: GuestUse,
    ) -> Result<Page, Disagreement> {
        let Some(owner) = self.guests.get(&own.vm) else { return Ok(page) };
        let (vm, gfn) = (own.vm, own.gfn);
        let offer = owner.offer_of(gfn).filter(|(number, _)| owner.offered.get(number) == Some(&pfn));
        let fits = match (usage, offer) {
            (GuestUse::Offered, Some((_, offer))) => offer.accepted.is_none(),
            (GuestUse::SharedWithGuest(slot), Some((_, offer))) => {
                offer.accepted.is_some_and(|(borrower, _)| borrower == translate::vm(slot))
            }
            (GuestUse::Offered | GuestUse::SharedWithGuest(_), None) => false,
            (_, offer) => offer.is_none(),
        };
        if !fits {
            let seen = format!("has this offer of it: {offer:?}");
            return Err(Disagreement::new(pfn, Some(state), Table::Guest(vm), seen));
        }
        match usage {
            GuestUse::Alone | GuestUse::Offered => {
                self.check_uses(pfn, state, &[own])?;
                Ok(Page { offer: usage == GuestUse::Offered, ..page })
            }
            GuestUse::SharedWithHost => {
                self.check_uses(pfn, state, &[own])?;
                Ok(Page { borrowers: [(Borrower::Host, Rights::DATA)].into(), ..page })
            }
            GuestUse::LentToHost => {
                if owner.at(gfn) != Some(At::LentOut(pfn)) && !owner.guest.dying {
                    let seen = format!("has {:?} at frame {gfn}", owner.at(gfn));
                    return Err(Disagreement::new(pfn, Some(state), Table::Guest(vm), seen));
                }
                self.check_uses(pfn, state, &[])?;
                Ok(lent_to_host(page))
            }
            GuestUse::SharedWithGuest(slot) => {
                let borrower = self.known(slot);
                let Some((_, Offer { rights, accepted: Some((_, at)), .. })) = offer else { return Ok(page) };
                self.check_uses(pfn, state, &[own, Use { vm: borrower, gfn: at, rights, borrowed: true }])?;
                Ok(Page { borrowers: [(Borrower::Guest(borrower, at), rights)].into(), ..page })
            }
        }
    }

    /// A page of a guest that was not looked at, and that may do with it at any time what takes its own lock alone.
    fn page_of_unseen(
        &mut self,
        pfn: Pfn,
        state: PageState,
        page: Page,
        own: Use,
        usage: GuestUse,
    ) -> Result<Page, Disagreement> {
        let borrowed = match usage {
            GuestUse::SharedWithGuest(slot) => self.only_use(pfn, translate::vm(slot)),
            _ => None,
        };
        self.check_uses(pfn, state, borrowed.as_slice())?;
        Ok(match (usage, borrowed) {
            (_, Some(Use { vm, gfn, rights, .. })) => {
                self.stub_with_offer(
                    own.vm,
                    Offer { gfn: own.gfn, rights, receiver: name_of_stub(vm), accepted: Some((vm, gfn)) },
                );
                Page { borrowers: [(Borrower::Guest(vm, gfn), rights)].into(), ..page }
            }
            (GuestUse::SharedWithHost, None) if self.host.is_some() => {
                Page { borrowers: [(Borrower::Host, Rights::DATA)].into(), ..page }
            }
            (GuestUse::LentToHost, None) if self.host.is_some() => lent_to_host(page),
            _ => page,
        })
    }

    /// Where the guest `vm` borrows a page, if it was seen to do so at one frame.
    fn only_use(&self, pfn: Pfn, vm: Vm) -> Option<Use> {
        let guest = self.guests.get(&vm)?;
        let [gfn] = *guest.uses(pfn) else { return None };
        match guest.at(gfn) {
            Some(At::Memory { rights, borrowed: true, .. }) => Some(Use { vm, gfn, rights, borrowed: true }),
            _ => None,
        }
    }

    /// Guests must use a page as is expected, and not otherwise. What is expected of a dying one, or of one that was not
    /// looked at, need not be there.
    fn check_uses(&self, pfn: Pfn, state: PageState, expected: &[Use]) -> Result<(), Disagreement> {
        for guest in self.guests.values() {
            for gfn in guest.uses(pfn) {
                let Some(At::Memory { rights, borrowed, .. }) = guest.at(*gfn) else { continue };
                if !expected.contains(&Use { vm: guest.vm(), gfn: *gfn, rights, borrowed }) {
                    return Err(unexpected_use(pfn, state, guest.vm(), *gfn));
                }
            }
        }
        for Use { vm, gfn, .. } in expected {
            let Some(guest) = self.guests.get(vm) else { continue };
            if !guest.uses(pfn).contains(gfn) && !guest.guest.dying {
                let seen = format!("has {:?} at frame {gfn}", guest.at(*gfn));
                return Err(Disagreement::new(pfn, Some(state), Table::Guest(*vm), seen));
            }
        }
        Ok(())
    }
}

fn lent_to_host(page: Page) -> Page {
    Page { owner_rights: Rights::NONE, borrowers: [(Borrower::Host, Rights::FULL)].into(), ..page }
}

fn unexpected_use(pfn: Pfn, state: PageState, vm: Vm, gfn: Gfn) -> Disagreement {
    Disagreement::new(pfn, Some(state), Table::Guest(vm), format!("has it at frame {gfn}"))
}
