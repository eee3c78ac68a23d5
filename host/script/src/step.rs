//! A script: what is there before it, and its steps.

use crate::executor::Access;
use crate::expectation::Expectation;
use crate::guest_step::{GuestStep, write_raw_call};
use crate::host_step::HostStep;
use crate::operand::{PageName, VmNumber};
use crate::words::Readable;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

/// Pages of the pool where a script does not say.
const DEFAULT_PAGES: u64 = 64;

/// A VM that is there before the first step: it has its vCPUs and no memory that a script could name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct VmSetup {
    /// Whether it is protected.
    pub protected: bool,
    /// How many vCPUs.
    pub vcpus: u64,
}

/// What is there before the first step.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Setup {
    /// Pages in the pool. They follow each other, the first is 2 MiB aligned, and all are the host's alone.
    pub pages: u64,
    /// VMs.
    pub vms: BTreeMap<VmNumber, VmSetup>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { pages: DEFAULT_PAGES, vms: BTreeMap::new() }
    }
}

/// The host touches memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct HostAccess {
    /// How.
    pub access: Access,
    /// Which page: its first 64 bits.
    pub page: PageName,
}

/// What happens in a step.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Action {
    /// A host call.
    Host(HostStep),
    /// `call 0xc6000102 1 2`: a host call with any x0, and x1 to x7.
    RawCall(u64, [u64; 7]),
    /// The host touches memory.
    Access(HostAccess),
    /// A guest acts.
    Guest(GuestStep),
    /// `frames 2`: from here on hyp finds no more than so many frames for tables; `frames all` ends that. Only where hyp
    /// is simulated.
    Frames(Option<u32>),
    /// `interleave 2`: the step after the next, another CPU's, comes while the next is at its so manieth lock boundary.
    /// Where that cannot be arranged, the two follow each other.
    Interleave(u32),
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Step {
    /// Which CPU, from 0.
    pub cpu: u8,
    /// What happens.
    pub action: Action,
    /// What must come of it.
    pub expected: Option<Expectation>,
}

/// A script.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct Script {
    /// What is there first.
    pub setup: Setup,
    /// What happens, in this order.
    pub steps: Vec<Step>,
}

impl Script {
    /// How many CPUs it names.
    pub fn cpus(&self) -> usize {
        self.steps.iter().map(|step| usize::from(step.cpu) + 1).max().unwrap_or(1)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Host(step) => write!(f, "{step}"),
            Action::RawCall(function, arguments) => write_raw_call(f, *function, arguments),
            Action::Access(HostAccess { access: Access::Read, page }) => write!(f, "read page {page}"),
            Action::Access(HostAccess { access: Access::Write(value), page }) => {
                write!(f, "write page {page} {}", Readable(*value))
            }
            Action::Access(HostAccess { access: Access::Execute, page }) => write!(f, "execute page {page}"),
            Action::Guest(step) => write!(f, "{step}"),
            Action::Frames(None) => f.write_str("frames all"),
            Action::Frames(Some(count)) => write!(f, "frames {count}"),
            Action::Interleave(boundary) => write!(f, "interleave {boundary}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cpu, self.action)?;
        match &self.expected {
            Some(expected) if *expected != Expectation::default() => write!(f, " => {expected}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pages {}", self.pages)?;
        for (number, vm) in &self.vms {
            write!(f, "vm vm{number}")?;
            if vm.protected {
                f.write_str(" protected")?;
            }
            if vm.vcpus != 1 {
                write!(f, " vcpus {}", vm.vcpus)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// One line each, as [`Script::parse`] reads them.
impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.setup)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}
