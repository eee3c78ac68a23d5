//! A state of a domain in a few bytes, and what is the same for a search.
//!
//! What no rule depends on is left out: the numbers of offers and the names of VMs are compared for equality alone, so
//! they are counted from the lowest; and that a page is wiped is a matter of the transition that wiped it.

use crate::domain::{Domain, MOST_FRAMES, NEXT, NOBODY, SLOTS, name};
use abi::host::VmHandle;
use ownership_spec::{Borrower, Device, Guest, Offer, Owner, Page, Rights, Specification, Vm};
use std::collections::BTreeMap;

/// Somebody, or something that is not there.
type Number = u8;
/// The host; or, as a frame, none.
const HOST: Number = 0;
const HYP: Number = 1;
/// The first of the guests; and, as a receiver, of the names.
const GUESTS: Number = 2;

/// A page of RAM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
struct PageCode {
    owner: Number,
    /// The frame's number and one more, or 0.
    at: Number,
    /// Bits of what the owner may not do, so that a page at the start is all zeroes.
    refused: u8,
    pins: u8,
    /// Bits of what the borrowers may: host, hyp, each guest at each frame.
    borrowers: [u8; 2 + 2 * MOST_FRAMES],
}

/// A VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
struct GuestCode {
    /// There is none, it lives, it is dying.
    life: u8,
    /// One bit for each frame.
    poisoned: u8,
    /// For each frame, what of it waits to be accepted: bits of the rights, and the receiver's number times 8.
    waiting: [u8; MOST_FRAMES],
}

/// A state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Code {
    pages: [PageCode; 3],
    /// The device's owner, and the frame's number and one more.
    device: (Number, Number),
    guests: [GuestCode; 2],
}

fn bits(rights: Rights) -> u8 {
    u8::from(rights.read) | u8::from(rights.write) << 1 | u8::from(rights.execute) << 2
}

fn rights(bits: u8) -> Rights {
    Rights { read: bits & 1 != 0, write: bits & 2 != 0, execute: bits & 4 != 0 }
}

fn owner_number(owner: Owner) -> Number {
    match owner {
        Owner::Host => HOST,
        Owner::Hyp => HYP,
        Owner::Guest(vm) => GUESTS + vm.0,
    }
}

fn owner(number: Number) -> Owner {
    match number {
        HOST => Owner::Host,
        HYP => Owner::Hyp,
        guest => Owner::Guest(Vm(guest - GUESTS)),
    }
}

/// What stands for each name in a state in which the next VM is to be called `next`.
pub fn class_of(state: &Specification, name_in_use: VmHandle, next: VmHandle) -> VmHandle {
    let bearer = state.guests().find(|(_, guest)| guest.name == name_in_use);
    match bearer {
        Some((vm, _)) => name(vm),
        None if name_in_use == next => NEXT,
        None => NOBODY,
    }
}

fn receiver_number(class: VmHandle) -> Number {
    let slot = SLOTS.into_iter().position(|vm| name(vm) == class);
    match slot {
        Some(slot) => slot as Number,
        None if class == NEXT => GUESTS,
        None => GUESTS + 1,
    }
}

fn receiver(number: Number) -> VmHandle {
    match number {
        GUESTS => NEXT,
        slot if slot < GUESTS => name(SLOTS[usize::from(slot)]),
        _ => NOBODY,
    }
}

impl PageCode {
    fn of(domain: &Domain, page: &Page) -> Option<Self> {
        let mut code = Self { owner: owner_number(page.owner), ..Self::default() };
        code.at = match page.at {
            Some(gfn) => domain.number_of(gfn)? as Number + 1,
            None => 0,
        };
        code.refused = !bits(page.owner_rights) & bits(Rights::FULL);
        code.pins = u8::try_from(page.pins).ok().filter(|pins| u64::from(*pins) <= domain.pins)?;
        for (borrower, rights) in &page.borrowers {
            let place = match borrower {
                Borrower::Host => 0,
                Borrower::Hyp => 1,
                Borrower::Guest(vm, gfn) => 2 + usize::from(vm.0) * MOST_FRAMES + domain.number_of(*gfn)?,
            };
            *code.borrowers.get_mut(place)? = bits(*rights);
        }
        Some(code)
    }

    fn page(&self, domain: &Domain) -> Page {
        let at = self.at.checked_sub(1).map(|number| domain.frame(usize::from(number)));
        let borrower = |place: usize| match place {
            0 => Borrower::Host,
            1 => Borrower::Hyp,
            _ => {
                let (vm, number) = ((place - 2) / MOST_FRAMES, (place - 2) % MOST_FRAMES);
                Borrower::Guest(SLOTS[vm], domain.frame(number))
            }
        };
        let borrowers = self.borrowers.iter().enumerate().filter(|(_, bits)| **bits != 0);
        Page {
            owner_rights: rights(!self.refused & bits(Rights::FULL)),
            borrowers: borrowers.map(|(place, bits)| (borrower(place), rights(*bits))).collect(),
            pins: u64::from(self.pins),
            ..Page::of(owner(self.owner), at)
        }
    }

    fn with_guests_swapped(mut self) -> Self {
        self.owner = with_guest_swapped(self.owner);
        let (one, other) = self.borrowers[2..].split_at_mut(MOST_FRAMES);
        one.swap_with_slice(other);
        self
    }
}

fn with_guest_swapped(owner: Number) -> Number {
    match owner {
        HOST | HYP => owner,
        guest => GUESTS + (1 - (guest - GUESTS)),
    }
}

impl GuestCode {
    fn of(domain: &Domain, state: &Specification, guest: &Guest, next: VmHandle) -> Option<Self> {
        let mut code = Self { life: if guest.dying { 2 } else { 1 }, ..Self::default() };
        for gfn in &guest.poisoned {
            code.poisoned |= 1 << domain.number_of(*gfn)?;
        }
        for offer in guest.offers.values().filter(|offer| offer.accepted.is_none()) {
            let receiver = receiver_number(class_of(state, offer.receiver, next));
            code.waiting[domain.number_of(offer.gfn)?] = bits(offer.rights) | receiver << 3;
        }
        Some(code)
    }

    fn with_receivers_swapped(mut self) -> Self {
        for waiting in self.waiting.iter_mut().filter(|waiting| **waiting != 0 && **waiting >> 3 < GUESTS) {
            *waiting ^= 1 << 3;
        }
        self
    }
}

impl Code {
    /// The code of a state in which the next VM is to be called `next`; `None` where it is not within the bounds.
    pub fn of(domain: &Domain, state: &Specification, next: VmHandle) -> Option<Self> {
        let mut pages = [PageCode::default(); 3];
        for (number, code) in pages.iter_mut().take(domain.pages).enumerate() {
            *code = PageCode::of(domain, &state.page(domain.page(number))?)?;
        }
        let device = state.device(domain.device).filter(|device| domain.grants || *device == Device::HOSTS)?;
        let at = match device.at {
            Some(gfn) => domain.number_of(gfn)? as Number + 1,
            None => 0,
        };
        let mut guests = [GuestCode::default(); 2];
        for (code, vm) in guests.iter_mut().zip(SLOTS) {
            match state.guest(vm) {
                Ok(guest) if guest.dying && !domain.life => return None,
                Ok(guest) => *code = GuestCode::of(domain, state, guest, next)?,
                Err(_) if domain.life => {}
                Err(_) => return None,
            }
        }
        Some(Self { pages, device: (owner_number(device.owner), at), guests })
    }

    /// The state.
    pub fn state(&self, domain: &Domain) -> Specification {
        let mut state = Specification::new(domain.machine.clone());
        for (vm, code) in SLOTS.into_iter().zip(&self.guests).filter(|(_, code)| code.life != 0) {
            let mut guest = Guest::new(name(vm), domain.protected[usize::from(vm.0)], domain.gfn_limit);
            guest.dying = code.life == 2;
            for number in 0..domain.frames {
                let gfn = domain.frame(number);
                if code.poisoned >> number & 1 != 0 {
                    guest.poisoned.insert(gfn);
                }
                if let Some(offer) = self.offer(domain, vm, number) {
                    guest.last_number += 1;
                    guest.offers.insert(guest.last_number, offer);
                }
            }
            state.set_guest(vm, guest);
        }
        for (number, code) in self.pages.iter().take(domain.pages).enumerate() {
            let mut page = code.page(domain);
            if let Owner::Guest(vm) = page.owner {
                page.offer = self.guests[usize::from(vm.0)].waiting[usize::from(code.at) - 1] != 0;
            }
            state.set_page(domain.page(number), page);
        }
        let at = self.device.1.checked_sub(1).map(|number| domain.frame(usize::from(number)));
        state.set_device(domain.device, Device { owner: owner(self.device.0), at });
        state
    }

    /// What a guest offers of the page at its frame `number`: it waits, or a guest borrows that page.
    fn offer(&self, domain: &Domain, vm: Vm, number: usize) -> Option<Offer> {
        let gfn = domain.frame(number);
        let waiting = self.guests[usize::from(vm.0)].waiting[number];
        if waiting != 0 {
            return Some(Offer { gfn, rights: rights(waiting), receiver: receiver(waiting >> 3), accepted: None });
        }
        let own = |page: &&PageCode| page.owner == GUESTS + vm.0 && usize::from(page.at) == number + 1;
        let page = self.pages.iter().find(own)?.page(domain);
        let (borrower, at) = page.guest_borrowers().next()?;
        let rights = page.borrowers[&Borrower::Guest(borrower, at)];
        Some(Offer { gfn, rights, receiver: name(borrower), accepted: Some((borrower, at)) })
    }

    /// The same with the pages in another order, once for each; this one first.
    pub fn arrangements(&self, domain: &Domain) -> Vec<Self> {
        let [a, b, c] = self.pages;
        let orders = match domain.pages {
            3 => vec![[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]],
            2 => vec![[a, b, c], [b, a, c]],
            _ => vec![self.pages],
        };
        let mut all: Vec<Self> = Vec::new();
        for pages in orders {
            let code = Self { pages, ..*self };
            if !all.contains(&code) {
                all.push(code);
            }
        }
        all
    }

    /// One and the same code for all states that differ in nothing but which page is which; and, where both VMs are of one
    /// kind, which VM is.
    pub fn canonical(&self, domain: &Domain) -> Self {
        let in_order = |mut code: Self| {
            code.pages[..domain.pages].sort_unstable();
            code
        };
        let here = in_order(*self);
        if domain.protected[0] == domain.protected[1] { here.min(in_order(self.with_guests_swapped())) } else { here }
    }

    fn with_guests_swapped(&self) -> Self {
        let [first, second] = self.guests.map(GuestCode::with_receivers_swapped);
        Self {
            pages: self.pages.map(PageCode::with_guests_swapped),
            device: (with_guest_swapped(self.device.0), self.device.1),
            guests: [second, first],
        }
    }
}

/// The state with the names and numbers by which [`Code::state`] knows things, made of the state itself: what a code
/// must not lose.
pub fn renamed(state: &Specification, next: VmHandle) -> Specification {
    let mut renamed = state.clone();
    renamed.forget_wipes();
    for (vm, guest) in state.guests() {
        let in_order: BTreeMap<_, _> = guest.offers.values().map(|offer| (offer.gfn, *offer)).collect();
        let class = |offer: Offer| Offer { receiver: class_of(state, offer.receiver, next), ..offer };
        let offers: BTreeMap<_, _> = (1..).zip(in_order.into_values().map(class)).collect();
        let last_number = offers.len() as u64;
        renamed.set_guest(vm, Guest { name: name(vm), offers, last_number, ..guest.clone() });
    }
    renamed
}
