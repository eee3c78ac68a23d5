//! The judge: follows every event, and knows at any time what a CPU may still use.

use std::collections::{HashMap, HashSet, VecDeque};

use abi::{Pfn, PhysAddr, PhysRange};
use pgtable::geometry::entry_size;
use pgtable::{DsbKind, Geometry, Tlbi};

use crate::event::{Event, Violation};
use crate::frames::Frames;
use crate::memory::{Memory, WORDS};
use crate::rules::{Meaning, conflict, meaning, takes_rights};
use crate::stale::{Stale, depends_on_vttbr};
use crate::tree::{TablePage, Tree, TreeKind};

/// Events that are kept.
const HISTORY: usize = 1 << 14;
/// Events that a violation carries.
const RECENT: usize = 48;

/// How far a CPU is with making its own regime's change take effect for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Synchronised {
    Yes,
    /// A descriptor of its own regime was written.
    Written,
    /// The write is complete, but the CPU may run on with what it fetched before.
    Complete,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuState {
    vttbr: u64,
    /// VTTBR_EL2 was written, and no ISB followed.
    pub(crate) vttbr_pending: bool,
    pub(crate) own_regime: Synchronised,
}

pub(crate) struct State {
    pub(crate) memory: Memory,
    pub(crate) frames: Frames,
    pub(crate) violations: Vec<Violation>,
    pub(crate) history: VecDeque<(usize, Event)>,
    pub(crate) cpus: Vec<CpuState>,
    pub(crate) trees: Vec<Option<Tree>>,
    /// Pages that are part of a tree, by frame number.
    pub(crate) live: HashMap<u64, TablePage>,
    /// Pages that were unlinked, by frame number, with the unlinking; kept until that is clean.
    detached: HashMap<u64, u64>,
    pub(crate) stale: Vec<Stale>,
    /// Slots with a stale value, and how many.
    unclean: HashMap<u64, u32>,
    /// Valid descriptors that were written and that no DSB has made visible, with the CPU.
    pub(crate) unpublished: Vec<(usize, PhysAddr)>,
    /// Pages that were written and not cleaned to the point of coherency.
    pub(crate) dirty: HashSet<u64>,
    next_group: u64,
}

impl State {
    pub(crate) fn new(cpus: usize, pool: PhysRange) -> Self {
        assert!((1..=64).contains(&cpus), "a machine has 1 to 64 CPUs");
        let cpu = CpuState { vttbr: 0, vttbr_pending: false, own_regime: Synchronised::Yes };
        Self {
            memory: Memory::default(),
            frames: Frames::new(pool),
            violations: Vec::new(),
            history: VecDeque::new(),
            cpus: vec![cpu; cpus],
            trees: Vec::new(),
            live: HashMap::new(),
            detached: HashMap::new(),
            stale: Vec::new(),
            unclean: HashMap::new(),
            unpublished: Vec::new(),
            dirty: HashSet::new(),
            next_group: 0,
        }
    }

    pub(crate) fn cpus(&self) -> usize {
        self.cpus.len()
    }

    pub(crate) fn vttbr(&self, cpu: usize) -> u64 {
        self.cpus[cpu].vttbr
    }

    pub(crate) fn record(&mut self, cpu: usize, event: Event) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((cpu, event));
    }

    pub(crate) fn recent(&self) -> Vec<(usize, Event)> {
        self.history.iter().skip(self.history.len().saturating_sub(RECENT)).copied().collect()
    }

    fn violate(&mut self, cpu: usize, message: String) {
        let history = self.recent();
        self.violations.push(Violation { cpu, message, history });
    }

    pub(crate) fn tree(&self, index: usize) -> &Tree {
        self.trees[index].as_ref().expect("a page belongs to a tree that is watched")
    }

    // Trees.

    pub(crate) fn track(&mut self, kind: TreeKind, root: PhysAddr, geometry: Geometry) {
        assert!(self.trees.iter().flatten().all(|tree| tree.kind != kind), "{kind} has a tree already");
        let tree = self.trees.len();
        self.trees.push(Some(Tree { kind, root, geometry }));
        let level = geometry.start_level();
        for page in 0..u64::from(geometry.root_tables()) {
            let address = PhysAddr::new(root.raw() + page * 4096);
            let offset = page * WORDS as u64 * entry_size(level);
            self.link(0, address.raw(), TablePage { tree, level, offset });
        }
        // What stood in the table before is taken to be visible.
        self.unpublished.clear();
    }

    pub(crate) fn forget(&mut self, root: PhysAddr) {
        let found = self.trees.iter().position(|tree| tree.is_some_and(|tree| tree.root == root));
        let Some(index) = found else {
            panic!("no tree at {root} is watched");
        };
        let tree = *self.tree(index);
        let pages: Vec<u64> = self.live.iter().filter(|(_, page)| page.tree == index).map(|(pfn, _)| *pfn).collect();
        let maps = pages.iter().any(|pfn| self.memory.frame(Pfn::new(*pfn)).iter().any(|value| value & 1 != 0));
        if maps {
            self.violate(0, format!("{} is given up while it maps something", tree.kind));
        }
        if self.stale.iter().any(|stale| stale.tree == index) {
            self.violate(0, format!("{} is given up before it is clean", tree.kind));
        }
        if let Some(cpu) = self.cpus.iter().position(|cpu| cpu.vttbr & 0xffff_ffff_fffe == root.raw()) {
            self.violate(cpu, format!("{} is given up while VTTBR_EL2 holds its root", tree.kind));
        }
        self.live.retain(|_, page| page.tree != index);
        self.stale.retain(|stale| stale.tree != index);
        self.trees[index] = None;
        self.settle();
    }

    pub(crate) fn return_root(&mut self, root: PhysRange) {
        let mut page = root.start;
        while page < root.end {
            self.check_untouched(0, page, "returned to the pool");
            page = PhysAddr::new(page.raw() + 4096);
        }
        self.frames.return_root(root);
    }

    /// Makes the page at `address`, and all beneath it, part of a tree.
    fn link(&mut self, cpu: usize, address: u64, page: TablePage) {
        let frame = PhysAddr::new(address);
        let pfn = Pfn::containing(frame).raw();
        self.check_untouched(cpu, frame, "made part of a tree");
        if self.frames.is_free(pfn) {
            self.violate(cpu, format!("{frame} is made part of a tree, but is free"));
        }
        self.live.insert(pfn, page);
        for (index, value) in self.values(frame) {
            let offset = page.offset + index * entry_size(page.level);
            match meaning(value, page.level) {
                Meaning::Table(next) => {
                    self.link(cpu, next, TablePage { tree: page.tree, level: page.level + 1, offset });
                }
                Meaning::Leaf(output) => self.check_leaf(cpu, frame, page.level, output),
                Meaning::Reserved => {
                    self.violate(cpu, format!("{value:#x} in {frame} is reserved at level {}", page.level))
                }
                Meaning::Invalid => {}
            }
        }
    }

    /// Makes the page at `address`, and all beneath it, no longer part of a tree: a TLB may still walk it.
    fn unlink(&mut self, cpu: usize, address: u64, group: u64) {
        let frame = PhysAddr::new(address);
        let pfn = Pfn::containing(frame).raw();
        let Some(page) = self.live.remove(&pfn) else {
            return;
        };
        self.detached.insert(pfn, group);
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
                Meaning::Leaf(_) => self.take_away(cpu, page, slot, offset, value, false, Some(group)),
                Meaning::Invalid | Meaning::Reserved => {}
            }
        }
    }

    /// The words of a frame that are not zero.
    fn values(&mut self, frame: PhysAddr) -> Vec<(u64, u64)> {
        let words = self.memory.frame(Pfn::containing(frame));
        (0..).zip(words.iter().copied()).filter(|(_, value)| *value != 0).collect()
    }

    #[expect(clippy::too_many_arguments, reason = "a plain record")]
    fn take_away(
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
        *self.unclean.entry(slot.raw()).or_default() += 1;
    }

    /// Forgets stale values that are clean by now, and unlinked pages that nothing refers to any more.
    fn settle(&mut self) {
        self.stale.retain(|stale| !stale.is_clean());
        self.unclean.clear();
        for stale in &self.stale {
            *self.unclean.entry(stale.slot.raw()).or_default() += 1;
        }
        let groups: HashSet<u64> = self.stale.iter().filter_map(|stale| stale.group).collect();
        self.detached.retain(|_, group| groups.contains(group));
    }

    // Memory.

    /// A page that a walker may read is about to be used for something else.
    fn check_untouched(&mut self, cpu: usize, frame: PhysAddr, what: &str) {
        let pfn = Pfn::containing(frame).raw();
        if let Some(page) = self.live.get(&pfn) {
            let kind = self.tree(page.tree).kind;
            self.violate(cpu, format!("{frame} is {what}, but is a table of {kind}"));
        } else if self.detached.contains_key(&pfn) {
            self.violate(cpu, format!("{frame} is {what}, but was unlinked and is not clean"));
        }
    }

    pub(crate) fn allocate(&mut self, cpu: usize) -> Option<PhysAddr> {
        let frame = self.frames.allocate();
        self.record(cpu, Event::Allocate(frame));
        if let Some(frame) = frame {
            self.memory.zero(Pfn::containing(frame));
        }
        frame
    }

    pub(crate) fn free(&mut self, cpu: usize, frame: PhysAddr) {
        self.record(cpu, Event::Free(frame));
        self.check_untouched(cpu, frame, "freed");
        if !self.frames.free(frame) {
            self.violate(cpu, format!("{frame} is freed, but was not allocated"));
        }
    }

    pub(crate) fn page_write(&mut self, cpu: usize, pfn: Pfn) {
        let page = pfn.checked_address().expect("a frame number of physical memory");
        self.record(cpu, Event::PageWrite(page));
        self.check_untouched(cpu, page, "overwritten");
        self.dirty.insert(pfn.raw());
    }

    pub(crate) fn clean_invalidate(&mut self, cpu: usize, range: PhysRange) {
        self.record(cpu, Event::CleanInvalidate(range));
        self.dirty.retain(|pfn| {
            let start = PhysAddr::new(pfn << 12);
            !PhysRange::from_size(start, 4096).is_some_and(|page| range.contains_range(&page))
        });
    }

    pub(crate) fn is_dirty(&self, pfn: Pfn) -> bool {
        self.dirty.contains(&pfn.raw())
    }

    pub(crate) fn write(&mut self, cpu: usize, slot: PhysAddr, new: u64) {
        let old = self.memory.read(slot);
        self.record(cpu, Event::Write { address: slot, old, new });
        let pfn = Pfn::containing(slot);
        if let Some(page) = self.live.get(&pfn.raw()).copied() {
            self.write_descriptor(cpu, page, slot, old, new);
        } else {
            self.check_untouched(cpu, slot, "written");
        }
        self.memory.write(slot, new);
    }

    /// A descriptor of a tree changes.
    fn write_descriptor(&mut self, cpu: usize, page: TablePage, slot: PhysAddr, old: u64, new: u64) {
        let level = page.level;
        let kind = self.tree(page.tree).kind;
        let offset = page.offset + slot.page_offset() / 8 * entry_size(level);
        let before = meaning(old, level);
        let after = meaning(new, level);
        if old == new {
            return;
        }
        let was_valid = before != Meaning::Invalid;
        let is_valid = after != Meaning::Invalid;
        if (was_valid || is_valid) && !matches!(kind, TreeKind::Stage2 { .. }) {
            self.cpus[cpu].own_regime = Synchronised::Written;
        }
        if after == Meaning::Reserved {
            self.violate(cpu, format!("{new:#x} written to {slot} is reserved at level {level} of {kind}"));
        }
        if is_valid {
            if !was_valid && self.unclean.contains_key(&slot.raw()) {
                self.violate(cpu, format!("{slot} is made valid before its old value is flushed ({kind})"));
            }
            self.unpublished.push((cpu, slot));
        }
        if let Meaning::Leaf(output) = after {
            self.check_leaf(cpu, slot, level, output);
        }
        let replaced = if was_valid && is_valid { conflict(kind, level, old, new) } else { None };
        if let Some(reason) = replaced {
            self.violate(cpu, format!("{slot} is replaced while valid, at level {level} of {kind}: {reason}"));
        }
        let same_table = matches!((before, after), (Meaning::Table(a), Meaning::Table(b)) if a == b);
        if same_table {
            return;
        }
        if was_valid && (!is_valid || replaced.is_some() || takes_rights(kind, old, new)) {
            if let Meaning::Table(next) = before {
                let group = self.next_group;
                self.next_group += 1;
                self.take_away(cpu, page, slot, offset, old, true, Some(group));
                self.unlink(cpu, next, group);
            } else {
                self.take_away(cpu, page, slot, offset, old, false, None);
            }
        }
        if let Meaning::Table(next) = after {
            self.link(cpu, next, TablePage { tree: page.tree, level: level + 1, offset });
        }
    }

    fn check_leaf(&mut self, cpu: usize, slot: PhysAddr, level: u8, output: u64) {
        if output & (entry_size(level) - 1) != 0 {
            self.violate(cpu, format!("the leaf at {slot} of level {level} maps to {output:#x}, which is misaligned"));
        }
    }

    // Barriers and maintenance.

    pub(crate) fn dsb(&mut self, cpu: usize, kind: DsbKind) {
        self.record(cpu, Event::Dsb(kind));
        for stale in self.stale.iter_mut().filter(|stale| stale.writer == cpu) {
            stale.dsb(kind);
        }
        let reaches_all = matches!(kind, DsbKind::Ish | DsbKind::Ishst | DsbKind::Sy) || self.cpus.len() == 1;
        if reaches_all {
            self.unpublished.retain(|(writer, _)| *writer != cpu);
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
        let has_stage2 = self.trees.iter().flatten().any(|tree| matches!(tree.kind, TreeKind::Stage2 { .. }));
        if vttbr_pending && has_stage2 && depends_on_vttbr(operation) {
            self.violate(cpu, format!("{operation:?} comes before the ISB that VTTBR_EL2 takes effect at"));
            return;
        }
        let vmid = (vttbr >> 48) as u16;
        for stale in self.stale.iter_mut().filter(|stale| stale.writer == cpu) {
            let tree = self.trees[stale.tree].as_ref().expect("a stale value belongs to a tree that is watched");
            stale.tlbi(tree, operation, vmid);
        }
    }

    pub(crate) fn load_vttbr(&mut self, cpu: usize, value: u64) -> u64 {
        self.record(cpu, Event::LoadVttbr(value));
        let vmid = (value >> 48) as u16;
        let root = value & 0xffff_ffff_fffe;
        for tree in self.trees.clone().iter().flatten() {
            let TreeKind::Stage2 { vmid: own } = tree.kind else {
                continue;
            };
            if (own == vmid) != (tree.root.raw() == root) {
                self.violate(cpu, format!("VTTBR_EL2 = {value:#x}, but VMID {own} belongs to the root {}", tree.root));
            }
        }
        let state = &mut self.cpus[cpu];
        state.vttbr_pending |= state.vttbr != value;
        std::mem::replace(&mut state.vttbr, value)
    }
}
