//! Hyp's reliance on pages that it borrows.

use super::Call;
use super::locks::HostOnly;
use crate::environment::Environment;
use crate::ownership::Ownership;
use crate::state::{MAX_COUNT, PageState};
use abi::{Error, Pfn};

impl Ownership {
    /// Hyp relies on a page that the host shares with it: until it is unpinned as often, the host cannot take it back.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::NotYours`] where the page is not the host's;
    /// [`Error::WrongState`] where hyp does not borrow it; [`Error::Limit`] where the count is full.
    pub fn hyp_pin<E: Environment>(&self, env: &mut E, page: Pfn) -> Result<(), Error> {
        let more = |pins: u16| if pins == MAX_COUNT { Err(Error::Limit) } else { Ok(pins.saturating_add(1)) };
        self.change_pins(env, page, Call::HypPin { page }, more)
    }

    /// Hyp relies on the page once less.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::NotMemory`]; [`Error::NotYours`] where the page is not the host's;
    /// [`Error::WrongState`] where it is not pinned.
    pub fn hyp_unpin<E: Environment>(&self, env: &mut E, page: Pfn) -> Result<(), Error> {
        let less = |pins: u16| pins.checked_sub(1).ok_or(Error::WrongState);
        self.change_pins(env, page, Call::HypUnpin { page }, less)
    }

    fn change_pins<E: Environment>(
        &self,
        env: &mut E,
        page: Pfn,
        call: Call,
        change: impl FnOnce(u16) -> Result<u16, Error>,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostOnly::lock(self),
            |_| call,
            |_| {
                let pages = self.named_pages(page, 1)?;
                match pages.states().next() {
                    Some(PageState::Host { hyp_borrows: true, restricted, pins, guest_mappings }) => {
                        let pins = change(pins)?;
                        Ok((pages, PageState::Host { hyp_borrows: true, restricted, pins, guest_mappings }))
                    }
                    Some(PageState::Host { .. } | PageState::LentToGuest { .. }) => Err(Error::WrongState),
                    _ => Err(Error::NotYours),
                }
            },
            |_, (pages, state)| pages.set_run(state),
        )
    }
}
