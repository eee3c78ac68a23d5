//! The specification's state as the real ledger and the real tables have it.

use super::World;
use abi::{Gfn, Ipa, PAGE_SIZE, Pfn, VirtAddr};
use ownership::specification::{Access, Borrower, Page};
use ownership::{Component, PageState, annotation};
use pgtable::stage2::Stage2Regime;
use pgtable::{Leaf, Stage2Attributes, Stage2Execute, Stage2Memory};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// The access that a stage-2 leaf gives.
fn access(attributes: &Stage2Attributes) -> Access {
    assert!(attributes.access_flag && attributes.memory == Stage2Memory::Normal, "{attributes:?}");
    Access { read: attributes.read, write: attributes.write, execute: attributes.execute == Stage2Execute::All }
}

/// The pages of a leaf: input and output page numbers.
fn pages_of<R: pgtable::Regime>(leaf: &Leaf<R>, base: u64) -> impl Iterator<Item = (u64, u64)> + use<R> {
    let output = leaf.mapping().map_or(0, |(output, _)| output.raw());
    (0..leaf.size / PAGE_SIZE).map(move |page| ((base >> 12) + page, (output >> 12) + page))
}

/// Every page of every guest: by page, who has it where, with what access, and as an owner or not.
type GuestViews = BTreeMap<u64, Vec<(Component, Gfn, Access, bool)>>;

fn guest_views(world: &World) -> GuestViews {
    let mut views = GuestViews::new();
    for guest in &world.guests {
        let memory = guest.memory.lock();
        let mut mapped = 0;
        let size = memory.stage2().geometry().input_size();
        let all = memory.stage2().visit(&world.cpu, Ipa::new(0), size, |leaf| {
            if let Some((_, attributes)) = leaf.mapping() {
                for (gfn, pfn) in pages_of(&leaf, leaf.base.raw()) {
                    let component = Component::Guest(guest.slot);
                    let view = (component, Gfn::new(gfn), access(&attributes), attributes.software == 0);
                    views.entry(pfn).or_default().push(view);
                    mapped += 1;
                }
            }
            ControlFlow::<()>::Continue(())
        });
        assert!(all.unwrap().is_continue());
        if memory.is_dying() {
            assert!(mapped <= memory.pages_held());
        } else {
            assert_eq!(mapped, memory.pages_held(), "count of the pages that guest {} holds", guest.slot.number());
        }
    }
    views
}

/// What hyp has mapped of RAM.
fn hyp_view(world: &World) -> BTreeSet<u64> {
    let mut mapped = BTreeSet::new();
    let hyp = world.ownership.hyp().lock();
    for bank in world.ownership.ledger().banks() {
        let all = hyp.visit(&world.cpu, VirtAddr::new(bank.start.raw()), bank.size(), |leaf| {
            if leaf.is_valid() {
                assert_eq!(leaf.level, 3, "EL2 maps memory that changes hands by pages");
                for (vpn, pfn) in pages_of(&leaf, leaf.base.raw()) {
                    assert_eq!(vpn, pfn, "EL2 maps memory where it lies");
                    mapped.insert(pfn);
                }
            }
            ControlFlow::<()>::Continue(())
        });
        assert!(all.unwrap().is_continue());
    }
    mapped
}

/// The host's leaves, one look-up for each.
struct HostView<'a> {
    world: &'a World,
    leaf: Leaf<Stage2Regime>,
}

impl<'a> HostView<'a> {
    fn new(world: &'a World) -> Self {
        Self { world, leaf: world.ownership.host_leaf(&world.cpu, Ipa::new(0)).unwrap() }
    }

    /// Whose the host's stage 2 says a page is, and what it lets the host do.
    fn of(&mut self, page: Pfn) -> (Option<Component>, Option<Access>) {
        let ipa = page.raw() << 12;
        if ipa < self.leaf.base.raw() || ipa - self.leaf.base.raw() >= self.leaf.size {
            self.leaf = self.world.ownership.host_leaf(&self.world.cpu, Ipa::new(ipa)).unwrap();
        }
        if let Some((output, attributes)) = self.leaf.mapping() {
            assert_eq!(output.raw(), self.leaf.base.raw(), "the host's stage 2 is an identity map");
            return (Some(Component::Host), Some(access(&attributes)));
        }
        (annotation::owner(self.leaf.annotation()), None)
    }
}

/// Checks that tables and ledger agree with each other and with the specification.
#[track_caller]
pub fn compare(world: &World, when: &str) {
    let guests = guest_views(world);
    let hyp = hyp_view(world);
    let mut host = HostView::new(world);
    for (pfn, expected) in &world.specification.pages {
        let state = world.ownership.state(*pfn).expect("RAM is in the ledger");
        let (annotated, host_access) = host.of(*pfn);
        let mut page = Page {
            owner: state.owner(),
            at: None,
            borrowers: BTreeMap::new(),
            pins: 0,
            placed: expected.placed,
            wiped: expected.wiped,
        };
        let views = guests.get(&pfn.raw()).cloned().unwrap_or_default();
        match state {
            PageState::Host { hyp_borrows, pins, guest_mappings } => {
                assert_eq!(annotated, Some(Component::Host), "{pfn} {when}");
                assert!(host_access.is_none_or(|access| access == Access::FULL), "{pfn} {when}");
                assert_eq!(views.len(), usize::from(guest_mappings), "mappings of {pfn} {when}");
                page.pins = u64::from(pins);
                if hyp_borrows {
                    page.borrowers.insert(Borrower::Hyp, Access::DATA);
                }
                for (component, gfn, access, owned) in views {
                    let Component::Guest(slot) = component else { unreachable!() };
                    assert!(!owned, "{pfn} is marked as the guest's own {when}");
                    page.borrowers.insert(Borrower::Guest(slot, gfn), access);
                }
            }
            PageState::Hyp => {
                assert_eq!((annotated, host_access), (Some(Component::Hyp), None), "{pfn} {when}");
                assert!(views.is_empty(), "{pfn} {when}");
            }
            PageState::Guest { slot, gfn, host_borrows } => {
                page.at = Some(gfn);
                if host_borrows {
                    assert_eq!(host_access, Some(Access::DATA), "{pfn} {when}");
                    page.borrowers.insert(Borrower::Host, Access::DATA);
                } else {
                    assert_eq!((annotated, host_access), (Some(Component::Guest(slot)), None), "{pfn} {when}");
                }
                let dying = world.specification.guests[&slot].dying;
                let own = (Component::Guest(slot), gfn, Access::FULL, true);
                assert!(views == [own] || dying && views.is_empty(), "{pfn} {views:?} {when}");
            }
        }
        let hyp_needs = matches!(state, PageState::Hyp | PageState::Host { hyp_borrows: true, .. });
        assert_eq!(hyp.contains(&pfn.raw()), hyp_needs && !expected.placed, "EL2's mapping of {pfn} {when}");
        assert_eq!(&page, expected, "{pfn} {when}");
    }
    for pfn in guests.keys().chain(&hyp) {
        assert!(world.specification.pages.contains_key(&Pfn::new(*pfn)), "{pfn:#x} is mapped and no RAM {when}");
    }
}
