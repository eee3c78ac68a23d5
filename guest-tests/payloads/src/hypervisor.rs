//! Calls to whoever is below: PSCI, and KVM's vendor-hypervisor calls.

use crate::platform::{self, Conduit};
use abi::{Ipa, guest, psci, smccc as numbers};
use core::arch::asm;
use smccc::{Call, Hvc, Smc};

/// Makes a 64-bit call with up to three arguments through the device tree's conduit and returns x0 to x3. Without a
/// conduit the answer is NOT_SUPPORTED.
pub fn call(function: u32, arguments: [u64; 3]) -> [u64; 4] {
    let mut registers = [0; 17];
    registers[..3].copy_from_slice(&arguments);
    let result = match platform::conduit() {
        Conduit::Hvc => Hvc::call64(function, registers),
        Conduit::Smc => Smc::call64(function, registers),
        Conduit::None => return [numbers::NOT_SUPPORTED as u64, 0, 0, 0],
    };
    [result[0], result[1], result[2], result[3]]
}

/// x0 of [`call`], as the signed number that error codes are.
pub fn call_status(function: u32, arguments: [u64; 3]) -> i64 {
    call(function, arguments)[0] as i64
}

/// Turns the machine off by PSCI SYSTEM_OFF; where that does not help, waits for ever.
pub fn power_off() -> ! {
    call(psci::SYSTEM_OFF, [0; 3]);
    loop {
        // SAFETY: WFI only waits.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

/// True where a hypervisor is below that speaks KVM's vendor-hypervisor calls, with or without memory to share.
pub fn is_present() -> bool {
    call(numbers::VENDOR_HYP_CALL_UID, [0; 3]).map(|word| word as u32) == numbers::uuid_words(guest::KVM_UUID)
}

/// True in a protected guest of Freehold's, which has calls of its own.
pub fn is_freehold() -> bool {
    is_present() && call_status(guest::GuestCall::VmName as u32, [0; 3]) == 0
}

/// KVM's vendor-hypervisor calls, found to be there.
#[derive(Clone, Copy, Debug)]
pub struct KvmCalls {
    /// The FEATURES bitmap's first word.
    pub features: u32,
    /// The unit in which memory is shared, in bytes.
    pub granule: u64,
}

impl KvmCalls {
    /// Looks for them in the order in which Linux does: PSCI 1.0 or later, SMCCC 1.1 or later, the vendor's UID, its
    /// features. `None` where a step says no.
    pub fn find() -> Option<Self> {
        let psci_version = call_status(psci::PSCI_VERSION, [0; 3]);
        if psci_version < 0x1_0000 || call_status(psci::PSCI_FEATURES, [numbers::VERSION.into(), 0, 0]) < 0 {
            return None;
        }
        if call_status(numbers::VERSION, [0; 3]) < 0x1_0001 {
            return None;
        }
        let uid = call(numbers::VENDOR_HYP_CALL_UID, [0; 3]);
        if uid.map(|word| word as u32) != numbers::uuid_words(guest::KVM_UUID) {
            return None;
        }
        let features = call(guest::FEATURES, [0; 3])[0] as u32;
        let granule = call_status(guest::HYP_MEMINFO, [0; 3]);
        Some(Self { features, granule: u64::try_from(granule).ok()? })
    }

    /// Shares the page at `page` with the host: 0, or a negative error code.
    pub fn share(&self, page: Ipa) -> i64 {
        call_status(guest::MEM_SHARE, [page.raw(), 0, 0])
    }

    /// Takes a shared page back: 0, or a negative error code.
    pub fn unshare(&self, page: Ipa) -> i64 {
        call_status(guest::MEM_UNSHARE, [page.raw(), 0, 0])
    }

    /// Gives the page at `page` back to the host: 0, or a negative error code.
    pub fn relinquish(&self, page: Ipa) -> i64 {
        call_status(guest::MEM_RELINQUISH, [page.raw(), 0, 0])
    }
}
