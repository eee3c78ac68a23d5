//! From untrusted bytes to a device tree that can be relied on (Devicetree Specification, chapter 5).

use abi::{PhysAddr, PhysRange};
use alloc::vec::Vec;
use core::fmt;
use dtoolkit::error::FdtParseError;
use dtoolkit::fdt::Fdt;

/// Bytes of a flattened device tree's header.
pub const HEADER_SIZE: usize = 40;
/// Most bytes that a device tree may have: the arm64 boot protocol's own limit.
pub const MAX_SIZE: usize = 2 << 20;
/// Most bytes of structure and strings.
pub const MAX_CONTENT_SIZE: usize = 512 << 10;
/// Deepest nesting of nodes.
pub const MAX_DEPTH: usize = 32;
/// Most nodes.
pub const MAX_NODES: usize = 4096;
/// Longest name of a node, in bytes. The specification allows 31; trees that are in use have longer ones.
pub const MAX_NAME_SIZE: usize = 255;
/// Most entries of the memory reservation block.
pub const MAX_RESERVATIONS: usize = 256;

/// "d00dfeed", the first word.
pub(crate) const MAGIC: u32 = 0xd00d_feed;
/// Structure token: a node begins.
pub(crate) const BEGIN_NODE: u32 = 1;
/// Structure token: a node ends.
pub(crate) const END_NODE: u32 = 2;
/// Structure token: a property.
pub(crate) const PROPERTY: u32 = 3;
/// Structure token: nothing.
const NOP: u32 = 4;
/// Structure token: the structure ends.
pub(crate) const END: u32 = 9;
/// Bytes of a token, and what everything in the structure is aligned to.
pub(crate) const CELL: usize = 4;

/// Why a device tree was refused. The fault is always with who wrote it: firmware, QEMU or an earlier boot stage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeError {
    /// There is no device tree where x0 points.
    Magic(u32),
    /// The header's total size, in bytes, is absurd.
    Size(usize),
    /// Structure and strings are larger than [`MAX_CONTENT_SIZE`].
    ContentSize(usize),
    /// Nodes nest deeper than [`MAX_DEPTH`].
    Depth,
    /// There are more than [`MAX_NODES`].
    Nodes,
    /// A node's name is longer than [`MAX_NAME_SIZE`].
    NameSize(usize),
    /// The memory reservation block has more than [`MAX_RESERVATIONS`] entries.
    Reservations,
    /// It breaks the format's rules.
    Format(FdtParseError),
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(word) => write!(
                f,
                "x0 does not point at a device tree (found {word:#010x}); start freehold.img as a raw arm64 Image \
                 (QEMU: -kernel build/freehold.img), not as an ELF file"
            ),
            Self::Size(size) => {
                write!(f, "the device tree claims to have {size} bytes; at most {MAX_SIZE} are allowed")
            }
            Self::ContentSize(size) => {
                write!(f, "the device tree holds {size} bytes of content; at most {MAX_CONTENT_SIZE} are handled")
            }
            Self::Depth => write!(f, "the device tree's nodes nest deeper than {MAX_DEPTH} levels"),
            Self::Nodes => write!(f, "the device tree has more than {MAX_NODES} nodes"),
            Self::NameSize(size) => {
                write!(f, "the device tree has a node with a name of {size} bytes; at most {MAX_NAME_SIZE} are handled")
            }
            Self::Reservations => {
                write!(f, "the device tree reserves more than {MAX_RESERVATIONS} ranges of memory in its header")
            }
            Self::Format(error) => write!(f, "the device tree is malformed: {error}"),
        }
    }
}

/// The total size that a device tree's header claims, in bytes, at least [`HEADER_SIZE`] and at most [`MAX_SIZE`].
///
/// # Errors
/// [`TreeError::Magic`] where `header` does not start a device tree, [`TreeError::Size`] where the size is out of
/// bounds.
pub fn total_size(header: &[u8; 8]) -> Result<usize, TreeError> {
    let [m0, m1, m2, m3, s0, s1, s2, s3] = *header;
    let magic = u32::from_be_bytes([m0, m1, m2, m3]);
    if magic != MAGIC {
        return Err(TreeError::Magic(magic));
    }
    let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
    if !(HEADER_SIZE..=MAX_SIZE).contains(&size) {
        return Err(TreeError::Size(size));
    }
    Ok(size)
}

/// A device tree whose form is sound: lengths are within bounds, names are of the characters that the specification
/// allows, nodes are balanced. What the properties *mean* is as untrusted as before.
#[derive(Clone, Debug)]
pub struct DeviceTree<'a> {
    structure: &'a [u8],
    /// Bytes of `structure` up to the root's end, without padding tokens.
    structure_size: usize,
    strings: &'a [u8],
    reservations: Vec<PhysRange>,
    boot_cpu: u32,
}

impl<'a> DeviceTree<'a> {
    /// Validates the device tree in `bytes`, which must be as long as its [`total_size`].
    ///
    /// # Errors
    /// [`TreeError`], for whatever the bytes get wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TreeError> {
        let header = bytes.first_chunk().ok_or(TreeError::Size(bytes.len()))?;
        if total_size(header)? != bytes.len() {
            return Err(TreeError::Size(bytes.len()));
        }
        let field = |offset| word(bytes, offset).unwrap_or(u32::MAX) as usize;
        let content_size = field(32).saturating_add(field(36));
        if content_size > MAX_CONTENT_SIZE {
            return Err(TreeError::ContentSize(content_size));
        }
        let fdt = Fdt::new(bytes).map_err(TreeError::Format)?;
        let (_, strings) = bytes.split_at_checked(field(12)).unwrap_or_default();
        let (_, structure) = bytes.split_at_checked(field(8)).unwrap_or_default();
        if fdt.memory_reservations().nth(MAX_RESERVATIONS).is_some() {
            return Err(TreeError::Reservations);
        }
        let reservations = fdt
            .memory_reservations()
            .filter_map(|reservation| PhysRange::from_size(PhysAddr::new(reservation.address()), reservation.size()));
        let mut tree = Self {
            structure,
            structure_size: 0,
            strings: strings.get(..field(32)).unwrap_or(strings),
            reservations: reservations.collect(),
            boot_cpu: fdt.boot_cpuid_phys(),
        };
        tree.structure_size = tree.measure()?;
        Ok(tree)
    }

    /// The memory reservation block.
    pub fn reservations(&self) -> &[PhysRange] {
        &self.reservations
    }

    /// The strings block: names of properties, each ended by a zero.
    pub(crate) fn strings(&self) -> &'a [u8] {
        self.strings
    }

    /// Bytes of all [`tokens`](Self::tokens).
    pub(crate) fn structure_size(&self) -> usize {
        self.structure_size
    }

    /// The header's `boot_cpuid_phys`.
    pub(crate) fn boot_cpu(&self) -> u32 {
        self.boot_cpu
    }

    /// The structure, from the root's beginning to its end.
    pub fn tokens(&self) -> Tokens<'a> {
        Tokens { rest: self.structure, strings: self.strings, depth: 0, ended: false }
    }

    /// Bytes of all tokens. Bounds the nesting, the number of nodes and their names, which is what a walk's memory grows
    /// with.
    fn measure(&self) -> Result<usize, TreeError> {
        let (mut depth, mut nodes, mut size) = (0usize, 0usize, 0usize);
        for token in self.tokens() {
            size += token.raw.len();
            match token.kind {
                TokenKind::Begin(name) if name.len() > MAX_NAME_SIZE => return Err(TreeError::NameSize(name.len())),
                TokenKind::Begin(_) => (depth, nodes) = (depth + 1, nodes + 1),
                TokenKind::Property(..) => {}
                TokenKind::End => depth = depth.saturating_sub(1),
            }
            if depth > MAX_DEPTH {
                return Err(TreeError::Depth);
            }
            if nodes > MAX_NODES {
                return Err(TreeError::Nodes);
            }
        }
        Ok(size)
    }
}

/// One element of a device tree's structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token<'a> {
    /// What it is.
    pub kind: TokenKind<'a>,
    /// Its bytes as they stand in the structure.
    pub raw: &'a [u8],
}

/// What an element of a device tree's structure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenKind<'a> {
    /// A node of this name begins. Its properties come first, then its children.
    Begin(&'a [u8]),
    /// A property: name and value.
    Property(&'a [u8], &'a [u8]),
    /// The node ends.
    End,
}

/// Iterator over a device tree's structure.
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    rest: &'a [u8],
    strings: &'a [u8],
    depth: usize,
    ended: bool,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        while !self.ended {
            let (kind, length) = match word(self.rest, 0)? {
                BEGIN_NODE => {
                    self.depth += 1;
                    let name = string(self.rest.get(CELL..)?)?;
                    (Some(TokenKind::Begin(name)), CELL + name.len() + 1)
                }
                END_NODE => {
                    self.depth = self.depth.checked_sub(1)?;
                    self.ended = self.depth == 0;
                    (Some(TokenKind::End), CELL)
                }
                PROPERTY => {
                    let length = word(self.rest, CELL)? as usize;
                    let name = string(self.strings.get(word(self.rest, 2 * CELL)? as usize..)?)?;
                    let value = self.rest.get(3 * CELL..)?.get(..length)?;
                    (Some(TokenKind::Property(name, value)), 3 * CELL + length)
                }
                NOP => (None, CELL),
                _ => return None,
            };
            let (raw, rest) = self.rest.split_at_checked(length.next_multiple_of(CELL))?;
            self.rest = rest;
            if let Some(kind) = kind {
                return Some(Token { kind, raw });
            }
        }
        None
    }
}

/// The zero-terminated string at the start of `bytes`, without the zero.
fn string(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(..bytes.iter().position(|&byte| byte == 0)?)
}

/// Big-endian word at `offset`.
fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}
