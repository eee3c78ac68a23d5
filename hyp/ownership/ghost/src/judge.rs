//! The state of pages, from ledger and tables, which must agree on them.

use crate::cursor::Cursor;
use crate::disagreement::{Disagreement, Table};
use crate::guest::{At, SeenGuest};
use crate::mapped::Mapped;
use crate::translate;
use abi::host::VmHandle;
use abi::{Gfn, Pfn, PhysAddr, PhysRange};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use ownership::annotation::Holder;
use ownership::{GuestUse, LockedMemory, PageState, VmSlot};
use ownership_spec::{Borrower, Device, Guest, Machine, Offer, Owner, Page, Rights, Specification, Vm};
use pgtable::el2::El2Regime;
use pgtable::stage2::Stage2Regime;
use pgtable::{El2Attributes, TableFrames};

/// Stands for all guests that borrow a page and cannot be seen. No VM has that slot.
const OTHERS: Vm = Vm(u8::MAX);

/// The state in which the machine starts.
pub(crate) fn at_start(memory: &LockedMemory<'_>) -> Specification {
    let pages = |range: &PhysRange| Pfn::containing(range.start)..Pfn::containing(range.end);
    let ram: Vec<Range<Pfn>> = memory.ledger.banks().map(|bank| pages(&bank)).collect();
    Specification::new(Machine::new(&ram, &[pages(&memory.carve_out)], memory.pfn_limit))
}

/// A state, as far as it was looked at.
pub(crate) struct Seen {
    /// The state. It breaks no rule.
    pub(crate) state: Specification,
    /// The VMs in it that were not looked at, and of which it has only what their pages tell.
    pub(crate) stubs: BTreeMap<Vm, Guest>,
    /// For each VM that was looked at, how many pages it counts that were not.
    pub(crate) held_elsewhere: BTreeMap<Vm, u64>,
}

/// What the host's stage 2 is to say of a page.
#[derive(PartialEq, Eq)]
enum Wanted {
    /// That it is mapped so.
    Mapped(Mapped),
    /// Who has it.
    Held(Holder),
}

/// What somebody has of a page, by his own table.
#[derive(PartialEq, Eq)]
struct Use {
    vm: Vm,
    gfn: Gfn,
    rights: Rights,
    borrowed: bool,
}

/// Reads ledger and tables.
pub(crate) struct Judge<'a, F> {
    memory: LockedMemory<'a>,
    host: Option<Cursor<'a, F, Stage2Regime>>,
    hyp: Option<Cursor<'a, F, El2Regime>>,
    guests: BTreeMap<Vm, SeenGuest>,
    /// These are all guests, with all that they have.
    complete: bool,
    stubs: BTreeMap<Vm, Guest>,
}

impl<'a, F: TableFrames> Judge<'a, F> {
    /// Of the guests there is what was seen of them.
    pub(crate) fn new(frames: &'a F, memory: LockedMemory<'a>, guests: Vec<SeenGuest>, complete: bool) -> Self {
        let host = memory.host.map(|table| Cursor::new(frames, table, Table::Host));
        let hyp = memory.hyp.map(|table| Cursor::new(frames, table, Table::Hyp));
        let guests = guests.into_iter().map(|guest| (guest.vm(), guest)).collect();
        Self { memory, host, hyp, guests, complete, stubs: BTreeMap::new() }
    }

    /// The state of these pages, to which those are added that guests have at the frames that were looked at.
    pub(crate) fn state(mut self, start: &Specification, pages: &mut BTreeSet<Pfn>) -> Result<Seen, Disagreement> {
        let mut state = start.clone();
        pages.append(&mut self.pages_of_guests()?);
        for pfn in pages.iter().copied() {
            match self.memory.ledger.state(pfn) {
                Some(known) => state.set_page(pfn, self.page(pfn, known)?),
                None if pfn.raw() < self.memory.pfn_limit => state.set_device(pfn, self.device(pfn)?),
                None => {}
            }
        }
        for guest in self.guests.values() {
            state.set_guest(guest.vm(), guest.guest.clone());
        }
        for (vm, guest) in &self.stubs {
            state.set_guest(*vm, guest.clone());
        }
        if let Some(breach) = state.breach() {
            return Err(Disagreement::Rule(breach));
        }
        let held_elsewhere = self.held_elsewhere(&state)?;
        Ok(Seen { state, stubs: self.stubs, held_elsewhere })
    }

    /// The pages that guests have at the frames that were looked at. Memory must be RAM there, devices must be none.
    fn pages_of_guests(&self) -> Result<BTreeSet<Pfn>, Disagreement> {
        let mut pages = BTreeSet::new();
        for guest in self.guests.values() {
            for (gfn, at) in guest.frames() {
                let (page, is_ram) = match at {
                    At::Memory { page, .. } => (page, true),
                    At::Device(page) => (page, false),
                    At::LentOut(page) if !guest.guest.dying => (page, true),
                    // A dying guest's note may outlive the loan.
                    At::LentOut(_) | At::Poisoned => continue,
                };
                let state = self.memory.ledger.state(page);
                if state.is_some() != is_ram || page.raw() >= self.memory.pfn_limit {
                    let seen = format!("has {at:?} at frame {gfn}");
                    return Err(Disagreement::new(page, state, Table::Guest(guest.vm()), seen));
                }
                pages.insert(page);
            }
        }
        Ok(pages)
    }

    /// For each guest how many pages it counts that are not in the state, which are none if all are.
    fn held_elsewhere(&self, state: &Specification) -> Result<BTreeMap<Vm, u64>, Disagreement> {
        let mut found: BTreeMap<Vm, u64> = self.guests.keys().map(|vm| (*vm, 0)).collect();
        let memory = state.changed_pages().flat_map(|(_, page)| page.frames());
        let devices = state.changed_devices().filter_map(|(_, device)| device.frame());
        for (vm, _) in memory.chain(devices) {
            found.entry(vm).and_modify(|count| *count = count.saturating_add(1));
        }
        for (vm, count) in &mut found {
            let counted = self.guests.get(vm).map_or(0, |guest| guest.held);
            match counted.checked_sub(*count) {
                Some(elsewhere) if elsewhere == 0 || !self.complete => *count = elsewhere,
                _ => return Err(Disagreement::Held { vm: *vm, counted, found: *count }),
            }
        }
        Ok(found)
    }

    /// A page of RAM.
    fn page(&mut self, pfn: Pfn, state: PageState) -> Result<Page, Disagreement> {
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

    /// What the host's stage 2 says must be what the state of the page asks for.
    fn check_host(&mut self, pfn: Pfn, state: PageState) -> Result<(), Disagreement> {
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
    fn check_hyp(&mut self, pfn: Pfn, state: PageState) -> Result<(), Disagreement> {
        let placed = self.is_placed(pfn);
        let wanted = matches!(state, PageState::Hyp | PageState::Host { hyp_borrows: true, .. });
        match &mut self.hyp {
            Some(cursor) if !placed => check_el2(cursor, pfn, Some(state), wanted.then_some(El2Attributes::data())),
            _ => Ok(()),
        }
    }

    fn is_placed(&self, pfn: Pfn) -> bool {
        pfn.checked_address().is_some_and(|address| self.memory.carve_out.contains(address))
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

    /// The page of a device.
    fn device(&mut self, pfn: Pfn) -> Result<Device, Disagreement> {
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

    /// A guest's slot, for a page that only a protected guest can have, or a device; the guest is among those of the state.
    fn known(&mut self, slot: VmSlot) -> Vm {
        let vm = translate::vm(slot);
        self.stub(vm, true);
        vm
    }

    fn stub(&mut self, vm: Vm, protected: bool) {
        if !self.guests.contains_key(&vm) {
            self.stubs.entry(vm).or_insert_with(|| Guest::new(name_of_stub(vm), protected, u64::MAX));
        }
    }

    /// Notes that a guest that was not looked at has made an offer which somebody has accepted.
    fn stub_with_offer(&mut self, vm: Vm, offer: Offer) {
        self.stub(vm, true);
        if let Some(guest) = self.stubs.get_mut(&vm) {
            guest.last_number = guest.last_number.saturating_add(1);
            guest.offers.insert(guest.last_number, offer);
        }
    }
}

/// The name of a VM that was not looked at: one that no VM has for as long as a machine lasts.
const fn name_of_stub(vm: Vm) -> VmHandle {
    VmHandle(u32::MAX - vm.0 as u32)
}

fn lent_to_host(page: Page) -> Page {
    Page { owner_rights: Rights::NONE, borrowers: [(Borrower::Host, Rights::FULL)].into(), ..page }
}

fn unexpected_use(pfn: Pfn, state: PageState, vm: Vm, gfn: Gfn) -> Disagreement {
    Disagreement::new(pfn, Some(state), Table::Guest(vm), format!("has it at frame {gfn}"))
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
