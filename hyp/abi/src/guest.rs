//! What a guest finds: KVM's vendor-hypervisor calls, by the numbers that mainline Linux's pKVM guest driver uses.

/// KVM's vendor-hypervisor UUID, 28b46fb6-2ec5-11e9-a9ca-4b564d003a74, which a Linux guest compares before it calls
/// any of these functions.
pub const KVM_UUID: u128 = 0x28b4_6fb6_2ec5_11e9_a9ca_4b56_4d00_3a74;

/// FEATURES: a bitmap of the functions below in w0..w3; bit n of w0 is function number n.
pub const FEATURES: u32 = 0x8600_0000;
/// HYP_MEMINFO(0, 0, 0): the sharing granule in bytes.
pub const HYP_MEMINFO: u32 = 0xc600_0002;
/// MEM_SHARE(IPA, 0, 0): shares the page at the IPA with the host.
pub const MEM_SHARE: u32 = 0xc600_0003;
/// MEM_UNSHARE(IPA, 0, 0): takes back a page that was shared.
pub const MEM_UNSHARE: u32 = 0xc600_0004;
/// MEM_RELINQUISH(IPA): gives the page back to the host, wiped.
pub const MEM_RELINQUISH: u32 = 0xc600_0009;

/// The bitmap that FEATURES returns in w0: functions 0, 2, 3, 4 and 9.
pub const FEATURES_BITMAP: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 9;
