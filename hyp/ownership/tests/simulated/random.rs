//! Random sequences of calls, most of them likely to be legal, on few pages, with allocation failing now and then.

use crate::common::call::Call;
use crate::common::{CARVE_OUT, DEVICE, HIGH, LOW, World};
use abi::Pfn;
use ownership::specification::{Borrower, Page};
use ownership::{Access, Component, Rights};
use proptest::collection::vec;
use proptest::prelude::*;

/// Two protected guests and one that is not.
const GUESTS: [bool; 3] = [true, true, false];

/// The pages that calls are about: both sides of a block's edge, a whole small bank, the carve-out's edge, no memory.
fn domain() -> impl Iterator<Item = u64> + Clone {
    (LOW..LOW + 8).chain(LOW + 509..LOW + 515).chain(HIGH..HIGH + 4).chain([CARVE_OUT - 1, CARVE_OUT, DEVICE])
}

/// What a call is made of; which call it is depends on the state that it meets.
#[derive(Clone, Copy, Debug)]
struct Seed {
    kind: u8,
    page: u16,
    frame: u8,
    guest: u8,
    count: u8,
    /// Take any page, legal or not.
    blind: bool,
}

fn seeds() -> impl Strategy<Value = Vec<Seed>> {
    let seed = (0..54_u8, any::<u16>(), 0..24_u8, 0..3_u8, any::<u8>(), proptest::bool::weighted(0.25));
    let seed =
        seed.prop_map(|(kind, page, frame, guest, count, blind)| Seed { kind, page, frame, guest, count, blind });
    vec(seed, 1..80)
}

impl Seed {
    /// A page of the domain that `suits`, or any page where the call is blind.
    fn page(&self, world: &World, suits: impl Fn(&Page) -> bool) -> Option<u64> {
        let suiting: Vec<u64> = domain()
            .filter(|number| {
                let page = world.specification.pages.get(&Pfn::new(*number));
                self.blind || page.is_some_and(&suits)
            })
            .collect();
        self.pick(&suiting)
    }

    fn pick(&self, choice: &[u64]) -> Option<u64> {
        choice.get(usize::from(self.page) % choice.len().max(1)).copied()
    }

    fn count(&self) -> u64 {
        if self.count < 200 { 1 } else { u64::from(self.count) % 4 + 1 }
    }

    /// A frame, one of few, on both sides of a block's edge.
    fn gfn(&self) -> u64 {
        if self.frame < 12 { u64::from(self.frame) } else { 0x200 - 6 + u64::from(self.frame - 12) }
    }

    /// A guest of the kind that suits, or any where the call is blind.
    fn guest(&self, protected: bool) -> usize {
        match (self.blind, protected) {
            (true, _) => usize::from(self.guest),
            (false, true) => usize::from(self.guest) % 2,
            (false, false) => 2,
        }
    }

    /// A frame at which a guest has a page that suits, or any frame where the call is blind.
    fn frame_of(&self, world: &World, guest: usize, suits: impl Fn(&Page) -> bool) -> Option<u64> {
        if self.blind {
            return Some(self.gfn());
        }
        let slot = world.guests[guest].slot;
        let frames = world.specification.pages.values().filter(|page| suits(page)).flat_map(|page| {
            let own = page.at.filter(|_| page.owner == Component::Guest(slot));
            let borrowed = page.borrowers.keys().filter_map(|borrower| match borrower {
                Borrower::Guest(borrower, gfn) if *borrower == slot => Some(*gfn),
                _ => None,
            });
            own.into_iter().chain(borrowed).map(|gfn| gfn.raw())
        });
        self.pick(&frames.collect::<Vec<_>>())
    }

    /// The call, or `None` where no page suits, or for one that hyp would not make.
    fn call(&self, world: &World) -> Option<Call> {
        let hosts = |page: &Page| page.owner == Component::Host && page.borrowers.is_empty();
        let hyps = |page: &Page| page.owner == Component::Hyp && !page.placed;
        let with_hyp = |page: &Page| page.borrowers.contains_key(&Borrower::Hyp);
        let alone = |page: &Page| page.borrowers.is_empty();
        let shared = |page: &Page| !page.borrowers.is_empty();
        let dying = |page: &Page| match page.owner {
            Component::Guest(slot) => world.specification.guests[&slot].dying,
            _ => false,
        };
        let count = self.count();
        Some(match self.kind {
            0..=3 => Call::HostShareHyp { first: self.page(world, hosts)?, count },
            4..=6 => Call::HostUnshareHyp { first: self.page(world, with_hyp)?, count },
            7..=8 => Call::HostDonateHyp { first: self.page(world, hosts)?, count },
            9..=11 => {
                let first = self.page(world, hyps)?;
                if (first..first + count).any(|page| world.in_use.contains(&page)) {
                    return None;
                }
                Call::HypDonateHost { first, count }
            }
            12..=13 => Call::Pin { page: self.page(world, with_hyp)? },
            14..=15 => Call::Unpin { page: self.page(world, |page| page.pins != 0)? },
            16 => Call::TopUp { guest: usize::from(self.guest), first: self.page(world, hosts)?, count },
            17..=21 => {
                let (guest, first) = (self.guest(true), self.page(world, hosts)?);
                Call::HostDonateGuest { guest, first, gfn: self.gfn(), count }
            }
            22 => Call::HostDonateGuest { guest: self.guest(true), first: LOW, gfn: 0x200, count: 512 },
            23..=26 => {
                let first = self.page(world, |page| page.owner == Component::Host && !with_hyp(page))?;
                let rights = Rights { write: self.count & 1 != 0, execute: self.count & 2 != 0 };
                Call::HostShareGuest { guest: self.guest(false), first, gfn: self.gfn(), count, rights }
            }
            27..=29 => {
                let guest = self.guest(false);
                Call::HostUnshareGuest { guest, gfn: self.frame_of(world, guest, shared)?, count }
            }
            30..=33 => {
                let guest = self.guest(true);
                Call::GuestShareHost { guest, gfn: self.frame_of(world, guest, alone)? }
            }
            34..=36 => {
                let guest = self.guest(true);
                Call::GuestUnshareHost { guest, gfn: self.frame_of(world, guest, shared)? }
            }
            37..=39 => {
                let guest = self.guest(true);
                Call::GuestRelinquish { guest, gfn: self.frame_of(world, guest, alone)? }
            }
            40 => Call::StartTeardown { guest: usize::from(self.guest) },
            41..=45 => {
                let first = self.page(world, dying)?;
                let owner = world.specification.pages.get(&Pfn::new(first)).map(|page| page.owner);
                let its = world.guests.iter().position(|guest| Some(Component::Guest(guest.slot)) == owner);
                Call::Reclaim { guest: its.unwrap_or(usize::from(self.guest)), first, count }
            }
            46..=51 => Call::HostFault {
                page: self.page(world, |_| true)?,
                access: [Access::Read, Access::Write, Access::Execute][usize::from(self.frame) % 3],
            },
            _ => Call::AllowAllocations { count: (self.count & 1 == 0).then_some(usize::from(self.frame % 4)) },
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn implementation_and_specification_agree_on_every_step(seeds in seeds()) {
        let mut world = World::with_guests(&GUESTS, 10);
        for seed in &seeds {
            if let Some(call) = seed.call(&world) {
                // Refused or done: what matters is that both say the same.
                let _ = world.apply(&call);
                world.dirty_host_pages();
            }
        }
        world.tear_down();
    }
}
