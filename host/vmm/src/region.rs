//! What a guest's address space is made of: a tree of regions.

use crate::mmio::DeviceId;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// A region of a [`RegionTree`]. The number is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RegionId(u64);

/// A stretch of the host's memory that stands behind RAM or ROM. Whoever builds the guest gives the numbers their
/// meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackingId(pub u32);

/// What a region is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Nothing but room for other regions.
    Container,
    /// Memory that the guest reads and writes.
    Ram(BackingId),
    /// Memory that the guest reads.
    Rom(BackingId),
    /// Memory that the guest reads, a device that it writes; flash, for instance.
    RomDevice {
        /// The memory.
        backing: BackingId,
        /// The device.
        device: DeviceId,
        /// False while the guest's reads go to the device too.
        reads_memory: bool,
    },
    /// A device.
    Mmio(DeviceId),
    /// What another region shows, from `offset` bytes into it.
    Alias {
        /// The other region.
        target: RegionId,
        /// Bytes from its start.
        offset: u64,
    },
}

/// A region, and where it is in its parent.
#[derive(Clone, Debug)]
pub struct Region {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) content: Content,
    pub(crate) enabled: bool,
    pub(crate) dirty_logging: bool,
    pub(crate) parent: Option<RegionId>,
    pub(crate) offset: u64,
    priority: i32,
    /// Those that hide others first.
    pub(crate) children: Vec<RegionId>,
}

impl Region {
    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What it is.
    pub const fn content(&self) -> Content {
        self.content
    }

    /// Which region it is in.
    pub const fn parent(&self) -> Option<RegionId> {
        self.parent
    }
}

/// Why the tree cannot be changed so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionError {
    /// There is no such region.
    NoSuchRegion,
    /// The region is empty, or would end beyond a 64-bit address.
    BadRange,
    /// The region is in another one already.
    HasParent,
    /// The region would be a part of itself.
    Cycle,
    /// The region is of another kind than the change is for. An alias takes no regions in.
    WrongKind,
    /// Others are in the region, or show it.
    InUse,
}

/// Regions, and which of them are in which.
///
/// Where regions overlap, the one with the higher priority hides the other, and among equals the one that was put there
/// last. A region hides what it is in: a child of RAM hides a part of that RAM. What is outside its parent, or behind a
/// region that is disabled, is not seen; containers hide nothing themselves.
#[derive(Clone, Default, Debug)]
pub struct RegionTree {
    regions: BTreeMap<RegionId, Region>,
    next: u64,
}

impl RegionTree {
    /// A tree without regions.
    pub const fn new() -> Self {
        Self { regions: BTreeMap::new(), next: 0 }
    }

    /// A new region of `size` bytes, which is enabled, and in no other yet.
    ///
    /// # Errors
    /// `BadRange` where it is empty; `NoSuchRegion` where it is the alias of none.
    pub fn create(&mut self, name: &str, size: u64, content: Content) -> Result<RegionId, RegionError> {
        if size == 0 {
            return Err(RegionError::BadRange);
        }
        if let Content::Alias { target, .. } = content {
            self.get(target)?;
        }
        let id = RegionId(self.next);
        self.next += 1;
        let region = Region {
            name: String::from(name),
            size,
            content,
            enabled: true,
            dirty_logging: false,
            parent: None,
            offset: 0,
            priority: 0,
            children: Vec::new(),
        };
        self.regions.insert(id, region);
        Ok(id)
    }

    /// The region `id`.
    ///
    /// # Errors
    /// `NoSuchRegion`.
    pub fn get(&self, id: RegionId) -> Result<&Region, RegionError> {
        self.regions.get(&id).ok_or(RegionError::NoSuchRegion)
    }

    fn get_mut(&mut self, id: RegionId) -> Result<&mut Region, RegionError> {
        self.regions.get_mut(&id).ok_or(RegionError::NoSuchRegion)
    }

    /// Puts `child` into `parent`, `offset` bytes from its start.
    ///
    /// # Errors
    /// [`RegionError`]; nothing is changed.
    pub fn add(&mut self, parent: RegionId, child: RegionId, offset: u64, priority: i32) -> Result<(), RegionError> {
        let region = self.get(child)?;
        if region.parent.is_some() {
            return Err(RegionError::HasParent);
        }
        if matches!(self.get(parent)?.content, Content::Alias { .. }) {
            return Err(RegionError::WrongKind);
        }
        offset.checked_add(region.size).ok_or(RegionError::BadRange)?;
        if self.shows(child, parent) {
            return Err(RegionError::Cycle);
        }
        let region = self.get_mut(child)?;
        (region.parent, region.offset, region.priority) = (Some(parent), offset, priority);
        let siblings = &self.get(parent)?.children;
        let hides = |sibling: &RegionId| self.get(*sibling).is_ok_and(|sibling| sibling.priority <= priority);
        let at = siblings.iter().position(hides).unwrap_or(siblings.len());
        self.get_mut(parent)?.children.insert(at, child);
        Ok(())
    }

    /// Takes `child` out of the region that it is in.
    ///
    /// # Errors
    /// `NoSuchRegion`, also where it is in none.
    pub fn detach(&mut self, child: RegionId) -> Result<(), RegionError> {
        let parent = self.get_mut(child)?.parent.take().ok_or(RegionError::NoSuchRegion)?;
        self.get_mut(parent)?.children.retain(|other| *other != child);
        Ok(())
    }

    /// Forgets a region that is in no other, has none in it, and has no alias.
    ///
    /// # Errors
    /// `NoSuchRegion`, `HasParent`, `InUse`.
    pub fn remove(&mut self, id: RegionId) -> Result<(), RegionError> {
        let region = self.get(id)?;
        if region.parent.is_some() {
            return Err(RegionError::HasParent);
        }
        let is_alias = |other: &Region| matches!(other.content, Content::Alias { target, .. } if target == id);
        if !region.children.is_empty() || self.regions.values().any(is_alias) {
            return Err(RegionError::InUse);
        }
        self.regions.remove(&id);
        Ok(())
    }

    /// Moves a region within its parent.
    ///
    /// # Errors
    /// `NoSuchRegion`, `BadRange`.
    pub fn set_offset(&mut self, id: RegionId, offset: u64) -> Result<(), RegionError> {
        let region = self.get_mut(id)?;
        offset.checked_add(region.size).ok_or(RegionError::BadRange)?;
        region.offset = offset;
        Ok(())
    }

    /// Makes the region and everything in it seen, or not.
    ///
    /// # Errors
    /// `NoSuchRegion`.
    pub fn set_enabled(&mut self, id: RegionId, enabled: bool) -> Result<(), RegionError> {
        self.get_mut(id)?.enabled = enabled;
        Ok(())
    }

    /// Makes it be noted, or not, which pages of RAM the guest writes.
    ///
    /// # Errors
    /// `NoSuchRegion`; `WrongKind` where it is not RAM.
    pub fn set_dirty_logging(&mut self, id: RegionId, logging: bool) -> Result<(), RegionError> {
        let region = self.get_mut(id)?;
        if !matches!(region.content, Content::Ram(_)) {
            return Err(RegionError::WrongKind);
        }
        region.dirty_logging = logging;
        Ok(())
    }

    /// Makes an alias show its target from `offset` bytes into it.
    ///
    /// # Errors
    /// `NoSuchRegion`, `WrongKind`.
    pub fn set_alias_offset(&mut self, id: RegionId, offset: u64) -> Result<(), RegionError> {
        match &mut self.get_mut(id)?.content {
            Content::Alias { offset: old, .. } => *old = offset,
            _ => return Err(RegionError::WrongKind),
        }
        Ok(())
    }

    /// Makes a ROM device's reads go to its memory, or to the device.
    ///
    /// # Errors
    /// `NoSuchRegion`, `WrongKind`.
    pub fn set_reads_memory(&mut self, id: RegionId, reads: bool) -> Result<(), RegionError> {
        match &mut self.get_mut(id)?.content {
            Content::RomDevice { reads_memory, .. } => *reads_memory = reads,
            _ => return Err(RegionError::WrongKind),
        }
        Ok(())
    }

    /// True where `inner` is `outer`, or is in it, or is shown by what is in it.
    fn shows(&self, outer: RegionId, inner: RegionId) -> bool {
        if outer == inner {
            return true;
        }
        let Ok(region) = self.get(outer) else { return false };
        let target = match region.content {
            Content::Alias { target, .. } => Some(target),
            _ => None,
        };
        region.children.iter().copied().chain(target).any(|next| self.shows(next, inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: Content = Content::Ram(BackingId(0));

    #[test]
    fn a_region_is_in_one_other_at_most() {
        let mut tree = RegionTree::new();
        let one = tree.create("one", 16, Content::Container).unwrap();
        let two = tree.create("two", 16, Content::Container).unwrap();
        let ram = tree.create("ram", 8, RAM).unwrap();
        assert_eq!(tree.add(one, ram, 4, 0), Ok(()));
        assert_eq!(tree.add(two, ram, 4, 0), Err(RegionError::HasParent));
        assert_eq!(tree.remove(ram), Err(RegionError::HasParent));
        assert_eq!(tree.detach(ram), Ok(()));
        assert_eq!(tree.detach(ram), Err(RegionError::NoSuchRegion));
        assert_eq!(tree.add(two, ram, 4, 0), Ok(()));
        assert_eq!((tree.get(ram).unwrap().parent(), tree.get(ram).unwrap().name()), (Some(two), "ram"));
        assert!(tree.get(one).unwrap().children.is_empty());
    }

    #[test]
    fn no_region_is_a_part_of_itself() {
        let mut tree = RegionTree::new();
        let outer = tree.create("outer", 16, Content::Container).unwrap();
        let inner = tree.create("inner", 16, Content::Container).unwrap();
        let alias = tree.create("alias", 8, Content::Alias { target: outer, offset: 0 }).unwrap();
        assert_eq!(tree.add(outer, outer, 0, 0), Err(RegionError::Cycle));
        assert_eq!(tree.add(inner, alias, 0, 0), Ok(()));
        assert_eq!(tree.add(outer, inner, 0, 0), Err(RegionError::Cycle));
        assert_eq!(tree.add(outer, alias, 0, 0), Err(RegionError::HasParent));
        assert_eq!(tree.add(alias, outer, 0, 0), Err(RegionError::WrongKind));
        assert_eq!(tree.detach(alias), Ok(()));
        assert_eq!(tree.add(outer, inner, 0, 0), Ok(()));
    }

    #[test]
    fn sizes_offsets_and_kinds_are_checked() {
        let mut tree = RegionTree::new();
        assert_eq!(tree.create("empty", 0, RAM), Err(RegionError::BadRange));
        let target = RegionId(77);
        assert_eq!(tree.create("alias", 1, Content::Alias { target, offset: 0 }), Err(RegionError::NoSuchRegion));
        let all = tree.create("all", u64::MAX, Content::Container).unwrap();
        let ram = tree.create("ram", 8, RAM).unwrap();
        assert_eq!(tree.add(all, ram, u64::MAX - 7, 0), Err(RegionError::BadRange));
        assert_eq!(tree.add(all, ram, u64::MAX - 8, 0), Ok(()));
        assert_eq!(tree.set_offset(ram, u64::MAX - 7), Err(RegionError::BadRange));
        assert_eq!(tree.set_alias_offset(ram, 0), Err(RegionError::WrongKind));
        assert_eq!(tree.set_reads_memory(ram, true), Err(RegionError::WrongKind));
        assert_eq!(tree.set_dirty_logging(all, true), Err(RegionError::WrongKind));
        assert_eq!(tree.set_dirty_logging(ram, true), Ok(()));
    }

    #[test]
    fn a_region_that_others_need_stays() {
        let mut tree = RegionTree::new();
        let outer = tree.create("outer", 16, Content::Container).unwrap();
        let ram = tree.create("ram", 16, RAM).unwrap();
        let alias = tree.create("alias", 8, Content::Alias { target: ram, offset: 0 }).unwrap();
        assert_eq!(tree.remove(ram), Err(RegionError::InUse));
        tree.add(outer, alias, 0, 0).unwrap();
        assert_eq!(tree.remove(outer), Err(RegionError::InUse));
        tree.detach(alias).unwrap();
        for region in [alias, ram, outer] {
            assert_eq!(tree.remove(region), Ok(()));
            assert_eq!(tree.remove(region), Err(RegionError::NoSuchRegion));
        }
        assert!(tree.create("new", 1, RAM).unwrap() > outer);
    }
}
