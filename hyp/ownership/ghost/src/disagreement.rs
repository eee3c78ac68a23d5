//! What is wrong with ledger and tables by themselves, whatever call came before.

use abi::Pfn;
use alloc::string::{String, ToString};
use core::fmt;
use ownership::PageState;
use ownership_spec::{Breach, Vm};

/// Where something is said of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    /// The ledger.
    Ledger,
    /// The host's stage 2.
    Host,
    /// Hyp's stage 1.
    Hyp,
    /// A guest's stage 2, or what hyp remembers of it.
    Guest(Vm),
}

/// Ledger and tables do not agree on a page, a table says something that means nothing, or all together they say
/// something that may not be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Disagreement {
    /// A table does not say what the ledger asks for.
    Page {
        /// The page, or the guest frame where the table maps nothing that can be named.
        page: Pfn,
        /// What the ledger says; `None` where the page is no RAM.
        state: Option<PageState>,
        /// Who else says something.
        table: Table,
        /// What that is.
        seen: String,
    },
    /// A guest does not hold as many pages as it counts.
    Held {
        /// The guest.
        vm: Vm,
        /// What it counts.
        counted: u64,
        /// What it has.
        found: u64,
    },
    /// They agree on a state that breaks a rule of the specification.
    Rule(Breach),
}

impl Disagreement {
    pub(crate) fn new(page: Pfn, state: Option<PageState>, table: Table, seen: impl ToString) -> Self {
        Disagreement::Page { page, state, table, seen: seen.to_string() }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Table::Ledger => f.write_str("the ledger"),
            Table::Host => f.write_str("the host's stage 2"),
            Table::Hyp => f.write_str("hyp's stage 1"),
            Table::Guest(vm) => write!(f, "the memory of guest {vm}"),
        }
    }
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disagreement::Page { page, state, table, seen } => {
                write!(f, "page {page}: the ledger says ")?;
                match state {
                    Some(state) => state.fmt(f)?,
                    None => f.write_str("no RAM")?,
                }
                write!(f, "; {table} {seen}")
            }
            Disagreement::Held { vm, counted, found } => {
                write!(f, "guest {vm} counts {counted} pages that it holds, and has {found}")
            }
            Disagreement::Rule(breach) => breach.fmt(f),
        }
    }
}
