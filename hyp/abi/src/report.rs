//! The line protocol by which payloads tell the test harness what they checked.
//!
//! A line of the protocol starts with [`PREFIX`] and ends at the newline; everything else on a console is prose that
//! no test reads. The lines, in order:
//!
//! ```text
//! @freehold begin <scenario>
//! @freehold pass <check>
//! @freehold fail <check>: <what was seen>
//! @freehold value <name> <number>
//! @freehold end <checks passed> <checks failed>
//! ```
//! A run without its `end` line has failed, whatever else it printed.

use core::fmt;

/// How every protocol line starts, with the blank after it.
pub const PREFIX: &str = "@freehold ";

/// One line of the protocol; its `Display` form is the line without the newline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    /// The scenario that starts here.
    Begin(&'a str),
    /// A check that held. The name is one word.
    Pass(&'a str),
    /// A check that did not hold, and what was seen instead.
    Fail(&'a str, &'a str),
    /// A measured number.
    Value(&'a str, u64),
    /// The end: how many checks passed and failed.
    End(u32, u32),
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Line::Begin(name) => write!(f, "begin {name}"),
            Line::Pass(check) => write!(f, "pass {check}"),
            Line::Fail(check, seen) => write!(f, "fail {check}: {seen}"),
            Line::Value(name, number) => write!(f, "value {name} {number}"),
            Line::End(passed, failed) => write!(f, "end {passed} {failed}"),
        }
    }
}

impl<'a> Line<'a> {
    /// Reads a console line; `None` where it is prose, or a protocol line that is malformed. Text before the prefix is
    /// passed over, since consoles are shared.
    pub fn parse(line: &'a str) -> Option<Self> {
        let start = line.find(PREFIX)?;
        let body = line.get(start + PREFIX.len()..)?.trim_end();
        let (verb, rest) = body.split_once(' ')?;
        match verb {
            "begin" => Some(Line::Begin(rest)),
            "pass" => Some(Line::Pass(rest)),
            "fail" => {
                let (check, seen) = rest.split_once(": ")?;
                Some(Line::Fail(check, seen))
            }
            "value" => {
                let (name, number) = rest.split_once(' ')?;
                Some(Line::Value(name, number.parse().ok()?))
            }
            "end" => {
                let (passed, failed) = rest.split_once(' ')?;
                Some(Line::End(passed.parse().ok()?, failed.parse().ok()?))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn lines_are_read_as_they_were_written() {
        for line in [
            Line::Begin("story"),
            Line::Pass("host.read"),
            Line::Fail("host.read", "no abort: x0 = 0"),
            Line::Value("instructions", u64::MAX),
            Line::End(3, 0),
        ] {
            let text = line.to_string();
            assert_eq!(Line::parse(&text), Some(line));
            let behind_other_output = std::format!("[    1.0] noise {text}\r");
            assert_eq!(Line::parse(&behind_other_output), Some(line));
        }
    }

    #[test]
    fn prose_and_torn_lines_are_no_protocol() {
        for text in ["", "hello", "@freehold", "@freehold end 1", "@freehold end x 0", "@freehold dance now"] {
            assert_eq!(Line::parse(text), None);
        }
    }
}
