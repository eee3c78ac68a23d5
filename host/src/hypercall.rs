//! Freehold's host calls as functions. Each says in its type what it takes and gives; `abi::host` says what it means.
//!
//! Whoever gives pages away by one of them holds them as [`Pages`](crate::frames::Pages), and turns them into
//! [`Given`](crate::frames::Given) when the call succeeded: nothing can reach them through that any more.

use abi::host::{FREEHOLD_UUID, HostCall, VmHandle};
use abi::register::Register;
use abi::run::{ExitReason, MAX_LIST_REGISTERS};
use abi::smccc::{VENDOR_HYP_CALL_UID, uuid_words};
use abi::{Error, Gfn, Ipa, Pfn, PhysAddr, PhysRange};
use core::arch::asm;

/// Makes a call with x1 to x7, and returns x1 to x3.
///
/// # Panics
/// Where x0 is neither 0 nor an error of the interface: hyp is broken.
fn call<const N: usize>(function: HostCall, arguments: [u64; N]) -> Result<[u64; 3], Error> {
    let mut registers = [0; 17];
    registers[..N].copy_from_slice(&arguments);
    let [status, results @ ..] = *smccc::hvc64(function as u32, registers).first_chunk::<4>().expect("18 registers");
    if status == 0 {
        return Ok(results);
    }
    Err(error(function, status))
}

/// The error that x0 says.
#[cold]
fn error(function: HostCall, status: u64) -> Error {
    Error::from_register(status).unwrap_or_else(|| panic!("{function:?} returned x0 = {status:#x}"))
}

/// Makes a call with any arguments, and returns x0.
///
/// # Safety
/// The call must not take memory away that the host goes on using.
pub unsafe fn raw(function: HostCall, arguments: [u64; 7]) -> u64 {
    let mut registers = [0; 17];
    registers[..7].copy_from_slice(&arguments);
    smccc::hvc64(function as u32, registers)[0]
}

/// True where the hypervisor below is Freehold.
pub fn is_present() -> bool {
    let result = smccc::hvc32(VENDOR_HYP_CALL_UID, [0; 7]);
    result[..4] == uuid_words(FREEHOLD_UUID)
}

/// The revision and what calls there are.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// Major revision number.
    pub major: u64,
    /// Minor revision number.
    pub minor: u64,
    /// Bit n: there is function 0xc6000100 + n.
    pub calls: u64,
}

/// `VERSION`.
pub fn version() -> Result<Version, Error> {
    let [revision, calls, _] = call(HostCall::Version, [])?;
    Ok(Version { major: revision >> 16, minor: revision & 0xffff, calls })
}

/// What hyp says about its memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryInfo {
    /// The carve-out.
    pub carve_out: PhysRange,
    /// Free pages in hyp's pool.
    pub free_pages: u64,
}

/// `MEMORY_INFO`.
pub fn memory_info() -> Result<MemoryInfo, Error> {
    let [start, size, free_pages] = call(HostCall::MemoryInfo, [])?;
    let carve_out = PhysRange::from_size(PhysAddr::new(start), size).ok_or(Error::BadRange)?;
    Ok(MemoryInfo { carve_out, free_pages })
}

/// `HYP_SHARE`.
pub fn hyp_share(page: Pfn, count: u64) -> Result<(), Error> {
    call(HostCall::HypShare, [page.raw(), count]).map(drop)
}

/// `HYP_UNSHARE`.
pub fn hyp_unshare(page: Pfn, count: u64) -> Result<(), Error> {
    call(HostCall::HypUnshare, [page.raw(), count]).map(drop)
}

/// What a CPU can do for the interrupts of guests.
#[derive(Clone, Copy, Debug)]
pub struct InterruptInfo {
    /// List registers.
    pub list_registers: usize,
    /// Bits of a priority.
    pub priority_bits: u32,
    /// INTID of the virtual timer's interrupt.
    pub virtual_timer: u32,
}

/// `INTERRUPT_INFO`.
pub fn interrupt_info() -> Result<InterruptInfo, Error> {
    let [list_registers, priority_bits, virtual_timer] = call(HostCall::InterruptInfo, [])?;
    Ok(InterruptInfo {
        list_registers: (list_registers as usize).min(MAX_LIST_REGISTERS),
        priority_bits: priority_bits as u32,
        virtual_timer: virtual_timer as u32,
    })
}

/// What the objects of a VM take.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Pages for `VM_INIT`.
    pub vm_pages: u64,
    /// Alignment of the first of them, in pages.
    pub vm_alignment: u64,
    /// Pages for `VCPU_INIT`.
    pub vcpu_pages: u64,
}

/// `VM_SIZES`.
pub fn vm_sizes(ipa_bits: u64, vcpus: u64) -> Result<Sizes, Error> {
    let [vm_pages, vm_alignment, vcpu_pages] = call(HostCall::VmSizes, [ipa_bits, vcpus])?;
    Ok(Sizes { vm_pages, vm_alignment, vcpu_pages })
}

/// `VM_RESERVE`.
pub fn vm_reserve() -> Result<VmHandle, Error> {
    let [handle, ..] = call(HostCall::VmReserve, [])?;
    u32::try_from(handle).map(VmHandle).map_err(|_| Error::Limit)
}

/// What `VM_INIT` wants to know besides memory.
#[derive(Clone, Copy, Debug)]
pub struct VmSettings {
    /// Flags of `abi::host`.
    pub flags: u64,
    /// Bits of the guest's address space.
    pub ipa_bits: u64,
    /// How many vCPUs there will be.
    pub vcpus: u64,
    /// Where vCPU 0 starts.
    pub entry: Ipa,
    /// vCPU 0's x0.
    pub argument: u64,
}

/// `VM_INIT`.
pub fn vm_init(handle: VmHandle, settings: &VmSettings, page: Pfn, count: u64) -> Result<(), Error> {
    let shape = settings.ipa_bits | settings.vcpus << 32;
    let arguments =
        [handle.0.into(), settings.flags, shape, page.raw(), count, settings.entry.raw(), settings.argument];
    call(HostCall::VmInit, arguments).map(drop)
}

/// `VCPU_INIT`.
pub fn vcpu_init(handle: VmHandle, index: u64, page: Pfn, count: u64, run_page: Pfn) -> Result<(), Error> {
    call(HostCall::VcpuInit, [handle.0.into(), index, page.raw(), count, run_page.raw()]).map(drop)
}

/// `VCPU_TOP_UP`.
pub fn vcpu_top_up(handle: VmHandle, index: u64, page: Pfn, count: u64) -> Result<(), Error> {
    call(HostCall::VcpuTopUp, [handle.0.into(), index, page.raw(), count]).map(drop)
}

/// `VM_DONATE`.
pub fn vm_donate(handle: VmHandle, index: u64, page: Pfn, frame: Gfn, count: u64) -> Result<(), Error> {
    call(HostCall::VmDonate, [handle.0.into(), index, page.raw(), frame.raw(), count]).map(drop)
}

/// `VM_SHARE`.
pub fn vm_share(handle: VmHandle, index: u64, page: Pfn, frame: Gfn, count: u64, rights: u64) -> Result<(), Error> {
    call(HostCall::VmShare, [handle.0.into(), index, page.raw(), frame.raw(), count, rights]).map(drop)
}

/// `VM_UNSHARE`.
pub fn vm_unshare(handle: VmHandle, frame: Gfn, count: u64) -> Result<(), Error> {
    call(HostCall::VmUnshare, [handle.0.into(), frame.raw(), count]).map(drop)
}

/// `VCPU_RUN`.
pub fn vcpu_run(handle: VmHandle, index: u64) -> Result<ExitReason, Error> {
    let (status, reason): (u64, u64);
    // SAFETY: as `call` makes it, but without the registers that this call neither takes nor returns. Hyp and the guest
    // leave the host's memory alone, but for the run page and what the guest shares, which are accessed by volatile
    // accesses.
    unsafe {
        asm!("hvc #0", inout("x0") HostCall::VcpuRun as u64 => status, inout("x1") u64::from(handle.0) => reason,
            inout("x2") index => _, out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
            out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
            out("x16") _, out("x17") _, options(nostack));
    }
    if status != 0 {
        return Err(error(HostCall::VcpuRun, status));
    }
    Ok(ExitReason::from_register(reason).unwrap_or_else(|| panic!("VCPU_RUN returned exit reason {reason}")))
}

/// `VCPU_GET_REGISTER`.
pub fn vcpu_get_register(handle: VmHandle, index: u64, register: Register) -> Result<u64, Error> {
    call(HostCall::VcpuGetRegister, [handle.0.into(), index, register.number()]).map(|[value, ..]| value)
}

/// `VCPU_SET_REGISTER`.
pub fn vcpu_set_register(handle: VmHandle, index: u64, register: Register, value: u64) -> Result<(), Error> {
    call(HostCall::VcpuSetRegister, [handle.0.into(), index, register.number(), value]).map(drop)
}

/// `VM_TEARDOWN`.
pub fn vm_teardown(handle: VmHandle) -> Result<(), Error> {
    call(HostCall::VmTeardown, [handle.0.into()]).map(drop)
}

/// `VM_RECLAIM`: returns how many pages came back.
pub fn vm_reclaim(handle: VmHandle, page: Pfn, count: u64) -> Result<u64, Error> {
    call(HostCall::VmReclaim, [handle.0.into(), page.raw(), count]).map(|[done, ..]| done)
}

/// `VM_FINALISE`.
pub fn vm_finalise(handle: VmHandle) -> Result<(), Error> {
    call(HostCall::VmFinalise, [handle.0.into()]).map(drop)
}

/// `VM_RETURN`.
pub fn vm_return(handle: VmHandle, page: Pfn, count: u64) -> Result<(), Error> {
    call(HostCall::VmReturn, [handle.0.into(), page.raw(), count]).map(drop)
}

/// `VM_LEND`.
pub fn vm_lend(handle: VmHandle, index: u64, page: Pfn, frame: Gfn, count: u64) -> Result<(), Error> {
    call(HostCall::VmLend, [handle.0.into(), index, page.raw(), frame.raw(), count]).map(drop)
}

/// `VM_FORCE_RECLAIM`.
pub fn vm_force_reclaim(handle: VmHandle, page: Pfn, count: u64) -> Result<(), Error> {
    call(HostCall::VmForceReclaim, [handle.0.into(), page.raw(), count]).map(drop)
}
