//! The serial console: a PL011.
//!
//! The registers are touched with single loads and stores of one plain register, the only accesses that a hypervisor can
//! emulate from their syndrome (Arm ARM, ESR_EL2, ISS encoding for a Data Abort, ISV).

use abi::Ipa;
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where the PL011 is; 0 while it is not known.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Says where the PL011 is. It must be the address of one, mapped as device memory at its own address or reached with
/// the MMU off.
pub fn set_base(base: Ipa) {
    BASE.store(base.raw(), Ordering::Relaxed);
}

/// The console. Text that is written before the PL011 is known is lost.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(registers) = NonNull::new(BASE.load(Ordering::Relaxed) as *mut PL011Registers) else {
            return Ok(());
        };
        // SAFETY: `set_base` was given the PL011's address, mapped for as long as the payload runs. There is one CPU
        // and no interrupt handler prints, so no other pointer to it is in use until this one is gone.
        let mut uart = Uart::new(unsafe { UniqueMmioPointer::new(registers) });
        uart.write_str(text)
    }
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        // A console that cannot be written to has nowhere to say so.
        let _ = ::core::fmt::Write::write_fmt(&mut $crate::console::Console, format_args!("{}\n", format_args!($($argument)*)));
    }};
}
