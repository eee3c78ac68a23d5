//! A small ELF shared object, written by hand.
/// One loadable segment: offset in memory, bytes in the file, bytes in memory, flags.
#[derive(Clone)]
pub struct Segment {
    pub start: u64,
    pub data: Vec<u8>,
    pub memory_size: u64,
    pub flags: u32,
}

/// A shared object to be.
#[derive(Clone)]
pub struct ElfFile {
    pub segments: Vec<Segment>,
    pub entry: u64,
    pub machine: u16,
    pub kind: u16,
    /// Entries of the dynamic section, which lies in the segment of this number at its start, if there are any.
    pub dynamic: Vec<(u64, u64)>,
    pub dynamic_segment: usize,
}

pub const DT_RELA: u64 = 7;
pub const DT_RELASZ: u64 = 8;
pub const DT_RELR: u64 = 36;
pub const RELATIVE: u64 = 1027;

impl ElfFile {
    /// Code at 0, constants with a relocation table at 0x1000, data at 0x2000 with two relocated words.
    pub fn sound() -> Self {
        let relocations: [[u64; 3]; 2] = [[0x2000, RELATIVE, 0x10], [0x2010, RELATIVE, 0x2010]];
        let mut constants = vec![0; 0x100];
        constants.extend(relocations.as_flattened().iter().flat_map(|word| word.to_le_bytes()));
        Self {
            segments: vec![
                Segment { start: 0, data: vec![0xc0; 0x1000], memory_size: 0x1000, flags: 5 },
                Segment { start: 0x1000, data: constants, memory_size: 0x130, flags: 4 },
                Segment { start: 0x2000, data: vec![0xda; 0x18], memory_size: 0x5000, flags: 6 },
            ],
            entry: 0x40,
            machine: 183,
            kind: 3,
            dynamic: vec![(DT_RELA, 0x1100), (DT_RELASZ, 48), (0, 0)],
            dynamic_segment: 1,
        }
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut segments = self.segments.clone();
        let dynamic: Vec<u8> =
            self.dynamic.iter().flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat()).collect();
        if !dynamic.is_empty() {
            segments[self.dynamic_segment].data[..dynamic.len()].copy_from_slice(&dynamic);
        }
        let mut headers = Vec::new();
        let mut body = Vec::new();
        let body_at = 0x1000u64;
        let mut header = |kind: u32, flags: u32, offset: u64, address: u64, file_size: u64, memory_size: u64| {
            headers.extend(kind.to_le_bytes());
            headers.extend(flags.to_le_bytes());
            for field in [offset, address, address, file_size, memory_size, 0x1000] {
                headers.extend(field.to_le_bytes());
            }
        };
        for (number, segment) in segments.iter().enumerate() {
            let offset = body_at + body.len() as u64;
            let size = segment.data.len() as u64;
            header(1, segment.flags, offset, segment.start, size, segment.memory_size);
            if number == self.dynamic_segment && !dynamic.is_empty() {
                header(2, 4, offset, segment.start, dynamic.len() as u64, dynamic.len() as u64);
            }
            body.extend(&segment.data);
            body.resize(body.len().next_multiple_of(0x1000), 0);
        }
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for field in [self.entry, 64, 0] {
            file.extend(field.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for field in [64u16, 56, (headers.len() / 56) as u16, 64, 0, 0] {
            file.extend(field.to_le_bytes());
        }
        file.extend(headers);
        file.resize(body_at as usize, 0);
        file.extend(body);
        file
    }
}
