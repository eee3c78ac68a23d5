//! EL2's own translation tables: built by the boot CPU with the MMU off, then live for good.

use crate::cpu_data::CpuData;
use crate::environment::EarlyEnvironment;
use crate::frame_pool::FramePool;
use crate::{cache, firmware, layout};
use aarch64_cpu::registers::{MPIDR_EL1, Readable};
use abi::boot::{BootInfo, MAGIC, SEGMENT_EXECUTE, SEGMENT_WRITE, VERSION};
use abi::carve_out::{CPU_DATA_PAGES, CarveOut, STACK_PAGES};
use abi::psci::MPIDR_AFFINITY_MASK;
use abi::{PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use core::cell::UnsafeCell;
use monitor::features::CpuFeatures;
use pgtable::regime::TlbiFeatures;
use pgtable::{El2Attributes, El2Config, El2Stage1, MAIR_VALUE, MapOptions, Stage2Config, TableError};

/// SCTLR_EL2 before the MMU is on: RES1 bits, and nothing else (Arm ARM, SCTLR_EL2).
pub const SCTLR_EL2_MMU_OFF: u64 = 0x30c5_0830;
/// SCTLR_EL2.EIS and EOS, RES1 without FEAT_ExS: taking an exception and returning from one synchronise the context.
/// The world switch relies on that, where it writes a control right before an exception return.
const SCTLR_EL2_EIS_EOS: u64 = 1 << 22 | 1 << 11;
const _: () = assert!(SCTLR_EL2_MMU_OFF & SCTLR_EL2_EIS_EOS == SCTLR_EL2_EIS_EOS);
/// SCTLR_EL2: RES1 bits; M, C, I: MMU and caches on; SA: SP alignment is checked; WXN: nothing writable is executable.
const SCTLR_EL2: u64 = SCTLR_EL2_MMU_OFF | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;

/// What a CPU writes to its EL2 registers to come into hyp's address space. Read with the MMU off.
#[repr(C)]
pub struct BootRegisters {
    /// MAIR_EL2.
    pub mair_el2: u64,
    /// TCR_EL2.
    pub tcr_el2: u64,
    /// TTBR0_EL2.
    pub ttbr0_el2: u64,
    /// SCTLR_EL2.
    pub sctlr_el2: u64,
    /// First private byte of CPU 0.
    pub cpu_base: u64,
}

/// A value that the boot CPU writes with the MMU off, and that is only read, or taken once, after.
pub struct BootCell<T>(UnsafeCell<T>);

// SAFETY: written before any other CPU runs; afterwards shared reads only, or the one `take` of the boot CPU.
unsafe impl<T> Sync for BootCell<T> {}

/// The registers for all CPUs.
pub static BOOT_REGISTERS: BootCell<BootRegisters> =
    BootCell(UnsafeCell::new(BootRegisters { mair_el2: 0, tcr_el2: 0, ttbr0_el2: 0, sctlr_el2: 0, cpu_base: 0 }));

/// What the early stage hands to the rest of the boot.
pub struct EarlyResult {
    /// EL2's table.
    pub stage1: El2Stage1,
    /// What is left of the pool.
    pub pool: FramePool,
    /// Zeroed memory for the root of the host's stage 2, of the size and alignment that it takes.
    pub host_root: PhysAddr,
    /// The host's stage-2 configuration.
    pub host_config: Stage2Config,
    /// Where the console's registers are mapped.
    pub uart: Option<VirtAddr>,
}

static EARLY_RESULT: BootCell<Option<EarlyResult>> = BootCell(UnsafeCell::new(None));

/// The layout of the carve-out, as the loader planned it.
pub fn carve_out(boot: &BootInfo) -> Option<CarveOut> {
    let ram = boot.memory().iter().map(PhysRange::size).sum();
    CarveOut::plan(boot.carve_out.start, boot.image.size(), boot.cpu_count, ram)
}

/// From `entry.S`, MMU off: builds the tables and fills [`BOOT_REGISTERS`]. Returns the calling CPU's index. There is no
/// console yet: a boot record that makes no sense stops the CPU.
pub extern "C" fn build_tables(boot: *const BootInfo) -> u64 {
    // SAFETY: the loader passes the address of a boot record in the carve-out, which is ours alone.
    let Some(boot) = (unsafe { boot.as_ref() }) else { firmware::halt() };
    if boot.magic != MAGIC || boot.version != VERSION {
        firmware::halt();
    }
    let mpidr = MPIDR_EL1.get() & MPIDR_AFFINITY_MASK;
    let Some(index) = boot.cpus().iter().position(|&cpu| cpu == mpidr) else { firmware::halt() };
    let Some(plan) = carve_out(boot) else { firmware::halt() };
    match build(boot, &plan) {
        Ok(result) => {
            let registers = BootRegisters {
                mair_el2: MAIR_VALUE,
                tcr_el2: result.stage1.tcr_el2(),
                ttbr0_el2: result.stage1.ttbr0_el2(),
                sctlr_el2: SCTLR_EL2,
                cpu_base: layout::PRIVATE_BASE,
            };
            let touched = result.pool.touched();
            // SAFETY: one CPU runs, with the MMU off; the cells are not shared yet.
            unsafe {
                *BOOT_REGISTERS.0.get() = registers;
                *EARLY_RESULT.0.get() = Some(result);
            }
            // SAFETY: all of this was written with the caches off, so what a cache may hold of it is stale.
            unsafe {
                cache::invalidate_to_poc(boot.image);
                cache::invalidate_to_poc(plan.boot_info);
                cache::invalidate_to_poc(plan.per_cpu);
                cache::invalidate_to_poc(PhysRange { start: plan.pool.start, end: touched.end });
            }
            index as u64
        }
        Err(_) => firmware::halt(),
    }
}

/// Takes what [`build_tables`] left; `None` the second time.
///
/// # Safety
/// Only for the boot CPU, before it starts others.
pub unsafe fn take_early_result() -> Option<EarlyResult> {
    // SAFETY: the caller is the only CPU that runs.
    unsafe { (*EARLY_RESULT.0.get()).take() }
}

fn build(boot: &BootInfo, plan: &CarveOut) -> Result<EarlyResult, TableError> {
    let features = CpuFeatures::from_id_registers(&crate::id_registers::read());
    if !features.e2h0 {
        // All that is written to EL2's registers is for HCR_EL2.E2H = 0.
        return Err(TableError::BadConfiguration);
    }
    let pa_bits = features.pa_bits.min(48);
    let tlbi = TlbiFeatures { level_hint: features.ttl, range: features.tlbirange };
    let host_config = Stage2Config {
        ipa_bits: pa_bits,
        pa_bits,
        fwb: features.fwb,
        xnx: features.xnx,
        vmid_16_bits: features.vmid16,
        hardware_access_flag: false,
        tlbi,
    };

    // The host's root, up to 16 pages side by side, comes off the pool before the pool is one.
    let root_size = host_config.geometry()?.root_size();
    let host_root = plan.pool.start.align_up(root_size).ok_or(TableError::BadConfiguration)?;
    let pool_start = host_root.checked_add(root_size).ok_or(TableError::BadConfiguration)?;
    zero(PhysRange { start: host_root, end: pool_start });
    // SAFETY: the carve-out is ours, and nothing else uses its pool.
    let pool = unsafe { FramePool::new(PhysRange { start: pool_start, end: plan.pool.end }) };
    let mut environment = EarlyEnvironment { pool };

    let config = El2Config { va_bits: layout::VIRTUAL_ADDRESS_BITS, pa_bits, hardware_access_flag: false, tlbi };
    let root = pgtable::TableFrames::allocate(&mut environment).ok_or(TableError::OutOfFrames)?;
    let mut stage1 = El2Stage1::new(root, config)?;
    let mut map = |environment: &mut EarlyEnvironment, at: u64, range: PhysRange, attributes: El2Attributes| {
        stage1.map(environment, VirtAddr::new(at), range.start, range.size(), attributes, MapOptions::default())
    };

    for segment in boot.segments() {
        let attributes = if segment.flags & SEGMENT_EXECUTE != 0 {
            El2Attributes::code()
        } else if segment.flags & SEGMENT_WRITE != 0 {
            El2Attributes::data()
        } else {
            El2Attributes::read_only()
        };
        map(&mut environment, segment.range.start.raw(), segment.range, attributes)?;
    }
    map(&mut environment, plan.boot_info.start.raw(), plan.boot_info, El2Attributes::read_only())?;
    let tables = PhysRange { start: plan.ledger.start, end: plan.pool.end };
    map(&mut environment, tables.start.raw(), tables, El2Attributes::data())?;

    let mut page = plan.per_cpu.start;
    for cpu in 0..boot.cpus().len() {
        let base = layout::cpu_base(cpu).raw();
        let stack = PhysRange::from_size(page, STACK_PAGES * PAGE_SIZE).ok_or(TableError::BadRange)?;
        let data = PhysRange::from_size(stack.end, CPU_DATA_PAGES * PAGE_SIZE).ok_or(TableError::BadRange)?;
        map(&mut environment, base.wrapping_add(layout::STACK_BOTTOM), stack, El2Attributes::data())?;
        map(&mut environment, base.wrapping_add(layout::CPU_DATA), data, El2Attributes::data())?;
        let record = PhysRange::from_size(data.start, PAGE_SIZE).ok_or(TableError::BadRange)?;
        zero(record);
        // SAFETY: the record's page is this CPU's own, just zeroed, and large enough; a zeroed `CpuData` is valid.
        unsafe { (*(record.start.raw() as *const CpuData)).index.set(cpu) };
        page = data.end;
    }

    let uart = if boot.uart.is_empty() {
        None
    } else {
        let start = boot.uart.start.align_down(PAGE_SIZE);
        let range = PhysRange::from_size(start, PAGE_SIZE).ok_or(TableError::BadRange)?;
        map(&mut environment, layout::DEVICE_BASE, range, El2Attributes::device())?;
        Some(VirtAddr::new(layout::DEVICE_BASE | boot.uart.start.page_offset()))
    };

    Ok(EarlyResult { stage1, pool: environment.pool, host_root, host_config, uart })
}

/// Zeroes whole pages with the caches off, where DC ZVA would fault.
fn zero(range: PhysRange) {
    for offset in (0..range.size()).step_by(8) {
        // SAFETY: the callers pass pages of the carve-out that nothing uses yet.
        unsafe { (range.start.raw().wrapping_add(offset) as *mut u64).write_volatile(0) };
    }
}

const _: () = assert!(size_of::<CpuData>() as u64 <= PAGE_SIZE);
