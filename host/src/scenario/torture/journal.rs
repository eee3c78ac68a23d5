//! What was done: the last steps of each CPU, and how often each call came to what.

use crate::{println, report};
use abi::Error;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use call_script::{Access, Action, GuestAction, HostStep, Outcome, Status};
use core::hash::{Hash, Hasher};

/// Steps that are remembered.
const REMEMBERED: usize = 40;

/// The last steps of a CPU.
pub struct Journal(VecDeque<(Action, Outcome)>);

impl Journal {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Notes a step.
    pub fn note(&mut self, action: &Action, outcome: &Outcome) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((action.clone(), *outcome));
    }

    /// Prints the steps as those of a script.
    pub fn print(&self, cpu: usize) {
        for (action, outcome) in &self.0 {
            println!("{cpu}: {action} => {outcome}");
        }
    }
}

/// How a step ended, without the details.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Ok,
    Error(Error),
    Value,
    Abort,
    Stopped,
    NotRun(Error),
    LeftOut,
}

impl End {
    fn of(status: Status) -> Self {
        match status {
            Status::Ok => End::Ok,
            Status::Error(error) => End::Error(error),
            Status::Value(_) => End::Value,
            Status::Abort => End::Abort,
            Status::Stopped => End::Stopped,
            Status::NotRun(error) => End::NotRun(error),
            Status::Skipped(_) => End::LeftOut,
        }
    }
}

impl core::fmt::Display for End {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            End::Ok => f.write_str("ok"),
            End::Error(error) => write!(f, "{error:?}"),
            End::Value => f.write_str("value"),
            End::Abort => f.write_str("abort"),
            End::Stopped => f.write_str("stopped"),
            End::NotRun(error) => write!(f, "not-run-{error:?}"),
            End::LeftOut => f.write_str("left-out"),
        }
    }
}

/// A number that stands for a row of choices: FNV-1a.
#[derive(Clone, Copy)]
pub struct Choices(u64);

impl Choices {
    /// No choice.
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// The number for the choices so far and one more.
    pub fn add(&mut self, action: &Action) {
        action.hash(self);
    }
}

impl Hasher for Choices {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// How often each call came to what.
pub struct Counts(BTreeMap<(&'static str, &'static str, End), u64>);

impl Counts {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Counts a step.
    pub fn count(&mut self, action: &Action, outcome: &Outcome) {
        let (who, what) = words(action);
        *self.0.entry((who, what, End::of(outcome.status))).or_default() += 1;
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Counts) {
        for (key, count) in &other.0 {
            *self.0.entry(*key).or_default() += count;
        }
    }

    /// Prints the counts, their sum, and how many that is in a second. `length` is in microseconds.
    pub fn report(&self, length: u64) {
        for ((who, what, end), count) in &self.0 {
            report::value(&format!("{who}.{what}.{end}"), *count);
        }
        let calls: u64 = self.0.values().sum();
        let done: u64 =
            self.0.iter().filter(|((_, _, end), _)| matches!(end, End::Ok | End::Value)).map(|(_, n)| n).sum();
        report::value("calls", calls);
        report::value("calls-done", done);
        report::value("milliseconds", length / 1000);
        let rate = u128::from(calls) * 1_000_000 / u128::from(length.max(1));
        report::value("calls-per-second", rate as u64);
        println!("torture: {calls} calls in {} s, {rate} a second, {done} of them done", length / 1_000_000);
        let unsupported = self.0.keys().any(|(who, what, end)| {
            let unknown = *what == "unknown" || *who == "guest";
            *end == End::Error(Error::NotSupported) && !unknown
        });
        report::check("every-call-supported", !unsupported, format_args!("see the counts"));
    }
}

/// Words for who acts, and what is done.
fn words(action: &Action) -> (&'static str, &'static str) {
    let access = |access: &Access| match access {
        Access::Read => "read",
        Access::Write(_) => "write",
        Access::Execute => "execute",
    };
    match action {
        Action::Host(step) => ("host", HostStep::word(step.call())),
        Action::RawCall(..) => ("host", "unknown"),
        Action::Access(touch) => ("host", access(&touch.access)),
        Action::Guest(step) => match &step.action {
            GuestAction::Call(function, _) => ("guest", function.word()),
            GuestAction::RawCall(..) => ("guest", "unknown"),
            GuestAction::Read(_) => ("guest", "read"),
            GuestAction::Write(..) => ("guest", "write"),
            GuestAction::Execute(_) => ("guest", "execute"),
            GuestAction::Resume => ("guest", "resume"),
        },
        Action::Frames(_) | Action::Interleave(_) => ("host", "directive"),
    }
}
