//! A guest's address space with its memory slots and its devices: what a guest is declared with.

use crate::address_space::{AddressSpace, Refusal};
use crate::mmio::{Bus, MmioDevice};
use crate::region::{BackingId, Content, RegionError, RegionId, RegionTree};
use crate::slots::{MemorySlots, SlotDriver};
use abi::Ipa;
use alloc::boxed::Box;

/// Why something cannot be put into a guest's address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpaceError {
    /// The regions cannot be arranged so.
    Region(RegionError),
    /// The memory slots or the devices cannot follow.
    Refused(Refusal),
    /// Something is there already, or the place is outside of the address space.
    Taken,
}

impl From<RegionError> for SpaceError {
    fn from(error: RegionError) -> Self {
        SpaceError::Region(error)
    }
}

impl From<Refusal> for SpaceError {
    fn from(refusal: Refusal) -> Self {
        SpaceError::Refused(refusal)
    }
}

/// The address space of one guest.
pub struct GuestSpace<D> {
    space: AddressSpace,
    slots: MemorySlots<D>,
    bus: Bus,
}

impl<D: SlotDriver> GuestSpace<D> {
    /// An address space of `ipa_bits` bits, at most 63, where nothing is; `driver` does what happens to its memory.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn new(ipa_bits: u32, driver: D) -> Result<Self, SpaceError> {
        let size = 1u64.checked_shl(ipa_bits).ok_or(RegionError::BadRange)?;
        Ok(Self { space: AddressSpace::new(size)?, slots: MemorySlots::new(driver), bus: Bus::new() })
    }

    /// Declares RAM: `size` bytes from `start`, with `backing` behind it.
    ///
    /// # Errors
    /// [`SpaceError`]; nothing is changed.
    pub fn add_ram(&mut self, name: &str, start: Ipa, size: u64, backing: BackingId) -> Result<RegionId, SpaceError> {
        self.place(name, start, size, Content::Ram(backing))
    }

    /// Declares ROM: `size` bytes from `start`, with `backing` behind it.
    ///
    /// # Errors
    /// [`SpaceError`]; nothing is changed.
    pub fn add_rom(&mut self, name: &str, start: Ipa, size: u64, backing: BackingId) -> Result<RegionId, SpaceError> {
        self.place(name, start, size, Content::Rom(backing))
    }

    /// Declares a device with `size` bytes of registers from `start`.
    ///
    /// # Errors
    /// [`SpaceError`]; the device is nowhere then.
    pub fn add_device(
        &mut self,
        name: &str,
        start: Ipa,
        size: u64,
        device: Box<dyn MmioDevice + Send>,
    ) -> Result<RegionId, SpaceError> {
        let device = self.bus.add(device);
        self.place(name, start, size, Content::Mmio(device))
    }

    /// Changes the regions in any other way: `change` gets the tree and its root.
    ///
    /// # Errors
    /// [`SpaceError`]; nothing is changed.
    pub fn change<T>(
        &mut self,
        change: impl FnOnce(&mut RegionTree, RegionId) -> Result<T, RegionError>,
    ) -> Result<T, SpaceError> {
        let root = self.space.root();
        let mut transaction = self.space.begin();
        let result = change(&mut transaction, root)?;
        transaction.commit(&mut [&mut self.slots, &mut self.bus])?;
        Ok(result)
    }

    /// What the guest sees.
    pub const fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// The guest's memory.
    pub const fn slots(&self) -> &MemorySlots<D> {
        &self.slots
    }

    /// The guest's memory, to take note of what it writes.
    pub const fn slots_mut(&mut self) -> &mut MemorySlots<D> {
        &mut self.slots
    }

    /// The guest's devices, for its MMIO exits.
    pub const fn bus(&mut self) -> &mut Bus {
        &mut self.bus
    }

    /// Puts a new region where nothing is yet.
    fn place(&mut self, name: &str, start: Ipa, size: u64, content: Content) -> Result<RegionId, SpaceError> {
        let end = start.checked_add(size).ok_or(RegionError::BadRange)?;
        let limit = self.space.tree().get(self.space.root())?.size();
        let taken = self.space.view().ranges().iter().any(|range| range.start < end && start < range.end());
        if taken || end.raw() > limit {
            return Err(SpaceError::Taken);
        }
        self.change(|tree, root| {
            let region = tree.create(name, size, content)?;
            tree.add(root, region, start.raw(), 0)?;
            Ok(region)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::DirtyBitmap;
    use crate::mmio::Unclaimed;
    use crate::slots::{SLOTS_MAX, Slot, SlotFlags, SlotSettings};
    use abi::Gfn;
    use alloc::vec::Vec;

    /// The pages that the guest must lose.
    #[derive(Default)]
    struct Lost(Vec<(u64, u64)>);

    impl SlotDriver for Lost {
        fn accepts(&self, settings: &SlotSettings) -> bool {
            settings.start != FORBIDDEN
        }
        fn protect(&mut self, _slot: &Slot, _pages: &DirtyBitmap) {}
        fn unmapped(&mut self, slot: &Slot) {
            self.0.push((slot.first().raw(), slot.pages()));
        }
        fn flags_changed(&mut self, _slot: &Slot, _before: SlotFlags) {}
    }

    /// Answers with a name above the offset.
    struct Named(u64);

    impl MmioDevice for Named {
        fn read(&mut self, offset: u64, _width: u64) -> u64 {
            self.0 << 16 | offset
        }
        fn write(&mut self, _offset: u64, _width: u64, _value: u64) {}
    }

    const RAM: Ipa = Ipa::new(0x4000_0000);
    const DEVICE: Ipa = Ipa::new(0x0900_0000);
    /// Where the driver takes no memory.
    const FORBIDDEN: Ipa = Ipa::new(0x1000_0000);

    fn guest() -> GuestSpace<Lost> {
        let mut guest = GuestSpace::new(32, Lost::default()).unwrap();
        guest.add_ram("ram", RAM, 0x10_0000, BackingId(0)).unwrap();
        guest.add_device("uart", DEVICE, 0x1000, Box::new(Named(1))).unwrap();
        guest.add_device("rtc", Ipa::new(0x0901_0000), 0x1000, Box::new(Named(2))).unwrap();
        guest
    }

    fn slots(guest: &GuestSpace<Lost>) -> Vec<(u64, u64, u64, bool)> {
        let tell = |slot: &Slot| {
            let settings = slot.settings();
            (slot.first().raw(), slot.pages(), settings.backing_offset, settings.flags.read_only)
        };
        guest.slots().iter().map(tell).collect()
    }

    #[test]
    fn ram_becomes_slots_and_devices_are_found() {
        let mut guest = guest();
        assert_eq!(slots(&guest), [(0x4_0000, 0x100, 0, false)]);
        assert_eq!(guest.bus().read(Ipa::new(0x0900_0008), 4), Ok(1 << 16 | 8));
        assert_eq!(guest.bus().read(Ipa::new(0x0901_0ffc), 4), Ok(2 << 16 | 0xffc));
        assert_eq!(guest.bus().read(Ipa::new(0x0901_1000), 4), Err(Unclaimed));
        assert_eq!(guest.bus().read(RAM, 4), Err(Unclaimed));
    }

    #[test]
    fn what_is_placed_over_ram_splits_its_slot() {
        let mut guest = guest();
        guest
            .change(|tree, root| {
                let rom = tree.create("rom", 0x2000, Content::Rom(BackingId(1)))?;
                tree.add(root, rom, RAM.raw() + 0x4000, 1)
            })
            .unwrap();
        let split = [(0x4_0000, 4, 0, false), (0x4_0004, 2, 0, true), (0x4_0006, 0xfa, 0x6000, false)];
        assert_eq!(slots(&guest), split);
        assert_eq!(guest.slots().driver().0, [(0x4_0000, 0x100)]);
        assert!(guest.slots().find(Gfn::new(0x4_0005)).is_some_and(|(slot, page)| page == 1 && slot.pages() == 2));
    }

    #[test]
    fn a_device_can_be_hidden_in_part_and_moved() {
        let mut guest = guest();
        let device = guest.space().view().find(DEVICE).unwrap().region;
        let cover = guest.bus().add(Box::new(Named(3)));
        guest
            .change(|tree, root| {
                let cover = tree.create("cover", 0x800, Content::Mmio(cover))?;
                tree.add(root, cover, DEVICE.raw(), 1)?;
                tree.set_offset(device, DEVICE.raw() + 0x400)
            })
            .unwrap();
        assert_eq!(guest.bus().read(Ipa::new(0x0900_07f8), 8), Ok(3 << 16 | 0x7f8));
        assert_eq!(guest.bus().read(Ipa::new(0x0900_07fc), 8), Err(Unclaimed), "over the edge");
        assert_eq!(guest.bus().read(Ipa::new(0x0900_0800), 4), Ok(1 << 16 | 0x400));
        assert_eq!(guest.bus().read(Ipa::new(0x0900_13fc), 4), Ok(1 << 16 | 0xffc));
        assert_eq!(guest.bus().read(Ipa::new(0x0900_1400), 4), Err(Unclaimed));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut guest = guest();
        let before = guest.space().view().clone();
        let mut refused = |start, size| guest.add_ram("more", Ipa::new(start), size, BackingId(2)).unwrap_err();
        assert_eq!(refused(0x400f_f000, 0x2000), SpaceError::Taken);
        assert_eq!(refused(0x0900_0000, 0x1000), SpaceError::Taken);
        assert_eq!(refused(0xffff_f000, 0x2000), SpaceError::Taken);
        assert_eq!(refused(0x5000_0000, 0), SpaceError::Region(RegionError::BadRange));
        assert_eq!(refused(u64::MAX, 2), SpaceError::Region(RegionError::BadRange));
        assert_eq!(refused(0x5000_0000, 0x800), SpaceError::Refused(Refusal::Unaligned(Ipa::new(0x5000_0000))));
        assert_eq!(refused(0x5000_0800, 0x1000), SpaceError::Refused(Refusal::Unaligned(Ipa::new(0x5000_0800))));
        assert_eq!(refused(FORBIDDEN.raw(), 0x1000), SpaceError::Refused(Refusal::Unsupported(FORBIDDEN)));
        assert_eq!(*guest.space().view(), before);
        assert_eq!(slots(&guest).len(), 1);
        assert!(guest.add_rom("rom", Ipa::new(0xffff_f000), 0x1000, BackingId(2)).is_ok());
    }

    #[test]
    fn more_stretches_of_memory_than_there_can_be_slots_are_refused() {
        let fill = |guest: &mut GuestSpace<Lost>, count: u64| {
            guest.change(|tree, root| {
                (0..count).try_for_each(|index| {
                    let ram = tree.create("ram", 0x1000, Content::Ram(BackingId(0)))?;
                    tree.add(root, ram, 0x8000_0000 + index * 0x2000, 0)
                })
            })
        };
        let mut guest = guest();
        assert_eq!(fill(&mut guest, SLOTS_MAX as u64), Err(SpaceError::Refused(Refusal::TooMany)));
        assert_eq!(guest.slots().iter().count(), 1);
        assert_eq!(fill(&mut guest, SLOTS_MAX as u64 - 1), Ok(()));
    }

    #[test]
    fn pages_of_ram_that_the_guest_writes_are_noted_where_its_region_says_so() {
        let mut guest = guest();
        let ram = guest.space().view().find(RAM).unwrap().region;
        guest.change(|tree, _| tree.set_dirty_logging(ram, true)).unwrap();
        assert!(guest.slots().driver().0.is_empty(), "the guest keeps its pages");
        assert!(guest.slots_mut().mark_dirty(Gfn::new(0x4_0042)));
        let id = guest.slots().iter().next().unwrap().id();
        assert_eq!(guest.slots_mut().take_dirty(id).unwrap().unwrap().iter().collect::<Vec<_>>(), [0x42]);
    }

    #[test]
    fn a_device_of_another_guest_is_refused() {
        let mut other = guest();
        let stray = (0..4).map(|_| other.bus().add(Box::new(Named(9)))).last().unwrap();
        let refused = guest().change(|tree, root| {
            let region = tree.create("stray", 0x1000, Content::Mmio(stray))?;
            tree.add(root, region, 0x1000, 0)
        });
        assert_eq!(refused, Err(SpaceError::Refused(Refusal::NoSuchDevice(Ipa::new(0x1000)))));
    }
}
