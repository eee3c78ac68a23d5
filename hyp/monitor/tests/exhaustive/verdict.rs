//! Whether what came of two calls at once is what could have come of them one after the other.

use crate::action::{Action, Seen};
use crate::stage::{OTHER, State};
use abi::Error;
use abi::guest::GuestCall;
use abi::host::{HostCall, VmHandle};
use std::fmt;

/// What came of a trial.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub first: Seen,
    pub second: Seen,
    pub state: State,
}

/// How an outcome can be explained.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// As if one came after the other, whichever.
    InOrder,
    /// The first was refused, with nothing changed, though not if it came before or after.
    FirstRefused(Error),
    /// The same of the second.
    SecondRefused(Error),
    /// The second undid what the first had begun, which was then refused.
    Undone(Error),
    /// Not at all.
    Wrong,
}

/// Outcomes to compare with.
pub struct Known<'a> {
    /// The state before both.
    pub start: &'a State,
    /// What comes of the two one after the other, in both orders.
    pub orders: [&'a Outcome; 2],
    /// What comes of the first alone.
    pub first: &'a (Seen, State),
    /// What comes of the second alone.
    pub second: &'a (Seen, State),
}

impl Outcome {
    /// How the outcome can be explained.
    pub fn verdict(&self, known: &Known<'_>) -> Verdict {
        if known.orders.contains(&self) {
            return Verdict::InOrder;
        }
        match (self.first.refusal(), self.second.refusal()) {
            (Some(error), _) if (&self.second, &self.state) == (&known.second.0, &known.second.1) => {
                Verdict::FirstRefused(error)
            }
            (_, Some(error)) if (&self.first, &self.state) == (&known.first.0, &known.first.1) => {
                Verdict::SecondRefused(error)
            }
            (Some(error), None) if self.state == *known.start => Verdict::Undone(error),
            _ => Verdict::Wrong,
        }
    }
}

/// The VMs that a call uses.
fn vms(action: &Action) -> Vec<VmHandle> {
    let handle = |number: u64| VmHandle(number as u32);
    match action {
        Action::Write(_) => Vec::new(),
        Action::Host(HostCall::VmEndShare, arguments) => arguments[..2].iter().copied().map(handle).collect(),
        Action::Host(HostCall::HypShare | HostCall::HypShareRestricted | HostCall::HypUnshare, _) => Vec::new(),
        Action::Host(_, arguments) => arguments.first().copied().map(handle).into_iter().collect(),
        Action::Guest { handle: own, function, arguments } => match GuestCall::from_function(*function) {
            Some(GuestCall::MemAccept | GuestCall::MemDrop) => vec![*own, handle(arguments[0])],
            // Who has accepted the offer.
            Some(GuestCall::MemWithdraw) => vec![*own, OTHER],
            _ => vec![*own],
        },
    }
}

/// True where the interface says that two calls at once may come to this.
pub fn is_allowed(verdict: Verdict, first: &Action, second: &Action) -> bool {
    let share_a_vm = vms(first).iter().any(|vm| vms(second).contains(vm));
    let ends = |action: &Action| matches!(action, Action::Host(HostCall::VmTeardown | HostCall::VmFinalise, _));
    let changes_vm = |action: &Action| matches!(action, Action::Host(HostCall::VmInit | HostCall::VmFinalise, _));
    let run_page = |action: &Action| match action {
        Action::Host(HostCall::VcpuInit, arguments) => Some(arguments[4]),
        _ => None,
    };
    let names = |action: &Action, page: u64| matches!(action, Action::Host(_, arguments) if arguments.contains(&page));
    let share_a_run_page = run_page(first).is_some_and(|page| names(second, page));
    match verdict {
        Verdict::InOrder => true,
        // A VM that is used does not end.
        Verdict::SecondRefused(Error::Busy) if ends(second) && share_a_vm => true,
        // While a VM begins or ends, it can do nothing else.
        Verdict::SecondRefused(Error::WrongState) if changes_vm(first) && share_a_vm => true,
        // Hyp has the run page, and lets go of it where the call is refused in the end.
        Verdict::SecondRefused(Error::WrongState | Error::Busy) => share_a_run_page,
        // Until hyp relies on the run page, and when it does no more, the host may take it back.
        Verdict::Undone(Error::WrongState | Error::NotYours) => {
            share_a_run_page && matches!(second, Action::Host(HostCall::HypUnshare, _))
        }
        // The guest does not know yet that its offer was accepted.
        Verdict::FirstRefused(Error::Busy) => {
            let is =
                |action: &Action, call| matches!(action, Action::Guest { function, .. } if *function == call as u32);
            is(first, GuestCall::MemWithdraw) && is(second, GuestCall::MemAccept)
        }
        Verdict::FirstRefused(_) | Verdict::SecondRefused(_) | Verdict::Undone(_) | Verdict::Wrong => false,
    }
}

impl Outcome {
    /// What came of both calls, and how the state differs from another.
    pub fn report(&self, other: &State) -> String {
        let Self { first, second, state } = self;
        let memory = state.memory.difference(&other.memory).map(|difference| difference.to_string());
        let vms =
            if state.vms == other.vms { String::new() } else { format!(", VMs {:?} | {:?}", state.vms, other.vms) };
        format!("{first:?} and {second:?}; {}{vms}", memory.unwrap_or_default())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::InOrder => f.write_str("as one after the other"),
            Verdict::FirstRefused(error) => write!(f, "the first was refused: {error}"),
            Verdict::SecondRefused(error) => write!(f, "the second was refused: {error}"),
            Verdict::Undone(error) => write!(f, "the second undid the first, which was refused: {error}"),
            Verdict::Wrong => f.write_str("wrong"),
        }
    }
}
