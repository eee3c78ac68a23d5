//! One terminal for several guests.
//!
//! A guest alone has the terminal to itself: every byte passes both ways. Where there are several, each line bears the
//! name of its guest. The guest that has the input is shown as it speaks; the others' lines are shown when they are
//! whole, between two lines of it, and what stood unfinished there is written again. What could move the cursor into a
//! line of another guest's is dropped.
//!
//! Ctrl-T is for the host: a digit after it gives the input to the guest of that number, `n` to the next one; `q` ends all
//! guests; Ctrl-T itself is passed on.

use alloc::string::String;
use alloc::vec::Vec;

/// Longest line that is held back, in bytes. The bytes come from a guest.
const LONGEST_LINE: usize = 512;
/// Ctrl-T.
const ESCAPE: u8 = 0x14;
/// The terminal's own escape character.
const TERMINAL_ESCAPE: u8 = 0x1b;
const BACKSPACE: u8 = 0x08;

/// What the user has typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Nothing yet, or something that the multiplexer has dealt with.
    Nothing,
    /// A byte for this guest.
    Byte(usize, u8),
    /// All guests are to end.
    Quit,
}

/// How far into an escape sequence of the terminal's a guest's output is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sequence {
    None,
    /// After ESC.
    Begun,
    /// After ESC \[.
    Parameters,
}

/// What is kept of each guest.
struct Channel {
    name: String,
    /// Its unfinished line.
    line: Vec<u8>,
    sequence: Sequence,
}

/// The terminal's two directions.
pub struct Multiplexer {
    channels: Vec<Channel>,
    focus: usize,
    /// The unfinished line of the guest that has the input is on the terminal.
    is_open: bool,
    escaped: bool,
}

impl Multiplexer {
    /// For guests of these names. The first one has the input.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let channel = |name| Channel { name: String::from(name), line: Vec::new(), sequence: Sequence::None };
        Self { channels: names.map(channel).collect(), focus: 0, is_open: false, escaped: false }
    }

    /// Guest `guest` has sent `byte`; `show` gets what goes to the terminal.
    pub fn output(&mut self, guest: usize, byte: u8, show: &mut impl FnMut(&[u8])) {
        if self.channels.len() < 2 {
            return show(&[byte]);
        }
        let is_focus = guest == self.focus;
        let Some(channel) = self.channels.get_mut(guest) else { return };
        if channel.swallows(byte) {
            return;
        }
        match byte {
            b'\n' => self.end_line(guest, show),
            BACKSPACE if is_focus && channel.line.pop().is_some() && self.is_open => show(b"\x08 \x08"),
            b'\t' | b' '..=b'~' | 0x80.. => {
                channel.line.push(byte);
                let is_full = channel.line.len() >= LONGEST_LINE;
                if is_focus {
                    self.show_focus(byte, show);
                }
                if is_full {
                    self.end_line(guest, show);
                }
            }
            _ => {}
        }
    }

    /// Shows what the guest that has the input has just sent.
    fn show_focus(&mut self, byte: u8, show: &mut impl FnMut(&[u8])) {
        if self.is_open {
            show(&[byte]);
        } else {
            self.reopen(show);
        }
    }

    /// Writes the unfinished line of the guest that has the input.
    fn reopen(&mut self, show: &mut impl FnMut(&[u8])) {
        if let Some(channel) = self.channels.get(self.focus).filter(|channel| !channel.line.is_empty()) {
            channel.show(show);
            self.is_open = true;
        }
    }

    fn end_line(&mut self, guest: usize, show: &mut impl FnMut(&[u8])) {
        let was_open = core::mem::take(&mut self.is_open);
        let Some(channel) = self.channels.get_mut(guest) else { return };
        if guest == self.focus {
            if !was_open {
                channel.show(show);
            }
            show(b"\r\n");
            channel.line.clear();
            return;
        }
        if was_open {
            show(b"\r\n");
        }
        channel.show(show);
        show(b"\r\n");
        channel.line.clear();
        self.reopen(show);
    }

    /// A line of the host's own.
    pub fn host_line(&mut self, text: &str, show: &mut impl FnMut(&[u8])) {
        if core::mem::take(&mut self.is_open) {
            show(b"\r\n");
        }
        show(text.as_bytes());
        show(b"\r\n");
        if self.channels.len() > 1 {
            self.reopen(show);
        }
    }

    /// The user has typed `byte`.
    pub fn input(&mut self, byte: u8, show: &mut impl FnMut(&[u8])) -> Input {
        if !core::mem::take(&mut self.escaped) {
            self.escaped = byte == ESCAPE;
            return if self.escaped { Input::Nothing } else { Input::Byte(self.focus, byte) };
        }
        let count = self.channels.len().max(1);
        match byte {
            ESCAPE => return Input::Byte(self.focus, ESCAPE),
            b'q' => return Input::Quit,
            b'n' => self.turn_to((self.focus + 1) % count, show),
            b'1'..=b'9' if usize::from(byte - b'1') < count => self.turn_to(usize::from(byte - b'1'), show),
            _ => self.host_line("host: Ctrl-T and a digit, or n: the input's guest; q: end all; Ctrl-T: itself", show),
        }
        Input::Nothing
    }

    /// Gives the input to `guest`.
    fn turn_to(&mut self, guest: usize, show: &mut impl FnMut(&[u8])) {
        if core::mem::take(&mut self.is_open) {
            show(b"\r\n");
        }
        self.focus = guest;
        let name = self.channels.get(guest).map(|channel| channel.name.clone()).unwrap_or_default();
        self.host_line(&alloc::format!("host: the input goes to {name}"), show);
    }
}

impl Channel {
    /// True where `byte` belongs to an escape sequence.
    fn swallows(&mut self, byte: u8) -> bool {
        let before = self.sequence;
        self.sequence = match (before, byte) {
            (_, TERMINAL_ESCAPE) => Sequence::Begun,
            (Sequence::Begun, b'[') => Sequence::Parameters,
            (Sequence::Parameters, 0x20..=0x3f) => Sequence::Parameters,
            _ => Sequence::None,
        };
        before != Sequence::None || byte == TERMINAL_ESCAPE
    }

    /// Its name and its unfinished line.
    fn show(&self, show: &mut impl FnMut(&[u8])) {
        show(self.name.as_bytes());
        show(b"| ");
        show(&self.line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Terminal {
        multiplexer: Multiplexer,
        shown: Vec<u8>,
    }

    impl Terminal {
        fn new(names: &[&str]) -> Self {
            Self { multiplexer: Multiplexer::new(names.iter().copied()), shown: Vec::new() }
        }

        fn says(&mut self, guest: usize, text: &str) {
            for byte in text.bytes() {
                self.multiplexer.output(guest, byte, &mut |bytes| self.shown.extend_from_slice(bytes));
            }
        }

        fn types(&mut self, text: &[u8]) -> Vec<Input> {
            text.iter()
                .map(|byte| self.multiplexer.input(*byte, &mut |bytes| self.shown.extend_from_slice(bytes)))
                .filter(|input| *input != Input::Nothing)
                .collect()
        }

        fn shown(&mut self) -> String {
            String::from_utf8(core::mem::take(&mut self.shown)).unwrap()
        }
    }

    #[test]
    fn a_guest_alone_has_the_terminal_to_itself() {
        let mut terminal = Terminal::new(&["one"]);
        terminal.says(0, "\x1b[2Ja\rb\n");
        assert_eq!(terminal.shown(), "\x1b[2Ja\rb\n");
        assert_eq!(terminal.types(b"\x03x"), [Input::Byte(0, 3), Input::Byte(0, b'x')]);
    }

    #[test]
    fn lines_bear_their_guests_name_and_never_mix() {
        let mut terminal = Terminal::new(&["one", "two"]);
        terminal.says(0, "pro");
        terminal.says(1, "he");
        terminal.says(0, "mpt$ ");
        assert_eq!(terminal.shown(), "one| prompt$ ", "the other's line is not whole");
        terminal.says(1, "llo\n");
        assert_eq!(terminal.shown(), "\r\ntwo| hello\r\none| prompt$ ");
        terminal.says(0, "ls\r\nx\n");
        assert_eq!(terminal.shown(), "ls\r\none| x\r\n");
        terminal.says(1, "\n");
        assert_eq!(terminal.shown(), "two| \r\n");
    }

    #[test]
    fn the_input_goes_where_the_user_says() {
        let mut terminal = Terminal::new(&["one", "two", "three"]);
        assert_eq!(terminal.types(b"a\x142b"), [Input::Byte(0, b'a'), Input::Byte(1, b'b')]);
        assert_eq!(terminal.types(b"\x14nb\x14nc"), [Input::Byte(2, b'b'), Input::Byte(0, b'c')]);
        assert_eq!(terminal.types(b"\x14\x14"), [Input::Byte(0, 0x14)]);
        terminal.shown();
        assert_eq!(terminal.types(b"\x149d"), [Input::Byte(0, b'd')], "there is no ninth");
        assert!(terminal.shown().starts_with("host: Ctrl-T and a digit"));
        assert_eq!(terminal.types(b"\x14q"), [Input::Quit]);
    }

    #[test]
    fn who_gets_the_input_is_shown_with_its_unfinished_line() {
        let mut terminal = Terminal::new(&["one", "two"]);
        terminal.says(0, "$ ");
        terminal.says(1, "# ");
        terminal.shown();
        terminal.types(b"\x142");
        assert_eq!(terminal.shown(), "\r\nhost: the input goes to two\r\ntwo| # ");
        terminal.says(0, "x");
        assert_eq!(terminal.shown(), "");
        terminal.says(1, "y");
        assert_eq!(terminal.shown(), "y");
    }

    #[test]
    fn no_guest_steers_the_terminal_beyond_its_line() {
        let mut terminal = Terminal::new(&["one", "two"]);
        terminal.says(0, "\x1b[2J\x1b[1;1Hab\x08\x08\x08\x08c\x07\x1bMd\r\n");
        assert_eq!(terminal.shown(), "one| ab\x08 \x08\x08 \x08cd\r\n");
        terminal.says(1, "a\x08b\x1b[31mred\x1b[0m\n");
        assert_eq!(terminal.shown(), "two| abred\r\n");
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut terminal = Terminal::new(&["one", "two"]);
        terminal.says(1, &"x".repeat(LONGEST_LINE + 1));
        assert_eq!(terminal.shown().len(), "two| \r\n".len() + LONGEST_LINE);
    }

    #[test]
    fn the_hosts_lines_stand_apart() {
        let mut terminal = Terminal::new(&["one", "two"]);
        terminal.says(0, "$ ");
        terminal.shown();
        let Terminal { multiplexer, shown } = &mut terminal;
        multiplexer.host_line("host: done", &mut |bytes| shown.extend_from_slice(bytes));
        assert_eq!(terminal.shown(), "\r\nhost: done\r\none| $ ");
    }
}
