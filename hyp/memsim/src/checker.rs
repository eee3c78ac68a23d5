//! The judge: follows every event, and knows at any time what a CPU may still use.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use abi::{Pfn, PhysAddr, PhysRange};
use pgtable::geometry::entry_size;

use crate::caches::Caches;
use crate::casemate::Trace;
use crate::event::{Event, Violation};
use crate::foreign::Foreign;
use crate::frames::Frames;
use crate::locks::{Locks, Store};
use crate::maintenance::VmidUse;
use crate::memory::Memory;
use crate::outputs::Outputs;
use crate::rules::{Meaning, conflict, meaning, takes_rights};
use crate::stale::Stale;
use crate::tree::{TablePage, Tree};

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
    pub(crate) vttbr: u64,
    /// VTTBR_EL2 was written, and no ISB followed.
    pub(crate) vttbr_pending: bool,
    pub(crate) own_regime: Synchronised,
}

impl CpuState {
    /// The root in VTTBR_EL2.
    pub(crate) const fn root(&self) -> u64 {
        self.vttbr & 0xffff_ffff_fffe
    }
}

/// A page that was unlinked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detached {
    /// Index of the tree that it was part of.
    pub(crate) tree: usize,
    /// The unlinking.
    pub(crate) group: u64,
}

pub(crate) struct State {
    pub(crate) memory: Memory,
    pub(crate) frames: Frames,
    pub(crate) violations: Vec<Violation>,
    pub(crate) history: VecDeque<(usize, Event)>,
    /// The trace for casemate, where one is made.
    pub(crate) trace: Option<Trace>,
    pub(crate) cpus: Vec<CpuState>,
    pub(crate) trees: Vec<Option<Tree>>,
    /// What each tree maps, by its index.
    pub(crate) outputs: Vec<Outputs>,
    /// Pages that are part of a tree, by frame number.
    pub(crate) live: BTreeMap<u64, TablePage>,
    /// Pages that were unlinked, by frame number; kept until that is clean.
    pub(crate) detached: BTreeMap<u64, Detached>,
    pub(crate) stale: Vec<Stale>,
    /// Slots with a stale value.
    pub(crate) unclean: HashSet<u64>,
    /// Descriptors that do not hold what was written there.
    pub(crate) foreign: HashMap<u64, Foreign>,
    pub(crate) locks: Locks,
    /// Descriptors that are marked as being changed, with the CPU that changes them.
    pub(crate) marked: HashMap<u64, usize>,
    /// VMIDs that were loaded, with what they were used for.
    pub(crate) vmids: HashMap<u16, VmidUse>,
    /// Valid descriptors that were written and that no DSB has made visible, with the CPU.
    pub(crate) unpublished: Vec<(usize, PhysAddr)>,
    pub(crate) caches: Caches,
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
            trace: None,
            cpus: vec![cpu; cpus],
            trees: Vec::new(),
            outputs: Vec::new(),
            live: BTreeMap::new(),
            detached: BTreeMap::new(),
            stale: Vec::new(),
            unclean: HashSet::new(),
            foreign: HashMap::new(),
            locks: Locks::default(),
            marked: HashMap::new(),
            vmids: HashMap::new(),
            unpublished: Vec::new(),
            caches: Caches::default(),
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
        if let Some(trace) = &mut self.trace {
            trace.event(cpu, &event);
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((cpu, event));
    }

    pub(crate) fn recent(&self) -> Vec<(usize, Event)> {
        self.history.iter().skip(self.history.len().saturating_sub(RECENT)).copied().collect()
    }

    pub(crate) fn violate(&mut self, cpu: usize, message: String) {
        let history = self.recent();
        self.violations.push(Violation { cpu, message, history });
    }

    /// A page that a walker may read is about to be used for something else.
    pub(crate) fn check_untouched(&mut self, cpu: usize, frame: PhysAddr, what: &str) {
        self.check_unused(cpu, frame, what);
        if let Some(holder) = self.holder_of(frame)
            && !self.live.contains_key(&Pfn::containing(frame).raw())
        {
            self.violate(cpu, format!("{frame} is {what}, but VTTBR_EL2 of CPU {holder} holds it as a root"));
        }
    }

    /// A page is about to become something else: it must not be a table.
    pub(crate) fn check_unused(&mut self, cpu: usize, frame: PhysAddr, what: &str) {
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
        if self.live.contains_key(&pfn.raw()) {
            self.page_lost(pfn);
        }
        self.page_written(pfn);
    }

    /// Writes a word that is data.
    pub(crate) fn data_write(&mut self, cpu: usize, address: PhysAddr, new: u64) {
        let old = self.memory.read(address);
        self.record(cpu, Event::Write { address, old, new });
        let pfn = Pfn::containing(address);
        self.check_untouched(cpu, PhysAddr::new(pfn.raw() << 12), "overwritten");
        if self.live.contains_key(&pfn.raw()) {
            self.page_lost(pfn);
        }
        self.word_written(address);
        self.memory.write(address, new);
    }

    pub(crate) fn read(&mut self, cpu: usize, slot: PhysAddr) -> u64 {
        if !self.foreign.is_empty() {
            self.check_expected(cpu, slot);
        }
        self.memory.read(slot)
    }

    pub(crate) fn write(&mut self, cpu: usize, slot: PhysAddr, new: u64, store: Store) {
        let old = self.memory.read(slot);
        self.record(cpu, Event::Write { address: slot, old, new });
        let pfn = Pfn::containing(slot);
        if let Some(page) = self.live.get(&pfn.raw()).copied() {
            self.check_lock(cpu, page, slot, new, store);
            let mut expected = old;
            if !self.foreign.is_empty() {
                self.check_expected(cpu, slot);
                expected = self.expected(slot);
                self.foreign.remove(&slot.raw());
            }
            self.write_descriptor(cpu, page, slot, expected, new);
        } else {
            self.check_unused(cpu, slot, "written");
        }
        self.word_written(slot);
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
        if self.unclean.contains(&slot.raw()) {
            self.stale.iter_mut().filter(|stale| stale.slot == slot).for_each(|stale| stale.overwritten(cpu));
        }
        let was_valid = before != Meaning::Invalid;
        let is_valid = after != Meaning::Invalid;
        if (was_valid || is_valid) && !kind.is_stage2() {
            self.cpus[cpu].own_regime = Synchronised::Written;
        }
        if after == Meaning::Reserved {
            self.violate(cpu, format!("{new:#x} written to {slot} is reserved at level {level} of {kind}"));
        }
        if is_valid {
            if !was_valid {
                self.check_flushed(cpu, page.tree, slot, offset, entry_size(level));
            }
            self.unpublished.push((cpu, slot));
        }
        self.outputs[page.tree].remove(old, level);
        self.outputs[page.tree].add(new, level);
        if let Meaning::Leaf(output) = after {
            self.check_leaf(cpu, page, slot, new, output);
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

    /// A descriptor becomes valid: nothing that decided for the same input may be left in a TLB.
    fn check_flushed(&mut self, cpu: usize, tree: usize, slot: PhysAddr, offset: u64, size: u64) {
        let kind = self.tree(tree).kind;
        if self.unclean.contains(&slot.raw()) {
            self.violate(cpu, format!("{slot} is made valid before its old value is flushed ({kind})"));
            return;
        }
        let overlaps =
            |stale: &&Stale| stale.tree == tree && stale.offset < offset + size && offset < stale.offset + stale.size;
        if let Some(stale) = self.stale.iter().find(overlaps) {
            let beneath = stale.slot;
            self.violate(
                cpu,
                format!("{slot} is made valid before {beneath}, which decided for the same input, is flushed ({kind})"),
            );
        }
    }

    /// A leaf becomes valid.
    pub(crate) fn check_leaf(&mut self, cpu: usize, page: TablePage, slot: PhysAddr, value: u64, output: u64) {
        let level = page.level;
        let Tree { kind, geometry, .. } = *self.tree(page.tree);
        if output & (entry_size(level) - 1) != 0 {
            self.violate(cpu, format!("the leaf at {slot} of level {level} maps to {output:#x}, which is misaligned"));
        }
        if output >> geometry.output_bits() != 0 {
            let bits = geometry.output_bits();
            self.violate(cpu, format!("{slot} of {kind} maps to {output:#x}, which is beyond {bits} bits"));
        }
        self.check_reaches_no_table(cpu, kind, slot, output, level);
        self.check_clean(cpu, page.tree, slot, value, level, output);
    }
}
