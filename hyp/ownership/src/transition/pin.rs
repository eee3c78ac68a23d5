//! Hyp's reliance on pages that it borrows.

use crate::ownership::Ownership;
use crate::state::{MAX_COUNT, PageState};
use abi::{Error, Pfn};

impl Ownership {
    /// Hyp relies on a page that the host shares with it: until it is unpinned as often, the host cannot take it back.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::NotYours`] where the page is not the host's;
    /// [`Error::WrongState`] where hyp does not borrow it; [`Error::Limit`] where the count is full.
    pub fn hyp_pin(&self, page: Pfn) -> Result<(), Error> {
        self.change_pins(page, |pins| if pins == MAX_COUNT { Err(Error::Limit) } else { Ok(pins + 1) })
    }

    /// Hyp relies on the page once less.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::NotYours`] where the page is not the host's;
    /// [`Error::WrongState`] where it is not pinned.
    pub fn hyp_unpin(&self, page: Pfn) -> Result<(), Error> {
        self.change_pins(page, |pins| pins.checked_sub(1).ok_or(Error::WrongState))
    }

    fn change_pins(&self, page: Pfn, change: impl FnOnce(u16) -> Result<u16, Error>) -> Result<(), Error> {
        let pages = self.named_pages(page, 1)?;
        let _host = self.lock_host();
        match self.ledger.states(&pages).next() {
            Some(PageState::Host { hyp_borrows: true, pins, guest_mappings }) => {
                let pins = change(pins)?;
                self.ledger.set(&pages, 0, PageState::Host { hyp_borrows: true, pins, guest_mappings });
                Ok(())
            }
            Some(PageState::Host { .. }) => Err(Error::WrongState),
            Some(PageState::Hyp | PageState::Guest { .. }) => Err(Error::NotYours),
            None => Err(Error::NotMemory),
        }
    }
}
