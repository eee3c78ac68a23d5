//! What a guest finds: KVM's vendor-hypervisor calls, by the numbers that mainline Linux's pKVM guest driver uses, and
//! Freehold's own.

/// KVM's vendor-hypervisor UUID, 28b46fb6-2ec5-11e9-a9ca-4b564d003a74, which a Linux guest compares before it calls
/// any of these functions.
pub const KVM_UUID: u128 = 0x28b4_6fb6_2ec5_11e9_a9ca_4b56_4d00_3a74;

/// Freehold's UUID as a source of entropy, d06b6a31-52c1-4a0e-9d3b-7f4c1e2a9058, which
/// [`TRNG_GET_UUID`](crate::smccc::TRNG_GET_UUID) returns.
pub const TRNG_UUID: u128 = 0xd06b_6a31_52c1_4a0e_9d3b_7f4c_1e2a_9058;

/// FEATURES: a bitmap of the functions below in w0..w3; bit n of w0 is function number n.
pub const FEATURES: u32 = 0x8600_0000;
/// HYP_MEMINFO(0, 0, 0): the sharing granule in bytes.
pub const HYP_MEMINFO: u32 = 0xc600_0002;
/// MEM_SHARE(IPA, 0, 0): shares the page at the IPA with the host.
pub const MEM_SHARE: u32 = 0xc600_0003;
/// MEM_UNSHARE(IPA, 0, 0): takes back a page that was shared.
pub const MEM_UNSHARE: u32 = 0xc600_0004;
/// MMIO_GUARD_INFO(0, 0, 0): the granule of the guard in bytes.
pub const MMIO_GUARD_INFO: u32 = 0xc600_0005;
/// MMIO_GUARD_ENROLL(0, 0, 0): from here on an access to a device that the guest has not marked is an external abort,
/// and the host learns nothing of it. It concerns the whole VM, for good.
pub const MMIO_GUARD_ENROLL: u32 = 0xc600_0006;
/// MMIO_GUARD_MAP(IPA, 0, 0): marks the page at the IPA as a device's. Marks count from MMIO_GUARD_ENROLL on, and may be set
/// before it: mainline Linux, which knows this call alone of the guard, makes it for all that it maps as device memory.
pub const MMIO_GUARD_MAP: u32 = 0xc600_0007;
/// MMIO_GUARD_UNMAP(IPA, 0, 0): removes the mark.
pub const MMIO_GUARD_UNMAP: u32 = 0xc600_0008;
/// MEM_RELINQUISH(IPA): gives the page back to the host, wiped.
pub const MEM_RELINQUISH: u32 = 0xc600_0009;

/// The bitmap that FEATURES returns in w0 to a protected guest: functions 0 and 2 to 9.
pub const FEATURES_BITMAP: u32 = 1 << 0 | 0xff << 2;

/// Most offers of one guest that may be open, or accepted and not ended, at a time.
pub const MAX_OFFERS: usize = 16;

macro_rules! calls {
    ($($(#[$meta:meta])* $name:ident = $number:literal,)*) => {
        /// A call of Freehold's own that a guest may make. The number is the SMCCC function identifier; it is above the
        /// 128 functions that KVM counts as its own. x0 is 0 or an [`Error`](crate::Error). An IPA names one page.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u32)]
        pub enum GuestCall {
            $($(#[$meta])* $name = $number,)*
        }

        impl GuestCall {
            /// Every such call, in the order of the numbers.
            pub const ALL: &'static [GuestCall] = &[$(GuestCall::$name,)*];

            /// The call of a function identifier, or `None` where there is none.
            pub const fn from_function(function: u32) -> Option<Self> {
                match function {
                    $($number => Some(GuestCall::$name),)*
                    _ => None,
                }
            }
        }
    };
}

calls! {
    /// `VM_NAME()` -> x1 = the VM's own handle, by which other guests name it, x2 = bitmap of these calls: bit n is
    /// function 0xc6000180 + n.
    VmName = 0xc600_0180,
    /// `MEM_LEND(IPA)`: lends a page to the host, which has all access until it gives the page back; the guest has none.
    MemLend = 0xc600_0181,
    /// `MEM_RETURN(IPA)`: gives a page back to the host that the host lent, wiped.
    MemReturn = 0xc600_0182,
    /// `MEM_OFFER(IPA, receiver, rights)` -> x1 = number: lets the protected VM `receiver` borrow a page, if it accepts.
    /// Rights are those of `VM_SHARE`. The host carries the number to the receiver.
    MemOffer = 0xc600_0183,
    /// `MEM_ACCEPT(owner, number, IPA, rights)`: borrows what the VM `owner` offered, at the given IPA. The rights must be
    /// those of the offer.
    MemAccept = 0xc600_0184,
    /// `MEM_WITHDRAW(number)`: ends an offer of this guest's; who borrows the page by it no longer does, and is told
    /// where it touches it.
    MemWithdraw = 0xc600_0185,
    /// `MEM_DROP(owner, number)`: ends borrowing what was accepted.
    MemDrop = 0xc600_0186,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_decode_to_themselves_and_nothing_else_does() {
        for &call in GuestCall::ALL {
            assert_eq!(GuestCall::from_function(call as u32), Some(call));
            assert!(crate::smccc::is_fast(call as u32) && crate::smccc::is_64_bit(call as u32));
        }
        let decoded = (0xc600_0000..0xc601_0000).filter_map(GuestCall::from_function).count();
        assert_eq!(decoded, GuestCall::ALL.len());
    }
}
