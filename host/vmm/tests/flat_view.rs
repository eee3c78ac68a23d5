//! Flat views against a model that asks the tree anew for each address, over address spaces of a few units, and what
//! listeners are told against the views themselves.

use proptest::prelude::*;
use vmm::address_space::{AddressSpace, Changes, Listener, Refusal};
use vmm::flat_view::{FlatContent, FlatRange, FlatView};
use vmm::mmio::{Bus, DeviceId, MmioDevice};
use vmm::region::{BackingId, Content, RegionId, RegionTree};

/// Units of the address space. Regions may reach beyond it.
const UNITS: u64 = 64;

struct Nothing;

impl MmioDevice for Nothing {
    fn read(&mut self, _offset: u64, _width: u64) -> u64 {
        0
    }
    fn write(&mut self, _offset: u64, _width: u64, _value: u64) {}
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Container,
    Ram,
    Rom,
    RomDevice,
    Mmio,
    /// Of the region with this index, modulo those that there are.
    Alias(usize, u64),
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    size: u64,
    enabled: bool,
    logging: bool,
    reads_memory: bool,
    /// Index, offset, priority and the number of the moment at which it was put there.
    parent: Option<(usize, u64, i32, usize)>,
}

/// What an address shows: the region's index, the offset in it, and whether writes are noted.
type Seen = Option<(usize, u64, bool)>;

/// The model: a list of nodes, and one question.
#[derive(Clone, Default, Debug)]
struct Model(Vec<Node>);

impl Model {
    fn resolve(&self, index: usize, address: i64, depth: usize) -> Seen {
        assert!(depth <= 2 * self.0.len(), "the tree has a cycle");
        let node = &self.0[index];
        if !node.enabled || address < 0 || address >= node.size as i64 {
            return None;
        }
        if let Kind::Alias(target, offset) = node.kind {
            return self.resolve(target, address + offset as i64, depth + 1);
        }
        let mut children: Vec<_> = (0..self.0.len())
            .filter_map(|child| self.0[child].parent.filter(|parent| parent.0 == index).map(|parent| (child, parent)))
            .collect();
        children.sort_by_key(|(_, (_, _, priority, moment))| std::cmp::Reverse((*priority, *moment)));
        let inner = children
            .iter()
            .find_map(|(child, (_, offset, ..))| self.resolve(*child, address - *offset as i64, depth + 1));
        inner.or((!matches!(node.kind, Kind::Container)).then_some((index, address as u64, node.logging)))
    }

    fn map(&self) -> Vec<Seen> {
        (0..UNITS).map(|address| self.resolve(0, address as i64, 0)).collect()
    }
}

/// One change; indexes are taken modulo the regions that there are.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Create(Kind, u64),
    Add(usize, usize, u64, i32),
    Detach(usize),
    SetOffset(usize, u64),
    SetEnabled(usize, bool),
    SetLogging(usize, bool),
    SetAliasOffset(usize, u64),
    SetReadsMemory(usize, bool),
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Container),
        4 => Just(Kind::Ram),
        2 => Just(Kind::Rom),
        1 => Just(Kind::RomDevice),
        2 => Just(Kind::Mmio),
        4 => (any::<usize>(), 0..40u64).prop_map(|(target, offset)| Kind::Alias(target, offset)),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<usize>;
    prop_oneof![
        6 => (kind(), 1..50u64).prop_map(|(kind, size)| Edit::Create(kind, size)),
        // The root is asked for often, for little is seen otherwise.
        6 => (index(), 0..UNITS, -2..3i32).prop_map(|(child, offset, priority)| Edit::Add(0, child, offset, priority)),
        4 => (index(), index(), 0..40u64, -2..3i32).prop_map(|(a, b, offset, priority)| Edit::Add(a, b, offset, priority)),
        1 => index().prop_map(Edit::Detach),
        1 => (index(), 0..UNITS).prop_map(|(index, offset)| Edit::SetOffset(index, offset)),
        1 => (index(), any::<bool>()).prop_map(|(index, on)| Edit::SetEnabled(index, on)),
        1 => (index(), any::<bool>()).prop_map(|(index, on)| Edit::SetLogging(index, on)),
        1 => (index(), 0..40u64).prop_map(|(index, offset)| Edit::SetAliasOffset(index, offset)),
        1 => (index(), any::<bool>()).prop_map(|(index, on)| Edit::SetReadsMemory(index, on)),
    ]
}

/// The regions by index, in the tree under test and in the model.
struct Pair {
    ids: Vec<RegionId>,
    model: Model,
    device: DeviceId,
    moment: usize,
}

impl Pair {
    /// Makes a change in the tree and, where the tree took it, in the model.
    fn apply(&mut self, tree: &mut RegionTree, edit: Edit) {
        let count = self.ids.len();
        let nodes = &mut self.model.0;
        self.moment += 1;
        match edit {
            Edit::Create(kind, size) => {
                let (backing, device) = (BackingId(count as u32), self.device);
                let (kind, content) = match kind {
                    Kind::Container => (kind, Content::Container),
                    Kind::Ram => (kind, Content::Ram(backing)),
                    Kind::Rom => (kind, Content::Rom(backing)),
                    Kind::RomDevice => (kind, Content::RomDevice { backing, device, reads_memory: true }),
                    Kind::Mmio => (kind, Content::Mmio(device)),
                    Kind::Alias(target, offset) => {
                        let target = target % count;
                        (Kind::Alias(target, offset), Content::Alias { target: self.ids[target], offset })
                    }
                };
                self.ids.push(tree.create("region", size, content).unwrap());
                nodes.push(Node { kind, size, enabled: true, logging: false, reads_memory: true, parent: None });
            }
            Edit::Add(parent, child, offset, priority) => {
                let (parent, child) = (parent % count, child % count);
                if tree.add(self.ids[parent], self.ids[child], offset, priority).is_ok() {
                    assert_eq!(nodes[child].parent, None);
                    nodes[child].parent = Some((parent, offset, priority, self.moment));
                }
            }
            Edit::Detach(child) => {
                let child = child % count;
                assert_eq!(tree.detach(self.ids[child]).is_ok(), nodes[child].parent.is_some());
                nodes[child].parent = None;
            }
            Edit::SetOffset(child, offset) => {
                let child = child % count;
                tree.set_offset(self.ids[child], offset).unwrap();
                if let Some(parent) = &mut nodes[child].parent {
                    parent.1 = offset;
                }
            }
            Edit::SetEnabled(index, on) => {
                // The root stays on, for nothing is seen otherwise.
                let index = index % count;
                if index != 0 {
                    tree.set_enabled(self.ids[index], on).unwrap();
                    nodes[index].enabled = on;
                }
            }
            Edit::SetLogging(index, on) => {
                let index = index % count;
                let is_ram = matches!(nodes[index].kind, Kind::Ram);
                assert_eq!(tree.set_dirty_logging(self.ids[index], on).is_ok(), is_ram);
                nodes[index].logging = is_ram && on;
            }
            Edit::SetAliasOffset(index, offset) => {
                let index = index % count;
                let done = tree.set_alias_offset(self.ids[index], offset).is_ok();
                if let Kind::Alias(_, old) = &mut nodes[index].kind {
                    assert!(done);
                    *old = offset;
                }
            }
            Edit::SetReadsMemory(index, on) => {
                let index = index % count;
                if tree.set_reads_memory(self.ids[index], on).is_ok() {
                    nodes[index].reads_memory = on;
                }
            }
        }
    }

    fn content(&self, index: usize) -> FlatContent {
        let backing = BackingId(index as u32);
        match self.model.0[index].kind {
            Kind::Ram => FlatContent::Ram(backing),
            Kind::Rom => FlatContent::Rom(backing),
            Kind::RomDevice if self.model.0[index].reads_memory => FlatContent::RomDevice(backing, self.device),
            Kind::RomDevice | Kind::Mmio => FlatContent::Mmio(self.device),
            Kind::Container | Kind::Alias(..) => panic!("nothing is to be seen of these"),
        }
    }

    /// A list of ranges unit by unit; each may be in one only.
    fn units(&self, ranges: &[FlatRange]) -> Vec<Seen> {
        let mut units = vec![None; UNITS as usize];
        for range in ranges {
            let index = self.ids.iter().position(|id| *id == range.region).unwrap();
            assert_eq!(range.content, self.content(index));
            for unit in 0..range.size {
                let seen = &mut units[(range.start.raw() + unit) as usize];
                assert_eq!(*seen, None, "two ranges overlap");
                *seen = Some((index, range.offset + unit, range.dirty_logging));
            }
        }
        units
    }
}

/// Keeps the ranges as it is told of them, and checks the order of what it is told.
#[derive(Default)]
struct Follower {
    ranges: Vec<FlatRange>,
    adding: bool,
    last: u64,
}

impl Follower {
    fn in_order(&mut self, range: &FlatRange) {
        assert!(range.start.raw() >= self.last, "not in the order of addresses");
        self.last = range.end().raw();
    }
}

impl Listener for Follower {
    fn check(&self, changes: &Changes) -> Result<(), Refusal> {
        let both = changes.removed.iter().find(|old| changes.added.iter().any(|new| new.is_same(old)));
        assert_eq!(both, None, "what stays is removed and added");
        Ok(())
    }
    fn removed(&mut self, range: &FlatRange) {
        assert!(!self.adding, "removed after something was added");
        self.in_order(range);
        let at = self.ranges.iter().position(|old| old == range).expect("what is removed was there");
        self.ranges.remove(at);
    }
    fn added(&mut self, range: &FlatRange) {
        if !std::mem::replace(&mut self.adding, true) {
            self.last = 0;
        }
        self.in_order(range);
        self.ranges.push(*range);
    }
    fn logging_changed(&mut self, range: &FlatRange) {
        let old = self.ranges.iter_mut().find(|old| old.is_same(range)).expect("what stays was there");
        assert_ne!(old.dirty_logging, range.dirty_logging);
        old.dirty_logging = range.dirty_logging;
    }
}

fn check_view(pair: &Pair, view: &FlatView) {
    assert_eq!(pair.units(view.ranges()), pair.model.map());
    for two in view.ranges().windows(2) {
        let (first, second) = (&two[0], &two[1]);
        assert!(first.end() <= second.start, "not sorted");
        let one =
            first.end() == second.start && (first.region, first.offset + first.size) == (second.region, second.offset);
        assert!(!one, "neighbours that belong together are two");
    }
    for address in 0..UNITS {
        let found = view.find(abi::Ipa::new(address)).map(|range| range.region);
        let seen = pair.model.resolve(0, address as i64, 0).map(|(index, ..)| pair.ids[index]);
        assert_eq!(found, seen);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn each_address_shows_what_the_tree_says_and_listeners_see_the_same(
        transactions in proptest::collection::vec(proptest::collection::vec(edit(), 1..25), 1..6)
    ) {
        let mut space = AddressSpace::new(UNITS).unwrap();
        let root = Node { kind: Kind::Container, size: UNITS, enabled: true, logging: false, reads_memory: true, parent: None };
        let device = Bus::new().add(Box::new(Nothing));
        let mut pair = Pair { ids: vec![space.root()], model: Model(vec![root]), device, moment: 0 };
        let mut follower = Follower::default();
        for edits in transactions {
            let mut transaction = space.begin();
            for edit in edits {
                pair.apply(&mut transaction, edit);
            }
            transaction.commit(&mut [&mut follower]).unwrap();
            check_view(&pair, space.view());
            prop_assert_eq!(pair.units(&follower.ranges), pair.model.map());
            prop_assert_eq!(follower.ranges.len(), space.view().ranges().len());
            (follower.adding, follower.last) = (false, 0);
        }
    }
}
