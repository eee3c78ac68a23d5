//! A page and a 2 MiB block of EL2 address space for each CPU, through which hyp reaches memory that it does not map: to
//! wipe it, to clean it out of the caches.
//!
//! The slots' descriptors belong to their CPU alone, and the tables that hold them are built at boot, so that using them
//! takes no lock and no memory. Interrupts are masked at EL2, and no action uses the fixmap itself, so uses do not nest.

use crate::environment::El2Environment;
use crate::{cpu_data, fault, layout};
use abi::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use pgtable::{El2Attributes, El2Stage1, LeafSlot, TableError};
use spin::Once;

/// One CPU's slots.
struct Slots {
    /// For single pages.
    page: LeafSlot,
    /// For whole blocks.
    block: LeafSlot,
}

static SLOTS: [Once<Slots>; abi::boot::MAX_CPUS] = [const { Once::new() }; abi::boot::MAX_CPUS];

/// Finds the slots of the first `cpus` CPUs in EL2's table; once, at boot.
///
/// # Errors
/// Those of the table: the slots are not where the layout has them.
pub fn find_slots(stage1: &El2Stage1, cpus: usize) -> Result<(), TableError> {
    for (cpu, place) in SLOTS.iter().enumerate().take(cpus) {
        let page = VirtAddr::new(layout::cpu_base(cpu).raw().wrapping_add(layout::FIXMAP));
        let page = stage1.page_slot(&El2Environment, page, El2Attributes::data())?;
        let block = stage1.block_slot(&El2Environment, layout::block_slot(cpu), El2Attributes::data())?;
        place.call_once(|| Slots { page, block });
    }
    Ok(())
}

/// Calls `action` for all of `range`, memory, rounded outwards to whole pages, piece by piece: with the EL2 addresses at
/// which the piece is mapped read-write while it runs. No piece has anything that is not in the range.
pub fn for_each_piece(range: PhysRange, action: impl Fn(PhysRange)) {
    let mut environment = El2Environment;
    let Some(slots) = SLOTS.get(cpu_data::index()).and_then(Once::get) else {
        // Going on would leave memory unwiped.
        fault::stop(format_args!("no fixmap slots"))
    };
    let mut next = range.start.align_down(PAGE_SIZE);
    while next < range.end {
        let block = slots.block.size();
        let has_block = next.is_aligned(block) && next.checked_add(block).is_some_and(|end| end <= range.end);
        let slot = if has_block { &slots.block } else { &slots.page };
        slot.map(&mut environment, next);
        action(mapped(slot));
        slot.unmap(&mut environment);
        let Some(after) = next.checked_add(slot.size()) else { break };
        next = after;
    }
}

/// Where a slot's memory is mapped, as the cache operations name it.
fn mapped(slot: &LeafSlot) -> PhysRange {
    let start = PhysAddr::new(slot.address().raw());
    PhysRange { start, end: start.checked_add(slot.size()).unwrap_or(start) }
}
