//! The calls of Arm's specifications and of KVM's that there are, by number and name, for the host and for a guest. Those of
//! Freehold's own are [`HostCall`](crate::host::HostCall) and [`GuestCall`](crate::guest::GuestCall).

use crate::{guest, psci, smccc};

/// A function identifier and its name.
pub type Named = (u32, &'static str);

/// What the host finds. PSCI is relayed to the firmware, as is what the firmware knows of the CPU's mitigations and of the
/// machine; the last three come by HVC alone.
pub const FOR_HOST: &[Named] = &[
    (smccc::VERSION, "SMCCC_VERSION"),
    (smccc::ARCH_FEATURES, "ARCH_FEATURES"),
    (smccc::ARCH_SOC_ID, "ARCH_SOC_ID"),
    (smccc::ARCH_WORKAROUND_1, "ARCH_WORKAROUND_1"),
    (smccc::ARCH_WORKAROUND_2, "ARCH_WORKAROUND_2"),
    (smccc::ARCH_WORKAROUND_3, "ARCH_WORKAROUND_3"),
    (smccc::TRNG_VERSION, "TRNG_VERSION"),
    (smccc::TRNG_FEATURES, "TRNG_FEATURES"),
    (smccc::TRNG_GET_UUID, "TRNG_GET_UUID"),
    (smccc::TRNG_RND32, "TRNG_RND32"),
    (smccc::TRNG_RND64, "TRNG_RND64"),
    (psci::PSCI_VERSION, "PSCI_VERSION"),
    (psci::PSCI_FEATURES, "PSCI_FEATURES"),
    (psci::CPU_SUSPEND_32, "CPU_SUSPEND_32"),
    (psci::CPU_SUSPEND_64, "CPU_SUSPEND_64"),
    (psci::CPU_OFF, "CPU_OFF"),
    (psci::CPU_ON_32, "CPU_ON_32"),
    (psci::CPU_ON_64, "CPU_ON_64"),
    (psci::AFFINITY_INFO_32, "AFFINITY_INFO_32"),
    (psci::AFFINITY_INFO_64, "AFFINITY_INFO_64"),
    (psci::MIGRATE_32, "MIGRATE_32"),
    (psci::MIGRATE_64, "MIGRATE_64"),
    (psci::MIGRATE_INFO_TYPE, "MIGRATE_INFO_TYPE"),
    (psci::MIGRATE_INFO_UP_CPU_32, "MIGRATE_INFO_UP_CPU_32"),
    (psci::MIGRATE_INFO_UP_CPU_64, "MIGRATE_INFO_UP_CPU_64"),
    (psci::SYSTEM_OFF, "SYSTEM_OFF"),
    (psci::SYSTEM_RESET, "SYSTEM_RESET"),
    (psci::SYSTEM_RESET2_32, "SYSTEM_RESET2_32"),
    (psci::SYSTEM_RESET2_64, "SYSTEM_RESET2_64"),
    (psci::SYSTEM_SUSPEND_32, "SYSTEM_SUSPEND_32"),
    (psci::SYSTEM_SUSPEND_64, "SYSTEM_SUSPEND_64"),
    (smccc::VENDOR_HYP_CALL_COUNT, "CALL_COUNT"),
    (smccc::VENDOR_HYP_CALL_UID, "CALL_UID"),
    (smccc::VENDOR_HYP_REVISION, "REVISION"),
];

/// What a guest finds, by HVC or SMC. [`ONLY_PROTECTED`] says which of them a guest that is not protected does not.
pub const FOR_GUEST: &[Named] = &[
    (smccc::VERSION, "SMCCC_VERSION"),
    (smccc::ARCH_FEATURES, "ARCH_FEATURES"),
    (smccc::ARCH_WORKAROUND_1, "ARCH_WORKAROUND_1"),
    (smccc::ARCH_WORKAROUND_2, "ARCH_WORKAROUND_2"),
    (smccc::ARCH_WORKAROUND_3, "ARCH_WORKAROUND_3"),
    (smccc::TRNG_VERSION, "TRNG_VERSION"),
    (smccc::TRNG_FEATURES, "TRNG_FEATURES"),
    (smccc::TRNG_GET_UUID, "TRNG_GET_UUID"),
    (smccc::TRNG_RND32, "TRNG_RND32"),
    (smccc::TRNG_RND64, "TRNG_RND64"),
    (psci::PSCI_VERSION, "PSCI_VERSION"),
    (psci::PSCI_FEATURES, "PSCI_FEATURES"),
    (psci::CPU_SUSPEND_32, "CPU_SUSPEND_32"),
    (psci::CPU_SUSPEND_64, "CPU_SUSPEND_64"),
    (psci::CPU_OFF, "CPU_OFF"),
    (psci::CPU_ON_32, "CPU_ON_32"),
    (psci::CPU_ON_64, "CPU_ON_64"),
    (psci::AFFINITY_INFO_32, "AFFINITY_INFO_32"),
    (psci::AFFINITY_INFO_64, "AFFINITY_INFO_64"),
    (psci::MIGRATE_INFO_TYPE, "MIGRATE_INFO_TYPE"),
    (psci::SYSTEM_OFF, "SYSTEM_OFF"),
    (psci::SYSTEM_RESET, "SYSTEM_RESET"),
    (psci::SYSTEM_RESET2_32, "SYSTEM_RESET2_32"),
    (psci::SYSTEM_RESET2_64, "SYSTEM_RESET2_64"),
    (smccc::VENDOR_HYP_CALL_UID, "CALL_UID"),
    (guest::FEATURES, "FEATURES"),
    (guest::HYP_MEMINFO, "HYP_MEMINFO"),
    (guest::MEM_SHARE, "MEM_SHARE"),
    (guest::MEM_UNSHARE, "MEM_UNSHARE"),
    (guest::MMIO_GUARD_INFO, "MMIO_GUARD_INFO"),
    (guest::MMIO_GUARD_ENROLL, "MMIO_GUARD_ENROLL"),
    (guest::MMIO_GUARD_MAP, "MMIO_GUARD_MAP"),
    (guest::MMIO_GUARD_UNMAP, "MMIO_GUARD_UNMAP"),
    (guest::MEM_RELINQUISH, "MEM_RELINQUISH"),
];

/// Those of [`FOR_GUEST`] that are there for a protected guest alone: the numbers from the first to the last of these.
pub const ONLY_PROTECTED: core::ops::RangeInclusive<u32> = guest::HYP_MEMINFO..=guest::MEM_RELINQUISH;
