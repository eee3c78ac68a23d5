//! What a ghost has to say, for people.

use crate::disagreement::Disagreement;
use abi::{Error, Ipa};
use core::fmt;
use ownership::{Access, HostFault};
use ownership_spec::{Call, Difference, Vm};

/// Something is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// Before a call was made, ledger and tables were not in order. Whoever came before is to blame.
    Before(Call, Disagreement),
    /// After a call, ledger and tables are not in order.
    After(Call, Result<(), Error>, Disagreement),
    /// A call ended otherwise than the specification says: first what happened, then what should have.
    Result(Call, Result<(), Error>, Result<(), Error>),
    /// A call left a state that is not what the specification says.
    State(Call, Result<(), Error>, Difference),
    /// A guest counts wrong what it holds: how many pages its count moved beside what it got or lost.
    Held(Call, Vm, i64),
    /// Ledger and tables are not in order at a fault of the host's.
    AtFault(Ipa, Access, Disagreement),
    /// A fault of the host's was decided wrongly.
    Fault(Ipa, Access, HostFault),
    /// Ledger and tables are not in order somewhere else.
    Elsewhere(Disagreement),
}

/// How a call ended.
struct Ended<'a>(&'a Result<(), Error>);

impl fmt::Display for Ended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(()) => f.write_str("done"),
            Err(error) => write!(f, "refused: {error}"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Before(call, wrong) => write!(f, "before {call}: {wrong}"),
            Report::After(call, result, wrong) => write!(f, "after {call} ({}): {wrong}", Ended(result)),
            Report::Result(call, result, expected) => {
                write!(f, "{call}: {} | expected {}", Ended(result), Ended(expected))
            }
            Report::State(call, result, difference) => write!(f, "after {call} ({}): {difference}", Ended(result)),
            Report::Held(call, vm, moved) => {
                write!(f, "after {call}: guest {vm} counts {moved:+} pages more than it got")
            }
            Report::AtFault(ipa, access, wrong) => write!(f, "at a fault of the host's, {access:?} at {ipa}: {wrong}"),
            Report::Fault(ipa, access, fault) => {
                let expected = if *fault == HostFault::Resume { HostFault::Inject } else { HostFault::Resume };
                write!(f, "fault of the host's, {access:?} at {ipa}: {fault:?} | expected {expected:?}")
            }
            Report::Elsewhere(wrong) => wrong.fmt(f),
        }
    }
}
