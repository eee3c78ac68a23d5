//! The PL011 against a model of it that keeps its bytes in plain queues and computes every register from them.

use proptest::prelude::*;
use std::collections::VecDeque;
use vmm::mmio::MmioDevice;
use vmm::pl011::{ByteSink, Pl011};

#[derive(Default)]
struct Sent(Vec<u8>);

impl ByteSink for Sent {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

/// What the manual says, in the words of its sections 3.3 and 3.4.
struct Model {
    received: VecDeque<u8>,
    waiting: VecDeque<u8>,
    sent: Vec<u8>,
    lost: bool,
    error: bool,
    /// Latched interrupts: receive, transmit and overrun.
    latched: (bool, bool, bool),
    control: u16,
    configured: bool,
    fifos: bool,
    levels: u8,
    mask: u16,
}

impl Model {
    fn depth(&self) -> usize {
        if self.fifos { 16 } else { 1 }
    }
    fn level(&self, field: u8) -> usize {
        [2, 4, 8, 12, 14, 14, 14, 14][usize::from(field % 8)]
    }
    fn receive_level(&self) -> usize {
        if self.fifos { self.level(self.levels / 8) } else { 1 }
    }
    fn transmit_level(&self) -> usize {
        if self.fifos { self.level(self.levels) } else { 0 }
    }
    fn bit(&self, bit: u32) -> bool {
        self.control >> bit & 1 == 1
    }
    fn enabled(&self) -> bool {
        !self.configured || self.bit(0)
    }
    fn arrive(&mut self, byte: u8) -> bool {
        let room = self.received.len() < self.depth();
        if room {
            self.received.push_back(byte);
        }
        self.latched.0 |= self.received.len() >= self.receive_level();
        room
    }
    fn receive(&mut self, byte: u8) -> bool {
        self.enabled() && self.bit(9) && !self.bit(7) && self.arrive(byte)
    }
    fn flush(&mut self) {
        while self.enabled() && self.bit(8) && !self.waiting.is_empty() {
            let byte = self.waiting.pop_front().unwrap();
            self.latched.1 = true;
            if !self.bit(7) {
                self.sent.push(byte);
            } else if self.bit(9) && !self.arrive(byte) {
                (self.lost, self.error, self.latched.2) = (true, true, true);
            }
        }
    }
    fn raw(&self) -> u16 {
        let timeout = !self.received.is_empty();
        u16::from(self.latched.0) << 4
            | u16::from(self.latched.1) << 5
            | u16::from(timeout) << 6
            | u16::from(self.latched.2) << 10
    }
    fn write(&mut self, offset: u64, value: u16) {
        match offset {
            0x00 => {
                if self.waiting.len() < self.depth() {
                    self.waiting.push_back(value as u8);
                }
                self.latched.1 &= self.waiting.len() <= self.transmit_level();
                self.flush();
            }
            0x04 => self.error = false,
            0x2c => {
                let fifos = value >> 4 & 1 == 1;
                if fifos != self.fifos {
                    self.fifos = fifos;
                    self.received.clear();
                    self.waiting.clear();
                    self.latched.0 = false;
                }
            }
            0x30 => {
                (self.control, self.configured) = (value, true);
                self.flush();
            }
            0x34 => {
                self.levels = value as u8 & 0x3f;
                self.latched.0 &= self.received.len() >= self.receive_level();
            }
            0x38 => self.mask = value & 0x7ff,
            0x44 => {
                self.latched.0 &= value >> 4 & 1 == 0;
                self.latched.1 &= value >> 5 & 1 == 0;
                self.latched.2 &= value >> 10 & 1 == 0;
            }
            _ => unreachable!(),
        }
    }
    fn read_data(&mut self) -> u16 {
        let value = u16::from(self.lost) << 11 | u16::from(self.received.pop_front().unwrap_or(0));
        self.lost = false;
        self.latched.0 &= self.received.len() >= self.receive_level();
        value
    }
    fn flags(&self) -> u16 {
        u16::from(!self.waiting.is_empty()) << 3
            | u16::from(self.received.is_empty()) << 4
            | u16::from(self.waiting.len() == self.depth()) << 5
            | u16::from(self.received.len() == self.depth()) << 6
            | u16::from(self.waiting.is_empty()) << 7
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Receive(u8),
    ReadData,
    Write(u64, u16),
}

fn step() -> impl Strategy<Value = Step> {
    // The modem outputs of UARTCR are left alone: their interrupts are not in the model.
    let control = prop_oneof![8 => Just(0x301), 2 => Just(0x381), 1 => any::<u16>().prop_map(|value| value & 0x381)];
    prop_oneof![
        20 => any::<u8>().prop_map(Step::Receive),
        12 => Just(Step::ReadData),
        12 => any::<u8>().prop_map(|byte| Step::Write(0x00, byte.into())),
        1 => Just(Step::Write(0x04, 0)),
        1 => prop_oneof![Just(0x10), Just(0x70), Just(0x60)].prop_map(|value| Step::Write(0x2c, value)),
        2 => control.prop_map(|value| Step::Write(0x30, value)),
        1 => any::<u16>().prop_map(|value| Step::Write(0x34, value & 0x3f)),
        1 => any::<u16>().prop_map(|value| Step::Write(0x38, value)),
        2 => any::<u16>().prop_map(|value| Step::Write(0x44, value)),
    ]
}

proptest! {
    #[test]
    fn the_device_is_its_model(steps in proptest::collection::vec(step(), 1..200)) {
        let mut uart = Pl011::new(Sent::default());
        let mut model = Model {
            received: VecDeque::new(), waiting: VecDeque::new(), sent: Vec::new(), lost: false, error: false,
            latched: (false, false, false), control: 0x300, configured: false, fifos: false, levels: 0x12, mask: 0,
        };
        for step in steps {
            match step {
                Step::Receive(byte) => prop_assert_eq!(uart.receive(byte), model.receive(byte)),
                Step::ReadData => prop_assert_eq!(uart.read(0x00, 4), u64::from(model.read_data())),
                Step::Write(offset, value) => {
                    uart.write(offset, 4, value.into());
                    model.write(offset, value);
                }
            }
            prop_assert_eq!(uart.read(0x18, 4), u64::from(model.flags()), "UARTFR after {:?}", step);
            prop_assert_eq!(uart.read(0x04, 4), u64::from(model.error) << 3, "UARTRSR after {:?}", step);
            prop_assert_eq!(uart.read(0x3c, 4), u64::from(model.raw()), "UARTRIS after {:?}", step);
            prop_assert_eq!(uart.read(0x40, 4), u64::from(model.raw() & model.mask), "UARTMIS after {:?}", step);
            prop_assert_eq!(uart.interrupt_line(), model.raw() & model.mask != 0);
            prop_assert_eq!(&uart.sink().0, &model.sent);
        }
    }

    #[test]
    fn no_access_panics(accesses in proptest::collection::vec((0u64..0x1004, any::<bool>(), any::<u64>()), 1..400)) {
        let mut uart = Pl011::new(Sent::default());
        for (offset, write, value) in accesses {
            if write { uart.write(offset, 4, value) } else { prop_assert!(uart.read(offset, 4) <= 0xffff) };
            uart.receive(value as u8);
        }
    }
}
