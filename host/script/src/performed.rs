//! What a script came to, step by step and in sum.

use crate::expectation::{Outcome, Status};
use crate::guest_step::{GuestAction, GuestStep};
use crate::step::{Action, Step};
use alloc::string::String;
use core::fmt;

/// A step that was done, and what came of it. Its `Display` form is again a step of a script, or two.
#[derive(Clone, Debug)]
pub struct Performed<'a> {
    /// Its number, from 0.
    pub index: usize,
    /// The step.
    pub step: &'a Step,
    /// What came of it.
    pub done: Done,
}

/// What came of a step.
#[derive(Clone, Debug)]
pub struct Done {
    /// What came first of an action that the vCPU had not come past, where there was one.
    pub resumed: Option<Outcome>,
    /// What came of the step; or why it is none that can be done.
    pub outcome: Result<Outcome, String>,
    /// Why that cannot be, by the specification.
    pub wrong: Option<String>,
    /// What the script says does not count any more: it was said of a run in which two steps met as they cannot here, a call
    /// was done that cannot be tried here, or hyp lacked frames where here it does not, or the other way round.
    pub otherwise: bool,
}

impl Done {
    pub(crate) const fn of(outcome: Outcome) -> Self {
        Self { resumed: None, outcome: Ok(outcome), wrong: None, otherwise: false }
    }

    /// True where the step could not be tried here.
    pub(crate) fn is_skipped(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|outcome| matches!(outcome.status, Status::Skipped(_)))
    }
}

impl Step {
    /// True where it is said that a call is not refused: what comes later may depend on it.
    pub(crate) fn changes_something(&self) -> bool {
        let is_call = matches!(self.action, Action::Host(_) | Action::RawCall(..) | Action::Guest(_));
        let status = self.expected.as_ref().and_then(|expected| expected.status);
        let is_refused = matches!(status, Some(Status::Error(_) | Status::NotRun(_) | Status::Abort));
        is_call && status.is_some() && !is_refused
    }

    /// False where something else came of the step than it says.
    pub(crate) fn says(&self, done: &Done) -> bool {
        let Ok(outcome) = &done.outcome else { return true };
        done.is_skipped() || self.expected.as_ref().is_none_or(|expected| expected.holds(outcome))
    }
}

impl Performed<'_> {
    /// False where the step could not be done, or came out other than it should.
    pub fn is_as_expected(&self) -> bool {
        self.done.outcome.is_ok() && self.done.wrong.is_none() && self.is_as_said()
    }

    /// True where the script itself says nothing else.
    fn is_as_said(&self) -> bool {
        self.done.otherwise || self.step.says(&self.done)
    }
}

impl fmt::Display for Performed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { cpu, action, expected } = self.step;
        if let (Some(resumed), Action::Guest(step)) = (&self.done.resumed, action) {
            let resume = GuestStep { action: GuestAction::Resume, ..step.clone() };
            writeln!(f, "{cpu}: {resume} => {resumed}")?;
        }
        write!(f, "{cpu}: {action}")?;
        match &self.done.outcome {
            Err(reason) => write!(f, "   # not done: {reason}")?,
            Ok(Outcome { status: Status::Skipped(reason), .. }) => write!(f, "   # left out: {reason}")?,
            Ok(_) if matches!(action, Action::Frames(_) | Action::Interleave(_)) => {}
            Ok(outcome) => write!(f, " => {outcome}")?,
        }
        if let Some(expected) = expected.as_ref().filter(|_| !self.step.says(&self.done)) {
            let word = if self.done.otherwise { "otherwise" } else { "EXPECTED" };
            write!(f, "   # {word}: {expected}")?;
        }
        match &self.done.wrong {
            Some(wrong) => write!(f, "   # WRONG: {wrong}"),
            None => Ok(()),
        }
    }
}

/// How a script ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Steps that were done.
    pub done: usize,
    /// Steps among them of which something was expected.
    pub judged: usize,
    /// Steps that came out other than they should, or could not be done.
    pub failed: usize,
    /// Steps that were left out, since here they cannot be done.
    pub left_out: usize,
}
