//! What the host's stage 2 and hyp's stage 1 say of a page, and whose a page of a device is.

use crate::cursor::Cursor;
use crate::disagreement::{Disagreement, Table};
use crate::guest::At;
use crate::judge::Judge;
use crate::mapped::Mapped;
use abi::{Pfn, PhysAddr};
use alloc::format;
use alloc::string::String;
use ownership::annotation::Holder;
use ownership::{GuestUse, PageState};
use ownership_spec::{Device, Owner, Rights};
use pgtable::el2::El2Regime;
use pgtable::{El2Attributes, TableFrames};

/// What the host's stage 2 is to say of a page.
#[derive(PartialEq, Eq)]
enum Wanted {
    /// That it is mapped so.
    Mapped(Mapped),
    /// Who has it.
    Held(Holder),
}

impl<F: TableFrames> Judge<'_, F> {
    /// What the host's stage 2 says must be what the state of the page asks for.
    pub(crate) fn check_host(&mut self, pfn: Pfn, state: PageState) -> Result<(), Disagreement> {
        let Some(cursor) = &mut self.host else { return Ok(()) };
        let leaf = cursor.at(pfn.raw())?;
        let mapped = |rights, borrowed| Wanted::Mapped(Mapped::Memory { rights, borrowed });
        let wanted = match state {
            PageState::Host { restricted: false, .. } if leaf.is_vacant() => return Ok(()),
            PageState::Host { restricted, .. } => mapped(if restricted { Rights::READ } else { Rights::FULL }, false),
            PageState::Hyp => Wanted::Held(Holder::Hyp),
            PageState::LentToGuest { slot, .. } => Wanted::Held(Holder::Guest(slot)),
            PageState::Guest { usage: GuestUse::SharedWithHost, .. } => mapped(Rights::DATA, true),
            PageState::Guest { usage: GuestUse::LentToHost, .. } => mapped(Rights::FULL, true),
            PageState::Guest { slot, .. } => Wanted::Held(Holder::Guest(slot)),
        };
        let seen = match leaf.mapping() {
            Some((output, _)) if output.raw() != leaf.base.raw() => format!("maps it elsewhere, to {output}"),
            Some((_, attributes)) if wanted == Wanted::Mapped(Mapped::of(attributes)) => return Ok(()),
            Some((_, attributes)) => format!("{}", Mapped::of(attributes)),
            None => match Holder::of(leaf.annotation()) {
                Some(holder) if wanted == Wanted::Held(holder) => return Ok(()),
                Some(holder) => format!("does not map it, and says {holder:?}"),
                None => format!("says {:?}, which means nothing", leaf.annotation()),
            },
        };
        Err(Disagreement::new(pfn, Some(state), Table::Host, seen))
    }

    /// Hyp maps what it owns or borrows, page by page where it lies, and nothing else. How it maps what the boot gave it is
    /// the boot's business.
    pub(crate) fn check_hyp(&mut self, pfn: Pfn, state: PageState) -> Result<(), Disagreement> {
        let placed = self.is_placed(pfn);
        let wanted = matches!(state, PageState::Hyp | PageState::Host { hyp_borrows: true, .. });
        match &mut self.hyp {
            Some(cursor) if !placed => check_el2(cursor, pfn, Some(state), wanted.then_some(El2Attributes::data())),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_placed(&self, pfn: Pfn) -> bool {
        pfn.checked_address().is_some_and(|address| self.memory.carve_out.contains(address))
    }

    /// The page of a device.
    pub(crate) fn device(&mut self, pfn: Pfn) -> Result<Device, Disagreement> {
        let mut users = self.guests.values().flat_map(|guest| {
            let here = guest.frames().filter(|(_, at)| *at == At::Device(pfn));
            here.map(|(gfn, _)| Device { owner: Owner::Guest(guest.vm()), at: Some(gfn) })
        });
        let (user, second) = (users.next(), users.next());
        let wrong = |table, seen: String| Err(Disagreement::new(pfn, None, table, seen));
        if second.is_some() {
            return wrong(Table::Host, format!("gives it to guests at {user:?} and {second:?}"));
        }
        drop(users);
        let Some(cursor) = &mut self.host else { return Ok(user.unwrap_or(Device::HOSTS)) };
        let leaf = cursor.at(pfn.raw())?;
        if let Some((output, attributes)) = leaf.mapping() {
            let mapped = Mapped::of(attributes);
            if mapped != (Mapped::Device { granted: false }) || output != PhysAddr::new(leaf.base.raw()) {
                return wrong(Table::Host, format!("{mapped}, from {output}"));
            }
        }
        let device = match Holder::of(leaf.annotation()) {
            Some(Holder::Host) => Device::HOSTS,
            Some(Holder::Hyp) => Device { owner: Owner::Hyp, at: None },
            Some(Holder::Device(grant)) => {
                Device { owner: Owner::Guest(self.known(grant.slot)), at: Some(grant.gfn(pfn)) }
            }
            Some(Holder::Guest(_)) | None => {
                return wrong(Table::Host, format!("says {:?} of a device", leaf.annotation()));
            }
        };
        if let (Owner::Hyp, Some(cursor)) = (device.owner, &mut self.hyp) {
            check_el2(cursor, pfn, None, Some(El2Attributes::device()))?;
        }
        let missing = match device.owner {
            Owner::Guest(vm) => self.guests.get(&vm).is_some_and(|guest| !guest.guest.dying),
            Owner::Host | Owner::Hyp => false,
        };
        match user {
            Some(user) if user != device => wrong(Table::Host, format!("says {device}, and it is used by {user}")),
            None if missing => wrong(Table::Host, format!("says {device}, who does not map it")),
            _ => Ok(device),
        }
    }
}

/// EL2 must map a page by itself, where it lies and with these attributes, or not at all.
fn check_el2<F: TableFrames>(
    cursor: &mut Cursor<'_, F, El2Regime>,
    pfn: Pfn,
    state: Option<PageState>,
    wanted: Option<El2Attributes>,
) -> Result<(), Disagreement> {
    let leaf = cursor.at(pfn.raw())?;
    let seen = match leaf.mapping() {
        None if wanted.is_none() => return Ok(()),
        None => String::from("does not map it"),
        Some((output, attributes)) => {
            let where_it_lies = output == PhysAddr::new(leaf.base.raw());
            if leaf.level == pgtable::geometry::LAST_LEVEL && where_it_lies && wanted == Some(attributes) {
                return Ok(());
            }
            format!("maps it from {output}, level {}, with {attributes}", leaf.level)
        }
    };
    Err(Disagreement::new(pfn, state, Table::Hyp, seen))
}
