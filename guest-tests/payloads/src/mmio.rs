//! Loads and stores of device registers, each a single instruction that a hypervisor can emulate from its syndrome.

use core::arch::asm;

macro_rules! accessors {
    ($($read:ident, $write:ident, $type:ty, $load:literal, $store:literal, $width:literal;)*) => {
        $(
            #[doc = concat!("Reads ", $width, " bits.")]
            ///
            /// # Safety
            /// A register of this width must be at `address`, mapped as device memory, which may be read.
            pub unsafe fn $read(address: u64) -> $type {
                let value: u64;
                // SAFETY: by the caller's promise.
                unsafe { asm!($load, value = out(reg) value, address = in(reg) address, options(nostack)) };
                value as $type
            }

            #[doc = concat!("Writes ", $width, " bits.")]
            ///
            /// # Safety
            /// A register of this width must be at `address`, mapped as device memory, and what the write does to the device
            /// must leave memory alone.
            pub unsafe fn $write(address: u64, value: $type) {
                let value = u64::from(value);
                // SAFETY: by the caller's promise.
                unsafe { asm!($store, value = in(reg) value, address = in(reg) address, options(nostack)) };
            }
        )*
    };
}

accessors! {
    read8, write8, u8, "ldrb {value:w}, [{address}]", "strb {value:w}, [{address}]", "8";
    read16, write16, u16, "ldrh {value:w}, [{address}]", "strh {value:w}, [{address}]", "16";
    read32, write32, u32, "ldr {value:w}, [{address}]", "str {value:w}, [{address}]", "32";
    read64, write64, u64, "ldr {value}, [{address}]", "str {value}, [{address}]", "64";
}
