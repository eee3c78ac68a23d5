//! A plain walk of the tables in memory, which knows of `pgtable` nothing but where the root is.

/// Bits 47:12 of a descriptor.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// What is neither address nor type.
const ATTRIBUTES: u64 = !(ADDRESS | 3);
/// Descriptors of a table.
const ENTRIES: u64 = 512;

/// Memory, as far as a walk needs it.
pub trait Words {
    /// The words of the table at `address`, which is 4 KiB aligned.
    fn words(&self, address: u64) -> [u64; ENTRIES as usize];
}

/// How input addresses are cut into indices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Level of the root.
    pub start_level: u8,
    /// Tables side by side at the root.
    pub root_tables: u64,
    /// Bits of an input address.
    pub input_bits: u32,
}

/// Bytes that one descriptor of `level` decides for.
pub const fn size_of(level: u8) -> u64 {
    1 << (39 - 9 * level as u32)
}

/// What a part of the input space holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// An annotation.
    Note(u64),
    /// A mapping.
    Mapping {
        /// Output address minus offset, modulo 2^64.
        delta: u64,
        /// The descriptor without address and type.
        bits: u64,
    },
    /// A descriptor that has no meaning at its level, or none that outlasts an operation.
    Foreign(u64),
}

impl Held {
    /// The same with other bits, where it is a mapping.
    pub fn with_bits(self, new: impl Fn(u64) -> u64) -> Self {
        match self {
            Self::Mapping { delta, bits } => Self::Mapping { delta, bits: new(bits) },
            other => other,
        }
    }
}

/// Descriptors side by side, of one level, that hold the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First offset that the first decides for.
    pub start: u64,
    /// First offset that the last does not decide for.
    pub end: u64,
    /// Their level.
    pub level: u8,
    /// What they hold.
    pub held: Held,
}

impl Run {
    /// First offset of the descriptor that decides for `offset`.
    pub fn base_of(&self, offset: u64) -> u64 {
        offset & !(size_of(self.level) - 1)
    }

    /// The valid descriptor that decides for `offset`.
    pub fn descriptor(&self, offset: u64) -> Option<u64> {
        let Held::Mapping { delta, bits } = self.held else { return None };
        let kind = if self.level == 3 { 3 } else { 1 };
        Some(self.base_of(offset).wrapping_add(delta) & ADDRESS | bits | kind)
    }
}

/// What a walk has seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Picture {
    /// All descriptors that decide for a page of the walk's range, in order.
    pub runs: Vec<Run>,
    /// The tables below the root, each after those beneath it.
    pub tables: Vec<u64>,
    /// Those of them that hold nothing at all.
    pub empty: Vec<u64>,
}

impl Picture {
    /// Walks the offsets from `start` to `end` of the tree at `root`; `None` where that takes more than `limit` tables.
    pub fn take<W: Words>(words: &W, root: u64, shape: Shape, start: u64, end: u64, limit: usize) -> Option<Self> {
        let mut walk = Walk { words, start, end, left: limit, picture: Self::default() };
        let span = size_of(shape.start_level) * ENTRIES;
        for table in 0..shape.root_tables {
            walk.table(root + table * 4096, shape.start_level, table * span, 1 << shape.input_bits)?;
        }
        walk.picture.empty.retain(|table| !(root..root + shape.root_tables * 4096).contains(table));
        Some(walk.picture)
    }

    /// The run that decides for `offset`, which the walk's range holds.
    pub fn run_at(&self, offset: u64) -> &Run {
        let next = self.runs.partition_point(|run| run.start <= offset);
        &self.runs[next - 1]
    }
}

struct Walk<'a, W> {
    words: &'a W,
    start: u64,
    end: u64,
    left: usize,
    picture: Picture,
}

impl<W: Words> Walk<'_, W> {
    /// Walks one table of `level`, whose first offset is `base`, up to `limit`.
    fn table(&mut self, address: u64, level: u8, base: u64, limit: u64) -> Option<()> {
        if base >= self.end.min(limit) {
            return Some(());
        }
        let words = self.words.words(address);
        if words == [0; ENTRIES as usize] {
            self.picture.empty.push(address);
        }
        let size = size_of(level);
        let end = self.end.min(limit);
        let first = self.start.saturating_sub(base) / size;
        for index in first..ENTRIES {
            let offset = base + index * size;
            if offset >= end {
                break;
            }
            let raw = words[index as usize];
            let held = match (raw & 3, level) {
                (3, 0..=2) => {
                    self.left = self.left.checked_sub(1)?;
                    self.table(raw & ADDRESS, level + 1, offset, limit)?;
                    self.picture.tables.push(raw & ADDRESS);
                    continue;
                }
                (3, 3) | (1, 1 | 2) => {
                    Held::Mapping { delta: (raw & ADDRESS).wrapping_sub(offset), bits: raw & ATTRIBUTES }
                }
                (0, _) if raw == 0 => Held::Nothing,
                (0, _) => Held::Note(raw >> 2),
                _ => Held::Foreign(raw),
            };
            match self.picture.runs.last_mut() {
                Some(last) if last.level == level && last.held == held && last.end == offset => last.end += size,
                _ => self.picture.runs.push(Run { start: offset, end: offset + size, level, held }),
            }
        }
        Some(())
    }
}
