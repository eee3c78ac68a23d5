//! A PL011 UART (Arm DDI 0183, chapter 3): what a guest writes goes to a [`ByteSink`], and what the host's user types
//! comes in by [`Pl011::receive`].

mod registers;

use crate::fifo::{DEPTH_MAX, Fifo};
use crate::mmio::MmioDevice;
use crate::primecell::identification;
use registers::*;

/// Where the bytes go.
pub trait ByteSink {
    /// Takes one byte that the guest sent.
    fn byte(&mut self, byte: u8);
}

/// The device. While the transmitter is on, each byte is sent as it is written, so that its FIFO never fills.
///
/// A guest starts where firmware would have switched the UART on: UARTCR.UARTEN is set, and not its reset value, 0. Early
/// consoles write UARTDR and nothing else, and Linux's driver puts back what it has found in UARTCR after each line.
///
/// No time passes in the model, so the receive time-out (UARTRTINTR) is over at once, and its interrupt is raised for as
/// long as there is a byte to read, be it below the receive interrupt's level or not. Hardware lowers it on a write to
/// UARTICR. But there a byte that comes in between a driver's last look at UARTFR and its write to UARTICR times out after
/// the write; here nothing would come later, and the byte be forgotten. The receive interrupt does stay cleared until
/// the next byte, as on hardware.
pub struct Pl011<S> {
    sink: S,
    receive: Fifo,
    transmit: Fifo,
    overrun: bool,
    receive_status: u64,
    integer_divisor: u64,
    fractional_divisor: u64,
    line_control: u64,
    control: u64,
    fifo_level: u64,
    interrupt_mask: u64,
    /// All but the receive time-out's bit.
    interrupt_status: u64,
}

impl<S: ByteSink> Pl011<S> {
    /// The device after reset.
    pub const fn new(sink: S) -> Self {
        Self {
            sink,
            receive: Fifo::new(1),
            transmit: Fifo::new(1),
            overrun: false,
            receive_status: 0,
            integer_divisor: 0,
            fractional_divisor: 0,
            line_control: 0,
            control: CR_START,
            fifo_level: IFLS_RESET,
            interrupt_mask: 0,
            interrupt_status: 0,
        }
    }

    /// Where the bytes go.
    pub const fn sink(&self) -> &S {
        &self.sink
    }

    /// A byte comes in. False where the guest cannot take it now: its FIFO is full, the receiver is off, or loop-back is
    /// on; the caller keeps the byte and offers it again after the guest has accessed the UART.
    pub fn receive(&mut self, byte: u8) -> bool {
        self.is_receiving() && self.control & CR_LBE == 0 && self.take_in(byte)
    }

    /// True while an interrupt that the guest lets through is raised.
    pub const fn interrupt_line(&self) -> bool {
        self.raw_status() & self.interrupt_mask != 0
    }

    const fn raw_status(&self) -> u64 {
        self.interrupt_status | if self.receive.is_empty() { 0 } else { INTERRUPT_RT }
    }

    const fn is_receiving(&self) -> bool {
        self.control & (CR_UARTEN | CR_RXE) == CR_UARTEN | CR_RXE
    }

    const fn is_transmitting(&self) -> bool {
        self.control & (CR_UARTEN | CR_TXE) == CR_UARTEN | CR_TXE
    }

    /// The bytes at or above which the receive interrupt is raised.
    const fn receive_level(&self) -> usize {
        if self.receive.depth() == 1 { 1 } else { fill_level(self.fifo_level >> 3) }
    }

    /// The bytes at or below which the transmit interrupt is raised.
    const fn transmit_level(&self) -> usize {
        if self.transmit.depth() == 1 { 0 } else { fill_level(self.fifo_level) }
    }

    fn take_in(&mut self, byte: u8) -> bool {
        let taken = self.receive.push(byte);
        if self.receive.len() >= self.receive_level() {
            self.interrupt_status |= INTERRUPT_RX;
        }
        taken
    }

    /// Lowers the receive interrupt where the FIFO has fallen below its level.
    fn settle_receive(&mut self) {
        if self.receive.len() < self.receive_level() {
            self.interrupt_status &= !INTERRUPT_RX;
        }
    }

    fn read_data(&mut self) -> u64 {
        let lost = if self.overrun { DR_OE } else { 0 };
        let byte = self.receive.pop().unwrap_or(0);
        self.overrun = false;
        self.settle_receive();
        lost | u64::from(byte)
    }

    fn write_data(&mut self, byte: u8) {
        // Without room the byte is lost, as UARTFR.TXFF had said.
        self.transmit.push(byte);
        if self.transmit.len() > self.transmit_level() {
            self.interrupt_status &= !INTERRUPT_TX;
        }
        self.send();
    }

    /// Sends what is there, if the transmitter is on.
    fn send(&mut self) {
        while let Some(byte) = self.is_transmitting().then(|| self.transmit.pop()).flatten() {
            if self.control & CR_LBE == 0 {
                self.sink.byte(byte);
            } else if self.is_receiving() && !self.take_in(byte) {
                self.overrun = true;
                self.receive_status |= RSR_OE;
                self.interrupt_status |= INTERRUPT_OE;
            }
            self.interrupt_status |= INTERRUPT_TX;
        }
    }

    fn write_control(&mut self, value: u64) {
        let before = self.modem_flags();
        self.control = value;
        let changed = before ^ self.modem_flags();
        for (_, flag, interrupt) in MODEM_LOOP {
            if changed & flag != 0 {
                self.interrupt_status |= interrupt;
            }
        }
        self.send();
    }

    /// A change of FEN empties both FIFOs.
    fn write_line_control(&mut self, value: u64) {
        if (value ^ self.line_control) & LCR_H_FEN != 0 {
            let depth = if value & LCR_H_FEN != 0 { DEPTH_MAX } else { 1 };
            (self.receive, self.transmit) = (Fifo::new(depth), Fifo::new(depth));
            self.settle_receive();
        }
        self.line_control = value;
    }

    /// The modem's lines: nothing is connected to them but by loop-back.
    fn modem_flags(&self) -> u64 {
        let looped = self.control & CR_LBE != 0;
        MODEM_LOOP.iter().filter(|(output, ..)| looped && self.control & output != 0).map(|(_, flag, _)| flag).sum()
    }

    fn flags(&self) -> u64 {
        let states = [
            (!self.transmit.is_empty(), FR_BUSY),
            (self.receive.is_empty(), FR_RXFE),
            (self.transmit.is_full(), FR_TXFF),
            (self.receive.is_full(), FR_RXFF),
            (self.transmit.is_empty(), FR_TXFE),
        ];
        states.iter().filter(|(state, _)| *state).fold(self.modem_flags(), |flags, (_, flag)| flags | flag)
    }
}

/// The bytes of a deep FIFO that a field of UARTIFLS stands for: 1/8, 1/4, 1/2, 3/4 or 7/8 of them; the reserved values
/// count as 7/8.
const fn fill_level(field: u64) -> usize {
    match field & 7 {
        0 => DEPTH_MAX / 8,
        1 => DEPTH_MAX / 4,
        2 => DEPTH_MAX / 2,
        3 => DEPTH_MAX / 4 * 3,
        _ => DEPTH_MAX / 8 * 7,
    }
}

impl<S: ByteSink> MmioDevice for Pl011<S> {
    fn read(&mut self, offset: u64, _width: u64) -> u64 {
        match offset {
            DR => self.read_data(),
            RSR => self.receive_status,
            FR => self.flags(),
            IBRD => self.integer_divisor,
            FBRD => self.fractional_divisor,
            LCR_H => self.line_control,
            CR => self.control,
            IFLS => self.fifo_level,
            IMSC => self.interrupt_mask,
            RIS => self.raw_status(),
            MIS => self.raw_status() & self.interrupt_mask,
            _ => identification(&ID, offset),
        }
    }

    fn write(&mut self, offset: u64, _width: u64, value: u64) {
        match offset {
            DR => self.write_data(value.to_le_bytes()[0]),
            RSR => self.receive_status = 0,
            IBRD => self.integer_divisor = value & 0xffff,
            FBRD => self.fractional_divisor = value & 0x3f,
            LCR_H => self.write_line_control(value & 0xff),
            CR => self.write_control(value & 0xffff),
            IFLS => {
                self.fifo_level = value & 0x3f;
                self.settle_receive();
            }
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

    const ON: u64 = CR_UARTEN | CR_TXE | CR_RXE;

    fn uart() -> Pl011<Vec<u8>> {
        let mut uart = Pl011::new(Vec::new());
        uart.write(LCR_H, 4, 0x70);
        uart.write(CR, 4, ON);
        uart
    }

    #[test]
    fn what_is_written_comes_out_and_never_fills_the_fifo() {
        let mut uart = Pl011::new(Vec::new());
        for byte in *b"hello" {
            assert_eq!(uart.read(FR, 4) & FR_TXFF, 0, "transmit FIFO full");
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
        assert_eq!(identification, [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
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
        assert_eq!((uart.read(CR, 4), uart.read(IFLS, 4)), (CR_START, IFLS_RESET));
        for (register, kept) in [(IBRD, 0xffff), (FBRD, 0x3f), (LCR_H, 0xff), (CR, 0xffff), (IFLS, 0x3f)] {
            uart.write(register, 4, u64::MAX);
            assert_eq!(uart.read(register, 4), kept, "{register:#x}");
        }
        for reserved in [0x8, 0x48, 0x4c, 0x800, 0xfdc, 0xfe1, ICR] {
            uart.write(reserved, 4, u64::MAX);
            assert_eq!(uart.read(reserved, 4), 0, "{reserved:#x}");
        }
    }

    #[test]
    fn what_comes_in_is_read_in_order() {
        let mut uart = uart();
        assert!(uart.receive(b'a') && uart.receive(b'b'));
        assert_eq!(uart.read(FR, 4), FR_TXFE);
        assert_eq!((uart.read(DR, 4), uart.read(DR, 1)), (u64::from(b'a'), u64::from(b'b')));
        assert_eq!(uart.read(FR, 4), FR_TXFE | FR_RXFE);
    }

    #[test]
    fn the_fifo_is_as_deep_as_fen_says_and_a_change_of_it_empties_it() {
        for (line_control, depth) in [(0, 1), (LCR_H_FEN, 16)] {
            let mut uart = uart();
            uart.write(LCR_H, 4, line_control);
            assert_eq!((0..20).filter(|byte| uart.receive(*byte)).count(), depth);
            assert_eq!(uart.read(FR, 4) & (FR_RXFF | FR_RXFE), FR_RXFF);
            assert_eq!(uart.read(RIS, 4) & INTERRUPT_OE, 0, "the host kept what did not fit");
            uart.write(LCR_H, 4, line_control ^ LCR_H_FEN);
            assert_eq!(uart.read(FR, 4) & (FR_RXFF | FR_RXFE), FR_RXFE);
            assert_eq!(uart.read(RIS, 4), 0);
        }
    }

    #[test]
    fn the_receive_interrupt_is_raised_at_its_level_and_lowered_below_it() {
        for (field, level) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14), (7, 14)] {
            let mut uart = uart();
            uart.write(IFLS, 4, field << 3);
            for count in 1..=level {
                assert_eq!(uart.read(RIS, 4) & INTERRUPT_RX, 0);
                assert!(uart.receive(0));
                assert_eq!(uart.read(RIS, 4), INTERRUPT_RT | if count == level { INTERRUPT_RX } else { 0 });
            }
            uart.read(DR, 4);
            assert_eq!(uart.read(RIS, 4), INTERRUPT_RT);
            uart.receive(0);
            uart.write(ICR, 4, INTERRUPT_RX);
            assert_eq!(uart.read(RIS, 4), INTERRUPT_RT, "it was cleared");
        }
    }

    #[test]
    fn the_time_out_is_not_forgotten_while_there_is_a_byte_to_read() {
        let mut uart = uart();
        uart.write(IMSC, 4, INTERRUPT_RT);
        assert!(uart.receive(b'x'));
        uart.write(ICR, 4, INTERRUPT_ALL);
        assert!(uart.interrupt_line());
        uart.read(DR, 4);
        assert!(!uart.interrupt_line());
    }

    #[test]
    fn nothing_comes_in_or_goes_out_while_it_is_off() {
        let mut uart = uart();
        uart.write(CR, 4, ON & !CR_RXE);
        assert!(!uart.receive(0));
        for off in [ON & !CR_TXE, ON & !CR_UARTEN] {
            uart.write(CR, 4, off);
            for byte in 0..20 {
                uart.write(DR, 4, byte);
            }
            assert!(uart.sink.is_empty());
            assert_eq!(uart.read(FR, 4) & (FR_TXFF | FR_TXFE | FR_BUSY), FR_TXFF | FR_BUSY);
            assert_eq!(uart.read(RIS, 4), 0);
            uart.write(CR, 4, ON);
            assert_eq!(uart.sink, (0..16).collect::<Vec<u8>>());
            assert_eq!(uart.read(FR, 4), FR_TXFE | FR_RXFE);
            assert_eq!(uart.read(RIS, 4), INTERRUPT_TX);
            uart.write(ICR, 4, INTERRUPT_TX);
            uart.sink.clear();
        }
        uart.write(CR, 4, ON & !CR_UARTEN);
        assert!(!uart.receive(0));
    }

    #[test]
    fn the_transmit_interrupt_is_lowered_above_its_level() {
        for (field, level) in [(0, 2), (2, 8), (4, 14)] {
            let mut uart = uart();
            uart.write(IFLS, 4, field);
            uart.write(DR, 4, 0);
            uart.write(CR, 4, ON & !CR_TXE);
            for waiting in 1..=level + 1 {
                assert_eq!(uart.read(RIS, 4), INTERRUPT_TX, "{waiting}");
                uart.write(DR, 4, 0);
            }
            assert_eq!(uart.read(RIS, 4), 0);
        }
    }

    #[test]
    fn what_is_sent_in_loop_back_comes_in_and_what_finds_no_room_is_an_overrun() {
        let mut uart = uart();
        uart.write(CR, 4, ON | CR_LBE);
        assert!(!uart.receive(0), "the line is cut");
        for byte in 0..17 {
            assert_eq!(uart.read(RSR, 4), 0);
            uart.write(DR, 4, byte);
        }
        assert!(uart.sink.is_empty());
        assert_eq!((uart.read(RSR, 4), uart.read(RIS, 4) & INTERRUPT_OE), (RSR_OE, INTERRUPT_OE));
        let read: Vec<u64> = (0..16).map(|_| uart.read(DR, 4)).collect();
        assert_eq!(read[0], DR_OE);
        assert_eq!(read[1..], (1..16).collect::<Vec<u64>>());
        uart.write(RSR, 4, 0);
        assert_eq!(uart.read(RSR, 4), 0);
    }

    #[test]
    fn loop_back_wires_the_modem_lines_and_their_changes_interrupt() {
        let mut uart = uart();
        uart.write(CR, 4, ON | 0xf << 10);
        assert_eq!(uart.read(FR, 4), FR_TXFE | FR_RXFE, "nothing is connected");
        for (output, flag, interrupt) in [(11, 0, 1), (10, 1, 3), (12, 2, 2), (13, 8, 0)] {
            uart.write(CR, 4, ON | CR_LBE);
            uart.write(ICR, 4, INTERRUPT_ALL);
            uart.write(CR, 4, ON | CR_LBE | 1 << output);
            assert_eq!(uart.read(FR, 4), FR_TXFE | FR_RXFE | 1 << flag);
            assert_eq!(uart.read(RIS, 4), 1 << interrupt);
        }
    }
}
