//! What comes of a step, and what should.

use crate::guest_step::GuestFunction;
use crate::words::{Readable, Words, Wrong};
use abi::Error;
use abi::run::ExitReason;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Status {
    /// The call returned 0, or the access was made.
    Ok,
    /// The call returned this error.
    Error(Error),
    /// The call returned another x0.
    Value(u64),
    /// The access aborted.
    Abort,
    /// The guest did not come past its action: the exit says why.
    Stopped,
    /// VCPU_RUN was refused, so that the guest could not act.
    NotRun(Error),
    /// It could not be tried here, for this reason.
    Skipped(&'static str),
}

/// An exit of a guest's that the host learnt of during an action.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Notice {
    /// Why the guest exited.
    pub reason: ExitReason,
    /// The address that it is about; 0 where there is none.
    pub ipa: u64,
    /// The run page's `data`.
    pub data: u64,
    /// The run page's `peer`.
    pub peer: u64,
}

/// What came of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// x1 to x3 of a call; what an access read is in the first.
    pub results: [u64; 3],
    /// What the guest told the host meanwhile.
    pub notice: Option<Notice>,
}

impl Outcome {
    /// An outcome without results.
    pub const fn of(status: Status) -> Self {
        Self { status, results: [0; 3], notice: None }
    }

    /// What a call that left these x0 to x3 came to.
    pub fn of_call(registers: [u64; 4]) -> Self {
        let [x0, results @ ..] = registers;
        let status = match (x0, Error::from_register(x0)) {
            (0, _) => Status::Ok,
            (_, Some(error)) => Status::Error(error),
            (value, None) => Status::Value(value),
        };
        Self { status, results, notice: None }
    }

    /// True where hyp had no frame for a table.
    pub fn lacks_frames(&self) -> bool {
        self.status == Status::Error(Error::OutOfMemory)
            || self.notice.is_some_and(|notice| notice.reason == ExitReason::TopUp)
    }

    /// The same for a guest's call: registers that are no results of the function in x0 count as 0, since they are what
    /// they were before.
    pub fn of_guest_call(function: u64, registers: [u64; 4]) -> Self {
        let mut outcome = Self::of_call(registers);
        let results = GuestFunction::from_register(function).map_or(3, GuestFunction::results);
        outcome.results.iter_mut().skip(results).for_each(|result| *result = 0);
        outcome
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Ok => f.write_str("ok"),
            Status::Error(error) => write!(f, "{error:?}"),
            Status::Value(x0) => write!(f, "x0 = {}", Readable(*x0)),
            Status::Abort => f.write_str("abort"),
            Status::Stopped => f.write_str("stopped"),
            Status::NotRun(error) => write!(f, "not_run {error:?}"),
            Status::Skipped(reason) => write!(f, "skipped: {reason}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(notice) = &self.notice {
            write!(f, ", exit {:?}", notice.reason)?;
        }
        for (index, value) in self.results.iter().enumerate().filter(|(_, value)| **value != 0) {
            write!(f, ", x{} = {}", index + 1, Readable(*value))?;
        }
        Ok(())
    }
}

/// What must come of a step, as far as it is said.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct Expectation {
    /// How it ends. Not [`Status::Skipped`].
    pub status: Option<Status>,
    /// The reason of the exit.
    pub exit: Option<ExitReason>,
    /// Registers 1 to 3 and what they hold.
    pub results: Vec<(u8, u64)>,
}

impl Expectation {
    /// What says nothing but how the step ends.
    pub const fn of(status: Status) -> Self {
        Self { status: Some(status), exit: None, results: Vec::new() }
    }

    /// True where hyp is to have no frame for a table.
    pub fn lacks_frames(&self) -> bool {
        self.status == Some(Status::Error(Error::OutOfMemory)) || self.exit == Some(ExitReason::TopUp)
    }

    /// True where `outcome` is as it should be.
    pub fn holds(&self, outcome: &Outcome) -> bool {
        let result = |register: u8| usize::from(register).checked_sub(1).and_then(|index| outcome.results.get(index));
        self.status.is_none_or(|status| status == outcome.status)
            && self.exit.is_none_or(|exit| outcome.notice.is_some_and(|notice| notice.reason == exit))
            && self.results.iter().all(|(register, value)| result(*register) == Some(value))
    }

    /// Reads what is behind `=>`.
    pub(crate) fn parse(words: &mut Words<'_>) -> Result<Self, Wrong> {
        let mut expected = Self::default();
        loop {
            let word = words.required("what is expected")?;
            let status = match word {
                "exit" if expected.exit.is_none() => {
                    expected.exit = Some(parse_exit(words.required("an exit's reason")?)?);
                    None
                }
                "x0" => Some(Status::Value(parse_value(words)?)),
                "x1" | "x2" | "x3" => {
                    let register = word.as_bytes().get(1).map_or(0, |digit| digit - b'0');
                    let value = parse_value(words)?;
                    expected.results.push((register, value));
                    None
                }
                "not_run" => Some(Status::NotRun(parse_error(words.required("an error")?)?)),
                _ => Some(parse_status(word)?),
            };
            if let Some(status) = status
                && expected.status.replace(status).is_some()
            {
                return Err(format!("{word:?} says a second time how the step ends"));
            }
            if !words.take(",") {
                return Ok(expected);
            }
        }
    }
}

fn parse_value(words: &mut Words<'_>) -> Result<u64, Wrong> {
    if !words.take("=") {
        return Err(Wrong::from("\"=\" is missing"));
    }
    words.number("a register's value")
}

fn parse_status(word: &str) -> Result<Status, Wrong> {
    match word {
        "ok" => Ok(Status::Ok),
        "abort" => Ok(Status::Abort),
        "stopped" => Ok(Status::Stopped),
        _ => parse_error(word).map(Status::Error),
    }
}

fn parse_error(word: &str) -> Result<Error, Wrong> {
    let named = Error::ALL.into_iter().find(|error| format!("{error:?}") == word);
    named.ok_or_else(|| format!("{word:?} is no result"))
}

fn parse_exit(word: &str) -> Result<ExitReason, Wrong> {
    let mut reasons = (0..).map_while(ExitReason::from_register);
    reasons.find(|reason| format!("{reason:?}") == word).ok_or_else(|| format!("{word:?} is no exit's reason"))
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(status) = &self.status {
            write!(f, "{status}")?;
            separator = ", ";
        }
        if let Some(exit) = &self.exit {
            write!(f, "{separator}exit {exit:?}")?;
            separator = ", ";
        }
        for (register, value) in &self.results {
            write!(f, "{separator}x{register} = {}", Readable(*value))?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Expectation, Wrong> {
        let mut words = Words::of(text);
        let expected = Expectation::parse(&mut words)?;
        words.end().map(|()| expected)
    }

    #[test]
    fn what_is_not_said_may_be_anything() {
        let outcome = Outcome {
            status: Status::Ok,
            results: [3, 0, 0],
            notice: Some(Notice { reason: ExitReason::Offered, ipa: 0, data: 3, peer: 9 }),
        };
        for text in ["ok", "exit Offered", "x1 = 3", "x2 = 0, x1 = 3", "ok, exit Offered, x1 = 3"] {
            assert!(parse(text).unwrap().holds(&outcome), "{text}");
        }
        for text in ["WrongState", "abort", "x1 = 2", "exit Shared", "ok, x3 = 1", "x0 = 5", "not_run Busy"] {
            assert!(!parse(text).unwrap().holds(&outcome), "{text}");
        }
        assert!(!parse("exit Offered").unwrap().holds(&Outcome::of(Status::Ok)));
    }

    #[test]
    fn outcomes_read_as_expectations_of_themselves() {
        for outcome in [
            Outcome::of_call([0, 1, 2, 3]),
            Outcome::of_call([Error::Busy.to_register(), 0, 0, 0]),
            Outcome::of_call([4096, 0, 0, 0]),
            Outcome::of(Status::Abort),
            Outcome::of(Status::NotRun(Error::VmGone)),
            Outcome {
                status: Status::Stopped,
                results: [0; 3],
                notice: Some(Notice { reason: ExitReason::Poisoned, ipa: 1, data: 0, peer: 0 }),
            },
        ] {
            let text = format!("{outcome}");
            assert!(parse(&text).unwrap_or_else(|wrong| panic!("{text}: {wrong}")).holds(&outcome), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "fine", "ok ok", "ok, abort", "x4 = 1", "x1 1", "exit Never", "ok,", "x1 = y", "exit"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
