//! Hyp's image: an ELF shared object, linked at 0, that is copied to its place and relocated there (ELF for the Arm
//! 64-bit Architecture, section 5.7).

use abi::boot::{MAX_SEGMENTS, SEGMENT_EXECUTE, SEGMENT_READ, SEGMENT_WRITE, Segment};
use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use alloc::vec::Vec;
use core::fmt;
use elf::ElfBytes;
use elf::abi::{
    DT_JMPREL, DT_REL, DT_RELA, DT_RELASZ, EM_AARCH64, ET_DYN, PT_LOAD, R_AARCH64_NONE, R_AARCH64_RELATIVE,
};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::relocation::RelaIterator;

/// Dynamic tag of a table of packed relative relocations (System V ABI).
const DT_RELR: i64 = 36;
/// Largest image that is taken, in bytes: it must leave room for everything else in the smallest machine.
const MAX_IMAGE_SIZE: u64 = 16 << 20;

/// What is wrong with hyp's image. The fault is with how freehold.img was built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HypImageError {
    /// No 64-bit little-endian AArch64 shared object.
    Format,
    /// No loadable segment, more than [`MAX_SEGMENTS`], or the first is not at 0.
    Segments,
    /// Segment of this number is unaligned, overlaps the one before, leaves the file, or is larger than is taken.
    BadSegment(usize),
    /// Segment of this number can be written and executed.
    WriteExecute(usize),
    /// The entry point lies in no executable segment.
    Entry(u64),
    /// A kind of relocation table other than RELA, or one outside the image.
    RelocationTable,
    /// A relocation of this type, or with a place outside the image's data: (type, offset).
    Relocation(u32, u64),
    /// The place for the image is not as large as the image.
    Target,
}

impl fmt::Display for HypImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hyp's image was not built right: ")?;
        match self {
            Self::Format => write!(f, "it is no AArch64 ELF shared object"),
            Self::Segments => write!(f, "its segments do not start at 0, or are none, or more than {MAX_SEGMENTS}"),
            Self::BadSegment(number) => write!(f, "segment {number} is misplaced"),
            Self::WriteExecute(number) => write!(f, "segment {number} can be both written and executed"),
            Self::Entry(entry) => write!(f, "the entry point {entry:#x} is not in code"),
            Self::RelocationTable => write!(f, "its relocation table is not of type RELA, or lies outside"),
            Self::Relocation(kind, offset) => write!(f, "relocation of type {kind} at {offset:#x} cannot be applied"),
            Self::Target => write!(f, "the place for it has another size"),
        }
    }
}

/// One segment as the file holds it.
#[derive(Clone, Copy, Debug)]
struct LoadSegment<'a> {
    /// Bytes from the image's start; 4 KiB aligned.
    start: u64,
    /// Bytes up to the end; 4 KiB aligned.
    end: u64,
    data: &'a [u8],
    flags: u64,
}

/// Hyp's image, checked.
#[derive(Clone, Debug)]
pub struct HypImage<'a> {
    segments: Vec<LoadSegment<'a>>,
    entry: u64,
    relocations: &'a [u8],
}

impl<'a> HypImage<'a> {
    /// Checks the ELF file `file`.
    ///
    /// # Errors
    /// [`HypImageError`]: the file was not built right.
    pub fn parse(file: &'a [u8]) -> Result<Self, HypImageError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| HypImageError::Format)?;
        if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_AARCH64 || elf.ehdr.e_type != ET_DYN {
            return Err(HypImageError::Format);
        }
        let segments = load_segments(&elf)?;
        let entry = elf.ehdr.e_entry;
        let in_code = |segment: &LoadSegment| {
            segment.flags & SEGMENT_EXECUTE != 0 && (segment.start..segment.end).contains(&entry)
        };
        if !segments.iter().any(in_code) {
            return Err(HypImageError::Entry(entry));
        }
        let relocations = relocation_table(&elf, &segments)?;
        Ok(Self { segments, entry, relocations })
    }

    /// Bytes in memory, whole pages.
    pub fn size(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.end)
    }

    /// Where an image at `base` is entered.
    pub fn entry(&self, base: PhysAddr) -> Option<PhysAddr> {
        base.checked_add(self.entry)
    }

    /// The segments of an image at `base`.
    pub fn segments(&self, base: PhysAddr) -> impl Iterator<Item = Segment> {
        self.segments.iter().filter_map(move |segment| {
            let start = base.checked_add(segment.start)?;
            let end = base.checked_add(segment.end)?;
            Some(Segment { range: PhysRange { start, end }, flags: segment.flags })
        })
    }

    /// Writes the image to `target`, which lies at `base`, and relocates it.
    ///
    /// # Errors
    /// [`HypImageError::Target`] where `target` is not of [`size`](Self::size); [`HypImageError::Relocation`].
    pub fn load(&self, target: &mut [u8], base: PhysAddr) -> Result<(), HypImageError> {
        if target.len() as u64 != self.size() {
            return Err(HypImageError::Target);
        }
        let mut filled = 0;
        for segment in &self.segments {
            let start = segment.start as usize;
            let end = start + segment.data.len();
            target.get_mut(filled..start).ok_or(HypImageError::Target)?.fill(0);
            target.get_mut(start..end).ok_or(HypImageError::Target)?.copy_from_slice(segment.data);
            filled = end;
        }
        target.get_mut(filled..).ok_or(HypImageError::Target)?.fill(0);
        self.relocate(target, base)
    }

    fn relocate(&self, target: &mut [u8], base: PhysAddr) -> Result<(), HypImageError> {
        for relocation in RelaIterator::new(LittleEndian, Class::ELF64, self.relocations) {
            let fault = HypImageError::Relocation(relocation.r_type, relocation.r_offset);
            match relocation.r_type {
                R_AARCH64_NONE => {}
                R_AARCH64_RELATIVE => {
                    let offset = usize::try_from(relocation.r_offset).map_err(|_| fault)?;
                    let place: &mut [u8; 8] =
                        target.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()).ok_or(fault)?;
                    *place = base.raw().wrapping_add_signed(relocation.r_addend).to_le_bytes();
                }
                _ => return Err(fault),
            }
        }
        Ok(())
    }
}

fn load_segments<'a>(elf: &ElfBytes<'a, LittleEndian>) -> Result<Vec<LoadSegment<'a>>, HypImageError> {
    let headers = elf.segments().ok_or(HypImageError::Segments)?;
    let mut segments: Vec<LoadSegment<'a>> = Vec::with_capacity(MAX_SEGMENTS);
    for (number, header) in headers.iter().filter(|header| header.p_type == PT_LOAD).enumerate() {
        let bad = HypImageError::BadSegment(number);
        let flags = u64::from(header.p_flags) & (SEGMENT_READ | SEGMENT_WRITE | SEGMENT_EXECUTE);
        if flags & SEGMENT_WRITE != 0 && flags & SEGMENT_EXECUTE != 0 {
            return Err(HypImageError::WriteExecute(number));
        }
        let data = elf.segment_data(&header).map_err(|_| bad)?;
        let end = header.p_vaddr.checked_add(header.p_memsz).and_then(|end| end.checked_next_multiple_of(PAGE_SIZE));
        let end = end.filter(|end| *end <= MAX_IMAGE_SIZE).ok_or(bad)?;
        let previous_end = segments.last().map_or(0, |previous| previous.end);
        if header.p_vaddr % PAGE_SIZE != 0 || header.p_vaddr < previous_end || header.p_memsz < header.p_filesz {
            return Err(bad);
        }
        segments.push(LoadSegment { start: header.p_vaddr, end, data, flags });
    }
    match segments.first() {
        Some(first) if first.start == 0 && segments.len() <= MAX_SEGMENTS => Ok(segments),
        _ => Err(HypImageError::Segments),
    }
}

/// The RELA table that the dynamic section names, as bytes of the file.
fn relocation_table<'a>(
    elf: &ElfBytes<'a, LittleEndian>,
    segments: &[LoadSegment<'a>],
) -> Result<&'a [u8], HypImageError> {
    let fault = HypImageError::RelocationTable;
    let Some(dynamic) = elf.dynamic().map_err(|_| fault)? else { return Ok(&[]) };
    let (mut address, mut size) = (0, 0);
    for entry in dynamic.iter() {
        match entry.d_tag {
            DT_RELA => address = entry.d_ptr(),
            DT_RELASZ => size = entry.d_val(),
            DT_REL | DT_RELR | DT_JMPREL => return Err(fault),
            _ => {}
        }
    }
    let size = usize::try_from(size).map_err(|_| fault)?;
    if size == 0 {
        return Ok(&[]);
    }
    let table = segments.iter().find_map(|segment| {
        let offset = usize::try_from(address.checked_sub(segment.start)?).ok()?;
        segment.data.get(offset..)?.get(..size)
    });
    table.ok_or(fault)
}
