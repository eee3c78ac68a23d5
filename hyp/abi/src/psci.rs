//! Power State Coordination Interface numbers (Arm DEN0022, version 1.1).

/// PSCI_VERSION: major in bits 31:16, minor in 15:0.
pub const PSCI_VERSION: u32 = 0x8400_0000;
/// CPU_SUSPEND, 32-bit form.
pub const CPU_SUSPEND_32: u32 = 0x8400_0001;
/// CPU_SUSPEND, 64-bit form: power state, entry point, context.
pub const CPU_SUSPEND_64: u32 = 0xc400_0001;
/// CPU_OFF.
pub const CPU_OFF: u32 = 0x8400_0002;
/// CPU_ON, 32-bit form.
pub const CPU_ON_32: u32 = 0x8400_0003;
/// CPU_ON, 64-bit form: target MPIDR affinity, entry point, context.
pub const CPU_ON_64: u32 = 0xc400_0003;
/// AFFINITY_INFO, 32-bit form.
pub const AFFINITY_INFO_32: u32 = 0x8400_0004;
/// AFFINITY_INFO, 64-bit form: target affinity, lowest affinity level.
pub const AFFINITY_INFO_64: u32 = 0xc400_0004;
/// MIGRATE, 32-bit form.
pub const MIGRATE_32: u32 = 0x8400_0005;
/// MIGRATE, 64-bit form.
pub const MIGRATE_64: u32 = 0xc400_0005;
/// MIGRATE_INFO_TYPE.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// MIGRATE_INFO_UP_CPU, 32-bit form.
pub const MIGRATE_INFO_UP_CPU_32: u32 = 0x8400_0007;
/// MIGRATE_INFO_UP_CPU, 64-bit form.
pub const MIGRATE_INFO_UP_CPU_64: u32 = 0xc400_0007;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// SYSTEM_RESET.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI_FEATURES: x1 = a PSCI function identifier, or SMCCC_VERSION.
pub const PSCI_FEATURES: u32 = 0x8400_000a;
/// SYSTEM_SUSPEND, 32-bit form.
pub const SYSTEM_SUSPEND_32: u32 = 0x8400_000e;
/// SYSTEM_SUSPEND, 64-bit form.
pub const SYSTEM_SUSPEND_64: u32 = 0xc400_000e;
/// SYSTEM_RESET2, 32-bit form.
pub const SYSTEM_RESET2_32: u32 = 0x8400_0012;
/// SYSTEM_RESET2, 64-bit form: reset type, cookie.
pub const SYSTEM_RESET2_64: u32 = 0xc400_0012;

/// SYSTEM_RESET2: a reset of the type that the architecture defines.
pub const SYSTEM_WARM_RESET: u32 = 0;
/// SYSTEM_RESET2: set in the types of a vendor's own.
pub const VENDOR_RESET: u32 = 1 << 31;

/// Version 1.1, as PSCI_VERSION returns it.
pub const VERSION_1_1: u64 = 0x1_0001;

/// SUCCESS (DEN0022, section 5.2.2).
pub const SUCCESS: i64 = 0;
/// NOT_SUPPORTED.
pub const NOT_SUPPORTED: i64 = -1;
/// INVALID_PARAMETERS.
pub const INVALID_PARAMETERS: i64 = -2;
/// DENIED.
pub const DENIED: i64 = -3;
/// ALREADY_ON.
pub const ALREADY_ON: i64 = -4;
/// ON_PENDING.
pub const ON_PENDING: i64 = -5;
/// INTERNAL_FAILURE.
pub const INTERNAL_FAILURE: i64 = -6;
/// NOT_PRESENT.
pub const NOT_PRESENT: i64 = -7;
/// DISABLED.
pub const DISABLED: i64 = -8;
/// INVALID_ADDRESS.
pub const INVALID_ADDRESS: i64 = -9;

/// AFFINITY_INFO: at least one core of the affinity instance is on.
pub const AFFINITY_ON: i64 = 0;
/// AFFINITY_INFO: all cores are off.
pub const AFFINITY_OFF: i64 = 1;
/// AFFINITY_INFO: a core is on its way to being on.
pub const AFFINITY_ON_PENDING: i64 = 2;

/// The affinity fields of an MPIDR value: Aff3 in bits 39:32, Aff2 to Aff0 in 23:0 (Arm ARM, MPIDR_EL1).
pub const MPIDR_AFFINITY_MASK: u64 = 0xff_00ff_ffff;
