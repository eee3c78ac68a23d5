//! The host's hypercalls: SMCCC fast calls in the vendor-specific hypervisor range, 64-bit form, made with HVC #0.
//!
//! Arguments are in x1 upwards. On return x0 is 0 or an [`Error`](crate::Error); results are in x1 upwards, and are
//! zero where the call failed. x4 to x17 are kept. Memory is named by frame number, never by pointer.

/// Freehold's vendor-hypervisor UUID, 5f0a1c0e-4d86-4e0b-9a53-66726565686c, which
/// [`VENDOR_HYP_CALL_UID`](crate::smccc::VENDOR_HYP_CALL_UID) returns to the host.
pub const FREEHOLD_UUID: u128 = 0x5f0a_1c0e_4d86_4e0b_9a53_6672_6565_686c;

/// Major number of this interface; a change that breaks a caller raises it.
pub const REVISION_MAJOR: u64 = 1;
/// Minor number of this interface; an addition raises it.
pub const REVISION_MINOR: u64 = 3;

/// Most vCPUs of one VM.
pub const MAX_VCPUS: u64 = 16;
/// Most VMs at one time.
pub const MAX_VMS: usize = 64;
/// Most pages that one ranged call takes: 1 GiB. It bounds the time that a call runs with interrupts masked.
pub const MAX_PAGES_PER_CALL: u64 = 1 << 18;

macro_rules! calls {
    ($($(#[$meta:meta])* $name:ident = $number:literal,)*) => {
        /// A host call. The number is the SMCCC function identifier.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u32)]
        pub enum HostCall {
            $($(#[$meta])* $name = $number,)*
        }

        impl HostCall {
            /// Every host call, in the order of the numbers.
            pub const ALL: &'static [HostCall] = &[$(HostCall::$name,)*];

            /// The call of a function identifier, or `None` where there is none.
            pub const fn from_function(function: u32) -> Option<Self> {
                match function {
                    $($number => Some(HostCall::$name),)*
                    _ => None,
                }
            }
        }
    };
}

calls! {
    /// `VERSION()` -> x1 = revision (major << 16 | minor), x2 = bitmap of host calls: bit n is function 0xc6000100 + n.
    Version = 0xc600_0100,
    /// `MEMORY_INFO()` -> x1 = first byte of the carve-out, x2 = its size in bytes, x3 = free pages in hyp's pool.
    MemoryInfo = 0xc600_0101,
    /// `HYP_SHARE(pfn, count)`: the host shares pages with hyp.
    HypShare = 0xc600_0102,
    /// `HYP_UNSHARE(pfn, count)`: the host takes back pages that it shared with hyp. `Busy` while hyp has one pinned.
    HypUnshare = 0xc600_0103,
    /// `HYP_SHARE_RESTRICTED(pfn, count)`: as HYP_SHARE, but until the host takes the pages back it may only read them.
    HypShareRestricted = 0xc600_0104,
    /// `VM_SIZES(ipa_bits, vcpus)` -> x1 = pages that VM_INIT takes, x2 = alignment of the first of them in pages,
    /// x3 = pages that VCPU_INIT takes.
    VmSizes = 0xc600_0110,
    /// `VM_RESERVE()` -> x1 = handle. Nothing is donated yet.
    VmReserve = 0xc600_0111,
    /// `VM_INIT(handle, flags, ipa_bits | vcpus << 32, pfn, count, entry IPA, argument)`: donates the VM object and
    /// its stage-2 root. Flags: bit 0 = protected. vCPU 0 of the VM starts at `entry` with `argument` in x0.
    VmInit = 0xc600_0112,
    /// `VCPU_INIT(handle, index, pfn, count, run page pfn)`: donates the vCPU object, shares and pins the run page
    /// ([`RunPage`](crate::run::RunPage)). Indices come in order from 0.
    VcpuInit = 0xc600_0113,
    /// `VCPU_TOP_UP(handle, index, pfn, count)`: donates pages to the vCPU's cache of table pages.
    VcpuTopUp = 0xc600_0114,
    /// `VM_DONATE(handle, index, pfn, gfn, count)`: donates pages to a protected VM at the given guest frames. Tables
    /// come from the cache of vCPU `index`.
    VmDonate = 0xc600_0115,
    /// `VM_SHARE(handle, index, pfn, gfn, count, rights)`: shares pages with a non-protected VM. Rights: bit 0 = read,
    /// bit 1 = write, bit 2 = execute, bit 3 = the host keeps reading only, until the last share of the page ends.
    VmShare = 0xc600_0116,
    /// `VM_UNSHARE(handle, gfn, count)`: takes shared pages out of a non-protected VM.
    VmUnshare = 0xc600_0117,
    /// `VCPU_RUN(handle, index)` -> x1 = [`ExitReason`](crate::run::ExitReason); details in the run page.
    VcpuRun = 0xc600_0118,
    /// `VM_TEARDOWN(handle)`: the VM is dying from here on; `Busy` while a vCPU runs.
    VmTeardown = 0xc600_0119,
    /// `VM_RECLAIM(handle, pfn, count)` -> x1 = pages done, from the first on: takes pages of a dying VM back, wiped.
    /// One call does [`RECLAIM_MOST`] at most.
    VmReclaim = 0xc600_011a,
    /// `VM_FINALISE(handle)`: gives the objects, tables and caches of a dying VM back to the host, wiped, and
    /// forgets the handle. `Busy` while the VM still holds a page.
    VmFinalise = 0xc600_011b,
    /// `VM_LEND(handle, index, pfn, gfn, count)`: lends pages to a protected VM at the given guest frames: the host keeps
    /// the title and loses all access, until the guest returns them or is dead.
    VmLend = 0xc600_011c,
    /// `VM_RETURN(handle, pfn, count)`: gives pages back to the protected VM that lent them to the host.
    VmReturn = 0xc600_011d,
    /// `VM_FORCE_RECLAIM(handle, pfn, count)`: takes pages of a living protected VM, wiped. The guest finds out: its next
    /// access to one of its frames is an exit with [`ExitReason::Poisoned`](crate::run::ExitReason::Poisoned), always.
    VmForceReclaim = 0xc600_011e,
    /// `VM_END_SHARE(owner handle, borrower handle, number)`: ends what one guest shares with another by its offer
    /// `number`. `Busy` unless one of them is dying.
    VmEndShare = 0xc600_011f,
    /// `VM_GRANT_DEVICE(handle, index, pfn, gfn, count)`: gives pages of devices to a VM at the given guest frames. Those
    /// of a protected VM must lie below 1 GiB, where it takes nothing for memory: else `BadRange`.
    VmGrantDevice = 0xc600_0120,
    /// `VM_RECLAIM_DEVICE(handle, pfn, count)`: takes pages of devices back from a dying VM.
    VmReclaimDevice = 0xc600_0121,
    /// `INTERRUPT_INFO()` -> x1 = list registers of a CPU, x2 = bits of an interrupt's priority, x3 = INTID of the virtual
    /// timer's interrupt.
    InterruptInfo = 0xc600_0122,
    /// `VCPU_GET_REGISTER(handle, index, register)` -> x1 = its value. For VMs that are not protected, of whose vCPUs
    /// every register is the host's to see; `NotYours` for a protected VM's. The register is a number of
    /// [`Register`](crate::register::Register). `Busy` while the vCPU runs.
    VcpuGetRegister = 0xc600_0123,
    /// `VCPU_SET_REGISTER(handle, index, register, value)`: sets a register, with the same refusals. What the host owes
    /// the vCPU's last exit, such as the value of an MMIO read, it owes still.
    VcpuSetRegister = 0xc600_0124,
}

/// Pages that one `VM_RECLAIM` takes back at most. Hyp wipes them with interrupts masked: a host that asks for all of a
/// big VM is to have its CPU back in between.
pub const RECLAIM_MOST: u64 = 512;

/// `VM_INIT` flag: the VM is protected.
pub const VM_PROTECTED: u64 = 1 << 0;

/// `VM_SHARE` right: the guest may read.
pub const RIGHT_READ: u64 = 1 << 0;
/// `VM_SHARE` right: the guest may write.
pub const RIGHT_WRITE: u64 = 1 << 1;
/// `VM_SHARE` right: the guest may execute.
pub const RIGHT_EXECUTE: u64 = 1 << 2;
/// `VM_SHARE` flag among the rights: while guests have the pages, the host may only read them.
pub const RIGHT_RESTRICTED: u64 = 1 << 3;

/// A VM's name in host calls. It is not an index: a number is not given out again until 2^26 VMs have come after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct VmHandle(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_decode_to_themselves_and_nothing_else_does() {
        for &call in HostCall::ALL {
            assert_eq!(HostCall::from_function(call as u32), Some(call));
            assert!(crate::smccc::is_fast(call as u32) && crate::smccc::is_64_bit(call as u32));
        }
        let decoded = (0xc600_0000..0xc601_0000).filter_map(HostCall::from_function).count();
        assert_eq!(decoded, HostCall::ALL.len());
    }
}
