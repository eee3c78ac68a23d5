//! Where things are.

use abi::{Ipa, PhysAddr, PhysRange};

/// First page of RAM.
pub const RAM: u64 = 0x4_0000;
/// Pages of RAM where nothing else is said; the carve-out is at the end.
pub const RAM_PAGES: u64 = 1024;
/// Pages of the carve-out where nothing else is said.
pub const CARVE_OUT_PAGES: u64 = 128;
/// First page of the carve-out where nothing else is said.
pub const CARVE_OUT: u64 = RAM + RAM_PAGES - CARVE_OUT_PAGES;
/// Bits of a physical address.
pub const PA_BITS: u32 = 40;
/// First page of a device.
pub const DEVICE: u64 = 0x9000;
/// Bits of guests' addresses: one root page.
pub const IPA_BITS: u64 = 36;
/// The CPUs' affinities.
pub const CPUS: [u64; 4] = [0x0, 0x1, 0x100, 0x1_0000_0000];
/// Where a guest's memory begins.
pub const GUEST_RAM: Ipa = Ipa::new(0x4000_0000);
/// Where vCPU 0 starts.
pub const GUEST_ENTRY: u64 = 0x4020_0000;
/// Where the firmware starts CPUs in hyp.
pub const HYP_ENTRY: u64 = 0x5000_1000;
/// What it gives to CPU 0 there; to CPU n it gives n more.
pub const HYP_CONTEXT: u64 = 0xc0de_0000;

/// How many frames hyp's pool says that it has left.
pub const FREE_FRAMES: u64 = 77;

/// How much RAM there is, from [`RAM`] on, without a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Pages of RAM.
    pub ram_pages: u64,
    /// Pages of the carve-out, which is at the end of RAM; hyp's and the host's tables come out of it.
    pub carve_out_pages: u64,
}

impl Default for Layout {
    fn default() -> Self {
        Self { ram_pages: RAM_PAGES, carve_out_pages: CARVE_OUT_PAGES }
    }
}

impl Layout {
    /// RAM.
    pub fn ram(&self) -> PhysRange {
        range_of(RAM, self.ram_pages)
    }

    /// First page of the carve-out.
    pub const fn carve_out_page(&self) -> u64 {
        RAM + self.ram_pages - self.carve_out_pages
    }

    /// The carve-out.
    pub fn carve_out(&self) -> PhysRange {
        range_of(self.carve_out_page(), self.carve_out_pages)
    }
}

/// `count` pages from `first` on, as bytes.
///
/// # Panics
/// Where there are no such addresses.
pub fn range_of(first: u64, count: u64) -> PhysRange {
    PhysRange::from_size(PhysAddr::new(first << 12), count << 12).expect("pages of physical memory")
}
