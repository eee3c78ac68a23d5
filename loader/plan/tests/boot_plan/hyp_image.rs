//! Hyp's ELF file: what is accepted, what is refused, and what lands in memory.

use crate::elf::{DT_RELR, ElfFile, RELATIVE};
use abi::PhysAddr;
use boot_plan::HypImage;
use boot_plan::hyp_image::HypImageError;
use proptest::prelude::*;

const BASE: PhysAddr = PhysAddr::new(0x7fb0_0000);

fn word(memory: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(memory[offset..offset + 8].try_into().unwrap())
}

/// Loads `file` over garbage.
fn loaded(file: &ElfFile) -> Result<Vec<u8>, HypImageError> {
    let bytes = file.bytes();
    let image = HypImage::parse(&bytes)?;
    let mut memory = vec![0x5a; image.size() as usize];
    image.load(&mut memory, BASE)?;
    Ok(memory)
}

/// The refusal of `change`d files.
fn refusal(change: impl FnOnce(&mut ElfFile)) -> HypImageError {
    let mut file = ElfFile::sound();
    change(&mut file);
    loaded(&file).unwrap_err()
}

#[test]
fn segments_are_copied_and_everything_else_is_zero() {
    let memory = loaded(&ElfFile::sound()).unwrap();
    assert_eq!(memory.len(), 0x7000);
    assert!(memory[..0x1000].iter().all(|&byte| byte == 0xc0));
    assert!(memory[0x1130..0x2000].iter().all(|&byte| byte == 0));
    assert_eq!(memory[0x2008..0x2010], [0xda; 8]);
    assert!(memory[0x2018..].iter().all(|&byte| byte == 0));
}

#[test]
fn relative_relocations_are_applied() {
    let memory = loaded(&ElfFile::sound()).unwrap();
    assert_eq!(word(&memory, 0x2000), BASE.raw() + 0x10);
    assert_eq!(word(&memory, 0x2010), BASE.raw() + 0x2010);
}

#[test]
fn segments_and_entry_are_reported_where_they_lie() {
    let bytes = ElfFile::sound().bytes();
    let image = HypImage::parse(&bytes).unwrap();
    assert_eq!(image.entry(BASE), Some(PhysAddr::new(BASE.raw() + 0x40)));
    let segments: Vec<_> = image.segments(BASE).map(|s| (s.range.start.raw(), s.range.size(), s.flags)).collect();
    let base = BASE.raw();
    assert_eq!(segments, [(base, 0x1000, 5), (base + 0x1000, 0x1000, 4), (base + 0x2000, 0x5000, 6)]);
}

#[test]
fn a_target_of_another_size_is_refused() {
    let bytes = ElfFile::sound().bytes();
    let image = HypImage::parse(&bytes).unwrap();
    assert_eq!(image.load(&mut [0; 0x6fff], BASE), Err(HypImageError::Target));
    assert_eq!(image.load(&mut vec![0; 0x8000], BASE), Err(HypImageError::Target));
}

#[test]
fn what_is_no_aarch64_shared_object_is_refused() {
    assert_eq!(HypImage::parse(b"").unwrap_err(), HypImageError::Format);
    assert_eq!(HypImage::parse(&[0; 4096]).unwrap_err(), HypImageError::Format);
    assert_eq!(refusal(|file| file.machine = 62), HypImageError::Format);
    assert_eq!(refusal(|file| file.kind = 2), HypImageError::Format);
}

#[test]
fn misplaced_segments_are_refused() {
    assert_eq!(refusal(|file| file.segments[1].start = 0x1008), HypImageError::BadSegment(1));
    assert_eq!(refusal(|file| file.segments[1].start = 0), HypImageError::BadSegment(1));
    assert_eq!(refusal(|file| file.segments[2].memory_size = 8), HypImageError::BadSegment(2));
    assert_eq!(refusal(|file| file.segments[2].memory_size = u64::MAX - 0x2000), HypImageError::BadSegment(2));
    assert_eq!(refusal(|file| file.segments[2].memory_size = 1 << 40), HypImageError::BadSegment(2));
    assert_eq!(
        refusal(|file| {
            file.segments.remove(0);
            file.dynamic_segment = 0;
            file.entry = 0x1000;
            file.segments[0].flags = 5;
        }),
        HypImageError::Segments
    );
}

#[test]
fn code_that_can_be_written_is_refused() {
    assert_eq!(refusal(|file| file.segments[0].flags = 7), HypImageError::WriteExecute(0));
}

#[test]
fn an_entry_outside_code_is_refused() {
    assert_eq!(refusal(|file| file.entry = 0x2000), HypImageError::Entry(0x2000));
    assert_eq!(refusal(|file| file.entry = u64::MAX), HypImageError::Entry(u64::MAX));
}

#[test]
fn odd_relocations_are_refused() {
    assert_eq!(refusal(|file| file.dynamic[0].1 = 0x1fff), HypImageError::RelocationTable);
    assert_eq!(refusal(|file| file.dynamic[1].1 = 1 << 40), HypImageError::RelocationTable);
    assert_eq!(refusal(|file| file.dynamic[2].0 = DT_RELR), HypImageError::RelocationTable);
    let place =
        |file: &mut ElfFile, offset: u64| file.segments[1].data[0x100..0x108].copy_from_slice(&offset.to_le_bytes());
    for offset in [0x6ff9, 0x7000, u64::MAX] {
        assert_eq!(refusal(|file| place(file, offset)), HypImageError::Relocation(RELATIVE as u32, offset));
    }
    assert_eq!(refusal(|file| file.segments[1].data[0x108] = 0), HypImageError::Relocation(1024, 0x2000));
}

#[test]
fn an_image_without_relocations_needs_no_dynamic_section() {
    let mut file = ElfFile::sound();
    file.dynamic.clear();
    assert_eq!(word(&loaded(&file).unwrap(), 0x2000), 0xdada_dada_dada_dada);
}

proptest! {
    #[test]
    fn no_change_of_bytes_makes_it_panic(changes in prop::collection::vec((0usize..0x1200, any::<u8>()), 1..8)) {
        let mut bytes = ElfFile::sound().bytes();
        for (offset, byte) in changes {
            bytes[offset] = byte;
        }
        if let Ok(image) = HypImage::parse(&bytes) {
            let mut memory = vec![0; image.size() as usize];
            let _ = image.load(&mut memory, BASE);
        }
    }
}
