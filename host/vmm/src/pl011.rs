//! A PL011 UART, the output half of it (Arm DDI 0183, chapter 3): what a guest writes comes out, and nothing comes in.

use crate::mmio::MmioDevice;

/// UARTDR: a byte to send.
const DR: u64 = 0x000;
/// UARTFR: flags.
const FR: u64 = 0x018;
/// UARTIBRD: integer part of the baud rate divisor.
const IBRD: u64 = 0x024;
/// UARTFBRD: fractional part of the baud rate divisor.
const FBRD: u64 = 0x028;
/// UARTLCR_H: line control.
const LCR_H: u64 = 0x02c;
/// UARTCR: control.
const CR: u64 = 0x030;
/// UARTIFLS: interrupt FIFO level.
const IFLS: u64 = 0x034;
/// UARTIMSC: interrupt mask; a set bit lets the interrupt through.
const IMSC: u64 = 0x038;
/// UARTRIS: raw interrupt status.
const RIS: u64 = 0x03c;
/// UARTMIS: masked interrupt status.
const MIS: u64 = 0x040;
/// UARTICR: interrupt clear.
const ICR: u64 = 0x044;
/// The first of UARTPeriphID0-3 and UARTPCellID0-3, four bytes apart.
const ID_FIRST: u64 = 0xfe0;
/// The identification registers' values: part 0x011, designer Arm, revision 3.
const ID: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// UARTFR.RXFE: nothing to read.
const FR_RXFE: u64 = 1 << 4;
/// UARTFR.TXFE: everything was sent.
const FR_TXFE: u64 = 1 << 7;
/// The transmit interrupt's bit in IMSC, RIS, MIS and ICR.
const INTERRUPT_TX: u64 = 1 << 5;
/// The eleven interrupts' bits.
const INTERRUPT_ALL: u64 = 0x7ff;
/// UARTCR after reset: transmit and receive enabled.
const CR_RESET: u64 = 0x300;
/// UARTIFLS after reset: both FIFOs at half.
const IFLS_RESET: u64 = 0x12;

/// Where the bytes go.
pub trait ByteSink {
    /// Takes one byte that the guest sent.
    fn byte(&mut self, byte: u8);
}

/// The device. The transmit FIFO never fills: each byte is sent as it is written.
pub struct Pl011<S> {
    sink: S,
    integer_divisor: u64,
    fractional_divisor: u64,
    line_control: u64,
    control: u64,
    fifo_level: u64,
    interrupt_mask: u64,
    interrupt_status: u64,
}

impl<S: ByteSink> Pl011<S> {
    /// The device after reset.
    pub const fn new(sink: S) -> Self {
        Self {
            sink,
            integer_divisor: 0,
            fractional_divisor: 0,
            line_control: 0,
            control: CR_RESET,
            fifo_level: IFLS_RESET,
            interrupt_mask: 0,
            interrupt_status: 0,
        }
    }

    /// True while an interrupt that the guest lets through is raised.
    pub const fn interrupt_line(&self) -> bool {
        self.interrupt_status & self.interrupt_mask != 0
    }
}

impl<S: ByteSink> MmioDevice for Pl011<S> {
    fn read(&mut self, offset: u64, _width: u64) -> u64 {
        match offset {
            FR => FR_RXFE | FR_TXFE,
            IBRD => self.integer_divisor,
            FBRD => self.fractional_divisor,
            LCR_H => self.line_control,
            CR => self.control,
            IFLS => self.fifo_level,
            IMSC => self.interrupt_mask,
            RIS => self.interrupt_status,
            MIS => self.interrupt_status & self.interrupt_mask,
            ID_FIRST..=0xffc if offset.is_multiple_of(4) => {
                let index = (offset - ID_FIRST) / 4;
                usize::try_from(index).ok().and_then(|index| ID.get(index)).copied().unwrap_or(0).into()
            }
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, _width: u64, value: u64) {
        match offset {
            DR => {
                self.sink.byte(value.to_le_bytes()[0]);
                self.interrupt_status |= INTERRUPT_TX;
            }
            IBRD => self.integer_divisor = value & 0xffff,
            FBRD => self.fractional_divisor = value & 0x3f,
            LCR_H => self.line_control = value & 0xff,
            CR => self.control = value & 0xffff,
            IFLS => self.fifo_level = value & 0x3f,
            IMSC => self.interrupt_mask = value & INTERRUPT_ALL,
            ICR => self.interrupt_status &= !value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    impl ByteSink for Vec<u8> {
        fn byte(&mut self, byte: u8) {
            self.push(byte);
        }
    }

    #[test]
    fn what_is_written_comes_out_and_never_fills_the_fifo() {
        let mut uart = Pl011::new(Vec::new());
        for byte in *b"hello" {
            assert_eq!(uart.read(FR, 4) & (1 << 5), 0, "transmit FIFO full");
            uart.write(DR, 4, 0xffff_ff00 | u64::from(byte));
        }
        assert_eq!(uart.sink, b"hello");
        assert_eq!(uart.read(FR, 4), FR_RXFE | FR_TXFE);
        assert_eq!(uart.read(DR, 4), 0);
    }

    #[test]
    fn a_driver_finds_the_identification_that_it_looks_for() {
        let mut uart = Pl011::new(Vec::new());
        let identification: Vec<u64> = (0..8).map(|index| uart.read(0xfe0 + 4 * index, 4)).collect();
        assert_eq!(identification, [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    }

    #[test]
    fn the_transmit_interrupt_is_raised_masked_and_cleared() {
        let mut uart = Pl011::new(Vec::new());
        uart.write(DR, 1, 0);
        assert_eq!((uart.read(RIS, 4), uart.read(MIS, 4)), (INTERRUPT_TX, 0));
        assert!(!uart.interrupt_line());
        uart.write(IMSC, 4, u64::MAX);
        assert_eq!((uart.read(IMSC, 4), uart.read(MIS, 4)), (INTERRUPT_ALL, INTERRUPT_TX));
        assert!(uart.interrupt_line());
        uart.write(ICR, 4, !INTERRUPT_TX);
        assert_eq!(uart.read(RIS, 4), INTERRUPT_TX, "another interrupt's bit clears it");
        uart.write(ICR, 4, INTERRUPT_TX);
        assert_eq!(uart.read(RIS, 4), 0);
        assert!(!uart.interrupt_line());
    }

    #[test]
    fn settings_read_back_and_reserved_registers_are_zero() {
        let mut uart = Pl011::new(Vec::new());
        assert_eq!((uart.read(CR, 4), uart.read(IFLS, 4)), (CR_RESET, IFLS_RESET));
        for (register, kept) in [(IBRD, 0xffff), (FBRD, 0x3f), (LCR_H, 0xff), (CR, 0xffff), (IFLS, 0x3f)] {
            uart.write(register, 4, u64::MAX);
            assert_eq!(uart.read(register, 4), kept, "{register:#x}");
        }
        for reserved in [0x8, 0x4c, 0x800, 0xfdc, 0xfe1, ICR] {
            uart.write(reserved, 4, u64::MAX);
            assert_eq!(uart.read(reserved, 4), 0, "{reserved:#x}");
        }
    }
}
