//! What may be asked of the machine at any time: the translations that a CPU may use, and what is left to be done.

use abi::{Pfn, PhysAddr};
use pgtable::geometry::entry_size;

use crate::checker::{State, Synchronised};
use crate::machine::Translation;
use crate::rules::{Meaning, meaning};
use crate::tree::TreeKind;

impl State {
    pub(crate) fn translations(&self, kind: TreeKind, input: u64) -> Vec<Translation> {
        let found = self.trees.iter().position(|tree| tree.is_some_and(|tree| tree.kind == kind));
        let Some(index) = found else {
            return Vec::new();
        };
        let tree = self.tree(index);
        let offset = input.wrapping_sub(tree.geometry.input_base());
        if offset >= tree.geometry.input_size() {
            return Vec::new();
        }
        let mut translations = Vec::new();
        let mut table = tree.root.raw();
        let mut base = 0;
        for level in tree.geometry.start_level()..=3 {
            let size = entry_size(level);
            let entry = (offset - base) / size;
            let descriptor = self.memory.read(PhysAddr::new(table + entry * 8));
            base += entry * size;
            match meaning(descriptor, level) {
                Meaning::Table(next) => table = next,
                Meaning::Leaf(output) => {
                    let output = PhysAddr::new(output + (offset - base));
                    translations.push(Translation { output, descriptor, level, current: true });
                    break;
                }
                Meaning::Invalid | Meaning::Reserved => break,
            }
        }
        let old = self
            .stale
            .iter()
            .filter(|stale| stale.tree == index && stale.offset <= offset && offset - stale.offset < stale.size);
        for stale in old {
            if let Meaning::Leaf(output) = meaning(stale.value, stale.level) {
                let output = PhysAddr::new(output + (offset - stale.offset));
                translations.push(Translation { output, descriptor: stale.value, level: stale.level, current: false });
            }
        }
        translations
    }

    pub(crate) fn tree_of(&self, descriptor: PhysAddr) -> Option<TreeKind> {
        let page = self.live.get(&Pfn::containing(descriptor).raw())?;
        Some(self.tree(page.tree).kind)
    }

    pub(crate) fn unfinished(&self) -> Vec<String> {
        let stale = self.stale.iter().map(|stale| {
            let tree = self.tree(stale.tree);
            format!(
                "{}: what {} held, {:#x} for input {:#x} at level {}, may still be used (CPUs {:#b})",
                tree.kind,
                stale.slot,
                stale.value,
                tree.geometry.input_base().wrapping_add(stale.offset),
                stale.level,
                stale.holders
            )
        });
        let unpublished =
            self.unpublished.iter().map(|(cpu, slot)| format!("CPU {cpu}: {slot} is written, but no DSB followed"));
        let cpus = self.cpus.iter().enumerate().flat_map(|(cpu, state)| {
            let vttbr = state.vttbr_pending.then(|| format!("CPU {cpu}: VTTBR_EL2 is written, but no ISB followed"));
            let own = (state.own_regime != Synchronised::Yes)
                .then(|| format!("CPU {cpu}: a descriptor of its own regime is written, but no DSB and ISB followed"));
            vttbr.into_iter().chain(own)
        });
        let locks = self.locks.all_held().map(|(cpu, lock)| format!("CPU {cpu}: {lock} is still held"));
        let foreign = self.unnoticed().map(|(slot, expected)| {
            format!("{slot} does not hold {expected:#x}, which was written there: another wrote to it")
        });
        stale.chain(unpublished).chain(cpus).chain(locks).chain(foreign).collect()
    }
}
