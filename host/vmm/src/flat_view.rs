//! What a tree of regions looks like to the guest: which region it reaches at each address.

use crate::mmio::DeviceId;
use crate::region::{BackingId, Content, RegionId, RegionTree};
use abi::Ipa;
use alloc::vec::Vec;

/// What the guest finds in a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlatContent {
    /// Memory that it reads and writes.
    Ram(BackingId),
    /// Memory that it reads.
    Rom(BackingId),
    /// Memory that it reads, a device that it writes.
    RomDevice(BackingId, DeviceId),
    /// A device.
    Mmio(DeviceId),
}

impl FlatContent {
    /// The device that some accesses go to.
    pub const fn device(self) -> Option<DeviceId> {
        match self {
            FlatContent::Mmio(device) | FlatContent::RomDevice(_, device) => Some(device),
            FlatContent::Ram(_) | FlatContent::Rom(_) => None,
        }
    }

    /// The memory that some accesses go to.
    pub const fn backing(self) -> Option<BackingId> {
        match self {
            FlatContent::Ram(backing) | FlatContent::Rom(backing) | FlatContent::RomDevice(backing, _) => Some(backing),
            FlatContent::Mmio(_) => None,
        }
    }

    /// `None` for regions that hold nothing but others.
    const fn of(content: Content) -> Option<Self> {
        match content {
            Content::Container | Content::Alias { .. } => None,
            Content::Ram(backing) => Some(FlatContent::Ram(backing)),
            Content::Rom(backing) => Some(FlatContent::Rom(backing)),
            Content::RomDevice { backing, device, reads_memory: true } => Some(FlatContent::RomDevice(backing, device)),
            Content::RomDevice { device, .. } | Content::Mmio(device) => Some(FlatContent::Mmio(device)),
        }
    }
}

/// A range of addresses at which the guest reaches consecutive bytes of one region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlatRange {
    /// First byte.
    pub start: Ipa,
    /// How many bytes.
    pub size: u64,
    /// The region.
    pub region: RegionId,
    /// Which of the region's bytes is the first.
    pub offset: u64,
    /// What is there.
    pub content: FlatContent,
    /// Whether it is noted which pages the guest writes.
    pub dirty_logging: bool,
}

impl FlatRange {
    /// One past the last byte. No range ends beyond a 64-bit address.
    pub const fn end(&self) -> Ipa {
        Ipa::new(self.start.raw().wrapping_add(self.size))
    }

    /// True where the two are the same in all but the dirty logging.
    pub fn is_same(&self, other: &Self) -> bool {
        Self { dirty_logging: other.dirty_logging, ..*self } == *other
    }

    /// True where `next` goes on where this one ends.
    fn goes_on(&self, next: &Self) -> bool {
        let continued =
            Self { start: self.end(), size: next.size, offset: self.offset.wrapping_add(self.size), ..*self };
        continued == *next
    }
}

/// A stretch of addresses during rendering, where an alias may lie partly below zero.
#[derive(Clone, Copy)]
struct Window {
    start: i128,
    end: i128,
}

/// Ranges in the order of their addresses; none overlaps another, and neighbours that belong together are one.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FlatView {
    ranges: Vec<FlatRange>,
}

impl FlatView {
    /// Where nothing is.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// What the guest sees of `root`, whose first byte is at address 0.
    pub fn of(tree: &RegionTree, root: RegionId) -> Self {
        let mut view = Self::new();
        view.render(tree, root, 0, Window { start: 0, end: u64::MAX.into() });
        view.merge();
        view
    }

    /// The ranges, lowest first.
    pub fn ranges(&self) -> &[FlatRange] {
        &self.ranges
    }

    /// The range that holds `address`.
    pub fn find(&self, address: Ipa) -> Option<&FlatRange> {
        let at = self.ranges.partition_point(|range| range.end() <= address);
        self.ranges.get(at).filter(|range| range.start <= address)
    }

    /// Draws what is seen of `region`, whose first byte is at `origin`, through `window`. What was drawn before stays.
    /// The tree has no cycles, so that this ends.
    fn render(&mut self, tree: &RegionTree, id: RegionId, origin: i128, window: Window) {
        let Ok(region) = tree.get(id) else { return };
        let window = Window { start: window.start.max(origin), end: window.end.min(origin + i128::from(region.size)) };
        if !region.enabled || window.start >= window.end {
            return;
        }
        if let Content::Alias { target, offset } = region.content {
            return self.render(tree, target, origin - i128::from(offset), window);
        }
        for child in &region.children {
            let offset = tree.get(*child).map_or(0, |child| child.offset);
            self.render(tree, *child, origin + i128::from(offset), window);
        }
        if let Some(content) = FlatContent::of(region.content) {
            self.fill(window, |start, end| FlatRange {
                start: Ipa::new(start),
                size: end - start,
                region: id,
                offset: (i128::from(start) - origin) as u64,
                content,
                dirty_logging: region.dirty_logging,
            });
        }
    }

    /// Draws in the gaps of `window` what `make` says is between two addresses.
    fn fill(&mut self, window: Window, make: impl Fn(u64, u64) -> FlatRange) {
        // A window lies within the root's.
        let (mut next, end) = (window.start as u64, window.end as u64);
        let mut at = self.ranges.partition_point(|range| range.end().raw() <= next);
        while next < end {
            let hidden = self.ranges.get(at).filter(|range| range.start.raw() < end).copied();
            let gap_end = hidden.map_or(end, |range| range.start.raw());
            if next < gap_end {
                self.ranges.insert(at, make(next, gap_end));
                at += 1;
            }
            at += usize::from(hidden.is_some());
            next = hidden.map_or(end, |range| range.end().raw());
        }
    }

    fn merge(&mut self) {
        self.ranges.dedup_by(|next, range| {
            let goes_on = range.goes_on(next);
            if goes_on {
                range.size += next.size;
            }
            goes_on
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: Content = Content::Ram(BackingId(7));

    fn seen(tree: &RegionTree, root: RegionId) -> Vec<(u64, u64, &str, u64)> {
        let view = FlatView::of(tree, root);
        let name = |range: &FlatRange| tree.get(range.region).unwrap().name();
        view.ranges.iter().map(|range| (range.start.raw(), range.size, name(range), range.offset)).collect()
    }

    #[test]
    fn a_hole_in_ram_splits_it_and_closes_again() {
        let mut tree = RegionTree::new();
        let root = tree.create("root", 1 << 32, Content::Container).unwrap();
        let ram = tree.create("ram", 0x1_0000, RAM).unwrap();
        let rom = tree.create("rom", 0x1000, Content::Rom(BackingId(8))).unwrap();
        tree.add(root, ram, 0x4000, 0).unwrap();
        tree.add(root, rom, 0x6000, 1).unwrap();
        let split = [(0x4000, 0x2000, "ram", 0), (0x6000, 0x1000, "rom", 0), (0x7000, 0xd000, "ram", 0x3000)];
        assert_eq!(seen(&tree, root), split);
        tree.set_enabled(rom, false).unwrap();
        assert_eq!(seen(&tree, root), [(0x4000, 0x1_0000, "ram", 0)]);
    }

    #[test]
    fn aliases_of_neighbouring_parts_look_like_one() {
        let mut tree = RegionTree::new();
        let root = tree.create("root", 0x100, Content::Container).unwrap();
        let ram = tree.create("ram", 0x40, RAM).unwrap();
        for (at, offset) in [(0x10, 0x0), (0x20, 0x10), (0x30, 0x30)] {
            let alias = tree.create("alias", 0x10, Content::Alias { target: ram, offset }).unwrap();
            tree.add(root, alias, at, 0).unwrap();
        }
        assert_eq!(seen(&tree, root), [(0x10, 0x20, "ram", 0), (0x30, 0x10, "ram", 0x30)]);
    }

    #[test]
    fn what_reaches_beyond_the_address_space_is_cut_off() {
        let mut tree = RegionTree::new();
        let root = tree.create("root", u64::MAX, Content::Container).unwrap();
        let outer = tree.create("outer", u64::MAX - 0x10, Content::Container).unwrap();
        let ram = tree.create("ram", 0x20, RAM).unwrap();
        tree.add(root, outer, 0x10, 0).unwrap();
        tree.add(outer, ram, u64::MAX - 0x20, 0).unwrap();
        assert_eq!(seen(&tree, root), [(u64::MAX - 0x10, 0x10, "ram", 0)]);
        let view = FlatView::of(&tree, root);
        assert_eq!(view.find(Ipa::new(u64::MAX - 1)), view.ranges().first());
        assert_eq!(view.find(Ipa::new(u64::MAX)), None);
    }

    #[test]
    fn a_rom_device_is_memory_to_readers_until_it_is_told_otherwise() {
        let mut tree = RegionTree::new();
        let device = crate::mmio::Bus::new().add(alloc::boxed::Box::new(Nothing));
        let content = Content::RomDevice { backing: BackingId(3), device, reads_memory: true };
        let flash = tree.create("flash", 0x1000, content).unwrap();
        let content = |tree: &RegionTree| FlatView::of(tree, flash).ranges()[0].content;
        assert_eq!(content(&tree), FlatContent::RomDevice(BackingId(3), device));
        assert_eq!((content(&tree).device(), content(&tree).backing()), (Some(device), Some(BackingId(3))));
        tree.set_reads_memory(flash, false).unwrap();
        assert_eq!(content(&tree), FlatContent::Mmio(device));
        assert_eq!((content(&tree).device(), content(&tree).backing()), (Some(device), None));
    }

    struct Nothing;

    impl crate::mmio::MmioDevice for Nothing {
        fn read(&mut self, _offset: u64, _width: u64) -> u64 {
            0
        }
        fn write(&mut self, _offset: u64, _width: u64, _value: u64) {}
    }
}
