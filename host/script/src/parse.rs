//! Reading a script.

use crate::executor::Access;
use crate::expectation::Expectation;
use crate::guest_step::{GuestStep, parse_raw_call};
use crate::host_step::HostStep;
use crate::operand::{parse_page, parse_vm_number, vm_number};
use crate::step::{Action, HostAccess, Script, Setup, Step, VmSetup};
use crate::words::{Words, Wrong, parse_number};
use alloc::format;
use alloc::string::String;
use core::fmt;

/// Most VMs that a script names.
const MAX_VMS: u8 = abi::host::MAX_VMS as u8;

/// Why a text is no script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// [`ParseError`] of the first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut script = Self::default();
        for (index, line) in text.lines().enumerate() {
            script.parse_line(line).map_err(|reason| ParseError { line: index + 1, reason })?;
        }
        Ok(script)
    }

    fn parse_line(&mut self, line: &str) -> Result<(), Wrong> {
        let mut words = Words::of(line);
        let Some(first) = words.peek() else { return Ok(()) };
        if matches!(first, "pages" | "vm") {
            if !self.steps.is_empty() {
                return Err(format!("{first:?} comes after the first step"));
            }
            words.next();
            self.setup.parse(first, &mut words)?;
        } else {
            self.steps.push(Step::parse(&mut words)?);
        }
        words.end()
    }
}

impl Setup {
    fn parse(&mut self, first: &str, words: &mut Words<'_>) -> Result<(), Wrong> {
        if first == "pages" {
            self.pages = words.small("pages")?.into();
            return if self.pages == 0 { Err(Wrong::from("a pool has a page at least")) } else { Ok(()) };
        }
        let number = parse_vm_number(words)?;
        check_vm_number(number)?;
        let protected = words.take("protected");
        let vcpus = if words.take("vcpus") { words.number("vcpus")? } else { 1 };
        match self.vms.insert(number, VmSetup { protected, vcpus }) {
            None => Ok(()),
            Some(_) => Err(format!("vm{number} is there already")),
        }
    }
}

fn check_vm_number(number: u8) -> Result<(), Wrong> {
    if number < MAX_VMS { Ok(()) } else { Err(format!("vm{number}: there are {MAX_VMS} VMs at most")) }
}

impl Step {
    fn parse(words: &mut Words<'_>) -> Result<Self, Wrong> {
        let cpu = match words.peek().and_then(|word| word.strip_suffix(':')) {
            Some(number) => {
                words.next();
                let parsed = parse_number(number).and_then(|cpu| u8::try_from(cpu).ok());
                parsed.ok_or_else(|| format!("{number:?} is no CPU"))?
            }
            None => 0,
        };
        let action = Action::parse(words)?;
        let expected = if words.take("=>") { Some(Expectation::parse(words)?) } else { None };
        if expected.is_some() && matches!(action, Action::Frames(_) | Action::Interleave(_)) {
            return Err(Wrong::from("this step has no result"));
        }
        Ok(Self { cpu, action, expected })
    }
}

impl Action {
    fn parse(words: &mut Words<'_>) -> Result<Self, Wrong> {
        let first = words.peek().ok_or_else(|| Wrong::from("a step is missing"))?;
        if vm_number(first).is_some() {
            return GuestStep::parse(words).map(Action::Guest);
        }
        words.next();
        let mut access = |access| {
            let page = parse_page(words, "page")?;
            Ok(Action::Access(HostAccess { access, page }))
        };
        match first {
            "read" => access(Access::Read),
            "execute" => access(Access::Execute),
            "write" => {
                let page = parse_page(words, "page")?;
                let access = Access::Write(words.number("a value")?);
                Ok(Action::Access(HostAccess { access, page }))
            }
            "call" => parse_raw_call(words).map(|(function, arguments)| Action::RawCall(function, arguments)),
            "frames" if words.take("all") => Ok(Action::Frames(None)),
            "frames" => words.small("frames").map(|count| Action::Frames(Some(count))),
            "interleave" => words.small("interleave").map(Action::Interleave),
            _ => match HostStep::parse(first, words) {
                Some(step) => step.map(Action::Host),
                None => Err(format!("{first:?} is nothing that the host does")),
            },
        }
    }
}
