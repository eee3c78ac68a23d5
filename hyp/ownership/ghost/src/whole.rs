//! The state of all memory.

use crate::disagreement::{Disagreement, Table};
use crate::guest::SeenGuest;
use crate::judge::{Judge, at_start};
use crate::translate;
use abi::{Ipa, PAGE_SIZE, Pfn, PhysAddr};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use ownership::annotation::Holder;
use ownership::{GuestLock, LockedMemory, Ownership, PageState};
use ownership_spec::Specification;
use pgtable::{PageTable, Regime, Stage2Attributes, TableFrames};

/// The state of all memory, of which `guests` are all guests. Nobody may change anything meanwhile.
///
/// # Errors
/// Where ledger and tables do not agree, a table grants more than the ledger says, a guest counts wrong, a page of a
/// table is not hyp's, or the state breaks a rule of the specification.
pub fn abstraction<'g, F: TableFrames>(
    frames: &F,
    ownership: &Ownership,
    guests: impl Iterator<Item = &'g GuestLock>,
) -> Result<Specification, Disagreement> {
    let mut seen = Vec::new();
    let mut tables = Vec::new();
    for lock in guests {
        let guest = lock.lock();
        seen.push(SeenGuest::at_all_frames(frames, &guest)?);
        tables.extend(pages_of_tables(frames, guest.stage2(), Table::Guest(translate::vm(guest.slot())))?);
    }
    ownership.look(|memory| {
        for (table, page) in &tables {
            check_table_page(memory, *table, *page)?;
        }
        check_own_tables(frames, memory)?;
        let mut pages: BTreeSet<Pfn> =
            memory.ledger.banks().flat_map(|bank| pages_of(bank.start, bank.size())).collect();
        pages.append(&mut changed_devices(frames, memory)?);
        let judge = Judge::new(frames, *memory, seen, true);
        Ok(judge.state(&at_start(memory), &mut pages)?.state)
    })
}

/// The pages of a range, by number.
fn pages_of(start: PhysAddr, size: u64) -> impl Iterator<Item = Pfn> {
    let first = Pfn::containing(start).raw();
    (first..first.saturating_add(size / PAGE_SIZE)).map(Pfn::new)
}

/// The pages that a table consists of.
fn pages_of_tables<F: TableFrames, R: Regime>(
    frames: &F,
    table: &PageTable<R>,
    name: Table,
) -> Result<Vec<(Table, Pfn)>, Disagreement> {
    let mut pages: Vec<_> = pages_of(table.root(), table.geometry().root_size()).map(|page| (name, page)).collect();
    let visited = table.visit_tables(frames, |page| pages.push((name, Pfn::containing(page))));
    visited.map_err(|_| Disagreement::new(Pfn::new(0), None, name, "cannot be read"))?;
    Ok(pages)
}

/// The pages of the host's and hyp's tables are hyp's.
fn check_own_tables<F: TableFrames>(frames: &F, memory: &LockedMemory<'_>) -> Result<(), Disagreement> {
    let host = memory.host.map_or(Ok(Vec::new()), |table| pages_of_tables(frames, table, Table::Host))?;
    let hyp = memory.hyp.map_or(Ok(Vec::new()), |table| pages_of_tables(frames, table, Table::Hyp))?;
    host.iter().chain(&hyp).try_for_each(|(table, page)| check_table_page(memory, *table, *page))
}

fn check_table_page(memory: &LockedMemory<'_>, table: Table, page: Pfn) -> Result<(), Disagreement> {
    match memory.ledger.state(page) {
        Some(PageState::Hyp) => Ok(()),
        state => Err(Disagreement::new(page, state, table, "uses it for descriptors")),
    }
}

/// The pages of devices that the host's stage 2 says somebody else has. What it maps of devices it must map as devices,
/// and no block of it may reach from memory to a device.
fn changed_devices<F: TableFrames>(frames: &F, memory: &LockedMemory<'_>) -> Result<BTreeSet<Pfn>, Disagreement> {
    let mut changed = BTreeSet::new();
    let Some(host) = memory.host else { return Ok(changed) };
    let outcome = host.visit(frames, Ipa::new(0), host.geometry().input_size(), |leaf| {
        let start = PhysAddr::new(leaf.base.raw());
        let pages = pages_of(start, leaf.size);
        let is_ram = |page: &Pfn| memory.ledger.state(*page).is_some();
        if let Some((output, attributes)) = leaf.mapping() {
            let all_ram = memory.ledger.pages(Pfn::containing(start), leaf.size / PAGE_SIZE).is_some();
            let in_order = output == start && attributes == Stage2Attributes::device();
            // Where such a leaf reaches over memory, that page is found to be mapped as a device.
            if !all_ram && !in_order {
                let page = pages.into_iter().find(|page| !is_ram(page)).unwrap_or_default();
                let seen = format!("maps it to {output} with {attributes}");
                return ControlFlow::Break(Disagreement::new(page, None, Table::Host, seen));
            }
        } else if Holder::of(leaf.annotation()) != Some(Holder::Host) {
            changed.extend(pages.filter(|page| !is_ram(page)));
        }
        ControlFlow::Continue(())
    });
    match outcome {
        Ok(ControlFlow::Continue(())) => Ok(changed),
        Ok(ControlFlow::Break(disagreement)) => Err(disagreement),
        Err(_) => Err(Disagreement::new(Pfn::new(0), None, Table::Host, "cannot be read")),
    }
}
