//! What the reference host and the payload `watcher` agree on: which interrupts and values may come.

/// INTIDs that the host gives the guest in a list register that is well-formed.
pub const ALLOWED: [u32; 2] = [5, 40];
/// One past the highest of them.
pub const INTIDS: usize = 41;
/// INTIDs that are only ever in list registers that hyp must refuse.
pub const FORBIDDEN: [u32; 2] = [7, 41];
/// Where the guest reads a byte, as if a device were there.
pub const DEVICE: u64 = 0x0b00_0000;
/// What the host answers there, but for the bits beyond the byte.
pub const ANSWERS: [u64; 2] = [0x5a, 0xa5];
/// The answer that ends the guest.
pub const STOP: u64 = 0xee;
