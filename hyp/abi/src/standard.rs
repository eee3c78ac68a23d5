//! The calls of Arm's specifications and of KVM's that there are, by number and name, and who finds them. Those of
//! Freehold's own are [`HostCall`](crate::host::HostCall) and [`GuestCall`](crate::guest::GuestCall).

use crate::{guest, psci, smccc};

/// Who finds a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finder {
    All,
    Host,
    Guest,
    /// A guest that is protected.
    Protected,
}

/// A call that a specification other than Freehold's has.
#[derive(Clone, Copy, Debug)]
pub struct Standard {
    /// Function identifier.
    pub function: u32,
    /// Its name there, with `_32` and `_64` where there are both.
    pub name: &'static str,
    finder: Finder,
}

impl Standard {
    const fn new(function: u32, name: &'static str, finder: Finder) -> Self {
        Self { function, name, finder }
    }

    /// True where the host finds it: by HVC or SMC, but for the three of the vendor-specific range, which come by HVC
    /// alone. PSCI is relayed to the firmware, which also knows of the CPU's mitigations and of the machine.
    pub fn is_for_host(&self) -> bool {
        matches!(self.finder, Finder::All | Finder::Host)
    }

    /// True where a guest finds it, by HVC or SMC.
    pub fn is_for_guest(&self, protected: bool) -> bool {
        match self.finder {
            Finder::All | Finder::Guest => true,
            Finder::Protected => protected,
            Finder::Host => false,
        }
    }

    /// Every such call.
    pub const ALL: &'static [Self] = &[
        Self::new(smccc::VERSION, "SMCCC_VERSION", Finder::All),
        Self::new(smccc::ARCH_FEATURES, "ARCH_FEATURES", Finder::All),
        Self::new(smccc::ARCH_SOC_ID, "ARCH_SOC_ID", Finder::Host),
        Self::new(smccc::ARCH_WORKAROUND_1, "ARCH_WORKAROUND_1", Finder::All),
        Self::new(smccc::ARCH_WORKAROUND_2, "ARCH_WORKAROUND_2", Finder::All),
        Self::new(smccc::ARCH_WORKAROUND_3, "ARCH_WORKAROUND_3", Finder::All),
        Self::new(smccc::TRNG_VERSION, "TRNG_VERSION", Finder::All),
        Self::new(smccc::TRNG_FEATURES, "TRNG_FEATURES", Finder::All),
        Self::new(smccc::TRNG_GET_UUID, "TRNG_GET_UUID", Finder::All),
        Self::new(smccc::TRNG_RND32, "TRNG_RND32", Finder::All),
        Self::new(smccc::TRNG_RND64, "TRNG_RND64", Finder::All),
        Self::new(psci::PSCI_VERSION, "PSCI_VERSION", Finder::All),
        Self::new(psci::PSCI_FEATURES, "PSCI_FEATURES", Finder::All),
        Self::new(psci::CPU_SUSPEND_32, "CPU_SUSPEND_32", Finder::All),
        Self::new(psci::CPU_SUSPEND_64, "CPU_SUSPEND_64", Finder::All),
        Self::new(psci::CPU_OFF, "CPU_OFF", Finder::All),
        Self::new(psci::CPU_ON_32, "CPU_ON_32", Finder::All),
        Self::new(psci::CPU_ON_64, "CPU_ON_64", Finder::All),
        Self::new(psci::AFFINITY_INFO_32, "AFFINITY_INFO_32", Finder::All),
        Self::new(psci::AFFINITY_INFO_64, "AFFINITY_INFO_64", Finder::All),
        Self::new(psci::MIGRATE_32, "MIGRATE_32", Finder::Host),
        Self::new(psci::MIGRATE_64, "MIGRATE_64", Finder::Host),
        Self::new(psci::MIGRATE_INFO_TYPE, "MIGRATE_INFO_TYPE", Finder::All),
        Self::new(psci::MIGRATE_INFO_UP_CPU_32, "MIGRATE_INFO_UP_CPU_32", Finder::Host),
        Self::new(psci::MIGRATE_INFO_UP_CPU_64, "MIGRATE_INFO_UP_CPU_64", Finder::Host),
        Self::new(psci::SYSTEM_OFF, "SYSTEM_OFF", Finder::All),
        Self::new(psci::SYSTEM_RESET, "SYSTEM_RESET", Finder::All),
        Self::new(psci::SYSTEM_RESET2_32, "SYSTEM_RESET2_32", Finder::All),
        Self::new(psci::SYSTEM_RESET2_64, "SYSTEM_RESET2_64", Finder::All),
        Self::new(psci::SYSTEM_SUSPEND_32, "SYSTEM_SUSPEND_32", Finder::Host),
        Self::new(psci::SYSTEM_SUSPEND_64, "SYSTEM_SUSPEND_64", Finder::Host),
        Self::new(smccc::VENDOR_HYP_CALL_COUNT, "CALL_COUNT", Finder::Host),
        Self::new(smccc::VENDOR_HYP_CALL_UID, "CALL_UID", Finder::All),
        Self::new(smccc::VENDOR_HYP_REVISION, "REVISION", Finder::Host),
        Self::new(guest::FEATURES, "FEATURES", Finder::Guest),
        Self::new(guest::HYP_MEMINFO, "HYP_MEMINFO", Finder::Protected),
        Self::new(guest::MEM_SHARE, "MEM_SHARE", Finder::Protected),
        Self::new(guest::MEM_UNSHARE, "MEM_UNSHARE", Finder::Protected),
        Self::new(guest::MMIO_GUARD_INFO, "MMIO_GUARD_INFO", Finder::Protected),
        Self::new(guest::MMIO_GUARD_ENROLL, "MMIO_GUARD_ENROLL", Finder::Protected),
        Self::new(guest::MMIO_GUARD_MAP, "MMIO_GUARD_MAP", Finder::Protected),
        Self::new(guest::MMIO_GUARD_UNMAP, "MMIO_GUARD_UNMAP", Finder::Protected),
        Self::new(guest::MEM_RELINQUISH, "MEM_RELINQUISH", Finder::Protected),
    ];
}
