//! A page and a 2 MiB block of EL2 address space for each CPU, through which hyp reaches memory that it does not map: to
//! wipe it, to clean it out of the caches.
//!
//! The slots' descriptors belong to their CPU alone, and the tables that hold them are built at boot, so that using them
//! takes no lock and no memory. Interrupts are masked at EL2, and no action uses the fixmap itself, so uses do not nest.

use crate::environment::El2Environment;
use crate::{cpu_data, fault};
use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use pgtable::LeafSlot;
use spin::Once;

/// One CPU's slots.
pub struct Slots {
    /// For single pages.
    pub page: LeafSlot,
    /// For whole blocks.
    pub block: LeafSlot,
}

static SLOTS: [Once<Slots>; abi::boot::MAX_CPUS] = [const { Once::new() }; abi::boot::MAX_CPUS];

/// Names the slots of a CPU; once, at boot.
pub fn set_slots(cpu: usize, slots: Slots) {
    if let Some(place) = SLOTS.get(cpu) {
        place.call_once(|| slots);
    }
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
