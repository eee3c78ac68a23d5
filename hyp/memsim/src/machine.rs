//! The machine as tests see it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::{Ipa, PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use pgtable::{El1Stage1, El2Stage1, MAIR_VALUE, Stage2};

use crate::casemate::Trace;
use crate::checker::State;
use crate::cpu::Cpu;
use crate::event::{Event, Violation};
use crate::locks::Lock;
use crate::tree::{Tree, TreeKind};

/// A translation that a CPU may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The address that the input translates to.
    pub output: PhysAddr,
    /// The leaf's descriptor.
    pub descriptor: u64,
    /// The leaf's level.
    pub level: u8,
    /// False where memory no longer says so, but a TLB may.
    pub current: bool,
}

/// A machine: memory, CPUs, and the judge that watches them. Clones share the same machine.
#[derive(Clone)]
pub struct Machine {
    state: Arc<Mutex<State>>,
}

impl Machine {
    /// A machine with `cpus` CPUs (1 to 64) whose table frames come out of `pool`. All memory, in the pool or not,
    /// reads as zero until it is written.
    pub fn new(cpus: usize, pool: PhysRange) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(cpus, pool))) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed on another thread must not hide what the machine saw.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The CPU with number `index`.
    pub fn cpu(&self, index: usize) -> Cpu {
        assert!(index < self.state().cpus(), "the machine has no CPU {index}");
        Cpu::new(self.clone(), index)
    }

    /// Takes `pages` zeroed frames out of the pool, side by side and aligned to their size, for a root. They do not count as
    /// allocated.
    pub fn take_root(&self, pages: u64) -> PhysAddr {
        self.state().take_root(pages).expect("the pool has no room for a root")
    }

    /// Puts a root back into the pool.
    pub fn return_root(&self, root: PhysRange) {
        self.state().return_root(root);
    }

    /// Watches a stage-2 table from now on, with what it holds.
    pub fn track_stage2(&self, table: &Stage2) {
        let mut state = self.state();
        state.trace_tree(table.root(), table.geometry(), &[("vtcr_el2", table.vtcr_el2())]);
        state.track(Tree {
            forced_write_back: table.config().fwb,
            hardware_access_flag: table.config().hardware_access_flag,
            ..Tree::new(TreeKind::Stage2 { vmid: table.vmid() }, table.root(), *table.geometry())
        });
    }

    /// Watches an EL2 stage-1 table from now on, with what it holds.
    pub fn track_el2(&self, table: &El2Stage1) {
        let registers = [("tcr_el2", table.tcr_el2()), ("mair_el2", MAIR_VALUE), ("ttbr0_el2", table.ttbr0_el2())];
        let mut state = self.state();
        state.trace_tree(table.root(), table.geometry(), &registers);
        state.track(Tree {
            hardware_access_flag: table.config().hardware_access_flag,
            ..Tree::new(TreeKind::El2, table.root(), *table.geometry())
        });
    }

    /// Watches an EL1 stage-1 table from now on, with what it holds.
    pub fn track_el1(&self, table: &El1Stage1) {
        let asid = u16::from(table.config().asid);
        self.state().track(Tree {
            hardware_access_flag: table.config().hardware_access_flag,
            ..Tree::new(TreeKind::El1 { asid }, table.root(), *table.geometry())
        });
    }

    /// Stops watching the tree at `root`. It is a violation if it still maps anything or is not clean.
    pub fn forget(&self, root: PhysAddr) {
        self.state().forget(root);
    }

    /// Declares a lock. A CPU may take it only while every lock that it holds has a lower `rank`.
    pub fn declare_lock(&self, name: &'static str, rank: u32) -> Lock {
        self.state().locks.declare(name, rank)
    }

    /// From now on, a descriptor of the tree at `root` is written by plain stores only while the CPU holds `lock`
    /// exclusively, and by compare-exchange only while it holds it at least shared.
    pub fn guard_tree(&self, root: PhysAddr, lock: Lock) {
        self.state().guard_tree(root, lock);
    }

    /// From now on, memory must be clean before the tree at `root` maps it: to the point of coherency where the leaf
    /// may bypass the caches, and out of the instruction caches where it is executable. What is written while the tree
    /// maps it is left to those who run behind the tree.
    pub fn guard_caches(&self, root: PhysAddr) {
        self.state().guard_caches(root);
    }

    /// Lets `count` more allocations succeed, and none after them.
    pub fn fail_allocations_after(&self, count: usize) {
        self.state().frames.limit(Some(count));
    }

    /// Lets allocations succeed as long as the pool lasts.
    pub fn allow_allocations(&self) {
        self.state().frames.limit(None);
    }

    /// Frames that are allocated now.
    pub fn allocated_frames(&self) -> usize {
        self.state().frames.allocated()
    }

    /// Frames that were handed out since the machine was made.
    pub fn allocations(&self) -> usize {
        self.state().frames.handed_out
    }

    /// The contents of a page.
    pub fn read_page(&self, pfn: Pfn) -> [u8; PAGE_SIZE as usize] {
        self.state().memory.bytes(pfn)
    }

    /// Sets the contents of a page, on `cpu`'s account. It is a violation if the page is a table that may be walked.
    pub fn write_page(&self, cpu: usize, pfn: Pfn, bytes: &[u8; PAGE_SIZE as usize]) {
        let mut state = self.state();
        state.page_write(cpu, pfn);
        state.memory.set_bytes(pfn, bytes);
    }

    /// Sets the word at `address`, 8-byte aligned; otherwise as [`write_page`](Self::write_page).
    pub fn write_word(&self, cpu: usize, address: PhysAddr, value: u64) {
        self.state().data_write(cpu, address, value);
    }

    /// Sets the word at `address`, 8-byte aligned, by the hand of nobody: a device's, or a stray pointer's. If it is a
    /// descriptor, the next CPU that reads or writes it is told that memory is not what it was left as.
    pub fn corrupt(&self, address: PhysAddr, value: u64) {
        self.state().corrupt(address, value);
    }

    /// Sets all bytes of a page to zero; otherwise as [`write_page`](Self::write_page).
    pub fn zero_page(&self, cpu: usize, pfn: Pfn) {
        let mut state = self.state();
        state.page_write(cpu, pfn);
        state.memory.zero(pfn);
    }

    /// Sets all bytes of a page to `byte`; otherwise as [`write_page`](Self::write_page).
    pub fn fill_page(&self, cpu: usize, pfn: Pfn, byte: u8) {
        self.write_page(cpu, pfn, &[byte; PAGE_SIZE as usize]);
    }

    /// True where some line of a page was written since it was last cleaned to the point of coherency: an observer that
    /// bypasses the caches may see what was there before.
    pub fn is_dirty(&self, pfn: Pfn) -> bool {
        self.state().is_dirty(pfn)
    }

    /// True where some line of a page was written and the instruction cache was not invalidated after the line was cleaned
    /// to the point of unification: an instruction fetch may see what was there before.
    pub fn may_fetch_stale(&self, pfn: Pfn) -> bool {
        self.state().may_fetch_stale(pfn)
    }

    /// The word at `address`, 8-byte aligned.
    pub fn read_word(&self, address: PhysAddr) -> u64 {
        self.state().memory.read(address)
    }

    /// Every translation of `input` that some CPU may use: what the tables in memory say first, then what a TLB may still
    /// hold.
    pub fn translations(&self, kind: TreeKind, input: u64) -> Vec<Translation> {
        self.state().translations(kind, input)
    }

    /// Every physical address that some CPU may reach at `ipa` of `vmid`.
    pub fn reachable(&self, vmid: u16, ipa: Ipa) -> Vec<PhysAddr> {
        let translations = self.translations(TreeKind::Stage2 { vmid }, ipa.raw());
        translations.into_iter().map(|translation| translation.output).collect()
    }

    /// Every stage-2 tree through which some CPU may reach the page at `page`, by what memory says or by what a TLB may
    /// still hold.
    pub fn stage2_of(&self, page: PhysAddr) -> Vec<TreeKind> {
        self.state().stage2_of(page)
    }

    /// The tree that the descriptor at `descriptor` is part of, if any: that of its root, or of a table that is linked.
    pub fn tree_of(&self, descriptor: PhysAddr) -> Option<TreeKind> {
        self.state().tree_of(descriptor)
    }

    /// The rules that were broken so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.state().violations.clone()
    }

    /// All events so far, the oldest left out where there are very many, with the CPU of each.
    pub fn events(&self) -> Vec<(usize, Event)> {
        self.state().history.iter().copied().collect()
    }

    /// Keeps all events from now on for [`casemate_trace`](Self::casemate_trace).
    ///
    /// # Panics
    /// Where something has happened on the machine already.
    pub fn start_trace(&self) {
        let mut state = self.state();
        assert!(state.history.is_empty(), "a trace begins with the machine");
        state.trace = Some(Trace::default());
    }

    /// What has happened since [`start_trace`](Self::start_trace), as a trace that the checker *casemate* (version 3)
    /// can run: one s-expression a line. Its check of locks is for trees whose lock is always held exclusively, by
    /// [`guard_tree`](Self::guard_tree); where that is not so, it must be off.
    ///
    /// # Panics
    /// Where no trace was started.
    pub fn casemate_trace(&self) -> String {
        self.state().trace.as_ref().expect("a trace was started").text().to_owned()
    }

    /// What is unfinished now: translations that were taken away and may still be used, writes and register changes
    /// that no barrier has made visible. Nothing of it is a mistake while an operation runs, all of it is afterwards.
    pub fn unfinished(&self) -> Vec<String> {
        self.state().unfinished()
    }

    /// Passes where no rule was broken so far and nothing is unfinished.
    ///
    /// # Panics
    /// With the violations and the events that led to them, where that is not so.
    #[track_caller]
    pub fn assert_clean(&self) {
        let state = self.state();
        let mut report: String = state.violations.iter().map(|violation| format!("{violation}\n")).collect();
        let unfinished = state.unfinished();
        if !unfinished.is_empty() {
            for line in &unfinished {
                report.push_str(&format!("unfinished: {line}\n"));
            }
            for (cpu, event) in state.recent() {
                report.push_str(&format!("    CPU {cpu}: {event}\n"));
            }
        }
        drop(state);
        assert!(report.is_empty(), "{report}");
    }

    /// Passes where no frame of the pool is allocated.
    ///
    /// # Panics
    /// Where a frame is.
    #[track_caller]
    pub fn assert_no_leak(&self) {
        let allocated = self.allocated_frames();
        assert_eq!(allocated, 0, "{allocated} frames were not given back");
    }
}
