//! Addresses as one bus of the device tree writes them, and their translation to physical ones (Devicetree
//! Specification, sections 2.3.5, 2.3.6 and 2.3.8).

use crate::properties::{Properties, cell_count, number};
use crate::tree::CELL;
use abi::{PhysAddr, PhysRange};

/// Cells of an address where a node does not say.
const DEFAULT_ADDRESS_CELLS: u32 = 2;
/// Cells of a size where a node does not say.
const DEFAULT_SIZE_CELLS: u32 = 1;
/// Most cells of an address or a size that fit 64 bits.
const MAX_CELLS: u32 = 2;

/// How the children of one node write addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bus<'a> {
    /// Windows into the parent's addresses; empty where the addresses are the parent's, `None` where the CPU cannot
    /// reach them.
    windows: Option<&'a [u8]>,
    pub(crate) address_cells: u32,
    pub(crate) size_cells: u32,
}

impl<'a> Bus<'a> {
    /// What the root node itself lies on: physical addresses.
    pub(crate) const fn root() -> Self {
        Self { windows: Some(&[]), address_cells: MAX_CELLS, size_cells: MAX_CELLS }
    }

    /// What the children of the node at `path` lie on.
    pub(crate) fn inside(path: &str, properties: &Properties<'a>) -> Self {
        let mut default_cells = (DEFAULT_ADDRESS_CELLS, DEFAULT_SIZE_CELLS);
        let windows = match path {
            "" | "/reserved-memory" => Some([].as_slice()),
            "/chosen" => {
                // QEMU writes modules with two cells each and does not say so.
                default_cells = (MAX_CELLS, MAX_CELLS);
                Some([].as_slice())
            }
            _ => properties.ranges,
        };
        Self {
            windows,
            address_cells: cell_count(properties.address_cells, default_cells.0),
            size_cells: cell_count(properties.size_cells, default_cells.1),
        }
    }

    /// Bytes of one `reg` entry, or `None` where its numbers do not fit 64 bits.
    pub(crate) fn entry_bytes(&self) -> Option<usize> {
        let handled = (1..=MAX_CELLS).contains(&self.address_cells) && (1..=MAX_CELLS).contains(&self.size_cells);
        handled.then(|| (self.address_cells + self.size_cells) as usize * CELL)
    }
}

/// The physical ranges of a `reg` value on the last of `buses`, of which each lies on the one before. Entries that are
/// torn, too wide, wrap, or are not visible to the CPU are left out.
pub(crate) fn ranges(buses: &[Bus<'_>], reg: Option<&[u8]>) -> impl Iterator<Item = PhysRange> {
    let entry_bytes = buses.last().and_then(Bus::entry_bytes);
    let reg = if entry_bytes.is_some() { reg.unwrap_or(&[]) } else { &[] };
    let address_bytes = buses.last().map_or(0, |bus| bus.address_cells as usize).saturating_mul(CELL);
    reg.chunks_exact(entry_bytes.unwrap_or(CELL)).filter_map(move |entry| {
        let (address, size) = entry.split_at_checked(address_bytes)?;
        translate(buses, number(Some(address))?, number(Some(size))?)
    })
}

/// Where `size` bytes from `address` on the last of `buses` lie physically; `None` where no window holds all of them.
fn translate(buses: &[Bus<'_>], mut address: u64, size: u64) -> Option<PhysRange> {
    for pair in buses.windows(2).rev() {
        let [parent, bus] = pair else { break };
        let windows = bus.windows?;
        if windows.is_empty() {
            continue;
        }
        let ours = bus.address_cells as usize * CELL;
        let theirs = (parent.address_cells as usize).checked_mul(CELL)?;
        let bytes = bus.entry_bytes()?.checked_add(theirs)?;
        address = windows.chunks_exact(bytes).find_map(|window| {
            let (child, rest) = window.split_at_checked(ours)?;
            let (base, length) = rest.split_at_checked(theirs)?;
            let offset = address.checked_sub(number(Some(child))?)?;
            if offset.checked_add(size)? > number(Some(length))? {
                return None;
            }
            number(Some(base))?.checked_add(offset)
        })?;
    }
    PhysRange::from_size(PhysAddr::new(address), size)
}
