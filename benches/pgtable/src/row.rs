//! What is measured: each row of the table.

use std::hint::black_box;

use abi::PAGE_SIZE;

use crate::subject::Subject;

const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// Where the measured GiB begins.
const IPA: u64 = GIB;
/// What it is mapped to: aligned to 2 MiB and not to 1 GiB, so that 2 MiB blocks are the largest leaves.
const OUTPUT: u64 = 4 * GIB + MIB2;
/// Tables for a GiB of pages, the root, and some to spare.
const FRAMES: usize = 520;
/// Random look-ups.
const LOOK_UPS: usize = 4096;

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    /// Map 1 GiB as 4 KiB pages by one call.
    MapPages,
    /// Map 1 GiB as 2 MiB blocks by one call.
    MapBlocks,
    /// Make 1 GiB of pages read-only by one call.
    ProtectPages,
    /// Make 1 GiB of blocks read-only by one call.
    ProtectBlocks,
    /// Unmap 1 GiB of pages by one call.
    UnmapPages,
    /// Unmap 1 GiB of blocks by one call.
    UnmapBlocks,
    /// Unmap 1 GiB of pages but for the first and the last by one call, so that the table of 2 MiB entries stays.
    UnmapInnerPages,
    /// Map 1 GiB by a call for each page, as faults do.
    Faults,
    /// The same in the way that several CPUs may do at once.
    FaultsBesideOthers,
    /// Unmap 1 GiB by a call for each page, as donations do.
    UnmapSingly,
    /// Split each of 512 blocks of 2 MiB into pages.
    Split,
    /// Look up random pages of a GiB that is mapped as pages.
    LookUp,
}

impl Row {
    /// Every row, in the order of the table.
    pub const ALL: [Self; 12] = [
        Self::MapPages,
        Self::MapBlocks,
        Self::ProtectPages,
        Self::ProtectBlocks,
        Self::UnmapPages,
        Self::UnmapBlocks,
        Self::UnmapInnerPages,
        Self::Faults,
        Self::FaultsBesideOthers,
        Self::UnmapSingly,
        Self::Split,
        Self::LookUp,
    ];

    /// The row's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MapPages => "map-pages",
            Self::MapBlocks => "map-blocks",
            Self::ProtectPages => "protect-pages",
            Self::ProtectBlocks => "protect-blocks",
            Self::UnmapPages => "unmap-pages",
            Self::UnmapBlocks => "unmap-blocks",
            Self::UnmapInnerPages => "unmap-inner-pages",
            Self::Faults => "faults",
            Self::FaultsBesideOthers => "faults-beside-others",
            Self::UnmapSingly => "unmap-singly",
            Self::Split => "split",
            Self::LookUp => "look-up",
        }
    }

    /// The row's title in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::MapPages => "map 1 GiB as pages",
            Self::MapBlocks => "map 1 GiB as 2 MiB blocks",
            Self::ProtectPages => "protect 1 GiB of pages",
            Self::ProtectBlocks => "protect 1 GiB of 2 MiB blocks",
            Self::UnmapPages => "unmap 1 GiB of pages",
            Self::UnmapBlocks => "unmap 1 GiB of 2 MiB blocks",
            Self::UnmapInnerPages => "unmap 1 GiB of pages but its first and last",
            Self::Faults => "fault 1 GiB in, a page a call",
            Self::FaultsBesideOthers => "the same by `map_leaf`, which several CPUs may do at once",
            Self::UnmapSingly => "unmap 1 GiB, a page a call",
            Self::Split => "split 512 blocks into pages",
            Self::LookUp => "look up a random page",
        }
    }

    /// What the row's cost is divided by, and what that is.
    pub const fn unit(self) -> (u64, &'static str) {
        match self {
            Self::MapBlocks | Self::ProtectBlocks | Self::UnmapBlocks | Self::Split => (GIB / MIB2, "block"),
            Self::UnmapInnerPages => (GIB / PAGE_SIZE - 2, "page"),
            Self::LookUp => (LOOK_UPS as u64, "look-up"),
            _ => (GIB / PAGE_SIZE, "page"),
        }
    }

    /// True where the peer does it to a table in use.
    pub const fn peer_does_it_live(self) -> bool {
        // It refuses to split a block that is in use.
        !matches!(self, Self::Split)
    }

    /// A table in the state that the row starts from.
    pub fn prepare<S: Subject>(self) -> S {
        let mut subject = S::new(FRAMES);
        match self {
            Self::MapPages | Self::MapBlocks | Self::Faults | Self::FaultsBesideOthers => {}
            Self::ProtectBlocks | Self::UnmapBlocks | Self::Split => subject.map(IPA, OUTPUT, GIB, false),
            _ => subject.map(IPA, OUTPUT, GIB, true),
        }
        subject
    }

    /// Does it, once.
    pub fn run<S: Subject>(self, subject: &mut S) {
        match self {
            Self::MapPages => subject.map(IPA, OUTPUT, GIB, true),
            Self::MapBlocks => subject.map(IPA, OUTPUT, GIB, false),
            Self::ProtectPages | Self::ProtectBlocks => subject.protect(IPA, GIB),
            Self::UnmapPages | Self::UnmapBlocks => subject.unmap(IPA, GIB),
            Self::UnmapInnerPages => subject.unmap(IPA + PAGE_SIZE, GIB - 2 * PAGE_SIZE),
            Self::Faults => {
                for offset in steps(PAGE_SIZE) {
                    subject.map(IPA + offset, OUTPUT + offset, PAGE_SIZE, true);
                }
            }
            Self::FaultsBesideOthers => {
                for offset in steps(PAGE_SIZE) {
                    subject.fault_in(IPA + offset, OUTPUT + offset);
                }
            }
            Self::UnmapSingly => {
                for offset in steps(PAGE_SIZE) {
                    subject.unmap(IPA + offset, PAGE_SIZE);
                }
            }
            Self::Split => subject.split(IPA, GIB),
            Self::LookUp => {
                let mut random = 0x9e37_79b9_7f4a_7c15_u64;
                for _ in 0..LOOK_UPS {
                    // Marsaglia's xorshift, of period 2^64 - 1.
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let ipa = IPA + random % GIB / PAGE_SIZE * PAGE_SIZE;
                    black_box(subject.look_up(ipa));
                }
            }
        }
    }
}

/// Offsets into the measured GiB.
fn steps(size: u64) -> impl Iterator<Item = u64> {
    (0..GIB / size).map(move |index| index * size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freehold::Freehold;
    use crate::peer::Peer;
    use crate::subject::Mapping;

    /// What the row leaves: the offset of an address, its level and whether it is writable; `None` where unmapped.
    fn expected(row: Row, offset: u64) -> Option<Mapping> {
        let page = Mapping { output: OUTPUT + offset, writable: true, level: 3 };
        match row {
            Row::MapPages | Row::Faults | Row::FaultsBesideOthers | Row::Split | Row::LookUp => Some(page),
            Row::MapBlocks => Some(Mapping { level: 2, ..page }),
            Row::ProtectPages => Some(Mapping { writable: false, ..page }),
            Row::ProtectBlocks => Some(Mapping { writable: false, level: 2, ..page }),
            Row::UnmapInnerPages if offset == 0 || offset == GIB - PAGE_SIZE => Some(page),
            Row::UnmapPages | Row::UnmapBlocks | Row::UnmapInnerPages | Row::UnmapSingly => None,
        }
    }

    fn check<S: Subject>(row: Row, who: &str) -> usize {
        let mut subject = row.prepare::<S>();
        row.run(&mut subject);
        for offset in steps(PAGE_SIZE) {
            assert_eq!(subject.look_up(IPA + offset), expected(row, offset), "{who}, {row:?}: {offset:#x}");
        }
        assert_eq!(subject.look_up(IPA - PAGE_SIZE), None);
        assert_eq!(subject.look_up(IPA + GIB), None);
        subject.tables()
    }

    #[test]
    fn every_subject_does_what_the_row_says() {
        for row in Row::ALL {
            let tables = check::<Freehold>(row, "Freehold");
            let of_peer = check::<Peer<false>>(row, "peer");
            if row.peer_does_it_live() {
                assert_eq!(check::<Peer<true>>(row, "live peer"), of_peer, "{row:?}");
            }
            let least = match row {
                Row::MapBlocks | Row::ProtectBlocks => 2,
                Row::UnmapPages | Row::UnmapBlocks | Row::UnmapSingly => 1,
                Row::UnmapInnerPages => 4,
                _ => 514,
            };
            assert_eq!(tables, least, "{row:?}");
            assert!(of_peer >= least, "{row:?}");
        }
    }
}
