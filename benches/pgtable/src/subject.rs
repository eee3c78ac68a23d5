//! What a table has to be able to do to be measured.

/// A stage-2 table of 39 bits, hence three levels, together with its memory. Addresses and sizes are bytes.
pub trait Subject: Sized {
    /// An empty table with memory for `frames` tables.
    fn new(frames: usize) -> Self;

    /// Maps `size` bytes from `ipa` to as many from `output`, readable and writable, by the largest leaves that fit or
    /// by pages only.
    fn map(&mut self, ipa: u64, output: u64, size: u64, pages_only: bool);

    /// Maps the page at `ipa` to `output`, in the way that several CPUs may do at once if there is one.
    fn fault_in(&mut self, ipa: u64, output: u64) {
        self.map(ipa, output, abi::PAGE_SIZE, true);
    }

    /// Takes the right to write away from what is mapped in the range.
    fn protect(&mut self, ipa: u64, size: u64);

    /// Splits the blocks of 2 MiB in the range into pages, which stay mapped as they are.
    fn split(&mut self, ipa: u64, size: u64);

    /// Leaves the range unmapped.
    fn unmap(&mut self, ipa: u64, size: u64);

    /// What `ipa`, page aligned, is mapped to.
    fn look_up(&self, ipa: u64) -> Option<Mapping>;

    /// Tables in use, the root's included.
    fn tables(&self) -> usize;
}

/// What an address is mapped to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The address that it is translated to.
    pub output: u64,
    /// Stores are allowed.
    pub writable: bool,
    /// The level of the leaf: 1 for 1 GiB, 2 for 2 MiB, 3 for 4 KiB.
    pub level: u8,
}
