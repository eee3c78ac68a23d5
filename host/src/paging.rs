//! Stage 1 of EL1: memory at its physical address, hyp's carve-out not at all, the host's own image by its sections.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, MAIR_EL1, Readable, SCTLR_EL1, TCR_EL1, TTBR0_EL1, Writeable};
use abi::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};
use pgtable::el1::tcr_el1;
use pgtable::regime::TlbiFeatures;
use pgtable::{
    DsbKind, El1Attributes, El1Config, El1Stage1, MAIR_VALUE, Maintenance, MapOptions, TableFrames, Tlbi, VirtualHalf,
};
use spin::Mutex;
use vmm::image::PageSize;

use crate::device_tree::Machine;

/// ID_AA64MMFR0_EL1.TGran4 and TGran64 of a CPU without such pages; 0 is a CPU with them, other than for TGran16.
const NO_TGRAN: u64 = 0xf;
/// Bits of a virtual address: one level-1 table.
const VA_BITS: u32 = 39;
/// Where [`Window`]s are: physical address plus this. RAM and devices lie below.
const WINDOW_BASE: u64 = 1 << (VA_BITS - 1);
/// Frames for tables.
const FRAMES: usize = 96;
/// 64-bit descriptors in a frame.
const ENTRIES: usize = 512;

/// SCTLR_EL1 (Arm ARM D19.2.118): RES1 bits (29 LSMAOE, 28 nTLSMD, 23 SPAN, 22 EIS, 20 TSCXT, 11 EOS, 8 SED, 7 ITD), WXN,
/// I, SA, C, M.
const SCTLR: u64 = 1 << 29
    | 1 << 28
    | 1 << 23
    | 1 << 22
    | 1 << 20
    | 1 << 11
    | 1 << 8
    | 1 << 7
    | 1 << 19
    | 1 << 12
    | 1 << 3
    | 1 << 2
    | 1 << 0;

/// What the entry code of a secondary CPU loads to turn its MMU on, in this order.
#[repr(C, align(64))]
pub struct Registers {
    mair: AtomicU64,
    tcr: AtomicU64,
    ttbr0: AtomicU64,
    sctlr: AtomicU64,
}

/// See [`Registers`].
pub static REGISTERS: Registers =
    Registers { mair: AtomicU64::new(0), tcr: AtomicU64::new(0), ttbr0: AtomicU64::new(0), sctlr: AtomicU64::new(0) };

/// The memory that tables are made of.
#[repr(C, align(4096))]
struct FrameMemory(UnsafeCell<[[u64; ENTRIES]; FRAMES]>);

// SAFETY: the memory is reached only through a `Frames`, of which there is one, behind the lock of TABLE once there is
// more than one CPU.
unsafe impl Sync for FrameMemory {}

static FRAME_MEMORY: FrameMemory = FrameMemory(UnsafeCell::new([[0; ENTRIES]; FRAMES]));

/// Hands out [`FRAME_MEMORY`].
struct Frames {
    used: [bool; FRAMES],
}

impl Frames {
    fn base() -> u64 {
        FRAME_MEMORY.0.get() as u64
    }
}

/// A descriptor of a table, as an atomic word.
fn descriptor(address: PhysAddr) -> &'static AtomicU64 {
    // SAFETY: tables give only addresses of descriptors in frames of FRAME_MEMORY, which is static, mapped at its own
    // address, and accessed in no other way while it serves as tables.
    unsafe { AtomicU64::from_ptr(address.raw() as *mut u64) }
}

impl TableFrames for Frames {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let index = self.used.iter().position(|used| !used)?;
        self.used[index] = true;
        let frame = Self::base() + index as u64 * PAGE_SIZE;
        for entry in 0..ENTRIES as u64 {
            descriptor(PhysAddr::new(frame + 8 * entry)).store(0, Ordering::Relaxed);
        }
        Some(PhysAddr::new(frame))
    }

    fn free(&mut self, frame: PhysAddr) {
        let index = (frame.raw() - Self::base()) / PAGE_SIZE;
        self.used[index as usize] = false;
    }

    fn read(&self, address: PhysAddr) -> u64 {
        descriptor(address).load(Ordering::Relaxed)
    }

    fn write(&self, address: PhysAddr, value: u64) {
        descriptor(address).store(value, Ordering::Release);
    }

    fn compare_exchange(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        descriptor(address).compare_exchange(current, new, Ordering::Release, Ordering::Relaxed)
    }
}

/// One TLB maintenance instruction that takes an operand.
macro_rules! tlbi {
    ($operation:literal, $operand:expr) => {
        // SAFETY: invalidating a TLB entry changes no mapping.
        unsafe { asm!(concat!("tlbi ", $operation, ", {}"), in(reg) $operand, options(nostack, preserves_flags)) }
    };
}

impl Maintenance for Frames {
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
        match (operation, operation.operand()) {
            (Tlbi::Vae1Is { .. }, Some(operand)) => tlbi!("vae1is", operand),
            (Tlbi::Vale1Is { .. }, Some(operand)) => tlbi!("vale1is", operand),
            // EL1 issues nothing else but VMALLE1IS, which also covers whatever else there might be at EL1.
            // SAFETY: invalidating the TLB changes no mapping.
            _ => unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) },
        }
    }

    fn load_vttbr(&self, vttbr: u64) -> u64 {
        vttbr
    }

    fn clean_invalidate_to_poc(&self, range: PhysRange) {
        clean_to_memory(range.start.raw(), range.size());
    }

    fn clean_to_pou(&self, range: PhysRange) {
        clean_to_memory(range.start.raw(), range.size());
    }

    fn invalidate_instruction_cache(&self, _range: PhysRange) {
        forget_instructions();
    }
}

/// Makes every CPU fetch anew what was written as instructions and cleaned.
pub fn forget_instructions() {
    // SAFETY: the instruction cache holds copies only.
    unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
    barrier::dsb(barrier::ISH);
    barrier::isb(barrier::SY);
}

/// Cleans and invalidates the data cache lines of `size` bytes from `start`, to the point of coherency.
pub fn clean_to_memory(start: u64, size: u64) {
    let line: u64;
    // SAFETY: CTR_EL0 may be read at EL1. DminLine, bits 19:16, is log2 of the words of the smallest line.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) line, options(nomem, nostack, preserves_flags)) };
    let line = 4u64 << (line >> 16 & 0xf);
    let mut address = start & !(line - 1);
    while address < start + size {
        // SAFETY: cleaning and invalidating by address keeps what memory holds as every observer sees it.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
        address += line;
    }
    barrier::dsb(barrier::SY);
}

/// The table and its frames.
struct Space {
    table: El1Stage1,
    frames: Frames,
}

static TABLE: Mutex<Option<Space>> = Mutex::new(None);

impl Space {
    fn new() -> Self {
        let mut frames = Frames { used: [false; FRAMES] };
        let root = frames.allocate().expect("there are frames at boot");
        let config = El1Config {
            va_bits: VA_BITS,
            pa_bits: physical_address_bits(),
            half: VirtualHalf::Lower,
            asid: 0,
            hardware_access_flag: false,
            tlbi: TlbiFeatures { level_hint: false, range: false },
        };
        Self { table: El1Stage1::new(root, config).expect("the sizes are the architecture's"), frames }
    }

    fn map(&mut self, input: u64, range: PhysRange, attributes: El1Attributes) {
        let size = range.size();
        let options = MapOptions { synchronise_caches: attributes.privileged_execute, ..MapOptions::default() };
        self.table
            .map(&mut self.frames, VirtAddr::new(input), range.start, size, attributes, options)
            .unwrap_or_else(|error| panic!("mapping {range}: {error}"));
    }

    /// Maps `range` at its own address.
    fn map_identity(&mut self, range: PhysRange, attributes: El1Attributes) {
        if !range.is_empty() {
            self.map(range.start.raw(), range, attributes);
        }
    }
}

/// Bits of a physical address, of those that translation tables of 48 bits can name (ID_AA64MMFR0_EL1.PARange).
pub fn physical_address_bits() -> u32 {
    match ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange) {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// Whether stage 1 of this CPU's EL1 has tables of such pages (ID_AA64MMFR0_EL1.TGran4, TGran16 and TGran64).
pub fn has_pages_of(size: PageSize) -> bool {
    match size {
        PageSize::Kib4 => ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::TGran4) != NO_TGRAN,
        PageSize::Kib16 => ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::TGran16) != 0,
        PageSize::Kib64 => ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::TGran64) != NO_TGRAN,
    }
}

/// Builds the table and turns the boot CPU's MMU and caches on.
///
/// # Safety
/// `machine` must describe the machine; to be called once, by the boot CPU, with the MMU off.
pub unsafe fn init(machine: &Machine) {
    let mut space = Space::new();
    let sections = image_start::sections();
    let section =
        |range: &core::ops::Range<u64>| PhysRange { start: PhysAddr::new(range.start), end: PhysAddr::new(range.end) };
    let image = PhysRange { start: section(&sections.text).start, end: section(&sections.data).end };

    let mut not_as_data = machine.unmapped.clone();
    not_as_data.push(image);
    for bank in &machine.memory {
        vmm::ranges::free_pages(*bank, &not_as_data, |range| space.map_identity(range, El1Attributes::data()));
    }
    space.map_identity(section(&sections.text), El1Attributes::code());
    space.map_identity(section(&sections.rodata), El1Attributes::read_only());
    space.map_identity(section(&sections.data), El1Attributes::data());
    for device in [machine.uart, machine.clock, machine.distributor, machine.redistributor] {
        let end = device.end.align_up(PAGE_SIZE).expect("devices lie below the top");
        space.map_identity(PhysRange { start: device.start.align_down(PAGE_SIZE), end }, El1Attributes::device());
    }

    let tcr = tcr_el1(Some(space.table.config()), None).expect("the table was made with this configuration");
    let ttbr0 = space.table.ttbr_el1();
    for (register, value) in
        [(&REGISTERS.mair, MAIR_VALUE), (&REGISTERS.tcr, tcr), (&REGISTERS.ttbr0, ttbr0), (&REGISTERS.sctlr, SCTLR)]
    {
        register.store(value, Ordering::Relaxed);
    }
    // What was written so far went past the caches; nothing stale may be in them when they are turned on.
    clean_to_memory(sections.data.start, sections.data.end - sections.data.start);
    MAIR_EL1.set(MAIR_VALUE);
    TCR_EL1.set(tcr);
    TTBR0_EL1.set(ttbr0);
    barrier::isb(barrier::SY);
    // SAFETY: nothing was translated so far; what the TLBs hold is of no use.
    unsafe { asm!("tlbi vmalle1", "dsb nsh", "ic iallu", "dsb nsh", "isb", options(nostack, preserves_flags)) };
    SCTLR_EL1.set(SCTLR);
    barrier::isb(barrier::SY);
    *TABLE.lock() = Some(space);
}

/// What a [`Window`] lets the host do, as far as stage 1 is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowKind {
    /// Reads and writes memory.
    Data,
    /// Fetches instructions from memory.
    Code,
    /// Reads and writes device registers.
    Device,
}

/// A second mapping of some physical page, for probes: whatever is there, stage 1 does not stand in the way.
pub struct Window {
    range: PhysRange,
}

impl Window {
    /// True where a window can be opened on the page that holds `address`.
    pub fn reaches(address: PhysAddr) -> bool {
        address.raw() < WINDOW_BASE
    }

    /// Opens a window on the page that holds `address`.
    pub fn open(address: PhysAddr, kind: WindowKind) -> Self {
        let start = address.align_down(PAGE_SIZE);
        let range = PhysRange::from_size(start, PAGE_SIZE).expect("physical addresses are below the top");
        assert!(range.end.raw() <= WINDOW_BASE, "{address} is beyond the windows");
        let attributes = match kind {
            WindowKind::Data => El1Attributes::data(),
            WindowKind::Code => El1Attributes::code(),
            WindowKind::Device => El1Attributes::device(),
        };
        let mut table = TABLE.lock();
        let space = table.as_mut().expect("the MMU is on");
        // Caches are left alone: the page may not be the host's, and maintenance by address would abort too.
        space
            .table
            .map(
                &mut space.frames,
                VirtAddr::new(WINDOW_BASE + start.raw()),
                start,
                PAGE_SIZE,
                attributes,
                MapOptions::default(),
            )
            .unwrap_or_else(|error| panic!("window on {address}: {error}"));
        Self { range }
    }

    /// Where `address`, which must be in the window's page, is seen.
    pub fn address(&self, address: PhysAddr) -> VirtAddr {
        assert!(self.range.contains(address), "{address} is not in the window");
        VirtAddr::new(WINDOW_BASE + address.raw())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        let space = table.as_mut().expect("the MMU is on");
        space
            .table
            .unmap(&mut space.frames, VirtAddr::new(WINDOW_BASE + self.range.start.raw()), PAGE_SIZE)
            .unwrap_or_else(|error| panic!("closing a window: {error}"));
    }
}
