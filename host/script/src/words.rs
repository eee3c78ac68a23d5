//! The words of a line.

use alloc::format;
use alloc::string::String;
use core::fmt;

/// What is wrong with a line, in words.
pub(crate) type Wrong = String;

/// The words of a line that have not been read yet. A comma is a word of its own.
pub(crate) struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    /// The words of `line`, up to a comment.
    pub(crate) fn of(line: &'a str) -> Self {
        let text = line.split_once('#').map_or(line, |(text, _)| text);
        Self { rest: text.trim() }
    }

    /// The next word, which stays.
    pub(crate) fn peek(&self) -> Option<&'a str> {
        if self.rest.starts_with(',') {
            return self.rest.get(..1);
        }
        let end = self.rest.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(self.rest.len());
        self.rest.get(..end).filter(|word| !word.is_empty())
    }

    /// The next word.
    pub(crate) fn next(&mut self) -> Option<&'a str> {
        let word = self.peek()?;
        self.rest = self.rest.get(word.len()..).unwrap_or("").trim_start();
        Some(word)
    }

    /// The next word, which must be there: `what` says what it would be.
    pub(crate) fn required(&mut self, what: &str) -> Result<&'a str, Wrong> {
        self.next().ok_or_else(|| format!("{what} is missing"))
    }

    /// Reads the next word where it is `word`, and says whether it was.
    pub(crate) fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        if found {
            self.next();
        }
        found
    }

    /// The number that the next word is.
    pub(crate) fn number(&mut self, what: &str) -> Result<u64, Wrong> {
        let word = self.required(what)?;
        parse_number(word).ok_or_else(|| format!("{what}: {word:?} is no number of 64 bits"))
    }

    /// The number, of 32 bits at most, that the next word is.
    pub(crate) fn small(&mut self, what: &str) -> Result<u32, Wrong> {
        let number = self.number(what)?;
        u32::try_from(number).map_err(|_| format!("{what}: {number:#x} is too large"))
    }

    /// Fails where a word is left.
    pub(crate) fn end(&self) -> Result<(), Wrong> {
        self.peek().map_or(Ok(()), |word| Err(format!("{word:?} is not expected here")))
    }
}

/// A decimal or, behind `0x`, hexadecimal number.
pub(crate) fn parse_number(word: &str) -> Option<u64> {
    // `from_str_radix` takes a sign, which is no digit here.
    let digits = |text: &str, radix| {
        if text.starts_with('+') { None } else { u64::from_str_radix(text, radix).ok() }
    };
    match word.strip_prefix("0x") {
        Some(hexadecimal) => digits(hexadecimal, 16),
        None => digits(word, 10),
    }
}

/// A number as people read it: small ones in decimal.
pub(crate) struct Readable(pub(crate) u64);

impl fmt::Display for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 { write!(f, "{}", self.0) } else { write!(f, "{:#x}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_at_blanks_commas_and_the_comment() {
        let mut words = Words::of("  a bc,d , # e f");
        for word in ["a", "bc", ",", "d", ","] {
            assert_eq!(words.next(), Some(word));
        }
        assert_eq!(words.next(), None);
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal_and_have_no_sign() {
        assert_eq!(parse_number("18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_number("0xffffffffffffffff"), Some(u64::MAX));
        for word in ["", "0x", "-1", "+1", "0x+1", "18446744073709551616", "1x", "0x1_0"] {
            assert_eq!(parse_number(word), None, "{word}");
        }
    }
}
