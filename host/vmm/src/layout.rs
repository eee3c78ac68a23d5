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
/// The interrupt controller's distributor, a GICv3's.
pub const GIC_DISTRIBUTOR_BASE: Ipa = Ipa::new(0x0800_0000);
/// Bytes of the distributor's registers.
pub const GIC_DISTRIBUTOR_SIZE: u64 = 0x1_0000;
/// The redistributors, vCPU 0's first.
pub const GIC_REDISTRIBUTOR_BASE: Ipa = Ipa::new(0x080a_0000);
/// Bytes of one vCPU's redistributor: the frames RD_base and SGI_base, of 64 KiB each.
pub const GIC_REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// The console: a PL011.
pub const UART_BASE: Ipa = Ipa::new(0x0900_0000);
/// Bytes of the console's registers.
pub const UART_SIZE: u64 = PAGE_SIZE;
/// The real time clock: a PL031.
pub const RTC_BASE: Ipa = Ipa::new(0x0901_0000);
/// Bytes of the real time clock's registers.
pub const RTC_SIZE: u64 = PAGE_SIZE;

/// INTID of the first private peripheral interrupt.
pub const FIRST_PRIVATE_INTERRUPT: u32 = 16;
/// INTID of the first shared peripheral interrupt.
pub const FIRST_SHARED_INTERRUPT: u32 = 32;
/// INTID of the secure EL1 physical timer, which a guest has not got; its device tree names it all the same.
pub const SECURE_TIMER_INTERRUPT: u32 = 29;
/// INTID of the EL1 physical timer.
pub const PHYSICAL_TIMER_INTERRUPT: u32 = 30;
/// INTID of the virtual timer.
pub const VIRTUAL_TIMER_INTERRUPT: u32 = 27;
/// INTID of the EL2 physical timer, which a guest has not got either.
pub const HYPERVISOR_TIMER_INTERRUPT: u32 = 26;
/// INTID of the console.
pub const UART_INTERRUPT: u32 = 33;
/// INTID of the real time clock.
pub const RTC_INTERRUPT: u32 = 34;

/// RAM of a guest whose builder does not care, in bytes.
pub const DEFAULT_RAM_SIZE: u64 = 16 << 20;
/// Fewest bits of a guest's address space: enough for the GiB of devices and RAM of up to 3 GiB above it.
pub const IPA_BITS: u64 = 32;
/// Most bits of a guest's address space: what the smallest CPUs translate to.
pub const IPA_BITS_MAX: u64 = 40;
/// Kernel and initrd must lie within one window of this many bytes that starts at a multiple of 1 GiB (arm64 boot
/// protocol). RAM starts at such a multiple, and the kernel at the start of RAM.
pub const KERNEL_WINDOW: u64 = 32 << 30;
/// An initrd lies at a multiple of this many bytes where that fits, so that it can be mapped in blocks.
const INITRD_ALIGNMENT: u64 = 2 << 20;

/// vCPUs that share Aff1 and above.
pub const VCPUS_PER_CLUSTER: u32 = 16;

/// The affinity (Aff1 and Aff0 of MPIDR_EL1, in bits 15:0) of vCPU `index`: sixteen vCPUs share an Aff1, for that is
/// what one SGI reaches.
pub const fn affinity(index: u32) -> u32 {
    (index % VCPUS_PER_CLUSTER) | ((index / VCPUS_PER_CLUSTER) << 8)
}

/// The fewest bits of address space, from [`IPA_BITS`] to [`IPA_BITS_MAX`], that hold `ram_size` bytes of RAM; `None`
/// where that is not enough.
pub const fn ipa_bits(ram_size: u64) -> Option<u64> {
    let mut bits = IPA_BITS;
    while bits <= IPA_BITS_MAX {
        if ram_size <= (1 << bits) - RAM_BASE.raw() {
            return Some(bits);
        }
        bits += 1;
    }
    None
}

/// A part of a guest's address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpaRange {
    /// First byte.
    pub start: Ipa,
    /// One past the last byte.
    pub end: Ipa,
}

/// The RAM of one guest and what the builder puts into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestLayout {
    ram_size: u64,
    ipa_bits: u64,
    image: Ipa,
    image_end: Ipa,
    initrd: Option<IpaRange>,
}

/// Why a guest cannot be laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    /// The size of RAM is not a multiple of 4 KiB, or does not fit the address space.
    BadRamSize,
    /// RAM is too small for the device tree and the image.
    ImageDoesNotFit,
    /// There is no room for the initrd behind the image, or there is no initrd in it.
    InitrdDoesNotFit,
}

impl GuestLayout {
    /// Lays out a guest with `ram_size` bytes of RAM for an image that takes `image_size` bytes from `text_offset`
    /// bytes above a 2 MiB boundary.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn new(ram_size: u64, text_offset: u64, image_size: u64) -> Result<Self, LayoutError> {
        if ram_size == 0 || !ram_size.is_multiple_of(PAGE_SIZE) {
            return Err(LayoutError::BadRamSize);
        }
        let ipa_bits = ipa_bits(ram_size).ok_or(LayoutError::BadRamSize)?;
        let ram_end = RAM_BASE.checked_add(ram_size).ok_or(LayoutError::BadRamSize)?;
        let image = RAM_BASE
            .checked_add(IMAGE_ALIGNMENT)
            .and_then(|base| base.checked_add(text_offset))
            .ok_or(LayoutError::ImageDoesNotFit)?;
        let image_end = image.checked_add(image_size).ok_or(LayoutError::ImageDoesNotFit)?;
        if image_end > ram_end {
            return Err(LayoutError::ImageDoesNotFit);
        }
        Ok(Self { ram_size, ipa_bits, image, image_end, initrd: None })
    }

    /// The same with an initrd of `size` bytes: as high in RAM as it can be, within the [`KERNEL_WINDOW`]. The kernel
    /// keeps as much room behind it as there is, which one that does not say its size needs.
    ///
    /// # Errors
    /// [`LayoutError::InitrdDoesNotFit`], also where it is empty.
    pub fn with_initrd(self, size: u64) -> Result<Self, LayoutError> {
        let top = RAM_BASE.raw() + self.ram_size.min(KERNEL_WINDOW);
        let start = top.checked_sub(size).map(Ipa::new).filter(|_| size != 0).ok_or(LayoutError::InitrdDoesNotFit)?;
        let start = [INITRD_ALIGNMENT, PAGE_SIZE].map(|alignment| start.align_down(alignment));
        let start = start.into_iter().find(|start| *start >= self.image_end).ok_or(LayoutError::InitrdDoesNotFit)?;
        let end = start.checked_add(size).ok_or(LayoutError::InitrdDoesNotFit)?;
        Ok(Self { initrd: Some(IpaRange { start, end }), ..self })
    }

    /// Bits of the guest's address space.
    pub const fn ipa_bits(&self) -> u64 {
        self.ipa_bits
    }

    /// Where the initrd lies.
    pub const fn initrd(&self) -> Option<IpaRange> {
        self.initrd
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
        let most = (1 << 40) - (1 << 30);
        for size in [0, 1, PAGE_SIZE - 1, most + PAGE_SIZE, u64::MAX, !0xfff] {
            assert_eq!(GuestLayout::new(size, 0, 0), Err(LayoutError::BadRamSize), "{size:#x}");
        }
        assert!(GuestLayout::new(most, 0, 0x1000).is_ok());
    }

    #[test]
    fn the_address_space_is_as_large_as_the_ram_needs() {
        let sizes = [(1 << 20, 32), (3 << 30, 32), ((3 << 30) + PAGE_SIZE, 33), (7 << 30, 33), (255 << 30, 38)];
        for (ram_size, bits) in sizes {
            assert_eq!(ipa_bits(ram_size), Some(bits), "{ram_size:#x}");
        }
        assert_eq!(ipa_bits(1023 << 30), Some(40));
        assert_eq!(ipa_bits((1023 << 30) + 1), None);
        assert_eq!(ipa_bits(u64::MAX), None);
        assert_eq!(GuestLayout::new(255 << 30, 0, 0).unwrap().ipa_bits(), 38);
    }

    #[test]
    fn the_initrd_lies_at_the_top_of_ram_in_whole_blocks_where_that_fits() {
        let layout = GuestLayout::new(64 << 20, 0, 0x1000).unwrap();
        assert_eq!(layout.initrd(), None);
        let initrd = layout.with_initrd(0x10_0001).unwrap().initrd().unwrap();
        assert_eq!((initrd.start, initrd.end), (Ipa::new(0x43e0_0000), Ipa::new(0x43f0_0001)));
        let small = GuestLayout::new(6 << 20, 0, 0x20_1000).unwrap();
        let initrd = small.with_initrd(0x1f_f000).unwrap().initrd().unwrap();
        assert_eq!((initrd.start, initrd.end), (Ipa::new(0x4040_1000), Ipa::new(0x4060_0000)));
    }

    #[test]
    fn an_initrd_overlaps_neither_the_image_nor_the_end_of_ram() {
        let layout = GuestLayout::new(6 << 20, 0x800, 0x20_0801).unwrap();
        assert!(layout.with_initrd(0x1f_e000).is_ok());
        for size in [0, 0x1f_e001, 0x20_0000, 6 << 20, u64::MAX] {
            assert_eq!(layout.with_initrd(size), Err(LayoutError::InitrdDoesNotFit), "{size:#x}");
        }
    }

    #[test]
    fn kernel_and_initrd_share_a_window_of_32_gib_however_large_ram_is() {
        let layout = GuestLayout::new(255 << 30, 0, 0x1000).unwrap().with_initrd(0x30_0000).unwrap();
        let initrd = layout.initrd().unwrap();
        assert_eq!((initrd.start, initrd.end), (Ipa::new(0x8_3fc0_0000), Ipa::new(0x8_3ff0_0000)));
        assert_eq!(layout.with_initrd(32 << 30), Err(LayoutError::InitrdDoesNotFit));
    }

    #[test]
    fn affinities_are_distinct_and_reach_sixteen_of_each_cluster() {
        assert_eq!([0, 1, 15, 16, 17, 33].map(affinity), [0, 1, 15, 0x100, 0x101, 0x201]);
    }

    #[test]
    fn devices_do_not_overlap_with_as_many_vcpus_as_there_can_be() {
        let devices = [
            (GIC_DISTRIBUTOR_BASE, GIC_DISTRIBUTOR_SIZE),
            (GIC_REDISTRIBUTOR_BASE, 16 * GIC_REDISTRIBUTOR_SIZE),
            (UART_BASE, UART_SIZE),
            (RTC_BASE, RTC_SIZE),
            (RAM_BASE, PAGE_SIZE),
        ];
        for pair in devices.windows(2) {
            assert!(pair[0].0.checked_add(pair[0].1).unwrap() <= pair[1].0, "{pair:x?}");
        }
    }
}
