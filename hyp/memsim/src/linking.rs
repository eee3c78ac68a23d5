//! Which pages are part of which tree: trees that come and go, tables that are linked and unlinked, and what a TLB may
//! keep of them.

use std::collections::HashSet;

use abi::{Pfn, PhysAddr, PhysRange};
use pgtable::geometry::entry_size;

use crate::checker::{Detached, State};
use crate::memory::WORDS;
use crate::outputs::Outputs;
use crate::rules::{Meaning, meaning};
use crate::stale::Stale;
use crate::tree::{TablePage, Tree, TreeKind};

impl State {
    pub(crate) fn tree(&self, index: usize) -> &Tree {
        self.trees[index].as_ref().expect("a page belongs to a tree that is watched")
    }

    /// The index of the tree whose root is at `root`.
    fn index_at(&self, root: PhysAddr) -> usize {
        let found = self.trees.iter().position(|tree| tree.is_some_and(|tree| tree.root == root));
        found.unwrap_or_else(|| panic!("no tree at {root} is watched"))
    }

    /// The tree whose root is at `root`, with its index.
    pub(crate) fn tree_at(&mut self, root: PhysAddr) -> (usize, &mut Tree) {
        let index = self.index_at(root);
        (index, self.trees[index].as_mut().expect("the tree was found just now"))
    }

    pub(crate) fn track(&mut self, tree: Tree) {
        let kind = tree.kind;
        assert!(self.trees.iter().flatten().all(|tree| tree.kind != kind), "{kind} has a tree already");
        let index = self.trees.len();
        self.trees.push(Some(tree));
        self.outputs.push(Outputs::default());
        let level = tree.geometry.start_level();
        for page in 0..u64::from(tree.geometry.root_tables()) {
            let address = PhysAddr::new(tree.root.raw() + page * 4096);
            let offset = page * WORDS as u64 * entry_size(level);
            self.link(0, address.raw(), TablePage { tree: index, level, offset });
        }
    }

    pub(crate) fn forget(&mut self, root: PhysAddr) {
        let index = self.index_at(root);
        let tree = *self.tree(index);
        let pages: Vec<u64> = self.live.iter().filter(|(_, page)| page.tree == index).map(|(pfn, _)| *pfn).collect();
        let maps = |pfn: &u64| self.values(PhysAddr::new(pfn << 12)).iter().any(|(_, value)| value & 1 != 0);
        if pages.iter().any(maps) {
            self.violate(0, format!("{} is given up while it maps something", tree.kind));
        }
        if self.stale.iter().any(|stale| stale.tree == index) {
            self.violate(0, format!("{} is given up before it is clean", tree.kind));
        } else if let TreeKind::Stage2 { vmid } = tree.kind {
            self.vmids.remove(&vmid);
        }
        if let Some(cpu) = self.holder_of(root) {
            self.violate(cpu, format!("{} is given up while VTTBR_EL2 holds its root", tree.kind));
        }
        for pfn in pages {
            self.end_expectations(0, PhysAddr::new(pfn << 12));
        }
        self.live.retain(|_, page| page.tree != index);
        self.stale.retain(|stale| stale.tree != index);
        self.outputs[index].clear();
        self.settle();
        self.trees[index] = None;
        if let (TreeKind::Stage2 { .. }, Some(trace)) = (tree.kind, &mut self.trace) {
            trace.release(root);
        }
    }

    pub(crate) fn take_root(&mut self, pages: u64) -> Option<PhysAddr> {
        let root = self.frames.take_root(pages)?;
        for page in 0..pages {
            self.memory.zero(Pfn::new(Pfn::containing(root).raw() + page));
        }
        if let Some(trace) = &mut self.trace {
            trace.root(root, pages);
        }
        Some(root)
    }

    pub(crate) fn return_root(&mut self, root: PhysRange) {
        let mut page = root.start;
        while page < root.end {
            self.check_untouched(0, page, "returned to the pool");
            page = PhysAddr::new(page.raw() + 4096);
        }
        self.frames.return_root(root);
    }

    /// The CPU whose VTTBR_EL2 holds the root at `frame`, if one does.
    pub(crate) fn holder_of(&self, frame: PhysAddr) -> Option<usize> {
        self.cpus.iter().position(|cpu| cpu.root() == frame.raw() && frame.raw() != 0)
    }

    /// Makes the page at `address`, and all beneath it, part of a tree.
    pub(crate) fn link(&mut self, cpu: usize, address: u64, page: TablePage) {
        let frame = PhysAddr::new(address);
        let pfn = Pfn::containing(frame).raw();
        self.check_unused(cpu, frame, "made part of a tree");
        if self.frames.is_free(pfn) {
            self.violate(cpu, format!("{frame} is made part of a tree, but is free"));
        }
        self.check_out_of_reach(cpu, frame, self.tree(page.tree).kind);
        self.live.insert(pfn, page);
        for (index, value) in self.values(frame) {
            let slot = PhysAddr::new(address + index * 8);
            let offset = page.offset + index * entry_size(page.level);
            self.outputs[page.tree].add(value, page.level);
            match meaning(value, page.level) {
                Meaning::Table(next) => {
                    self.link(cpu, next, TablePage { tree: page.tree, level: page.level + 1, offset });
                }
                Meaning::Leaf(output) => self.check_leaf(cpu, page, slot, value, output),
                Meaning::Reserved => {
                    self.violate(cpu, format!("{value:#x} in {frame} is reserved at level {}", page.level))
                }
                Meaning::Invalid => {}
            }
        }
    }

    /// Makes the page at `address`, and all beneath it, no longer part of a tree: a TLB may still walk it.
    pub(crate) fn unlink(&mut self, cpu: usize, address: u64, group: u64) {
        let frame = PhysAddr::new(address);
        let pfn = Pfn::containing(frame).raw();
        let Some(page) = self.live.remove(&pfn) else {
            return;
        };
        self.detached.insert(pfn, Detached { tree: page.tree, group });
        for stale in &mut self.stale {
            if Pfn::containing(stale.slot).raw() == pfn {
                stale.group = Some(group);
            }
        }
        for (index, value) in self.values(frame) {
            let slot = PhysAddr::new(address + index * 8);
            let offset = page.offset + index * entry_size(page.level);
            match meaning(value, page.level) {
                Meaning::Table(next) => {
                    self.take_away(cpu, page, slot, offset, value, true, Some(group));
                    self.unlink(cpu, next, group);
                }
                Meaning::Leaf(_) => {
                    self.take_away(cpu, page, slot, offset, value, false, Some(group));
                    self.outputs[page.tree].remove(value, page.level);
                }
                Meaning::Invalid | Meaning::Reserved => {}
            }
        }
        self.end_expectations(cpu, frame);
    }

    /// The descriptors of a table that are not zero.
    fn values(&self, frame: PhysAddr) -> Vec<(u64, u64)> {
        if !self.foreign.is_empty() {
            let all = (0..WORDS as u64).map(|index| (index, self.expected(PhysAddr::new(frame.raw() + index * 8))));
            return all.filter(|(_, value)| *value != 0).collect();
        }
        let words = self.memory.words(Pfn::containing(frame)).into_iter().flatten();
        (0..).zip(words.copied()).filter(|(_, value)| *value != 0).collect()
    }

    /// A TLB may keep `value`, which memory holds no more.
    #[expect(clippy::too_many_arguments, reason = "a plain record")]
    pub(crate) fn take_away(
        &mut self,
        cpu: usize,
        page: TablePage,
        slot: PhysAddr,
        offset: u64,
        value: u64,
        is_table: bool,
        group: Option<u64>,
    ) {
        let holders = u64::MAX >> (64 - self.cpus.len());
        let mut stale = Stale::new(page.tree, slot, value, page.level, offset, is_table, cpu, holders);
        stale.group = group;
        self.stale.push(stale);
        self.outputs[page.tree].add(value, page.level);
        self.unclean.insert(slot.raw());
    }

    /// Forgets stale values that are clean by now, and unlinked pages that nothing refers to any more.
    pub(crate) fn settle(&mut self) {
        let outputs = &mut self.outputs;
        self.stale.retain(|stale| {
            if stale.is_clean() {
                outputs[stale.tree].remove(stale.value, stale.level);
            }
            !stale.is_clean()
        });
        self.unclean = self.stale.iter().map(|stale| stale.slot.raw()).collect();
        let groups: HashSet<u64> = self.stale.iter().filter_map(|stale| stale.group).collect();
        self.detached.retain(|_, page| groups.contains(&page.group));
    }
}
