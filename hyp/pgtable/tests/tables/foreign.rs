//! Tables that hold what nobody of ours has written: every operation ends, without a panic, in success or in an error.

use std::collections::HashMap;
use std::ops::ControlFlow;

use abi::{Ipa, PAGE_SIZE, PhysAddr, PhysRange};
use pgtable::{
    Annotation, DsbKind, Maintenance, MapOptions, Stage2, Stage2Attributes, Stage2Config, TableError, TableFrames, Tlbi,
};
use proptest::prelude::*;

use crate::bench::{GIB, PAGE};

/// Frames that the tables refer to, the first two being the root.
const FRAMES: u64 = 8;

/// Plain memory that reads as zero where nothing was written, without any judge.
struct Plain {
    words: std::cell::RefCell<HashMap<u64, u64>>,
    next: u64,
    freed: Vec<PhysAddr>,
}

impl TableFrames for Plain {
    fn allocate(&mut self) -> Option<PhysAddr> {
        self.next += PAGE_SIZE;
        Some(PhysAddr::new(self.next))
    }

    fn free(&mut self, frame: PhysAddr) {
        self.freed.push(frame);
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.words.borrow().get(&descriptor.raw()).copied().unwrap_or(0)
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.words.borrow_mut().insert(descriptor.raw(), value);
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let found = self.read(descriptor);
        if found == current {
            self.write(descriptor, new);
            Ok(found)
        } else {
            Err(found)
        }
    }
}

impl Maintenance for Plain {
    fn dsb(&self, _kind: DsbKind) {}
    fn isb(&self) {}
    fn tlbi(&self, _operation: Tlbi) {}
    fn load_vttbr(&self, vttbr: u64) -> u64 {
        vttbr
    }
    fn clean_invalidate_to_poc(&self, _range: PhysRange) {}
    fn clean_to_pou(&self, _range: PhysRange) {}
    fn invalidate_instruction_cache(&self, _range: PhysRange) {}
}

/// Any word, and often one that looks like a table or a leaf.
fn word() -> impl Strategy<Value = u64> {
    let frame = (0..FRAMES).prop_map(|frame| frame * PAGE_SIZE);
    prop_oneof![
        any::<u64>(),
        frame.clone().prop_map(|frame| frame | 3),
        frame.prop_map(|frame| frame | 2),
        any::<u64>().prop_map(|raw| raw & 0x0000_ffff_c000_0000 | 0x7fd),
        any::<u64>().prop_map(|raw| raw & 0x0000_ffff_ffff_f000 | 0x7ff),
    ]
}

/// Places that the operations of the test come by: the ends of tables.
fn index() -> impl Strategy<Value = u64> {
    prop_oneof![0..3u64, 510..512u64]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_everything_ends(
        words in prop::collection::vec((0..FRAMES, index(), word()), 0..40),
        start in (0..3u64, index(), index()),
        pages in 1..600u64,
        which in 0..14,
    ) {
        let words = words.into_iter().map(|(frame, index, word)| (frame * PAGE_SIZE + index * 8, word)).collect();
        let mut memory = Plain { words: std::cell::RefCell::new(words), next: 0x10_0000, freed: Vec::new() };
        let mut table = Stage2::new(PhysAddr::new(0), Stage2Config::new(40, 48), 1).unwrap();
        let ipa = Ipa::new(start.0 * GIB + (start.1 << 21) + start.2 * PAGE);
        let size = pages * PAGE;
        let attributes = Stage2Attributes::memory();
        let result = match which {
            0 => table.lookup(&memory, ipa).map(|_| ()),
            1 => table.visit(&memory, ipa, size, |_| ControlFlow::<()>::Continue(())).map(|_| ()),
            2 => table.map(&mut memory, ipa, PhysAddr::new(0), size, attributes, MapOptions::default()),
            3 => {
                let options = MapOptions { replace_annotations: true, ..MapOptions::default() };
                table.remap(&mut memory, ipa, PhysAddr::new(0), size, attributes, options)
            }
            4 => table.unmap(&mut memory, ipa, size),
            5 => table.annotate(&mut memory, ipa, size, Annotation::new(1)),
            6 => table.protect(&mut memory, ipa, size, attributes),
            7 => table.write_protect(&mut memory, ipa, size),
            8 => table.test_and_clear_young(&mut memory, ipa, size).map(|_| ()),
            9 => table.make_young(&mut memory, ipa).map(|_| ()),
            10 => table.split(&mut memory, ipa, size, 2 + (pages % 2) as u8),
            11 => table.coalesce(&mut memory, ipa, size).map(|_| ()),
            12 => table.dump(&memory, &mut String::new()).map_err(|_| TableError::BadRange),
            _ => table.visit(&memory, ipa, size, |_| ControlFlow::Break(())).map(|_| ()),
        };
        let is_expected = matches!(
            result,
            Ok(())
                | Err(TableError::Corrupt | TableError::Exists | TableError::Annotated | TableError::NotMapped)
        );
        prop_assert!(is_expected, "{:?}", result);
    }
}
