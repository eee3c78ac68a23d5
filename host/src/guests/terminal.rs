//! The machine's terminal, which the guests share.

use crate::console;
use crate::guest_console::GuestConsole;
use alloc::sync::Arc;
use spin::Mutex;
use vmm::multiplexer::{Input, Multiplexer};
use vmm::pl011::ByteSink;

/// The terminal.
#[derive(Clone)]
pub struct Terminal(Arc<Mutex<Multiplexer>>);

impl Terminal {
    /// For guests of these names.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self(Arc::new(Mutex::new(Multiplexer::new(names))))
    }

    /// What the user has typed since the last call; nothing where another CPU is at it.
    pub fn input(&self) -> Input {
        let Some(mut multiplexer) = self.0.try_lock() else { return Input::Nothing };
        console::read_byte().map_or(Input::Nothing, |byte| multiplexer.input(byte, &mut console::bytes))
    }

    /// Shows a line of the host's.
    pub fn host_line(&self, text: &str) {
        self.0.lock().host_line(text, &mut console::bytes);
    }
}

/// Where a guest's bytes go.
pub enum Console {
    /// To the terminal, as those of this guest.
    Terminal(Terminal, usize),
    /// Line by line into the host's report.
    Report(GuestConsole),
}

impl ByteSink for Console {
    fn byte(&mut self, byte: u8) {
        match self {
            Console::Terminal(terminal, guest) => terminal.0.lock().output(*guest, byte, &mut console::bytes),
            Console::Report(console) => console.byte(byte),
        }
    }
}
