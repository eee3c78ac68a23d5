//! Finding the device that an MMIO exit is for.

use crate::address_space::{Changes, Listener, Refusal};
use crate::dispatch::{RangeError, RangeTable};
use crate::flat_view::FlatRange;
use abi::Ipa;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// A device as its bus sees it. Offsets are in bytes from the start of its registers, widths 1, 2, 4 or 8 bytes; the
/// bus has checked that the access lies inside. An access that means nothing reads as zero and writes nothing.
pub trait MmioDevice {
    /// Reads `width` bytes at `offset`.
    fn read(&mut self, offset: u64, width: u64) -> u64;
    /// Writes the low `width` bytes of `value` at `offset`.
    fn write(&mut self, offset: u64, width: u64, value: u64);
}

/// A device on a bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceId(usize);

/// An access that no device takes: nothing is there, or it runs over a device's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unclaimed;

/// A device, and which of its bytes lies at the start of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    device: DeviceId,
    offset: u64,
}

/// The devices of one guest and where they are. It may listen to an address space, whose devices it then finds.
#[derive(Default)]
pub struct Bus {
    devices: Vec<Box<dyn MmioDevice + Send>>,
    targets: RangeTable<Target>,
}

impl Bus {
    /// A bus without devices.
    pub const fn new() -> Self {
        Self { devices: Vec::new(), targets: RangeTable::new() }
    }

    /// Takes `device`, which is nowhere yet.
    pub fn add(&mut self, device: Box<dyn MmioDevice + Send>) -> DeviceId {
        self.devices.push(device);
        DeviceId(self.devices.len() - 1)
    }

    /// Puts `device` at `size` bytes from `start`.
    ///
    /// # Errors
    /// [`RangeError`], and nothing is changed.
    pub fn attach(&mut self, start: Ipa, size: u64, device: Box<dyn MmioDevice + Send>) -> Result<(), RangeError> {
        let target = Target { device: DeviceId(self.devices.len()), offset: 0 };
        self.targets.insert(start, size, target)?;
        self.devices.push(device);
        Ok(())
    }

    /// The device that holds all `width` bytes at `address`, and the offset in it.
    fn find(&mut self, address: Ipa, width: u64) -> Result<(&mut (dyn MmioDevice + Send), u64), Unclaimed> {
        let (target, distance) = self.targets.find(address, width).ok_or(Unclaimed)?;
        let offset = target.offset.checked_add(distance).ok_or(Unclaimed)?;
        let device = self.devices.get_mut(target.device.0).ok_or(Unclaimed)?;
        Ok((device.as_mut(), offset))
    }

    /// Reads `width` bytes at `address`; no more than those come back.
    ///
    /// # Errors
    /// [`Unclaimed`].
    pub fn read(&mut self, address: Ipa, width: u64) -> Result<u64, Unclaimed> {
        let (device, offset) = self.find(address, width)?;
        Ok(device.read(offset, width) & mask(width))
    }

    /// Writes the low `width` bytes of `value` at `address`.
    ///
    /// # Errors
    /// [`Unclaimed`].
    pub fn write(&mut self, address: Ipa, width: u64, value: u64) -> Result<(), Unclaimed> {
        let (device, offset) = self.find(address, width)?;
        device.write(offset, width, value & mask(width));
        Ok(())
    }
}

impl Listener for Bus {
    fn check(&self, changes: &Changes) -> Result<(), Refusal> {
        let mut after = self.targets.clone();
        for range in changes.removed.iter().filter(|range| range.content.device().is_some()) {
            after.remove(range.start);
        }
        for range in &changes.added {
            let Some(device) = range.content.device() else { continue };
            if device.0 >= self.devices.len() {
                return Err(Refusal::NoSuchDevice(range.start));
            }
            let target = Target { device, offset: range.offset };
            after.insert(range.start, range.size, target).map_err(|_| Refusal::Overlap(range.start))?;
        }
        Ok(())
    }

    fn removed(&mut self, range: &FlatRange) {
        if range.content.device().is_some() {
            self.targets.remove(range.start);
        }
    }

    fn added(&mut self, range: &FlatRange) {
        if let Some(device) = range.content.device() {
            let target = Target { device, offset: range.offset };
            self.targets.insert(range.start, range.size, target).expect("the change was checked");
        }
    }
}

/// The bits that an access of `width` bytes carries.
const fn mask(width: u64) -> u64 {
    match width {
        0..=7 => (1 << (8 * width)) - 1,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers a read with its name above the offset; refuses nothing.
    struct Named(u64);

    impl MmioDevice for Named {
        fn read(&mut self, offset: u64, _width: u64) -> u64 {
            self.0 << 16 | offset
        }
        fn write(&mut self, offset: u64, width: u64, value: u64) {
            self.0 = value << 8 | offset << 4 | width;
        }
    }

    fn bus() -> Bus {
        let mut bus = Bus::new();
        for (start, size, name) in [(0x3000, 0x1000, 3), (0x1000, 0x1000, 1), (0x2000, 0x800, 2)] {
            bus.attach(Ipa::new(start), size, Box::new(Named(name))).unwrap();
        }
        bus
    }

    #[test]
    fn each_address_finds_its_device_whatever_was_accessed_before() {
        let mut bus = bus();
        let addresses = [0x1000, 0x1fff, 0x2000, 0x27ff, 0x3000, 0x3fff];
        for first in addresses {
            for second in addresses {
                for address in [first, second] {
                    let expected = (address >> 12) << 16 | address & 0xfff;
                    assert_eq!(bus.read(Ipa::new(address), 1).map(|v| v & 0xff), Ok(expected & 0xff));
                    if address % 4 == 0 {
                        assert_eq!(bus.read(Ipa::new(address), 4), Ok(expected));
                    }
                }
            }
        }
    }

    #[test]
    fn holes_and_straddling_accesses_are_unclaimed() {
        let mut bus = bus();
        for (address, width) in [(0, 1), (0xfff, 1), (0xfff, 2), (0x2800, 1), (0x27fe, 4), (0x4000, 1), (u64::MAX, 8)] {
            assert_eq!(bus.read(Ipa::new(address), width), Err(Unclaimed), "{address:#x}");
            assert_eq!(bus.write(Ipa::new(address), width, 0), Err(Unclaimed), "{address:#x}");
        }
        assert_eq!(Bus::new().read(Ipa::new(0), 1), Err(Unclaimed));
    }

    #[test]
    fn overlaps_and_bad_ranges_are_refused() {
        let mut bus = bus();
        for (start, size) in [(0x800, 0x801), (0x1fff, 1), (0x0, 0x10000), (0x27ff, 0x100), (0x3800, 8)] {
            let refused = bus.attach(Ipa::new(start), size, Box::new(Named(9)));
            assert_eq!(refused, Err(RangeError::Overlap), "{start:#x}");
        }
        assert_eq!(bus.attach(Ipa::new(0x8000), 0, Box::new(Named(9))), Err(RangeError::BadRange));
        assert_eq!(bus.attach(Ipa::new(!0xfff), 0x1001, Box::new(Named(9))), Err(RangeError::BadRange));
        assert_eq!(bus.attach(Ipa::new(0x2800), 0x800, Box::new(Named(9))), Ok(()));
    }

    #[test]
    fn values_are_clamped_to_the_width() {
        let mut bus = bus();
        bus.write(Ipa::new(0x1000), 1, 0xabcd).unwrap();
        assert_eq!(bus.read(Ipa::new(0x1000), 8), Ok((0xcd << 8 | 1) << 16));
        assert_eq!(bus.read(Ipa::new(0x1002), 2), Ok(2));
    }
}
