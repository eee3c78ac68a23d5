//! The loader's own boot arguments, in `/chosen/bootargs`.

use abi::boot::SelfTest;
use alloc::string::String;
use alloc::vec::Vec;

/// Every argument of ours starts so; all others are the host's.
const PREFIX: &str = "freehold.";

/// How much is said on the console; the numbers are those of [`abi::boot::BootInfo::log_level`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u32)]
pub enum LogLevel {
    /// Nothing but why a boot was given up.
    Off = 0,
    /// Errors.
    Error = 1,
    /// And warnings.
    Warn = 2,
    /// And what was found and decided.
    #[default]
    Info = 3,
    /// And details.
    Debug = 4,
    /// Everything.
    Trace = 5,
}

impl LogLevel {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "off" => Self::Off,
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return None,
        })
    }
}

/// What `/chosen/bootargs` asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// `freehold.log=…`.
    pub log_level: LogLevel,
    /// `freehold.self-test=…`: the fault that hyp is to commit.
    pub self_test: Option<SelfTest>,
    /// `freehold.ghost=…`: of how many calls a hyp that compares itself with its specification compares one; 0 where
    /// nothing is said.
    pub ghost_one_in: u32,
    /// The words that are not ours, for the host kernel where it has no arguments of its own.
    pub remaining: String,
    /// Words that start like ours and are not known.
    pub unknown: Vec<String>,
}

impl Options {
    /// Reads the arguments. Words are separated by blanks; a blank within double quotes separates nothing, as in
    /// Linux.
    pub fn parse(arguments: &str) -> Self {
        let mut options = Self::default();
        for word in words(arguments) {
            let Some(ours) = word.strip_prefix(PREFIX) else {
                if !options.remaining.is_empty() {
                    options.remaining.push(' ');
                }
                options.remaining.push_str(word);
                continue;
            };
            if let Some(level) = ours.strip_prefix("log=").and_then(LogLevel::parse) {
                options.log_level = level;
            } else if let Some(test) = ours.strip_prefix("self-test=").and_then(SelfTest::from_name) {
                options.self_test = Some(test);
            } else if let Some(number) = ours.strip_prefix("ghost=").and_then(|number| number.parse().ok()) {
                options.ghost_one_in = number;
            } else {
                options.unknown.push(word.into());
            }
        }
        options
    }
}

/// The words of `text`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |character: char| {
        quoted ^= character == '"';
        !quoted && character.is_ascii_whitespace()
    })
    .filter(|word| !word.is_empty())
}
