//! How much memory hyp takes, and what lies where in it. The loader sizes the carve-out by this, hyp lays itself out by
//! it, so that the two cannot disagree.

use crate::{PAGE_SIZE, PhysAddr, PhysRange};

/// Pages of each CPU's stack.
pub const STACK_PAGES: u64 = 8;
/// Pages of each CPU's own data: its record, its emergency stack, and room for one set of vector registers.
pub const CPU_DATA_PAGES: u64 = 6;
/// Bytes of the ledger for each page of RAM.
pub const LEDGER_ENTRY_SIZE: u64 = 8;

/// Bytes that one level-3 table maps.
const TABLE_SPAN: u64 = 2 << 20;
/// Bytes that one level-2 table maps.
const BLOCK_SPAN: u64 = 1 << 30;
/// Pages for what does not grow with RAM: the host's stage-2 root (16 at most), hyp's own tables, device tables.
const FIXED_POOL_PAGES: u64 = 64;

/// The parts of the carve-out, in the order in which they lie, each 4 KiB aligned and each beginning where the one
/// before it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CarveOut {
    /// Hyp's image with its zero-initialised data.
    pub image: PhysRange,
    /// One page: [`BootInfo`](crate::boot::BootInfo).
    pub boot_info: PhysRange,
    /// [`STACK_PAGES`] + [`CPU_DATA_PAGES`] for each CPU.
    pub per_cpu: PhysRange,
    /// [`LEDGER_ENTRY_SIZE`] bytes for each page of RAM.
    pub ledger: PhysRange,
    /// Pages for translation tables: in the worst case one for each 2 MiB of RAM, when the host's stage 2 maps all of it
    /// by pages.
    pub pool: PhysRange,
}

/// Bytes rounded up to whole pages.
const fn whole_pages(bytes: u64) -> Option<u64> {
    match bytes.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(sum & !(PAGE_SIZE - 1)),
        None => None,
    }
}

impl CarveOut {
    /// Bytes that the whole carve-out takes for an image of `image_size` bytes, `cpu_count` CPUs and `ram_size` bytes
    /// of RAM; `None` where the numbers are absurd.
    pub fn size(image_size: u64, cpu_count: u64, ram_size: u64) -> Option<u64> {
        let layout = Self::plan(PhysAddr::new(0), image_size, cpu_count, ram_size)?;
        Some(layout.pool.end.raw())
    }

    /// The layout that starts at `start`, which must be 4 KiB aligned; `None` where it is not or the numbers are absurd.
    pub fn plan(start: PhysAddr, image_size: u64, cpu_count: u64, ram_size: u64) -> Option<Self> {
        if !start.is_aligned(PAGE_SIZE) {
            return None;
        }
        let part = |from: PhysAddr, bytes: u64| PhysRange::from_size(from, whole_pages(bytes)?);
        let pages = ram_size / PAGE_SIZE;
        let pool_pages = (ram_size.div_ceil(TABLE_SPAN))
            .checked_add(2 * ram_size.div_ceil(BLOCK_SPAN))?
            .checked_add(FIXED_POOL_PAGES)?;

        let image = part(start, image_size)?;
        let boot_info = part(image.end, PAGE_SIZE)?;
        let per_cpu = part(boot_info.end, cpu_count.checked_mul((STACK_PAGES + CPU_DATA_PAGES) * PAGE_SIZE)?)?;
        let ledger = part(per_cpu.end, pages.checked_mul(LEDGER_ENTRY_SIZE)?)?;
        let pool = part(ledger.end, pool_pages.checked_mul(PAGE_SIZE)?)?;
        Some(Self { image, boot_info, per_cpu, ledger, pool })
    }

    /// The whole of it.
    pub const fn range(&self) -> PhysRange {
        PhysRange { start: self.image.start, end: self.pool.end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_gibibyte_costs_less_than_five_mebibytes() {
        let taken = CarveOut::size(192 << 10, 8, GIB).unwrap();
        assert!(taken <= 5 << 20, "{taken:#x}");
    }

    #[test]
    fn parts_follow_each_other_and_cover_the_ledger() {
        let start = PhysAddr::new(0x7fb0_0000);
        let plan = CarveOut::plan(start, 0x31234, 4, 8 * GIB).unwrap();
        assert_eq!(plan.image.start, start);
        assert_eq!(plan.image.size(), 0x32000);
        assert_eq!(plan.boot_info.start, plan.image.end);
        assert_eq!(plan.per_cpu.start, plan.boot_info.end);
        assert_eq!(plan.ledger.start, plan.per_cpu.end);
        assert_eq!(plan.pool.start, plan.ledger.end);
        assert_eq!(plan.ledger.size(), 8 * GIB / PAGE_SIZE * LEDGER_ENTRY_SIZE);
        assert!(plan.pool.size() / PAGE_SIZE >= 8 * GIB / TABLE_SPAN);
        assert_eq!(plan.range().size(), CarveOut::size(0x31234, 4, 8 * GIB).unwrap());
    }

    #[test]
    fn absurd_numbers_are_refused() {
        assert_eq!(CarveOut::size(u64::MAX, 1, GIB), None);
        assert_eq!(CarveOut::size(0, u64::MAX, GIB), None);
        assert_eq!(CarveOut::plan(PhysAddr::new(1), 0, 1, GIB), None);
        assert_eq!(CarveOut::plan(PhysAddr::new(!0xfff), PAGE_SIZE, 1, GIB), None);
    }
}
