//! Random sequences of steps, most of them likely to be legal, on few pages, with allocation failing now and then.

use crate::common::calls::*;
use crate::common::step::Step;
use crate::common::*;
use abi::Pfn;
use ownership::Access;
use ownership_spec::{Borrower, Call, Offer, Owner, Page, Rights, Vm};
use proptest::collection::vec;
use proptest::prelude::*;

/// Two protected guests and one that is not.
const GUESTS: [bool; 3] = [true, true, false];
/// Their slots.
const VMS: [Vm; 3] = [FIRST, SECOND, THIRD];

/// The pages that calls are about: both sides of a block's edge, a whole small bank, the carve-out's edge, no memory.
fn domain() -> impl Iterator<Item = u64> + Clone {
    (LOW..LOW + 8).chain(LOW + 509..LOW + 515).chain(HIGH..HIGH + 4).chain([CARVE_OUT - 1, CARVE_OUT, DEVICE])
}

/// Pages of devices, and one that is none.
const DEVICES: [u64; 6] = [DEVICE, DEVICE + 1, DEVICE + 2, DEVICE + 3, HIGH - 1, LOW];

/// What a step is made of; which step it is depends on the state that it meets.
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
    let seed = (0..96_u8, any::<u16>(), 0..24_u8, 0..3_u8, any::<u8>(), proptest::bool::weighted(0.2));
    let seed =
        seed.prop_map(|(kind, page, frame, guest, count, blind)| Seed { kind, page, frame, guest, count, blind });
    vec(seed, 1..80)
}

/// An offer with what it takes to accept or end it.
#[derive(Clone, Copy)]
struct OfferOf {
    owner: Vm,
    number: u64,
    offer: Offer,
}

impl Seed {
    /// A page of the domain that `suits`, or any page where the step is blind.
    fn page(&self, world: &World, suits: impl Fn(&Page) -> bool) -> Option<u64> {
        let page = |number: &u64| world.specification.page(Pfn::new(*number));
        self.pick(domain().filter(|number| self.blind || page(number).is_some_and(|page| suits(&page))).collect())
    }

    fn pick<T: Copy>(&self, choice: Vec<T>) -> Option<T> {
        choice.get(usize::from(self.page) % choice.len().max(1)).copied()
    }

    fn count(&self) -> u64 {
        if self.count < 200 { 1 } else { u64::from(self.count) % 4 + 1 }
    }

    /// A frame, one of few, on both sides of a block's edge.
    fn gfn(&self) -> u64 {
        if self.frame < 12 { u64::from(self.frame) } else { 0x200 - 6 + u64::from(self.frame - 12) }
    }

    fn flag(&self) -> bool {
        self.count & 4 != 0
    }

    fn rights(&self) -> Rights {
        Rights { read: true, write: self.count & 1 != 0, execute: self.count & 2 != 0 }
    }

    /// A guest of the kind that suits, or any where the step is blind.
    fn guest(&self, protected: bool) -> Vm {
        VMS[match (self.blind, protected) {
            (true, _) => usize::from(self.guest),
            (false, true) => usize::from(self.guest) % 2,
            (false, false) => 2,
        }]
    }

    /// A frame at which a guest has a page that suits, or any frame where the step is blind.
    fn frame_of(&self, world: &World, vm: Vm, suits: impl Fn(&Page) -> bool) -> Option<u64> {
        if self.blind {
            return Some(self.gfn());
        }
        let pages = world.specification.changed_pages().filter(|(_, page)| suits(page));
        let frames = pages.flat_map(|(_, page)| page.frames().filter(|(guest, _)| *guest == vm));
        self.pick(frames.map(|(_, gfn)| gfn.raw()).collect())
    }

    /// An offer of a guest's that suits, or any.
    fn offer(&self, world: &World, suits: impl Fn(&OfferOf) -> bool) -> Option<OfferOf> {
        let guests = world.specification.guests();
        let offers = guests.flat_map(|(owner, guest)| {
            guest.offers.iter().map(move |(number, offer)| OfferOf { owner, number: *number, offer: *offer })
        });
        self.pick(offers.filter(|offer| self.blind || suits(offer)).collect())
    }

    /// The guest that a page belongs or is lent to, or any.
    fn holder(&self, world: &World, page: u64) -> Vm {
        let page = world.specification.page(Pfn::new(page));
        let holder = page.and_then(|page| page.frames().next());
        holder.map_or(VMS[usize::from(self.guest)], |(vm, _)| vm)
    }

    /// The step, or `None` where no page suits, or for one that hyp would not make.
    fn step(&self, world: &World) -> Option<Step> {
        if self.kind >= 84 {
            return self.other_step(world);
        }
        let call = match self.kind {
            0..=21 => self.call_of_host_and_hyp(world),
            22..=45 => self.call_to_guest(world),
            46..=61 => self.call_of_guest(world),
            62..=75 => self.call_of_offers(world),
            _ => self.call_of_devices(world),
        };
        call.map(Step::Call)
    }

    fn call_of_host_and_hyp(&self, world: &World) -> Option<Call> {
        let with_hyp = |page: &Page| page.borrowers.contains_key(&Borrower::Hyp);
        let count = self.count();
        Some(match self.kind {
            0..=2 => host_share_hyp(self.page(world, hosts)?, count),
            3..=4 => host_share_hyp_restricted(self.page(world, hosts)?, count),
            5..=8 => host_unshare_hyp(self.page(world, with_hyp)?, count),
            9..=11 => host_donate_hyp(self.page(world, hosts)?, count),
            12..=15 => {
                let first = self.page(world, |page| page.owner == Owner::Hyp && !page.placed)?;
                if (first..first + count).any(|page| world.in_use.contains(&page)) {
                    return None;
                }
                hyp_donate_host(first, count)
            }
            16..=18 => hyp_pin(self.page(world, with_hyp)?),
            _ => hyp_unpin(self.page(world, |page| page.pins != 0)?),
        })
    }

    fn call_to_guest(&self, world: &World) -> Option<Call> {
        let with_hyp = |page: &Page| page.borrowers.contains_key(&Borrower::Hyp);
        let shareable = |page: &Page| page.owner == Owner::Host && !with_hyp(page) && !page.is_lent();
        let (count, vm) = (self.count(), self.guest(true));
        Some(match self.kind {
            22..=25 => host_donate_guest(vm, self.page(world, hosts)?, self.gfn(), count),
            26 => host_donate_guest(vm, LOW, 0x200, 512),
            27..=30 => host_lend_guest(vm, self.page(world, hosts)?, self.gfn(), count),
            31 => host_lend_guest(vm, LOW, 0x200, 512),
            32..=36 => {
                let (vm, first, gfn) = (self.guest(false), self.page(world, shareable)?, self.gfn());
                let (first, gfn) = (Pfn::new(first), abi::Gfn::new(gfn));
                Call::HostShareGuest { vm, first, gfn, count, rights: self.rights(), restricted: self.flag() }
            }
            37 => host_share_guest(self.guest(false), LOW, 0x200, 512),
            38..=40 => {
                let vm = self.guest(false);
                host_unshare_guest(vm, self.frame_of(world, vm, |page| !page.borrowers.is_empty())?, count)
            }
            41..=43 => {
                let first = self.page(world, |page| page.borrowers.contains_key(&Borrower::Host) && page.is_lent())?;
                host_return_guest(self.holder(world, first), first, count)
            }
            _ => {
                let first = self.page(world, |page| page.frames().next().is_some())?;
                force_reclaim(self.holder(world, first), first, count)
            }
        })
    }

    fn call_of_guest(&self, world: &World) -> Option<Call> {
        let with_host = |page: &Page| page.borrowers.contains_key(&Borrower::Host);
        let vm = self.guest(true);
        let its_alone = |page: &Page| page.owner == Owner::Guest(vm) && page.borrowers.is_empty();
        Some(match self.kind {
            46..=49 => guest_share_host(vm, self.frame_of(world, vm, its_alone)?),
            50..=52 => guest_unshare_host(vm, self.frame_of(world, vm, with_host)?),
            53..=55 => guest_lend_host(vm, self.frame_of(world, vm, its_alone)?),
            56..=58 => guest_relinquish(vm, self.frame_of(world, vm, its_alone)?),
            _ => guest_return(vm, self.frame_of(world, vm, |page| page.owner == Owner::Host && page.is_lent())?),
        })
    }

    fn call_of_offers(&self, world: &World) -> Option<Call> {
        let vm = self.guest(true);
        let its_alone = |page: &Page| page.owner == Owner::Guest(vm) && page.borrowers.is_empty() && !page.offer;
        let open = |offer: &OfferOf| offer.offer.accepted.is_none();
        let dies = |vm: Vm| world.specification.guest(vm).is_ok_and(|guest| guest.dying);
        Some(match self.kind {
            62..=65 => {
                let receiver = VMS[usize::from(self.count) % 3];
                let receiver =
                    if receiver == vm && !self.blind { VMS[1 - usize::from(self.guest) % 2] } else { receiver };
                guest_offer(vm, self.frame_of(world, vm, its_alone)?, receiver, self.rights())
            }
            66..=69 => {
                let OfferOf { owner, number, offer } = self.offer(world, open)?;
                let meant = VMS.into_iter().find(|vm| name(*vm) == offer.receiver).unwrap_or(vm);
                let vm = if self.blind { vm } else { meant };
                guest_accept(vm, owner, number, self.gfn(), if self.blind { self.rights() } else { offer.rights })
            }
            70..=71 => {
                let OfferOf { owner, number, .. } = self.offer(world, |_| true)?;
                guest_withdraw(owner, number)
            }
            72..=73 => {
                let OfferOf { owner, number, offer } = self.offer(world, |offer| !open(offer))?;
                guest_drop(offer.accepted.map_or(vm, |(vm, _)| vm), owner, number)
            }
            _ => {
                let ends = |offer: &OfferOf| {
                    offer.offer.accepted.is_some_and(|(borrower, _)| dies(offer.owner) || dies(borrower))
                };
                let OfferOf { owner, number, offer } = self.offer(world, ends)?;
                host_end_share(owner, offer.accepted.map_or(vm, |(vm, _)| vm), number)
            }
        })
    }

    fn call_of_devices(&self, world: &World) -> Option<Call> {
        let count = self.count().min(2);
        let device = |owner: Owner| {
            let owner_of = |page: &u64| world.specification.device(Pfn::new(*page)).map(|device| device.owner);
            self.pick(DEVICES.into_iter().filter(|page| self.blind || owner_of(page) == Some(owner)).collect())
        };
        Some(match self.kind {
            76..=78 => host_grant_device(VMS[usize::from(self.guest)], device(Owner::Host)?, self.gfn(), count),
            79..=80 => {
                let dying = VMS.into_iter().find(|vm| world.specification.guest(*vm).is_ok_and(|guest| guest.dying))?;
                reclaim_device(dying, device(Owner::Guest(dying))?, count)
            }
            81..=82 => host_donate_device_hyp(device(Owner::Host)?, count),
            _ => hyp_donate_device_host(device(Owner::Hyp)?, count),
        })
    }

    fn other_step(&self, world: &World) -> Option<Step> {
        let vm = VMS[usize::from(self.guest)];
        let count = self.count();
        let dying =
            |page: &Page| page.frames().any(|(vm, _)| world.specification.guest(vm).is_ok_and(|guest| guest.dying));
        Some(match self.kind {
            84 => {
                let dies_once = world.specification.guest(vm).is_ok_and(|guest| !guest.dying);
                return dies_once.then(|| start_teardown(vm).into());
            }
            85..=87 => {
                let first = self.page(world, dying)?;
                reclaim(self.holder(world, first), first, count).into()
            }
            88 => Step::TopUp { vm, first: self.page(world, hosts)?, count },
            89..=93 => Step::HostFault {
                page: self.page(world, |_| true)?,
                access: [Access::Read, Access::Write, Access::Execute][usize::from(self.frame) % 3],
            },
            _ => Step::AllowAllocations((self.count & 1 == 0).then_some(usize::from(self.frame % 4))),
        })
    }
}

/// True of a page that the host has to itself.
fn hosts(page: &Page) -> bool {
    page.owner == Owner::Host && page.borrowers.is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn implementation_and_specification_agree_on_every_step(seeds in seeds()) {
        let mut world = World::with_guests(&GUESTS, 10);
        for seed in &seeds {
            if let Some(step) = seed.step(&world) {
                // Refused or done: what matters is that both say the same.
                let _ = world.apply(step);
                world.dirty_host_pages();
            }
        }
        world.tear_down();
    }
}
