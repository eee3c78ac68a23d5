//! One page of EL2 address space for each CPU, through which hyp reaches a page that it does not map: to wipe it, to
//! clean it out of the caches.
//!
//! A slot's descriptor belongs to its CPU alone, and the table that holds it is built at boot, so that using it takes no
//! lock and no memory. Interrupts are masked at EL2, and no action uses the fixmap itself, so uses do not nest.

use crate::environment::El2Environment;
use crate::{cpu_data, fault};
use abi::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use pgtable::PageSlot;
use spin::Once;

static SLOTS: [Once<PageSlot>; abi::boot::MAX_CPUS] = [const { Once::new() }; abi::boot::MAX_CPUS];

/// Names the slot of a CPU; once, at boot.
pub fn set_slot(cpu: usize, slot: PageSlot) {
    if let Some(place) = SLOTS.get(cpu) {
        place.call_once(|| slot);
    }
}

/// Calls `action` with the EL2 address at which `page`, a 4 KiB aligned physical page of memory, is mapped read-write
/// while it runs.
pub fn with_page(page: PhysAddr, action: impl FnOnce(VirtAddr)) {
    let mut environment = El2Environment;
    let Some(slot) = SLOTS.get(cpu_data::index()).and_then(Once::get) else {
        // Going on would leave a page unwiped.
        fault::stop(format_args!("no fixmap slot"))
    };
    slot.map(&mut environment, page);
    action(slot.address());
    slot.unmap(&mut environment);
}

/// Calls `action` for each page of `range`, rounded outwards, with the EL2 addresses at which the page is mapped.
pub fn for_each_page(range: PhysRange, action: impl Fn(PhysRange)) {
    let mut page = range.start.align_down(PAGE_SIZE);
    while page < range.end {
        with_page(page, |address| action(page_at(address)));
        let Some(next) = page.checked_add(PAGE_SIZE) else { break };
        page = next;
    }
}

/// The page at an EL2 address, as the cache operations name it.
pub fn page_at(address: VirtAddr) -> PhysRange {
    let start = PhysAddr::new(address.raw());
    PhysRange { start, end: start.checked_add(PAGE_SIZE).unwrap_or(start) }
}
