//! Output to a PL011 UART (Arm DDI 0183), polled.

use abi::PhysAddr;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where QEMU's `virt` machine has its PL011. Used only where the device tree cannot be read: the loader stops then in
/// any case, and on the one machine that most people try this is where the reason can be seen.
const DEFAULT: PhysAddr = PhysAddr::new(0x0900_0000);

/// Data register.
const UARTDR: u64 = 0x00;
/// Flag register.
const UARTFR: u64 = 0x18;
/// UARTFR: the transmit FIFO is full.
const UARTFR_TXFF: u16 = 1 << 5;
/// Line control register.
const UARTLCR_H: u64 = 0x2c;
/// UARTLCR_H: 8 bits a word, FIFOs on.
const UARTLCR_H_8_BITS_FIFO: u16 = 0b111 << 4;
/// Control register.
const UARTCR: u64 = 0x30;
/// UARTCR: receive, transmit, and the UART itself are on.
const UARTCR_ON: u16 = 1 << 9 | 1 << 8 | 1;

/// Most polls for one character: a UART that does not drain must not stop the boot.
const MAX_POLLS: u32 = 1 << 20;

/// Address of the registers; 0 while there is no console. Plain loads and stores only.
static REGISTERS: AtomicU64 = AtomicU64::new(0);

/// Speaks through the PL011 at `registers` from now on, which is switched on unless it is already.
pub fn use_registers(registers: PhysAddr) {
    REGISTERS.store(registers.raw(), Ordering::Relaxed);
    if read(registers, UARTCR) & UARTCR_ON != UARTCR_ON {
        write(registers, UARTLCR_H, UARTLCR_H_8_BITS_FIFO);
        write(registers, UARTCR, UARTCR_ON);
    }
}

/// Speaks through the UART of the most likely machine, for want of a better.
pub fn use_default() {
    use_registers(DEFAULT);
}

fn read(registers: PhysAddr, offset: u64) -> u16 {
    let register = (registers.raw() + offset) as *const u16;
    // SAFETY: `registers` is a PL011's, by the device tree or as `DEFAULT` explains, its page holds all registers, and
    // reading those that are read here has no side effect.
    unsafe { register.read_volatile() }
}

fn write(registers: PhysAddr, offset: u64, value: u16) {
    let register = (registers.raw() + offset) as *mut u16;
    // SAFETY: as for `read`; a PL011's registers touch no memory.
    unsafe { register.write_volatile(value) }
}

fn put(registers: PhysAddr, byte: u8) {
    for _ in 0..MAX_POLLS {
        if read(registers, UARTFR) & UARTFR_TXFF == 0 {
            break;
        }
    }
    write(registers, UARTDR, u16::from(byte));
}

/// The console as a `fmt` sink; drops everything while there is none.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let registers = PhysAddr::new(REGISTERS.load(Ordering::Relaxed));
        if registers.raw() != 0 {
            for byte in text.bytes() {
                if byte == b'\n' {
                    put(registers, b'\r');
                }
                put(registers, byte);
            }
        }
        Ok(())
    }
}

/// Prints one line that starts with "loader: ".
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::console::Console, "loader: {}", format_args!($($argument)*));
    }};
}
pub(crate) use say;
