//! The payload's own translation tables: itself, its device tree and its console at their own addresses, and a window
//! onto any page of the address space.

use crate::platform::Platform;
use crate::probe::Access;
use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{MAIR_EL1, SCTLR_EL1, TCR_EL1, TTBR0_EL1, Writeable};
use abi::{Ipa, PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use pgtable::el1::tcr_el1;
use pgtable::regime::TlbiFeatures;
use pgtable::{
    DsbKind, El1Attributes, El1Config, El1Stage1, MAIR_VALUE, Maintenance, MapOptions, TableError, TableFrames, Tlbi,
    VirtualHalf,
};

/// Pages for tables: a root, and for each of a handful of ranges what lies between it and the leaves.
const TABLE_PAGES: usize = 24;
/// 64-bit words in a page.
const WORDS: usize = PAGE_SIZE as usize / 8;
/// Where the window is: above every address that is mapped at itself.
const WINDOW: VirtAddr = VirtAddr::new(0x7f_c000_0000);
/// SCTLR_EL1 (Arm ARM): the bits that are RES1 where their feature is missing (29, 28, 23 SPAN, 22, 20, 11), WFE and WFI
/// not trapped (18, 16), instruction cache, stack alignment, data cache and MMU on (12, 3, 2, 0).
const SCTLR_MMU_ON: u64 = 1 << 29 | 1 << 28 | 1 << 23 | 1 << 22 | 1 << 20 | 1 << 18 | 1 << 16 | 1 << 12 | 1 << 11 | 0xd;
/// Smallest line of a cache, in bytes, that maintenance steps by.
const CACHE_LINE: u64 = 16;

/// The table covers 512 GiB of virtual addresses, and points anywhere in 48 bits; where the CPU has fewer, an address
/// beyond is its to refuse.
const CONFIG: El1Config = El1Config {
    va_bits: 39,
    pa_bits: 48,
    half: VirtualHalf::Lower,
    asid: 0,
    hardware_access_flag: false,
    tlbi: TlbiFeatures { level_hint: false, range: false },
};

/// The pages that tables are made of.
#[repr(C, align(4096))]
struct TablePages([AtomicU64; TABLE_PAGES * WORDS]);

static TABLE_PAGES_POOL: TablePages = TablePages([const { AtomicU64::new(0) }; TABLE_PAGES * WORDS]);

/// A bit for each page of the pool that is handed out.
static TABLE_PAGES_USED: AtomicU32 = AtomicU32::new(0);

const _: () = assert!(TABLE_PAGES <= u32::BITS as usize);

/// What the window is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Loads and stores of normal memory.
    Data,
    /// Loads and stores of device registers.
    Device,
    /// Execution.
    Code,
}

impl Kind {
    /// What suits an access.
    pub const fn of(access: Access) -> Self {
        match access {
            Access::Execute => Kind::Code,
            _ => Kind::Data,
        }
    }
}

/// The translation tables in use.
pub struct AddressSpace {
    table: El1Stage1,
    /// Bytes that are mapped at the window.
    window_size: u64,
}

impl AddressSpace {
    /// Tables for the payload on `platform`, not in use yet.
    ///
    /// # Errors
    /// Where they need more pages than there are, or the platform's addresses are beyond the tables' reach.
    pub fn new(platform: &Platform) -> Result<Self, TableError> {
        let root = Environment.allocate().ok_or(TableError::OutOfFrames)?;
        let mut space = Self { table: El1Stage1::new(root, CONFIG)?, window_size: 0 };
        let sections = image_start::sections();
        space.map_itself(sections.text, El1Attributes::code())?;
        space.map_itself(sections.rodata, El1Attributes::read_only())?;
        space.map_itself(sections.data, El1Attributes::data())?;
        space.map_itself(platform.device_tree.clone(), El1Attributes::read_only())?;
        if let Some(uart) = platform.uart {
            space.map_itself(uart.raw()..uart.raw() + PAGE_SIZE, El1Attributes::device())?;
        }
        Ok(space)
    }

    /// Maps the pages that `range` touches at their own addresses.
    fn map_itself(&mut self, range: Range<u64>, attributes: El1Attributes) -> Result<(), TableError> {
        let start = PhysAddr::new(range.start).align_down(PAGE_SIZE);
        let end = PhysAddr::new(range.end).align_up(PAGE_SIZE).ok_or(TableError::BadRange)?;
        let size = end.offset_from(start).ok_or(TableError::BadRange)?;
        let options = MapOptions::default();
        self.table.map(&mut Environment, VirtAddr::new(start.raw()), start, size, attributes, options)
    }

    /// Maps a page of device registers at its own address.
    ///
    /// # Errors
    /// Where something is mapped there, or the tables need more pages than there are.
    pub fn map_device(&mut self, registers: Ipa) -> Result<(), TableError> {
        self.map_itself(registers.raw()..registers.raw() + PAGE_SIZE, El1Attributes::device())
    }

    /// Maps the device registers in `range`, in bytes, at their own addresses.
    ///
    /// # Errors
    /// As [`map_device`](Self::map_device).
    pub fn map_devices(&mut self, range: Range<u64>) -> Result<(), TableError> {
        self.map_itself(range, El1Attributes::device())
    }

    /// Turns the MMU and the caches on.
    pub fn activate(&self) {
        let Ok(tcr) = tcr_el1(Some(&CONFIG), None) else { panic!("the translation's configuration is not valid") };
        let image = image_start::sections();
        let image = PhysRange { start: PhysAddr::new(image.text.start), end: PhysAddr::new(image.data.end) };
        // Lines that are in the cache from before, when this memory was somebody else's, would hide what was written
        // with the MMU off.
        each_line(image, |line| {
            // SAFETY: Everything since entry was written past the cache, so its lines hold nothing that is needed.
            unsafe { asm!("dc ivac, {line}", line = in(reg) line, options(nostack)) };
        });
        barrier::dsb(barrier::SY);
        MAIR_EL1.set(MAIR_VALUE);
        TCR_EL1.set(tcr);
        TTBR0_EL1.set(self.table.ttbr_el1());
        barrier::isb(barrier::SY);
        // SAFETY: Nothing relies on the TLB while the MMU is off.
        unsafe { asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack)) };
        SCTLR_EL1.set(SCTLR_MMU_ON);
        barrier::isb(barrier::SY);
    }

    /// What another CPU loads to use the same tables: MAIR_EL1, TCR_EL1, TTBR0_EL1 and SCTLR_EL1.
    ///
    /// # Panics
    /// Never: the same configuration was valid when the tables were made.
    pub fn registers(&self) -> [u64; 4] {
        let Ok(tcr) = tcr_el1(Some(&CONFIG), None) else { panic!("the translation's configuration is not valid") };
        [MAIR_VALUE, tcr, self.table.ttbr_el1(), SCTLR_MMU_ON]
    }

    /// Maps the page at `target`, which is 4 KiB aligned, at the window, and nothing else there.
    ///
    /// # Errors
    /// Where `target` is misaligned or beyond 48 bits.
    pub fn open_window(&mut self, target: Ipa, kind: Kind) -> Result<VirtAddr, TableError> {
        self.open_windows([target], kind)
    }

    /// Maps the pages at `targets`, which are 4 KiB aligned, at the window, one behind the other, and nothing else there.
    ///
    /// # Errors
    /// Where one of `targets` is misaligned or beyond 48 bits.
    pub fn open_windows<const PAGES: usize>(
        &mut self,
        targets: [Ipa; PAGES],
        kind: Kind,
    ) -> Result<VirtAddr, TableError> {
        self.close_window();
        let attributes = match kind {
            Kind::Data => El1Attributes::data(),
            Kind::Device => El1Attributes::device(),
            Kind::Code => El1Attributes::code(),
        };
        // What lies there is not the payload's to clean from caches.
        let options = MapOptions { synchronise_caches: false, ..MapOptions::default() };
        for target in targets {
            let place = VirtAddr::new(WINDOW.raw() + self.window_size);
            self.table.map(&mut Environment, place, PhysAddr::new(target.raw()), PAGE_SIZE, attributes, options)?;
            self.window_size += PAGE_SIZE;
        }
        Ok(WINDOW)
    }

    /// Unmaps the window.
    pub fn close_window(&mut self) {
        let size = core::mem::take(&mut self.window_size);
        if size != 0
            && let Err(error) = self.table.unmap(&mut Environment, WINDOW, size)
        {
            panic!("the window does not close: {error:?}");
        }
    }
}

/// Cleans `range`, which is mapped at itself, to the point of coherency: a CPU whose MMU is off sees it.
pub fn clean(range: PhysRange) {
    Environment.clean_invalidate_to_poc(range);
}

/// Calls `maintain` for an address in each cache line of `range`.
fn each_line(range: PhysRange, maintain: impl Fn(u64)) {
    let start = range.start.align_down(CACHE_LINE).raw();
    for line in (start..range.end.raw()).step_by(CACHE_LINE as usize) {
        maintain(line);
    }
}

/// Table pages from the pool, and maintenance on the one CPU.
struct Environment;

impl Environment {
    /// The descriptor at an address in the pool.
    ///
    /// # Panics
    /// Where the address is elsewhere: the tables hold no other.
    fn word(descriptor: PhysAddr) -> &'static AtomicU64 {
        let base = PhysAddr::new(TABLE_PAGES_POOL.0.as_ptr() as u64);
        let word = descriptor.offset_from(base).map(|offset| offset as usize / 8);
        match word.and_then(|word| TABLE_PAGES_POOL.0.get(word)) {
            Some(word) => word,
            None => panic!("no descriptor at {descriptor}"),
        }
    }
}

impl TableFrames for Environment {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let used = TABLE_PAGES_USED.load(Ordering::Relaxed);
        let page = used.trailing_ones() as usize;
        let words = TABLE_PAGES_POOL.0.get(page * WORDS..(page + 1) * WORDS)?;
        TABLE_PAGES_USED.store(used | 1 << page, Ordering::Relaxed);
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
        Some(PhysAddr::new(words.as_ptr() as u64))
    }

    fn free(&mut self, frame: PhysAddr) {
        let base = PhysAddr::new(TABLE_PAGES_POOL.0.as_ptr() as u64);
        let page = frame.offset_from(base).map(|offset| offset / PAGE_SIZE).filter(|page| *page < TABLE_PAGES as u64);
        match page {
            Some(page) => {
                let used = TABLE_PAGES_USED.load(Ordering::Relaxed);
                TABLE_PAGES_USED.store(used & !(1 << page), Ordering::Relaxed);
            }
            None => panic!("{frame} is no page of the pool"),
        }
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        Self::word(descriptor).load(Ordering::Acquire)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        Self::word(descriptor).store(value, Ordering::Release);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        // One CPU, no interrupts: nobody comes between. An exclusive access needs the MMU on, which it is not yet.
        match self.read(descriptor) {
            found if found == current => {
                self.write(descriptor, new);
                Ok(found)
            }
            found => Err(found),
        }
    }
}

impl Maintenance for Environment {
    fn dsb(&self, kind: DsbKind) {
        match kind {
            DsbKind::Ish => barrier::dsb(barrier::ISH),
            DsbKind::Ishst => barrier::dsb(barrier::ISHST),
            DsbKind::Nsh => barrier::dsb(barrier::NSH),
            DsbKind::Nshst => barrier::dsb(barrier::NSHST),
            DsbKind::Sy => barrier::dsb(barrier::SY),
        }
    }

    fn isb(&self) {
        barrier::isb(barrier::SY);
    }

    fn tlbi(&self, operation: Tlbi) {
        let operand = operation.operand().unwrap_or(0);
        match operation {
            // SAFETY: Invalidating TLB entries makes the CPU walk the tables again, and they are as they should be.
            Tlbi::Vae1Is { .. } => unsafe { asm!("tlbi vae1is, {0}", in(reg) operand, options(nostack)) },
            // SAFETY: As above.
            Tlbi::Vale1Is { .. } => unsafe { asm!("tlbi vale1is, {0}", in(reg) operand, options(nostack)) },
            // SAFETY: As above. Whatever else may be asked for at EL1 is a part of this.
            _ => unsafe { asm!("tlbi vmalle1is", options(nostack)) },
        }
    }

    fn load_vttbr(&self, vttbr: u64) -> u64 {
        vttbr
    }

    fn clean_invalidate_to_poc(&self, range: PhysRange) {
        each_line(range, |line| {
            // SAFETY: Cleaning and invalidating changes nothing that software sees; the range is mapped at itself.
            unsafe { asm!("dc civac, {line}", line = in(reg) line, options(nostack)) };
        });
        barrier::dsb(barrier::SY);
    }

    fn clean_to_pou(&self, range: PhysRange) {
        self.clean_invalidate_to_poc(range);
    }

    fn invalidate_instruction_cache(&self, _: PhysRange) {
        // SAFETY: Invalidating the instruction cache makes the CPU fetch again.
        unsafe { asm!("ic ialluis", "dsb ish", "isb", options(nostack)) };
    }
}
