//! Barriers, invalidations, and the register that says which stage 2 they apply to.

use pgtable::{DsbKind, Tlbi};

use crate::checker::{CpuState, State, Synchronised};
use crate::event::Event;
use crate::stale::depends_on_vttbr;
use crate::tree::TreeKind;

/// The root that a VMID was last used with, whose entries TLBs may hold until all of that VMID are invalidated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VmidUse {
    root: u64,
    /// The CPU that has issued the invalidation.
    issued_by: Option<usize>,
}

impl State {
    /// True where a barrier of this kind reaches every CPU of the machine.
    fn reaches_all(&self, kind: DsbKind) -> bool {
        matches!(kind, DsbKind::Ish | DsbKind::Ishst | DsbKind::Sy) || self.cpus.len() == 1
    }

    pub(crate) fn dsb(&mut self, cpu: usize, kind: DsbKind) {
        self.record(cpu, Event::Dsb(kind));
        for stale in &mut self.stale {
            stale.dsb(cpu, kind);
        }
        if self.reaches_all(kind) {
            self.unpublished.retain(|(writer, _)| *writer != cpu);
            if !matches!(kind, DsbKind::Ishst | DsbKind::Nshst) {
                self.vmids.retain(|_, used| used.issued_by != Some(cpu));
            }
        }
        let state = &mut self.cpus[cpu].own_regime;
        if *state == Synchronised::Written {
            *state = Synchronised::Complete;
        }
        if !self.stale.is_empty() || !self.detached.is_empty() {
            self.settle();
        }
    }

    pub(crate) fn isb(&mut self, cpu: usize) {
        self.record(cpu, Event::Isb);
        let state = &mut self.cpus[cpu];
        state.vttbr_pending = false;
        if state.own_regime == Synchronised::Complete {
            state.own_regime = Synchronised::Yes;
        }
    }

    pub(crate) fn tlbi(&mut self, cpu: usize, operation: Tlbi) {
        self.record(cpu, Event::Tlbi(operation));
        let CpuState { vttbr, vttbr_pending, .. } = self.cpus[cpu];
        let has_stage2 = self.trees.iter().flatten().any(|tree| tree.kind.is_stage2());
        if vttbr_pending && has_stage2 && depends_on_vttbr(operation) {
            self.violate(cpu, format!("{operation:?} comes before the ISB that VTTBR_EL2 takes effect at"));
            return;
        }
        let vmid = (vttbr >> 48) as u16;
        for stale in &mut self.stale {
            let tree = self.trees[stale.tree].as_ref().expect("a stale value belongs to a tree that is watched");
            stale.tlbi(cpu, tree, operation, vmid);
        }
        for (used, use_of) in &mut self.vmids {
            if matches!(operation, Tlbi::Alle1Is) || matches!(operation, Tlbi::Vmalls12e1Is) && *used == vmid {
                use_of.issued_by = Some(cpu);
            }
        }
    }

    pub(crate) fn load_vttbr(&mut self, cpu: usize, value: u64) -> u64 {
        self.record(cpu, Event::LoadVttbr(value));
        let vmid = (value >> 48) as u16;
        let root = value & 0xffff_ffff_fffe;
        let mut is_refused = false;
        for tree in self.trees.clone().iter().flatten() {
            let TreeKind::Stage2 { vmid: own } = tree.kind else {
                continue;
            };
            if (own == vmid) != (tree.root.raw() == root) {
                is_refused = true;
                self.violate(cpu, format!("VTTBR_EL2 = {value:#x}, but VMID {own} belongs to the root {}", tree.root));
            }
        }
        if root != 0 {
            let other = self.vmids.iter().find(|(used, use_of)| (**used == vmid) != (use_of.root == root));
            if let Some((used, use_of)) = other.filter(|_| !is_refused) {
                let message = format!(
                    "VTTBR_EL2 = {value:#x}, but VMID {used} was used with the root {:#x}, and is not flushed since",
                    use_of.root
                );
                self.violate(cpu, message);
            }
            self.vmids.insert(vmid, VmidUse { root, issued_by: None });
        }
        let state = &mut self.cpus[cpu];
        state.vttbr_pending |= state.vttbr != value;
        std::mem::replace(&mut state.vttbr, value)
    }
}
