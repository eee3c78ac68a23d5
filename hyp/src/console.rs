//! The log: lines on the PL011 that the device tree names, with level and CPU number.

use crate::cpu_data;
use abi::VirtAddr;
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use core::fmt::{self, Write};
use core::ptr::NonNull;
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::mutex::TicketMutex;

/// Polls of a full transmit FIFO before a character is given up, and with it all others until the FIFO takes one again:
/// the host owns the UART and may have switched it off, which must not hang hyp.
const TRANSMIT_PATIENCE: u32 = 1_000_000;

struct Console {
    uart: Option<Uart<'static>>,
    /// The last character was given up.
    stuck: bool,
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(uart) = &mut self.uart {
            for byte in text.bytes() {
                if byte == b'\n' {
                    self.stuck = !transmit(uart, b'\r', self.stuck);
                }
                self.stuck = !transmit(uart, byte, self.stuck);
            }
        }
        Ok(())
    }
}

/// Sends a character; false where it was given up.
fn transmit(uart: &mut Uart<'static>, byte: u8, stuck: bool) -> bool {
    for _ in 0..if stuck { 1 } else { TRANSMIT_PATIENCE } {
        if !uart.is_tx_fifo_full() {
            uart.write_word(byte);
            return true;
        }
    }
    false
}

struct Logger(TicketMutex<Console>);

static LOGGER: Logger = Logger(TicketMutex::new(Console { uart: None, stuck: false }));

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // A failed write of a console has nobody left to be told.
            let _ = match record.level() {
                Level::Info => writeln!(self.0.lock(), "hyp[{}]: {}", cpu_data::index(), record.args()),
                level => writeln!(self.0.lock(), "hyp[{}] {level}: {}", cpu_data::index(), record.args()),
            };
        }
    }

    fn flush(&self) {}
}

/// Starts logging on the PL011 whose registers are mapped at `registers`, up to `level`.
///
/// # Safety
/// `registers` must be a PL011's, mapped as device memory for good, and in use by nobody else at EL2.
pub unsafe fn initialise(registers: Option<VirtAddr>, level: LevelFilter) {
    if let Some(pointer) = registers.and_then(|address| NonNull::new(address.raw() as *mut PL011Registers)) {
        // SAFETY: the caller vouches for the mapping and for our being its only user.
        LOGGER.0.lock().uart = Some(Uart::new(unsafe { UniqueMmioPointer::new(pointer) }));
    }
    // A second initialisation would keep the first logger, which is the same.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// Writes to the console whoever holds its lock: for the last words of a hyp that stops.
pub fn write_regardless(text: fmt::Arguments<'_>) {
    if LOGGER.0.is_locked() {
        // SAFETY: the holder either stands still because its CPU is the one that stops here, or its output is worth less
        // than this; the UART itself takes single-register writes from anywhere.
        unsafe { LOGGER.0.force_unlock() };
    }
    let _ = LOGGER.0.lock().write_fmt(text);
}

/// The `log` filter of a boot level: 0 off to 5 trace; higher is trace.
pub fn level_filter(level: u32) -> LevelFilter {
    match level {
        0 => LevelFilter::Off,
        1 => LevelFilter::Error,
        2 => LevelFilter::Warn,
        3 => LevelFilter::Info,
        4 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}
