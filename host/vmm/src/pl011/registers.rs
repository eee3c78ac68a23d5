//! The PL011's registers and what their bits mean (Arm DDI 0183, chapter 3).

/// UARTDR: a byte to send, or one that came in.
pub const DR: u64 = 0x000;
/// UARTRSR and UARTECR: errors of reception; a write clears them.
pub const RSR: u64 = 0x004;
/// UARTFR: flags.
pub const FR: u64 = 0x018;
/// UARTIBRD: integer part of the baud rate divisor.
pub const IBRD: u64 = 0x024;
/// UARTFBRD: fractional part of the baud rate divisor.
pub const FBRD: u64 = 0x028;
/// UARTLCR_H: line control.
pub const LCR_H: u64 = 0x02c;
/// UARTCR: control.
pub const CR: u64 = 0x030;
/// UARTIFLS: interrupt FIFO level.
pub const IFLS: u64 = 0x034;
/// UARTIMSC: interrupt mask; a set bit lets the interrupt through.
pub const IMSC: u64 = 0x038;
/// UARTRIS: raw interrupt status.
pub const RIS: u64 = 0x03c;
/// UARTMIS: masked interrupt status.
pub const MIS: u64 = 0x040;
/// UARTICR: interrupt clear.
pub const ICR: u64 = 0x044;
/// The identification registers' values: part 0x011, designer Arm, revision 1. From revision 3
/// on the FIFOs hold 32 bytes, and drivers go by that.
pub const ID: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// UARTDR.OE: a byte was lost since the last one that was read, for want of room.
pub const DR_OE: u64 = 1 << 11;
/// UARTRSR.OE, the same.
pub const RSR_OE: u64 = 1 << 3;
/// UARTFR.CTS.
pub const FR_CTS: u64 = 1 << 0;
/// UARTFR.DSR.
pub const FR_DSR: u64 = 1 << 1;
/// UARTFR.DCD.
pub const FR_DCD: u64 = 1 << 2;
/// UARTFR.BUSY: something is yet to be sent.
pub const FR_BUSY: u64 = 1 << 3;
/// UARTFR.RXFE: nothing to read.
pub const FR_RXFE: u64 = 1 << 4;
/// UARTFR.TXFF: no room for a byte to send.
pub const FR_TXFF: u64 = 1 << 5;
/// UARTFR.RXFF: no room for a byte that comes in.
pub const FR_RXFF: u64 = 1 << 6;
/// UARTFR.TXFE: everything was sent.
pub const FR_TXFE: u64 = 1 << 7;
/// UARTFR.RI.
pub const FR_RI: u64 = 1 << 8;
/// UARTLCR_H.FEN: the FIFOs are as deep as they can be; they hold one byte otherwise.
pub const LCR_H_FEN: u64 = 1 << 4;
/// UARTCR.UARTEN: the UART is on.
pub const CR_UARTEN: u64 = 1 << 0;
/// UARTCR.LBE: what is sent comes back in, and nothing else does.
pub const CR_LBE: u64 = 1 << 7;
/// UARTCR.TXE: the transmitter is on.
pub const CR_TXE: u64 = 1 << 8;
/// UARTCR.RXE: the receiver is on.
pub const CR_RXE: u64 = 1 << 9;
/// UARTCR as firmware leaves it: everything on.
pub const CR_START: u64 = CR_UARTEN | CR_TXE | CR_RXE;
/// UARTIFLS after reset: both FIFOs at half.
pub const IFLS_RESET: u64 = 0x12;
/// The receive interrupt's bit in IMSC, RIS, MIS and ICR.
pub const INTERRUPT_RX: u64 = 1 << 4;
/// The transmit interrupt's bit.
pub const INTERRUPT_TX: u64 = 1 << 5;
/// The receive time-out interrupt's bit.
pub const INTERRUPT_RT: u64 = 1 << 6;
/// The overrun interrupt's bit.
pub const INTERRUPT_OE: u64 = 1 << 10;
/// The eleven interrupts' bits.
pub const INTERRUPT_ALL: u64 = 0x7ff;
/// How loop-back wires the modem's lines: a bit of UARTCR, the bit of UARTFR that follows it, and the interrupt that a
/// change of it raises. RTS to CTS, DTR to DSR, OUT1 to DCD, OUT2 to RI.
pub const MODEM_LOOP: [(u64, u64, u64); 4] =
    [(1 << 11, FR_CTS, 1 << 1), (1 << 10, FR_DSR, 1 << 3), (1 << 12, FR_DCD, 1 << 2), (1 << 13, FR_RI, 1 << 0)];
