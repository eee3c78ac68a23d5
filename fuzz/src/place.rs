//! Addresses and lengths near which mistakes happen.

use arbitrary::{Arbitrary, Result, Unstructured};

/// 4 KiB.
pub const PAGE: u64 = 1 << 12;
/// 2 MiB.
pub const MIB2: u64 = 1 << 21;
/// 1 GiB.
pub const GIB: u64 = 1 << 30;

/// Where a place is counted from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anchor {
    /// The first byte of the space.
    First,
    /// One past the last byte of the space.
    Last,
    /// The middle of the space.
    Middle,
    /// 512 GiB.
    Gib512,
    /// Where an earlier operation began; 0 is the last one's.
    StartOf(u8),
    /// Where an earlier operation ended.
    EndOf(u8),
    /// Anywhere.
    Any(u64),
}

/// A place in a space: so many GiB, blocks, pages and bytes from an anchor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    anchor: Anchor,
    gib: i8,
    block: i16,
    page: i16,
    bytes: u16,
}

impl Place {
    /// Its offset in a space of `size` bytes.
    pub fn offset(&self, size: u64, earlier: &[Range]) -> u64 {
        let back = |steps: u8| earlier.iter().rev().nth(steps.into()).copied().unwrap_or_default();
        let anchor = match self.anchor {
            Anchor::First => 0,
            Anchor::Last => size,
            Anchor::Middle => size / 2,
            Anchor::Gib512 => 512 * GIB,
            Anchor::StartOf(steps) => back(steps).start,
            Anchor::EndOf(steps) => back(steps).end,
            Anchor::Any(raw) => raw,
        };
        let far = i64::from(self.gib) * GIB as i64 + i64::from(self.block) * MIB2 as i64;
        let near = i64::from(self.page) * PAGE as i64 + i64::from(self.bytes);
        anchor.wrapping_add_signed(far).wrapping_add_signed(near)
    }
}

/// A small number, most often 0.
fn few<'a, T: From<i8>>(u: &mut Unstructured<'a>) -> Result<T> {
    let byte: i8 = u.arbitrary()?;
    Ok(T::from(if byte & 0x40 == 0 { 0 } else { byte & 3 | byte >> 7 << 2 }))
}

/// A number that is near a multiple of 512, most often 0.
fn near_table_edge(u: &mut Unstructured<'_>) -> Result<i16> {
    let byte: u8 = u.arbitrary()?;
    let edge = if byte & 0x10 == 0 { 0 } else { 510 };
    Ok(if byte & 0x40 == 0 { 0 } else { i16::from(byte & 3) + edge })
}

impl<'a> Arbitrary<'a> for Place {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let anchor = match u.int_in_range(0..=15)? {
            0..=2 => Anchor::First,
            3 => Anchor::Last,
            4 => Anchor::Middle,
            5 => Anchor::Gib512,
            6 => Anchor::Any(u.arbitrary()?),
            7..=9 => Anchor::EndOf(u.int_in_range(0..=3)?),
            _ => Anchor::StartOf(u.int_in_range(0..=3)?),
        };
        let (gib, block, page) = (few(u)?, near_table_edge(u)?, near_table_edge(u)?);
        let (block, page) = if u.arbitrary()? { (block, page) } else { (-block, -page) };
        let bytes = if u.int_in_range(0..=63)? == 63 { u.arbitrary()? } else { 0 };
        Ok(Self { anchor, gib, block, page, bytes })
    }
}

/// How far an operation reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// So many bytes.
    Bytes(u64),
    /// Up to a place.
    UpTo(Place),
}

impl Length {
    /// Bytes from `start` on.
    pub fn bytes(&self, start: u64, size: u64, earlier: &[Range]) -> u64 {
        match self {
            Self::Bytes(bytes) => *bytes,
            Self::UpTo(place) => place.offset(size, earlier).wrapping_sub(start),
        }
    }
}

impl<'a> Arbitrary<'a> for Length {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=15)? {
            0..=2 => Self::Bytes(PAGE * u.int_in_range(1..=3)?),
            3 => Self::Bytes(PAGE * u.int_in_range(15..=18)?),
            4 => Self::Bytes(PAGE * u.int_in_range(509..=515)?),
            5..=7 => Self::Bytes(MIB2 * u.int_in_range(1..=3)?),
            8..=9 => Self::Bytes(GIB * u.int_in_range(1..=2)?),
            10 => Self::Bytes(GIB + few::<i64>(u)?.unsigned_abs() * MIB2 + few::<i64>(u)?.unsigned_abs() * PAGE),
            11 => Self::Bytes(u.arbitrary()?),
            _ => Self::UpTo(u.arbitrary()?),
        })
    }
}

/// Offsets that an operation was about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

/// Where a mapping leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// To the offset itself.
    Identity,
    /// So many GiB away.
    GibAway(u8),
    /// So many blocks away.
    BlocksAway(u8),
    /// So many pages away.
    PagesAway(u8),
    /// Near an edge of the output space.
    At(Place),
}

impl Output {
    /// The output address of a mapping that begins at offset `start`, in an output space of `size` bytes.
    pub fn address(&self, start: u64, size: u64) -> u64 {
        let away = match self {
            Self::Identity => 0,
            Self::GibAway(count) => u64::from(*count) * GIB,
            Self::BlocksAway(count) => u64::from(*count) * MIB2,
            Self::PagesAway(count) => u64::from(*count) * PAGE,
            Self::At(place) => return place.offset(size, &[]),
        };
        // Where the output space is the smaller one, the offset may be beyond it.
        (start % size).wrapping_add(away)
    }
}

impl<'a> Arbitrary<'a> for Output {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=7)? {
            0..=3 => Self::Identity,
            4 => Self::GibAway(u.int_in_range(1..=3)?),
            5 => Self::BlocksAway(u.int_in_range(1..=3)?),
            6 => Self::PagesAway(u.int_in_range(1..=3)?),
            _ => Self::At(u.arbitrary()?),
        })
    }
}
