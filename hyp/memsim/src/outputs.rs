//! What a tree maps, seen from the output side: which pages it may reach.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use abi::{Pfn, PhysAddr};
use pgtable::geometry::{entry_size, may_be_leaf};

use crate::checker::State;
use crate::rules::{Meaning, meaning};
use crate::tree::TreeKind;

/// Spreads an address over the table by one multiplication: these maps are asked at every descriptor that is written.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The leaves of one tree, in memory or stale in a TLB.
#[derive(Default)]
pub(crate) struct Outputs {
    /// How many leaves there are of each output address and level, the level in the lowest bits.
    leaves: HashMap<u64, u32, BuildHasherDefault<AddressHasher>>,
}

/// The key of the leaves of `level` that map the page at `address`.
fn key(address: u64, level: u8) -> u64 {
    address & !(entry_size(level) - 1) | u64::from(level)
}

impl Outputs {
    /// A descriptor has come; what is no leaf is not counted.
    pub(crate) fn add(&mut self, value: u64, level: u8) {
        if let Meaning::Leaf(output) = meaning(value, level) {
            *self.leaves.entry(key(output, level)).or_default() += 1;
        }
    }

    /// A descriptor that had come is gone.
    pub(crate) fn remove(&mut self, value: u64, level: u8) {
        let Meaning::Leaf(output) = meaning(value, level) else {
            return;
        };
        if let Some(count) = self.leaves.get_mut(&key(output, level)) {
            *count -= 1;
            if *count == 0 {
                self.leaves.remove(&key(output, level));
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.leaves.clear();
    }

    /// True where some leaf maps the page.
    pub(crate) fn reach(&self, pfn: u64) -> bool {
        !self.leaves.is_empty()
            && (0..=3).any(|level| may_be_leaf(level) && self.leaves.contains_key(&key(pfn << 12, level)))
    }
}

impl State {
    /// Every stage-2 tree through which the page at `page` may be reached.
    pub(crate) fn stage2_of(&self, page: PhysAddr) -> Vec<TreeKind> {
        let pfn = Pfn::containing(page).raw();
        let trees = self.trees.iter().zip(&self.outputs);
        trees
            .filter_map(|(tree, outputs)| tree.filter(|tree| tree.kind.is_stage2() && outputs.reach(pfn)))
            .map(|tree| tree.kind)
            .collect()
    }

    /// A table of the hypervisor's is linked: software must not reach it.
    pub(crate) fn check_out_of_reach(&mut self, cpu: usize, table: PhysAddr, kind: TreeKind) {
        if !kind.is_hypervisors() {
            return;
        }
        for reached_by in self.stage2_of(table) {
            self.violate(cpu, format!("{table} becomes a table of {kind}, but {reached_by} may still reach it"));
        }
    }

    /// A leaf of stage 2 becomes valid: it must not lead to a table of the hypervisor's.
    pub(crate) fn check_reaches_no_table(
        &mut self,
        cpu: usize,
        kind: TreeKind,
        slot: PhysAddr,
        output: u64,
        level: u8,
    ) {
        if !kind.is_stage2() {
            return;
        }
        let first = output >> 12;
        let pages = first..first + (entry_size(level) >> 12);
        let live = self.live.range(pages.clone()).map(|(pfn, page)| (*pfn, page.tree, ""));
        let detached =
            self.detached.range(pages).map(|(pfn, page)| (*pfn, page.tree, " that was unlinked and is not clean"));
        let found = live.chain(detached).find(|(_, tree, _)| self.tree(*tree).kind.is_hypervisors());
        if let Some((pfn, tree, what)) = found {
            let (table, of) = (PhysAddr::new(pfn << 12), self.tree(tree).kind);
            self.violate(cpu, format!("{slot} of {kind} maps {table}, a table of {of}{what}"));
        }
    }
}
