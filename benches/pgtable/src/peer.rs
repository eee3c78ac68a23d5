//! The crate `aarch64-paging` as a subject, in both of its states.

use std::ptr::NonNull;

use aarch64_paging::Mapping as PeerTable;
use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes};
use aarch64_paging::paging::{Constraints, MemoryRegion, PageTable, Stage2, Translation};

use crate::memory::Memory;
use crate::subject::{Mapping, Subject};

/// The root's level: 39 bits of address.
const ROOT_LEVEL: usize = 1;

/// Bytes of a block of the second last level.
const BLOCK: usize = 2 << 20;

/// Memory for the peer's tables, whose physical addresses are their addresses.
#[derive(Debug)]
struct Identity(Memory);

impl Translation<Stage2Attributes> for Identity {
    #[inline]
    fn allocate_table(&mut self) -> (NonNull<PageTable<Stage2Attributes>>, PhysicalAddress) {
        let address = PhysicalAddress(self.0.take().expect("a pool that is large enough").raw() as usize);
        (self.physical_to_virtual(address), address)
    }

    #[inline]
    unsafe fn deallocate_table(&mut self, _table: NonNull<PageTable<Stage2Attributes>>) {
        self.0.give_back();
    }

    #[inline]
    fn physical_to_virtual(&self, address: PhysicalAddress) -> NonNull<PageTable<Stage2Attributes>> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(address.0)).expect("no table is at address 0")
    }
}

/// A table of the peer's Stage2 regime. While `LIVE`, the peer takes it to be in use: it refuses what needs
/// break-before-make, and visits what it has changed to invalidate it. Otherwise it does neither.
#[derive(Debug)]
pub struct Peer<const LIVE: bool> {
    table: PeerTable<Identity, Stage2>,
}

impl<const LIVE: bool> Peer<LIVE> {
    fn attributes() -> Stage2Attributes {
        Stage2Attributes::VALID
            | Stage2Attributes::MEMATTR_NORMAL_INNER_WB
            | Stage2Attributes::MEMATTR_NORMAL_OUTER_WB
            | Stage2Attributes::S2AP_ACCESS_RW
            | Stage2Attributes::SH_INNER
            | Stage2Attributes::ACCESS_FLAG
    }

    fn region(ipa: u64, size: u64) -> MemoryRegion {
        MemoryRegion::new(ipa as usize, (ipa + size) as usize)
    }
}

impl<const LIVE: bool> Subject for Peer<LIVE> {
    fn new(frames: usize) -> Self {
        let table = PeerTable::new(Identity(Memory::new(frames)), ROOT_LEVEL, Stage2);
        if LIVE {
            table.mark_active();
        }
        Self { table }
    }

    fn map(&mut self, ipa: u64, output: u64, size: u64, pages_only: bool) {
        let constraints = if pages_only { Constraints::NO_BLOCK_MAPPINGS } else { Constraints::empty() };
        let output = PhysicalAddress(output as usize);
        self.table
            .map_range(&Self::region(ipa, size), output, Self::attributes(), constraints)
            .expect("the range is vacant");
    }

    fn protect(&mut self, ipa: u64, size: u64) {
        let write = Stage2Attributes::S2AP_ACCESS_WO;
        self.table
            .modify_range(&Self::region(ipa, size), &|_, descriptor| {
                descriptor.modify_flags(Stage2Attributes::empty(), write)
            })
            .expect("a right is taken away in place");
    }

    fn split(&mut self, ipa: u64, size: u64) {
        // A change of a page splits the block that it lies in, be it no change at all.
        for block in (ipa..ipa + size).step_by(BLOCK) {
            self.table
                .modify_range(&Self::region(block, abi::PAGE_SIZE), &|_, _| Ok(()))
                .expect("a block that is not in use is split");
        }
    }

    fn unmap(&mut self, ipa: u64, size: u64) {
        self.table
            .map_range(&Self::region(ipa, size), PhysicalAddress(0), Stage2Attributes::empty(), Constraints::empty())
            .expect("the range is in bounds");
    }

    fn look_up(&self, ipa: u64) -> Option<Mapping> {
        let mut found = None;
        self.table
            .walk_range(&Self::region(ipa, abi::PAGE_SIZE), &mut |_, descriptor, level| {
                if descriptor.is_valid() {
                    let size = 1u64 << (12 + 9 * (3 - level));
                    found = Some(Mapping {
                        output: descriptor.output_address().0 as u64 + ipa % size,
                        writable: descriptor.flags().contains(Stage2Attributes::S2AP_ACCESS_WO),
                        level: level as u8,
                    });
                }
                Ok(())
            })
            .expect("the address is in bounds");
        found
    }

    fn tables(&self) -> usize {
        self.table.translation().0.in_use()
    }
}

impl<const LIVE: bool> Drop for Peer<LIVE> {
    fn drop(&mut self) {
        if LIVE {
            self.table.mark_inactive();
        }
    }
}
