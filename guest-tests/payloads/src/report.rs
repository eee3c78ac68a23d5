//! Checks and their report, by the line protocol of [`abi::report`].

use crate::println;
use abi::report::Line;
use core::fmt::{self, Write};

/// Most bytes of what a failed check says it saw.
const SEEN_SIZE: usize = 160;

/// Counts checks and prints their lines.
pub struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    /// Begins `scenario`.
    pub fn begin(scenario: &str) -> Self {
        println!("{}", Line::Begin(scenario));
        Self { passed: 0, failed: 0 }
    }

    /// Reports the check `name`, one word; `seen` is printed where it does not hold.
    pub fn check(&mut self, name: &str, holds: bool, seen: fmt::Arguments<'_>) {
        if holds {
            self.passed += 1;
            println!("{}", Line::Pass(name));
        } else {
            self.failed += 1;
            let mut text = Text { bytes: [0; SEEN_SIZE], length: 0 };
            // What does not fit is left out.
            let _ = text.write_fmt(seen);
            println!("{}", Line::Fail(name, text.as_str()));
        }
    }

    /// Reports the check `<group>.<name>`.
    pub fn check_in(&mut self, group: &str, name: &str, holds: bool, seen: fmt::Arguments<'_>) {
        let mut whole = Text { bytes: [0; SEEN_SIZE], length: 0 };
        // Names are short.
        let _ = write!(whole, "{group}.{name}");
        self.check(whole.as_str(), holds, seen);
    }

    /// Reports a number.
    pub fn value(&self, name: &str, number: u64) {
        println!("{}", Line::Value(name, number));
    }

    /// Ends the scenario.
    pub fn end(self) {
        println!("{}", Line::End(self.passed, self.failed));
    }
}

/// A short text in place, ASCII only.
struct Text {
    bytes: [u8; SEEN_SIZE],
    length: usize,
}

impl Text {
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("?")
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().filter(u8::is_ascii) {
            let Some(place) = self.bytes.get_mut(self.length) else { return Err(fmt::Error) };
            *place = byte;
            self.length += 1;
        }
        Ok(())
    }
}
