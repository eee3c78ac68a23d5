//! What the host's accesses to memory come to.

use super::{Judged, Model};
use crate::executor::Access;
use crate::expectation::{Outcome, Status};
use abi::{Pfn, PhysAddr};
use alloc::format;
use ownership_spec::{Owner, Rights};

/// True where `rights` let somebody make an access.
pub(super) const fn allows(rights: Rights, access: Access) -> bool {
    match access {
        Access::Read => rights.read,
        Access::Write(_) => rights.write,
        Access::Execute => rights.execute,
    }
}

/// The outcome of an access that must abort.
pub(super) fn aborted(outcome: &Outcome) -> Judged {
    if outcome.status == Status::Abort { Ok(None) } else { Err(format!("an abort is due, not {outcome}")) }
}

impl Model {
    /// True where the host may make an access to a page.
    pub fn host_may(&self, access: Access, page: Pfn) -> bool {
        let granted = self.specification.access(Owner::Host, page);
        granted.iter().any(|(_, rights)| allows(*rights, access))
    }

    pub(super) fn judge_access(&self, access: Access, address: PhysAddr, outcome: &Outcome) -> Judged {
        let page = Pfn::containing(address);
        if !self.host_may(access, page) {
            return aborted(outcome);
        }
        if self.specification.page(page).is_some() {
            return self.judge_word(page, access, outcome);
        }
        // A device may read as anything, and there need be none.
        Ok(None)
    }
}
