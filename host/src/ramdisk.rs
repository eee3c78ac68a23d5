//! The ramdisk: a `newc` cpio archive of guest images.

use abi::PhysRange;
use vmm::cpio::Archive;

/// The archive.
#[derive(Clone, Copy)]
pub struct Ramdisk(&'static [u8]);

impl Ramdisk {
    /// The archive at `range`, which may be empty.
    ///
    /// # Safety
    /// The range must be mapped, and its content must stay as it is.
    pub unsafe fn new(range: PhysRange) -> Self {
        if range.is_empty() {
            return Self(&[]);
        }
        // SAFETY: the caller vouches for the memory, which is mapped at its physical address.
        Self(unsafe { core::slice::from_raw_parts(range.start.raw() as *const u8, range.size() as usize) })
    }

    /// The file of that name, whatever path leads to it from the archive's root.
    pub fn file(&self, name: &str) -> Option<&'static [u8]> {
        Archive::new(self.0).file(name)
    }
}
