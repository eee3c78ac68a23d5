//! What must come of each request: the specification of memory, and above it what the calls make of it.
//!
//! The [`Model`] knows the life of VMs, how arguments are decoded and in which order refusals come, and the first word of
//! each page. It judges what was seen: a request and its outcome lead to a next state, or cannot be. Where several CPUs act
//! at the same time, [`orders`] looks for an order of their requests that explains all outcomes.

mod access;
mod guard;
mod guest;
mod host_call;
mod life;
mod order;

pub use guard::Guard;
pub use life::Life;
pub use order::{Observed, orders};

use crate::executor::{Access, GuestRequest, Places, Request};
use crate::expectation::{Outcome, Status};
use crate::resolve::Names;
use abi::host::VmHandle;
use abi::{Error, Pfn};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use ownership_spec::{Machine, Owner, Page, Specification};

/// Who else acts on the same pages and VMs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Company {
    /// Nobody: every outcome is determined, but for lack of memory.
    Alone,
    /// Other CPUs: what they are in the midst of may be in the way.
    Others,
}

/// The state of all that requests are about.
///
/// Pages that no call has named are the host's, whatever they are in truth: the model is about pages that its requests
/// name, and about VMs that it has been told of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    specification: Specification,
    vms: BTreeMap<VmHandle, Life>,
    /// The first word of pages; 0 where there is no entry, unknown where that is `None`.
    words: BTreeMap<Pfn, Option<u64>>,
    /// What vCPUs are stopped at.
    stopped: BTreeMap<(VmHandle, u64), GuestRequest>,
    places: Places,
}

/// Why an outcome cannot be.
pub type Wrong = String;

/// The state after a request, or `None` where it is as before; or why the outcome cannot be.
pub type Judged = Result<Option<Model>, Wrong>;

impl Model {
    /// A machine without VMs, all of whose pages the host has to itself and has filled with zeroes.
    pub fn new(machine: Machine, places: Places) -> Self {
        Self {
            specification: Specification::new(machine),
            vms: BTreeMap::new(),
            words: BTreeMap::new(),
            stopped: BTreeMap::new(),
            places,
        }
    }

    /// The state of memory.
    pub const fn specification(&self) -> &Specification {
        &self.specification
    }

    /// Where the places are.
    pub const fn places(&self) -> &Places {
        &self.places
    }

    /// A VM.
    pub fn vm(&self, handle: VmHandle) -> Option<&Life> {
        self.vms.get(&handle)
    }

    /// What a vCPU is stopped at.
    pub fn stopped_at(&self, vm: VmHandle, vcpu: u64) -> Option<&GuestRequest> {
        self.stopped.get(&(vm, vcpu))
    }

    /// The first word of a page of RAM, where that is known.
    pub fn word(&self, page: Pfn) -> Option<u64> {
        self.words.get(&page).copied().unwrap_or(Some(0))
    }

    /// The state after `request` came to `outcome`. `names` are those that there were before.
    ///
    /// # Errors
    /// What should have come of it.
    pub fn judge(&self, names: &Names, request: &Request, outcome: &Outcome, company: Company) -> Judged {
        if matches!(outcome.status, Status::Skipped(_)) {
            return Ok(None);
        }
        match request {
            Request::Call { function, arguments, .. } => self.judge_call(*function, arguments, outcome, company),
            Request::Access { access, address } => self.judge_access(*access, *address, outcome),
            Request::Guest { vm, vcpu, request } => {
                let handle = names.handle(*vm).ok_or_else(|| format!("there is no vm{vm}"))?;
                self.judge_guest(handle, *vcpu, request, outcome, company)
            }
            Request::Frames(_) => Ok(None),
        }
    }

    /// The same with another state of memory: pages that came to the host from elsewhere are wiped.
    fn with(&self, specification: Specification) -> Self {
        let hosts = |page: &Page| page.owner == Owner::Host && !page.is_lent();
        let mut words = self.words.clone();
        for (pfn, _) in self.specification.changed_pages().filter(|(_, page)| !hosts(page)) {
            if specification.page(pfn).is_some_and(|after| hosts(&after)) {
                words.remove(&pfn);
            }
        }
        let mut vms = self.vms.clone();
        for life in vms.values_mut() {
            if let Life::Initialised(vm) = life {
                guard::forget_marks(vm, &specification);
            }
        }
        Self { specification, vms, words, stopped: self.stopped.clone(), places: self.places }
    }

    /// The same after a store.
    fn with_word(&self, page: Pfn, word: Option<u64>) -> Self {
        let mut next = self.clone();
        match word {
            Some(0) => next.words.remove(&page),
            word => next.words.insert(page, word),
        };
        next
    }

    /// The state after an access to the first word of a page that may be made.
    fn judge_word(&self, page: Pfn, access: Access, outcome: &Outcome) -> Judged {
        if outcome.status != Status::Ok {
            return Err(format!("ok is due, not {outcome}"));
        }
        match access {
            Access::Execute => Ok(None),
            // Hyp writes to a page that it relies on.
            Access::Write(_) if self.specification.page(page).is_some_and(|page| page.pins != 0) => Ok(None),
            Access::Write(value) => Ok(Some(self.with_word(page, Some(Access::word(value))))),
            Access::Read => match self.word(page) {
                Some(word) if word != outcome.results[0] => {
                    Err(format!("{word:#x} is in the page, not {:#x}", outcome.results[0]))
                }
                _ => Ok(None),
            },
        }
    }
}

/// An outcome without effect that must be this refusal.
fn refused(error: Error, outcome: &Outcome) -> Judged {
    if outcome.status == Status::Error(error) { Ok(None) } else { Err(format!("{error:?} is due, not {outcome}")) }
}
