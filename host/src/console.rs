//! The console: the PL011 of the device tree. Lines of several CPUs do not mix; a panic writes past the lock.

use abi::PhysAddr;
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// Base address of the UART, for [`Raw`]; 0 until it is known.
static BASE: AtomicU64 = AtomicU64::new(0);
/// The UART, once the MMU is on.
static CONSOLE: Mutex<Option<Console>> = Mutex::new(None);

/// The UART behind the lock.
struct Console(Uart<'static>);

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.byte(b'\r');
            }
            self.byte(byte);
        }
        Ok(())
    }
}

impl Console {
    fn byte(&mut self, byte: u8) {
        while self.0.is_tx_fifo_full() {
            core::hint::spin_loop();
        }
        self.0.write_word(byte);
    }
}

/// Tells the panic path where the UART is. May be called with the MMU off.
pub fn set_base(uart: PhysAddr) {
    BASE.store(uart.raw(), Ordering::Relaxed);
}

/// Opens the console.
///
/// # Safety
/// The registers at the address given to [`set_base`] must be a PL011's, mapped as device memory, and nothing else in
/// the host may use them. To be called once.
pub unsafe fn open() {
    let base = BASE.load(Ordering::Relaxed) as *mut PL011Registers;
    let Some(registers) = NonNull::new(base) else { return };
    // SAFETY: the caller vouches for the registers; the panic path also writes them, when nothing else runs any more.
    let registers = unsafe { UniqueMmioPointer::new(registers) };
    *CONSOLE.lock() = Some(Console(Uart::new(registers)));
}

/// Writes one line, whole.
pub fn line(arguments: fmt::Arguments<'_>) {
    if let Some(console) = CONSOLE.lock().as_mut() {
        // The console's own `write_str` never fails; an error can only come from a `Display` of the arguments.
        let _ = console.write_fmt(format_args!("{arguments}\n"));
    }
}

/// Writes bytes as they are.
pub fn bytes(bytes: &[u8]) {
    if let Some(console) = CONSOLE.lock().as_mut() {
        bytes.iter().for_each(|byte| console.byte(*byte));
    }
}

/// The next byte that has come in, if any.
pub fn read_byte() -> Option<u8> {
    CONSOLE.lock().as_mut()?.0.read_word().ok().flatten()
}

/// The UART without the lock, for a CPU that will not go on.
pub struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let base = BASE.load(Ordering::Relaxed) as *mut u32;
        if base.is_null() {
            return Ok(());
        }
        for byte in text.bytes() {
            if byte == b'\n' {
                raw_byte(base, b'\r');
            }
            raw_byte(base, byte);
        }
        Ok(())
    }
}

/// UARTFR's offset in words, and its TXFF bit (Arm DDI 0183, section 3.3.3).
const FLAGS_WORD: usize = 0x18 / 4;
const TRANSMIT_FULL: u32 = 1 << 5;

fn raw_byte(base: *mut u32, byte: u8) {
    // SAFETY: `base` is the UART that the device tree named; UARTFR and UARTDR may be accessed at any time.
    unsafe {
        while base.add(FLAGS_WORD).read_volatile() & TRANSMIT_FULL != 0 {
            core::hint::spin_loop();
        }
        base.write_volatile(byte.into());
    }
}

/// Prints one line to the console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::console::line(format_args!($($argument)*)) };
}
