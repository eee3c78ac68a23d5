//! The machine's random seed, `/chosen/rng-seed`, which hyp and the host share between them: the first half is hyp's,
//! and the host never sees it. Both halves are as random as the whole, so that who knows the one knows nothing of the
//! other.

use crate::tree::{DeviceTree, TokenKind};
use abi::boot::SEED_SIZE;

/// The node that holds the seed.
const NODE: &[u8] = b"chosen";
/// The property.
pub(crate) const PROPERTY: &str = "rng-seed";
/// Bytes of a seed that is worth halving: each half is a key of 128 bits.
const SMALLEST: usize = 32;

/// A seed and whose its parts are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed<'a> {
    /// Hyp's: 16 to [`SEED_SIZE`] bytes.
    pub hyp: &'a [u8],
    /// The host's.
    pub host: &'a [u8],
}

impl<'a> Seed<'a> {
    /// The seed that a device tree holds; `None` where there is none, or a short one, which is the host's.
    pub fn find(tree: &DeviceTree<'a>) -> Option<Self> {
        values(tree).find(|value| value.len() >= SMALLEST).map(|value| {
            let (hyp, host) = value.split_at_checked(value.len() / 2).unwrap_or_default();
            Self { hyp: hyp.get(..SEED_SIZE).unwrap_or(hyp), host }
        })
    }
}

/// Every value of the property, of which the node should have one. All are to be erased where one is taken.
pub fn values<'a>(tree: &DeviceTree<'a>) -> impl Iterator<Item = &'a [u8]> {
    let mut depth = 0_usize;
    let mut is_inside = false;
    tree.tokens().filter_map(move |token| {
        match token.kind {
            TokenKind::Begin(name) => {
                depth = depth.saturating_add(1);
                is_inside = depth == 2 && name == NODE;
            }
            TokenKind::Property(name, value) if is_inside && name == PROPERTY.as_bytes() => return Some(value),
            TokenKind::Property(..) => {}
            TokenKind::End => {
                depth = depth.saturating_sub(1);
                is_inside = false;
            }
        }
        None
    })
}
