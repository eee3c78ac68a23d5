//! Translations that memory no longer holds and a TLB may, until a sufficient sequence of barriers and invalidations.
//!
//! The rules are those of the Arm ARM on TLB maintenance and break-before-make (D8.16, D8.17): the write must be ordered
//! before the invalidation by a DSB, the invalidation is complete at a later DSB, and entries that combine both stages go
//! only after the stage-2 entries that they could be refilled from. Only what a CPU does counts that has written the
//! descriptor, after it has.

use abi::PhysAddr;
use pgtable::{DsbKind, Tlbi};

use crate::tree::{Tree, TreeKind};

/// How far the sequence has got for one set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    /// The descriptor is written.
    Written,
    /// The write is ordered before what follows.
    Ordered,
    /// The invalidation of the stage-2 entry is issued.
    Stage2Issued,
    /// The stage-2 entry is gone; combined entries may be left.
    Stage2Done,
    /// The invalidation of all that is left is issued.
    Issued,
    /// Nothing is left.
    Clean,
}

/// Which CPUs a sequence reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// All CPUs.
    Shared,
    /// Only the CPU that executes it.
    Local,
}

/// What an instruction does to an entry that it applies to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    Stage2Only,
    CombinedOnly,
    Everything,
}

/// How far one CPU has got.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    cpu: usize,
    shared: Progress,
    local: Progress,
}

impl Sequence {
    fn new(cpu: usize) -> Self {
        Self { cpu, shared: Progress::Written, local: Progress::Written }
    }
}

/// One descriptor's value that a TLB may still use.
#[derive(Clone, Debug)]
pub(crate) struct Stale {
    /// Index of the tree that it was part of.
    pub(crate) tree: usize,
    /// Where the descriptor is.
    pub(crate) slot: PhysAddr,
    /// The value that was there.
    pub(crate) value: u64,
    /// Its level.
    pub(crate) level: u8,
    /// Offset in the tree's input space that it translates.
    pub(crate) offset: u64,
    /// Bytes that it translates.
    pub(crate) size: u64,
    /// True for a table descriptor.
    pub(crate) is_table: bool,
    /// The unlinking of a table that it belongs to.
    pub(crate) group: Option<u64>,
    /// CPUs that may still hold it, one bit each.
    pub(crate) holders: u64,
    /// That of the CPU that took it away.
    sequence: Sequence,
    /// Those of CPUs that have written the descriptor since.
    others: Vec<Sequence>,
}

impl Stale {
    /// The value `value` was taken away by `writer` on a machine whose CPUs are the bits of `holders`.
    #[expect(clippy::too_many_arguments, reason = "a plain record")]
    pub(crate) fn new(
        tree: usize,
        slot: PhysAddr,
        value: u64,
        level: u8,
        offset: u64,
        is_table: bool,
        writer: usize,
        holders: u64,
    ) -> Self {
        let size = pgtable::geometry::entry_size(level);
        Self {
            tree,
            slot,
            value,
            level,
            offset,
            size,
            is_table,
            group: None,
            holders,
            sequence: Sequence::new(writer),
            others: Vec::new(),
        }
    }

    /// The descriptor is written again, by `cpu`. Whoever sees that write no longer sees the value, and it is `cpu` that can
    /// see to it that all do: its maintenance is enough from now on, too.
    pub(crate) fn overwritten(&mut self, cpu: usize) {
        self.others.retain(|sequence| sequence.cpu != cpu);
        if self.sequence.cpu != cpu {
            self.others.push(Sequence::new(cpu));
        }
    }

    /// The sequence of `cpu`, if its maintenance counts.
    fn sequence_of(&mut self, cpu: usize) -> Option<&mut Sequence> {
        if self.sequence.cpu == cpu {
            return Some(&mut self.sequence);
        }
        self.others.iter_mut().find(|sequence| sequence.cpu == cpu)
    }

    /// True where no CPU can use the value any more.
    pub(crate) fn is_clean(&self) -> bool {
        self.holders == 0
    }

    /// `cpu` executed a DSB.
    pub(crate) fn dsb(&mut self, cpu: usize, kind: DsbKind) {
        let Some(sequence) = self.sequence_of(cpu) else {
            return;
        };
        let (shared, waits) = match kind {
            DsbKind::Ish | DsbKind::Sy => (true, true),
            DsbKind::Ishst => (true, false),
            DsbKind::Nsh => (false, true),
            DsbKind::Nshst => (false, false),
        };
        let step = |progress: &mut Progress| match progress {
            Progress::Written => *progress = Progress::Ordered,
            Progress::Stage2Issued if waits => *progress = Progress::Stage2Done,
            Progress::Issued if waits => *progress = Progress::Clean,
            _ => {}
        };
        step(&mut sequence.local);
        if shared {
            step(&mut sequence.shared);
        }
        let Sequence { shared, local, .. } = *sequence;
        if local == Progress::Clean {
            self.holders &= !(1 << cpu);
        }
        if shared == Progress::Clean {
            self.holders = 0;
        }
    }

    /// `cpu` executed a TLB invalidate instruction while its VTTBR_EL2 held `vmid`.
    pub(crate) fn tlbi(&mut self, cpu: usize, tree: &Tree, operation: Tlbi, vmid: u16) {
        if self.sequence_of(cpu).is_none() {
            return;
        }
        let effect = self.effect(tree, operation, vmid);
        let (Some((effect, reach)), Some(sequence)) = (effect, self.sequence_of(cpu)) else {
            return;
        };
        let step = |progress: &mut Progress| {
            *progress = match (effect, *progress) {
                (Effect::Everything, Progress::Ordered | Progress::Stage2Issued | Progress::Stage2Done) => {
                    Progress::Issued
                }
                (Effect::Stage2Only, Progress::Ordered) => Progress::Stage2Issued,
                (Effect::CombinedOnly, Progress::Stage2Done) => Progress::Issued,
                (_, unchanged) => unchanged,
            };
        };
        step(&mut sequence.local);
        if reach == Reach::Shared {
            step(&mut sequence.shared);
        }
    }

    fn effect(&self, tree: &Tree, operation: Tlbi, vmid: u16) -> Option<(Effect, Reach)> {
        let overlaps = |address: u64, pages: u64, level: Option<u8>| {
            let offset = address.wrapping_sub(tree.geometry.input_base());
            let reaches = offset < self.offset + self.size && offset.saturating_add(pages * 4096) > self.offset;
            let hinted = match level {
                Some(level) => !self.is_table && level == self.level,
                None => true,
            };
            reaches && hinted
        };
        let by_address = |address: u64, level: Option<u8>| overlaps(address & !0xfff, 1, level);
        // What a range that begins within a leaf of the level in its hint invalidates is UNPREDICTABLE.
        let by_range = |address: u64, pages: u64, level: Option<u8>| {
            let is_aligned = level.is_none_or(|level| address.is_multiple_of(pgtable::geometry::entry_size(level)));
            is_aligned && overlaps(address, pages, level)
        };
        // What is not of the last level of a walk is always an ASID's own.
        let is_global = !self.is_table && self.value & 1 << 11 == 0;
        let of_asid = |asid: u16| matches!(tree.kind, TreeKind::El1 { asid: own } if own == asid || is_global);
        let is_stage2 = matches!(tree.kind, TreeKind::Stage2 { .. });
        let is_own_vmid = matches!(tree.kind, TreeKind::Stage2 { vmid: own } if own == vmid);
        let is_el1 = matches!(tree.kind, TreeKind::El1 { .. });
        let is_el2 = tree.kind == TreeKind::El2;
        let is_last_level = !self.is_table && self.level == 3;
        let everything = (Effect::Everything, Reach::Shared);
        match operation {
            Tlbi::Ipas2e1Is { ipa, level } => {
                (is_own_vmid && by_address(ipa.raw(), level)).then_some((Effect::Stage2Only, Reach::Shared))
            }
            Tlbi::Ipas2e1 { ipa, level } => {
                (is_own_vmid && by_address(ipa.raw(), level)).then_some((Effect::Stage2Only, Reach::Local))
            }
            Tlbi::Ripas2e1Is { ipa, pages, level } => (is_own_vmid && by_range(ipa.raw(), pages.pages(), level))
                .then_some((Effect::Stage2Only, Reach::Shared)),
            Tlbi::Vmalle1Is if is_el1 => Some(everything),
            Tlbi::Vmalle1Is => is_own_vmid.then_some((Effect::CombinedOnly, Reach::Shared)),
            Tlbi::Vmalle1 if is_el1 => Some((Effect::Everything, Reach::Local)),
            Tlbi::Vmalle1 => is_own_vmid.then_some((Effect::CombinedOnly, Reach::Local)),
            Tlbi::Vmalls12e1Is => is_own_vmid.then_some(everything),
            Tlbi::Vmalls12e1 => is_own_vmid.then_some((Effect::Everything, Reach::Local)),
            Tlbi::Alle1Is => (is_stage2 || is_el1).then_some(everything),
            Tlbi::Alle1 => (is_stage2 || is_el1).then_some((Effect::Everything, Reach::Local)),
            Tlbi::Vae2Is { address, level } => (is_el2 && by_address(address.raw(), level)).then_some(everything),
            Tlbi::Vale2Is { address, level } => {
                (is_el2 && is_last_level && by_address(address.raw(), level)).then_some(everything)
            }
            Tlbi::Rvae2Is { address, pages, level } => {
                (is_el2 && by_range(address.raw(), pages.pages(), level)).then_some(everything)
            }
            Tlbi::Alle2Is => is_el2.then_some(everything),
            Tlbi::Alle2 => is_el2.then_some((Effect::Everything, Reach::Local)),
            Tlbi::Vae1Is { address, asid, level } => {
                (of_asid(asid) && by_address(address.raw(), level)).then_some(everything)
            }
            Tlbi::Vale1Is { address, asid, level } => {
                (of_asid(asid) && is_last_level && by_address(address.raw(), level)).then_some(everything)
            }
            Tlbi::Rvae1Is { address, asid, pages, level } => {
                (of_asid(asid) && by_range(address.raw(), pages.pages(), level)).then_some(everything)
            }
        }
    }
}

/// True where `operation` applies to the VMID in VTTBR_EL2.
pub(crate) fn depends_on_vttbr(operation: Tlbi) -> bool {
    matches!(
        operation,
        Tlbi::Ipas2e1Is { .. }
            | Tlbi::Ipas2e1 { .. }
            | Tlbi::Ripas2e1Is { .. }
            | Tlbi::Vmalle1Is
            | Tlbi::Vmalle1
            | Tlbi::Vmalls12e1Is
            | Tlbi::Vmalls12e1
    )
}
