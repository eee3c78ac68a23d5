//! What a guest says: its lines go to the console under its name, its report lines into the host's report.

use crate::{println, report};
use abi::report::Line;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;
use vmm::line::LineBuffer;
use vmm::pl011::ByteSink;

/// What a guest has said.
#[derive(Default, Debug)]
pub struct Spoken {
    /// Its prose, line by line; the first [`KEPT`] lines of it.
    pub lines: Vec<String>,
    /// Lines of prose in all.
    pub line_count: u64,
    /// Its report's last line, where it made one: checks passed and failed.
    pub end: Option<(u32, u32)>,
}

/// Lines that are kept for the scenario to look at.
const KEPT: usize = 64;

/// The host's end of a guest's console.
pub struct GuestConsole {
    name: String,
    buffer: LineBuffer,
    spoken: Arc<Mutex<Spoken>>,
}

impl GuestConsole {
    /// The console of the guest `name`; what it says is also kept in `spoken`.
    pub fn new(name: &str, spoken: Arc<Mutex<Spoken>>) -> Self {
        Self { name: String::from(name), buffer: LineBuffer::new(), spoken }
    }

    /// A report line becomes the host's own check, under the guest's name; the guest's begin and end are not the run's.
    fn line(&mut self, text: &str) {
        let name = &self.name;
        let qualified = |check: &str| format!("{name}.{}", after(check, name, "."));
        match Line::parse(text) {
            Some(Line::Pass(check)) => {
                report::check(&qualified(check), true, format_args!(""));
            }
            Some(Line::Fail(check, seen)) => {
                report::check(&qualified(check), false, format_args!("{seen}"));
            }
            Some(Line::Value(value, number)) => report::value(&qualified(value), number),
            Some(Line::Begin(_)) => {}
            Some(Line::End(passed, failed)) => self.spoken.lock().end = Some((passed, failed)),
            None => {
                let text = after(text, name, ": ");
                println!("guest {name}: {text}");
                let mut spoken = self.spoken.lock();
                spoken.line_count += 1;
                if spoken.lines.len() < KEPT {
                    spoken.lines.push(String::from(text));
                }
            }
        }
    }
}

/// `text` without the guest's name and `separator`, where the guest put them there itself.
fn after<'a>(text: &'a str, name: &str, separator: &str) -> &'a str {
    text.strip_prefix(name).and_then(|rest| rest.strip_prefix(separator)).unwrap_or(text)
}

impl ByteSink for GuestConsole {
    fn byte(&mut self, byte: u8) {
        if let Some(line) = self.buffer.push(byte) {
            self.line(&line);
        }
    }
}

impl Drop for GuestConsole {
    fn drop(&mut self) {
        if let Some(line) = self.buffer.flush() {
            self.line(&line);
        }
    }
}
