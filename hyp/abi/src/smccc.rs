//! SMC Calling Convention numbers (Arm DEN0028).

/// SMCCC_VERSION: in x0 the version, major in bits 30:16, minor in 15:0.
pub const VERSION: u32 = 0x8000_0000;
/// SMCCC_ARCH_FEATURES: x1 = a function identifier of the Arm Architecture range.
pub const ARCH_FEATURES: u32 = 0x8000_0001;
/// SMCCC_ARCH_SOC_ID.
pub const ARCH_SOC_ID: u32 = 0x8000_0002;
/// SMCCC_ARCH_WORKAROUND_3 (Spectre-BHB).
pub const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
/// SMCCC_ARCH_WORKAROUND_2 (Speculative Store Bypass).
pub const ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
/// SMCCC_ARCH_WORKAROUND_1 (Spectre-v2).
pub const ARCH_WORKAROUND_1: u32 = 0x8000_8000;

/// TRNG_VERSION (Arm DEN0098).
pub const TRNG_VERSION: u32 = 0x8400_0050;
/// TRNG_FEATURES.
pub const TRNG_FEATURES: u32 = 0x8400_0051;
/// TRNG_GET_UUID.
pub const TRNG_GET_UUID: u32 = 0x8400_0052;
/// TRNG_RND, 32-bit form.
pub const TRNG_RND32: u32 = 0x8400_0053;
/// TRNG_RND, 64-bit form.
pub const TRNG_RND64: u32 = 0xc400_0053;

/// Call count of the vendor-specific hypervisor service range.
pub const VENDOR_HYP_CALL_COUNT: u32 = 0x8600_ff00;
/// UID of the vendor-specific hypervisor: a UUID in w0..w3, bytes in little-endian order within each register.
pub const VENDOR_HYP_CALL_UID: u32 = 0x8600_ff01;
/// Revision of the vendor-specific hypervisor interface: major in x0, minor in x1.
pub const VENDOR_HYP_REVISION: u32 = 0x8600_ff03;

/// SUCCESS.
pub const SUCCESS: i64 = 0;
/// NOT_SUPPORTED, also the answer to an unknown function identifier.
pub const NOT_SUPPORTED: i64 = -1;
/// INVALID_PARAMETER.
pub const INVALID_PARAMETER: i64 = -3;

/// The version that Freehold answers to SMCCC_VERSION: 1.2.
pub const VERSION_1_2: u64 = 0x1_0002;

/// True where bit 31 says "fast call" (DEN0028, section 2.5). Yielding calls are never passed on.
pub const fn is_fast(function: u32) -> bool {
    function & 1 << 31 != 0
}

/// True where bit 30 says that the call takes and returns 64-bit registers.
pub const fn is_64_bit(function: u32) -> bool {
    function & 1 << 30 != 0
}

/// Owning entity of the Arm Architecture calls (DEN0028, section 6).
pub const OWNER_ARCHITECTURE: u32 = 0;
/// Owning entity of the standard secure service calls: PSCI, TRNG.
pub const OWNER_STANDARD_SECURE: u32 = 4;
/// Owning entity of the vendor-specific hypervisor service calls.
pub const OWNER_VENDOR_HYPERVISOR: u32 = 6;

/// Bits 29:24, the owning entity: whose range of calls a function is in.
pub const fn owner(function: u32) -> u32 {
    function >> 24 & 0x3f
}

/// The four register words of a UUID, as a `CALL_UID` call returns them (DEN0028, section 6.2).
pub const fn uuid_words(uuid: u128) -> [u32; 4] {
    let bytes = uuid.to_be_bytes();
    let mut words = [0; 4];
    let mut word = 0;
    while word < 4 {
        let at = word * 4;
        words[word] = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        word += 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_has_its_owner() {
        for (function, expected) in [
            (VERSION, OWNER_ARCHITECTURE),
            (ARCH_WORKAROUND_1, OWNER_ARCHITECTURE),
            (crate::psci::PSCI_VERSION, OWNER_STANDARD_SECURE),
            (crate::psci::CPU_ON_64, OWNER_STANDARD_SECURE),
            (TRNG_RND64, OWNER_STANDARD_SECURE),
            (VENDOR_HYP_CALL_UID, OWNER_VENDOR_HYPERVISOR),
            (crate::guest::MEM_SHARE, OWNER_VENDOR_HYPERVISOR),
            (0xffff_ffff, 0x3f),
        ] {
            assert_eq!(owner(function), expected, "{function:#x}");
        }
    }

    #[test]
    fn uuid_words_are_those_that_linux_compares() {
        assert_eq!(uuid_words(crate::guest::KVM_UUID), [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d]);
    }
}
