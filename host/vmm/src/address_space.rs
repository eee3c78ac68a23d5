//! A guest's address space: a tree of regions that is changed by transactions, and those who follow what it looks like.

use crate::flat_view::{FlatRange, FlatView};
use crate::region::{Content, RegionError, RegionId, RegionTree};
use abi::Ipa;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

/// How one view differs from another. Each list is sorted by address.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    /// Ranges that are no more.
    pub removed: Vec<FlatRange>,
    /// Ranges that are new.
    pub added: Vec<FlatRange>,
    /// Ranges that stay, with another dirty logging, as they are now.
    pub logging_changed: Vec<FlatRange>,
}

impl Changes {
    /// What makes `new` out of `old`.
    pub fn between(old: &FlatView, new: &FlatView) -> Self {
        let mut changes = Self::default();
        let (mut old, mut new) = (old.ranges().iter().peekable(), new.ranges().iter().peekable());
        loop {
            match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(before), Some(after)) if before.is_same(after) => {
                    if before != after {
                        changes.logging_changed.push(**after);
                    }
                    old.next();
                    new.next();
                }
                // Of two that differ at the same address, the old one goes, and the new one is looked at again.
                (Some(before), after) if after.is_none_or(|after| before.start <= after.start) => {
                    changes.removed.extend(old.next());
                }
                _ => changes.added.extend(new.next()),
            }
        }
    }

    /// True where the views look the same.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty() && self.logging_changed.is_empty()
    }
}

/// Why a listener cannot follow a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The memory at this address does not start and end on page boundaries, in the guest or in what is behind it.
    Unaligned(Ipa),
    /// The listener has something else at this address.
    Overlap(Ipa),
    /// There are more stretches of memory than there can be.
    TooMany,
    /// The listener does not know the device at this address.
    NoSuchDevice(Ipa),
    /// The guest cannot have what is to be at this address.
    Unsupported(Ipa),
}

/// Who follows what an address space looks like. It is first asked about a change as a whole, and then, where nobody
/// objects, told each part of it: what is removed, then what is added, each by address.
pub trait Listener {
    /// Whether the listener can follow the change.
    ///
    /// # Errors
    /// [`Refusal`]: the change does not come.
    fn check(&self, changes: &Changes) -> Result<(), Refusal>;

    /// A range is no more. Its bytes may be part of a range that is added.
    fn removed(&mut self, range: &FlatRange);

    /// A range is new.
    fn added(&mut self, range: &FlatRange);

    /// From now on it is noted which pages of a range the guest writes, or no longer, as `range` says.
    fn logging_changed(&mut self, _range: &FlatRange) {}
}

/// The address space.
#[derive(Debug)]
pub struct AddressSpace {
    tree: RegionTree,
    root: RegionId,
    view: FlatView,
}

impl AddressSpace {
    /// An address space of `size` bytes where nothing is.
    ///
    /// # Errors
    /// `BadRange` where the size is 0.
    pub fn new(size: u64) -> Result<Self, RegionError> {
        let mut tree = RegionTree::new();
        let root = tree.create("root", size, Content::Container)?;
        Ok(Self { tree, root, view: FlatView::new() })
    }

    /// The region that holds all that is to be seen.
    pub const fn root(&self) -> RegionId {
        self.root
    }

    /// The regions.
    pub const fn tree(&self) -> &RegionTree {
        &self.tree
    }

    /// What it looks like.
    pub const fn view(&self) -> &FlatView {
        &self.view
    }

    /// Begins to change the regions. Nobody sees anything of it until it is committed.
    pub fn begin(&mut self) -> Transaction<'_> {
        Transaction { tree: self.tree.clone(), space: self }
    }
}

/// A change of an address space: a copy of its tree to be changed. Where it is dropped, nothing has happened.
#[derive(Debug)]
pub struct Transaction<'a> {
    tree: RegionTree,
    space: &'a mut AddressSpace,
}

impl Deref for Transaction<'_> {
    type Target = RegionTree;

    fn deref(&self) -> &RegionTree {
        &self.tree
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut RegionTree {
        &mut self.tree
    }
}

impl Transaction<'_> {
    /// What the address space will look like.
    pub fn view(&self) -> FlatView {
        FlatView::of(&self.tree, self.space.root)
    }

    /// Makes the change, and tells `listeners`, one after the other.
    ///
    /// # Errors
    /// The first listener's [`Refusal`]; then nothing has happened, and no listener was told anything.
    pub fn commit(self, listeners: &mut [&mut dyn Listener]) -> Result<(), Refusal> {
        let view = self.view();
        let changes = Changes::between(&self.space.view, &view);
        if !changes.is_empty() {
            listeners.iter().try_for_each(|listener| listener.check(&changes))?;
            for listener in listeners {
                changes.removed.iter().for_each(|range| listener.removed(range));
                changes.added.iter().for_each(|range| listener.added(range));
                changes.logging_changed.iter().for_each(|range| listener.logging_changed(range));
            }
        }
        self.space.tree = self.tree;
        self.space.view = view;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::BackingId;
    use alloc::format;
    use alloc::string::String;

    /// Writes down what it is told, and refuses what reaches `limit`.
    #[derive(Default)]
    struct Recorder {
        told: Vec<String>,
        limit: u64,
    }

    impl Recorder {
        fn note(&mut self, what: &str, range: &FlatRange) {
            self.told.push(format!("{what}{:x}+{:x}", range.start.raw(), range.size));
        }
    }

    impl Listener for Recorder {
        fn check(&self, changes: &Changes) -> Result<(), Refusal> {
            let beyond = changes.added.iter().find(|range| range.end().raw() > self.limit);
            beyond.map_or(Ok(()), |range| Err(Refusal::Unaligned(range.start)))
        }
        fn removed(&mut self, range: &FlatRange) {
            self.note("-", range);
        }
        fn added(&mut self, range: &FlatRange) {
            self.note("+", range);
        }
        fn logging_changed(&mut self, range: &FlatRange) {
            self.note(if range.dirty_logging { "l" } else { "n" }, range);
        }
    }

    const RAM: Content = Content::Ram(BackingId(0));

    /// RAM at 0x1000, 0x2000 bytes, and at 0x5000, 0x1000 bytes.
    fn space(listener: &mut Recorder) -> (AddressSpace, [RegionId; 2]) {
        let mut space = AddressSpace::new(1 << 32).unwrap();
        let root = space.root();
        let mut transaction = space.begin();
        let regions = [(0x1000, 0x2000), (0x5000, 0x1000)].map(|(start, size)| {
            let region = transaction.create("ram", size, RAM).unwrap();
            transaction.add(root, region, start, 0).unwrap();
            region
        });
        transaction.commit(&mut [listener]).unwrap();
        (space, regions)
    }

    fn listener() -> Recorder {
        Recorder { told: Vec::new(), limit: u64::MAX }
    }

    #[test]
    fn listeners_hear_what_goes_before_what_comes_and_nothing_of_what_stays() {
        let mut listener = listener();
        let (mut space, [first, second]) = space(&mut listener);
        assert_eq!(listener.told, ["+1000+2000", "+5000+1000"]);
        listener.told.clear();

        let root = space.root();
        let mut transaction = space.begin();
        transaction.set_offset(first, 0x8000).unwrap();
        let hole = transaction.create("hole", 0x100, Content::Rom(BackingId(1))).unwrap();
        transaction.add(root, hole, 0x5800, 1).unwrap();
        transaction.commit(&mut [&mut listener]).unwrap();
        assert_eq!(listener.told, ["-1000+2000", "-5000+1000", "+5000+800", "+5800+100", "+5900+700", "+8000+2000"]);
        listener.told.clear();

        let mut transaction = space.begin();
        transaction.set_dirty_logging(first, true).unwrap();
        transaction.detach(second).unwrap();
        transaction.detach(hole).unwrap();
        transaction.commit(&mut [&mut listener]).unwrap();
        assert_eq!(listener.told, ["-5000+800", "-5800+100", "-5900+700", "l8000+2000"]);
        listener.told.clear();

        space.begin().commit(&mut [&mut listener]).unwrap();
        assert!(listener.told.is_empty());
    }

    #[test]
    fn a_change_within_one_transaction_that_undoes_itself_is_none() {
        let mut listener = listener();
        let (mut space, [first, _]) = space(&mut listener);
        listener.told.clear();
        let mut transaction = space.begin();
        transaction.set_enabled(first, false).unwrap();
        transaction.set_enabled(first, true).unwrap();
        transaction.commit(&mut [&mut listener]).unwrap();
        assert!(listener.told.is_empty());
    }

    #[test]
    fn a_transaction_that_is_dropped_or_refused_leaves_everything_as_it_was() {
        let (mut willing, mut unwilling) = (listener(), Recorder { limit: 0x6000, ..listener() });
        let (mut space, [first, _]) = space(&mut willing);
        willing.told.clear();
        let before = space.view().clone();
        space.begin().set_enabled(first, false).unwrap();
        assert_eq!(*space.view(), before);

        let mut transaction = space.begin();
        transaction.set_offset(first, 0x7000).unwrap();
        let refused = transaction.commit(&mut [&mut willing, &mut unwilling]);
        assert_eq!(refused, Err(Refusal::Unaligned(Ipa::new(0x7000))));
        assert!(willing.told.is_empty() && unwilling.told.is_empty());
        assert_eq!(*space.view(), before);
        assert_eq!(FlatView::of(space.tree(), space.root()), before);
    }
}
