//! Lines out of a byte stream.

use alloc::string::String;
use alloc::vec::Vec;

/// Longest line that is held back before it is passed on unfinished, in bytes. The stream comes from a guest.
const LONGEST_LINE: usize = 512;

/// Collects a guest's console bytes until a line is whole, so that a guest's output never mixes with another's inside
/// a line.
#[derive(Default, Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
}

impl LineBuffer {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Takes one byte; returns the line that it completes, without its end. Carriage returns and other control
    /// characters but the tab are dropped, so that a guest cannot steer the terminal; what is not UTF-8 is replaced.
    pub fn push(&mut self, byte: u8) -> Option<String> {
        match byte {
            b'\n' => Some(self.take()),
            b'\t' | b' '..=b'~' | 0x80.. => {
                self.bytes.push(byte);
                (self.bytes.len() >= LONGEST_LINE).then(|| self.take())
            }
            _ => None,
        }
    }

    /// What there is of an unfinished line; `None` where there is nothing.
    pub fn flush(&mut self) -> Option<String> {
        (!self.bytes.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let line = String::from_utf8_lossy(&self.bytes).into_owned();
        self.bytes.clear();
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> (Vec<String>, Option<String>) {
        let mut buffer = LineBuffer::new();
        let whole = bytes.iter().filter_map(|byte| buffer.push(*byte)).collect();
        (whole, buffer.flush())
    }

    #[test]
    fn lines_end_at_the_newline_and_the_rest_is_kept() {
        let (whole, rest) = lines(b"one\r\n\ntwo\tx\nthr");
        assert_eq!(whole, ["one", "", "two\tx"]);
        assert_eq!(rest.as_deref(), Some("thr"));
        assert_eq!(lines(b"\r").1, None);
    }

    #[test]
    fn escapes_and_bad_utf8_do_no_harm() {
        let (whole, _) = lines(b"a\x1b[2Jb\x7f\xff\n");
        assert_eq!(whole, ["a[2Jb\u{fffd}"]);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let (whole, rest) = lines(&[b'x'; LONGEST_LINE * 2 + 1]);
        assert_eq!(whole.len(), 2);
        assert_eq!(rest.map(|line| line.len()), Some(1));
    }
}
