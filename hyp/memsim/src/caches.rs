//! Data and instruction caches, by line: which writes have not got as far as those who look elsewhere.

use std::collections::{BTreeMap, HashMap};

use abi::{PAGE_SIZE, Pfn, PhysAddr, PhysRange};
use pgtable::geometry::entry_size;

use crate::checker::State;
use crate::event::Event;
use crate::rules;

/// Bytes of a line.
const LINE: u64 = 64;
/// A page, one bit for each of its lines.
const ALL_LINES: u64 = u64::MAX;

/// The lines of one page, one bit each.
#[derive(Clone, Copy, Default)]
struct Lines {
    /// Written and not cleaned to the point of coherency.
    dirty: u64,
    /// Written and not cleaned to the point of unification.
    not_unified: u64,
    /// Written, and the instruction cache was not invalidated after they were cleaned.
    not_fetched: u64,
}

impl Lines {
    fn is_settled(&self) -> bool {
        self.dirty | self.not_unified | self.not_fetched == 0
    }
}

/// The caches of the machine.
#[derive(Default)]
pub(crate) struct Caches {
    /// Pages with a line that somebody may not see yet, by frame number.
    pages: BTreeMap<u64, Lines>,
    /// For a tree that guards its caches and a frame number: lines that were last written while the tree mapped them. Those
    /// who run behind the tree answer for these themselves.
    own: HashMap<(usize, u64), u64>,
}

/// The line, as a bit, of the word at `address`.
fn line_of(address: PhysAddr) -> u64 {
    1 << (address.page_offset() / LINE)
}

/// The pages that `range` touches, by frame number.
fn pages(range: &PhysRange) -> std::ops::Range<u64> {
    if range.start < range.end { range.start.raw() / PAGE_SIZE..range.end.raw().div_ceil(PAGE_SIZE) } else { 0..0 }
}

/// The lines that `range` touches of a page that it touches.
fn lines(range: &PhysRange, pfn: u64) -> u64 {
    let base = pfn * PAGE_SIZE;
    let from = range.start.raw().saturating_sub(base) / LINE;
    let to = (range.end.raw() - base).min(PAGE_SIZE).div_ceil(LINE);
    ALL_LINES << from & ALL_LINES >> (PAGE_SIZE / LINE - to)
}

impl Caches {
    /// Calls `change` with what is kept of each page that `range` touches, and with the touched lines.
    fn maintain(&mut self, range: PhysRange, change: impl Fn(&mut Lines, u64)) {
        let mut settled = Vec::new();
        for (pfn, page) in self.pages.range_mut(pages(&range)) {
            change(page, lines(&range, *pfn));
            if page.is_settled() {
                settled.push(*pfn);
            }
        }
        for pfn in settled {
            self.pages.remove(&pfn);
        }
    }

    /// The first line from `start` to `end` that `select` picks, of those that are not the tree's own.
    fn first(&self, tree: usize, start: u64, end: u64, select: impl Fn(&Lines) -> u64) -> Option<PhysAddr> {
        self.pages.range(start / PAGE_SIZE..end / PAGE_SIZE).find_map(|(pfn, lines)| {
            let own = self.own.get(&(tree, *pfn)).copied().unwrap_or(0);
            let left = select(lines) & !own;
            (left != 0).then(|| PhysAddr::new(pfn * PAGE_SIZE + u64::from(left.trailing_zeros()) * LINE))
        })
    }
}

impl State {
    /// The whole page was written.
    pub(crate) fn page_written(&mut self, pfn: Pfn) {
        self.lines_written(pfn, ALL_LINES);
    }

    /// The word at `address` was written.
    pub(crate) fn word_written(&mut self, address: PhysAddr) {
        self.lines_written(Pfn::containing(address), line_of(address));
    }

    fn lines_written(&mut self, pfn: Pfn, mask: u64) {
        let pfn = pfn.raw();
        let lines = self.caches.pages.entry(pfn).or_default();
        lines.dirty |= mask;
        lines.not_unified |= mask;
        lines.not_fetched |= mask;
        for (index, tree) in self.trees.iter().enumerate() {
            if tree.is_some_and(|tree| tree.guards_caches) {
                let own = self.caches.own.entry((index, pfn)).or_default();
                if self.outputs[index].reach(pfn) {
                    *own |= mask;
                } else {
                    *own &= !mask;
                }
            }
        }
    }

    pub(crate) fn clean_invalidate(&mut self, cpu: usize, range: PhysRange) {
        self.record(cpu, Event::CleanInvalidate(range));
        self.caches.maintain(range, |lines, mask| {
            lines.dirty &= !mask;
            lines.not_unified &= !mask;
        });
    }

    pub(crate) fn clean_to_pou(&mut self, cpu: usize, range: PhysRange) {
        self.record(cpu, Event::CleanToPou(range));
        self.caches.maintain(range, |lines, mask| lines.not_unified &= !mask);
    }

    pub(crate) fn invalidate_instructions(&mut self, cpu: usize, range: PhysRange) {
        self.record(cpu, Event::InvalidateInstructionCache(range));
        // A line that is not at the point of unification may be fetched again as it was.
        self.caches.maintain(range, |lines, mask| lines.not_fetched &= !(mask & !lines.not_unified));
    }

    pub(crate) fn is_dirty(&self, pfn: Pfn) -> bool {
        self.caches.pages.get(&pfn.raw()).is_some_and(|lines| lines.dirty != 0)
    }

    pub(crate) fn may_fetch_stale(&self, pfn: Pfn) -> bool {
        self.caches.pages.get(&pfn.raw()).is_some_and(|lines| lines.not_fetched != 0)
    }

    pub(crate) fn guard_caches(&mut self, root: PhysAddr) {
        let (index, tree) = self.tree_at(root);
        tree.guards_caches = true;
        for (pfn, lines) in &self.caches.pages {
            if self.outputs[index].reach(*pfn) {
                self.caches.own.insert((index, *pfn), lines.dirty | lines.not_unified | lines.not_fetched);
            }
        }
    }

    /// A leaf is made valid: what it leads to must be clean, if the tree asks for that.
    pub(crate) fn check_clean(&mut self, cpu: usize, index: usize, slot: PhysAddr, value: u64, level: u8, output: u64) {
        let tree = *self.tree(index);
        if !tree.guards_caches {
            return;
        }
        let (start, end) = (output, output + entry_size(level));
        if rules::may_bypass_caches(&tree, value)
            && let Some(line) = self.caches.first(index, start, end, |lines| lines.dirty)
        {
            let kind = tree.kind;
            self.violate(cpu, format!("{slot} of {kind} may bypass the caches, but the line at {line} is dirty"));
        }
        if rules::is_executable(tree.kind, value)
            && let Some(line) = self.caches.first(index, start, end, |lines| lines.not_fetched)
        {
            let kind = tree.kind;
            self.violate(cpu, format!("{slot} of {kind} is executable, but what was at {line} may still be fetched"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_touches_every_line_that_it_has_a_byte_of() {
        let touched = |start: u64, end: u64| -> Vec<(u64, u64)> {
            let range = PhysRange { start: PhysAddr::new(start), end: PhysAddr::new(end) };
            pages(&range).map(|pfn| (pfn, lines(&range, pfn))).collect()
        };
        assert_eq!(touched(0x1000, 0x2000), [(1, ALL_LINES)]);
        assert_eq!(touched(0x103f, 0x1041), [(1, 0b11)]);
        assert_eq!(touched(0x1040, 0x1041), [(1, 0b10)]);
        assert_eq!(touched(0x1fff, 0x3001), [(1, 1 << 63), (2, ALL_LINES), (3, 1)]);
        assert_eq!(touched(0x1000, 0x1000), []);
        assert_eq!(touched(0x1001, 0x1001), []);
    }
}
