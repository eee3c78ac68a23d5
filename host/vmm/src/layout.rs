//! Where things lie in a guest's intermediate physical address space.

use abi::{Gfn, Ipa, PAGE_SIZE};

/// First byte of a guest's RAM. The first GiB is for devices, as on QEMU's `virt` machine.
pub const RAM_BASE: Ipa = Ipa::new(0x4000_0000);
/// Where the device tree lies: at the start of RAM.
pub const DEVICE_TREE: Ipa = RAM_BASE;
/// Most bytes that a device tree may take (the arm64 boot protocol allows 2 MiB).
pub const DEVICE_TREE_MAX: u64 = IMAGE_ALIGNMENT;
/// The kernel image lies at a multiple of this many bytes, plus its own text offset (arm64 boot protocol).
pub const IMAGE_ALIGNMENT: u64 = 2 << 20;
/// The console: a PL011.
pub const UART_BASE: Ipa = Ipa::new(0x0900_0000);
/// Bytes of the console's registers.
pub const UART_SIZE: u64 = PAGE_SIZE;
/// RAM of a guest whose builder does not care, in bytes.
pub const DEFAULT_RAM_SIZE: u64 = 16 << 20;
/// Bits of a guest's address space: enough for the GiB of devices and RAM of up to 3 GiB above it.
pub const IPA_BITS: u64 = 32;

/// The RAM of one guest and what the builder puts into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestLayout {
    ram_size: u64,
    image: Ipa,
}

/// Why a guest cannot be laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    /// The size of RAM is not a multiple of 4 KiB, or does not fit the address space.
    BadRamSize,
    /// RAM is too small for the device tree and the image.
    ImageDoesNotFit,
}

impl GuestLayout {
    /// Lays out a guest with `ram_size` bytes of RAM for an image that takes `image_size` bytes from `text_offset`
    /// bytes above a 2 MiB boundary.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn new(ram_size: u64, text_offset: u64, image_size: u64) -> Result<Self, LayoutError> {
        let end = RAM_BASE.raw().checked_add(ram_size).ok_or(LayoutError::BadRamSize)?;
        if ram_size == 0 || !ram_size.is_multiple_of(PAGE_SIZE) || end > 1 << IPA_BITS {
            return Err(LayoutError::BadRamSize);
        }
        let image = RAM_BASE
            .checked_add(IMAGE_ALIGNMENT)
            .and_then(|base| base.checked_add(text_offset))
            .ok_or(LayoutError::ImageDoesNotFit)?;
        let image_end = image.checked_add(image_size).ok_or(LayoutError::ImageDoesNotFit)?;
        if image_end.raw() > end {
            return Err(LayoutError::ImageDoesNotFit);
        }
        Ok(Self { ram_size, image })
    }

    /// Bytes of RAM, from [`RAM_BASE`] up.
    pub const fn ram_size(&self) -> u64 {
        self.ram_size
    }

    /// Where the image is loaded, which is where the first vCPU starts.
    pub const fn image(&self) -> Ipa {
        self.image
    }

    /// True where `frame` is RAM.
    pub const fn is_ram(&self, frame: Gfn) -> bool {
        let first = Gfn::containing(RAM_BASE).raw();
        frame.raw() >= first && frame.raw() - first < self.ram_size / PAGE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_lies_above_the_device_tree_and_inside_ram() {
        let layout = GuestLayout::new(DEFAULT_RAM_SIZE, 0x1000, 0x10000).unwrap();
        assert_eq!(layout.image(), Ipa::new(0x4020_1000));
        assert!(layout.is_ram(Gfn::new(0x40000)));
        assert!(layout.is_ram(Gfn::new(0x40fff)));
        assert!(!layout.is_ram(Gfn::new(0x41000)));
        assert!(!layout.is_ram(Gfn::new(0x3ffff)));
    }

    #[test]
    fn an_image_of_exactly_the_room_that_there_is_fits_and_a_byte_more_does_not() {
        let room = DEFAULT_RAM_SIZE - IMAGE_ALIGNMENT;
        assert!(GuestLayout::new(DEFAULT_RAM_SIZE, 0, room).is_ok());
        assert_eq!(GuestLayout::new(DEFAULT_RAM_SIZE, 0, room + 1), Err(LayoutError::ImageDoesNotFit));
        assert_eq!(GuestLayout::new(DEFAULT_RAM_SIZE, u64::MAX, 1), Err(LayoutError::ImageDoesNotFit));
        assert_eq!(GuestLayout::new(DEFAULT_RAM_SIZE, 0, u64::MAX), Err(LayoutError::ImageDoesNotFit));
    }

    #[test]
    fn absurd_ram_sizes_are_refused() {
        for size in [0, 1, PAGE_SIZE - 1, (3 << 30) + PAGE_SIZE, u64::MAX, !0xfff] {
            assert_eq!(GuestLayout::new(size, 0, 0), Err(LayoutError::BadRamSize), "{size:#x}");
        }
        assert!(GuestLayout::new(3 << 30, 0, 0x1000).is_ok());
    }
}
