//! Where the built images are.

use std::env;
use std::path::{Path, PathBuf};

/// The images that the Makefile builds or fetches.
#[derive(Clone, Debug)]
pub struct Images {
    directory: PathBuf,
}

impl Images {
    /// The images in `$FREEHOLD_BUILD`, or else in `build/` at the workspace's root.
    pub fn from_environment() -> Self {
        let directory = env::var_os("FREEHOLD_BUILD").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).join("build"),
            PathBuf::from,
        );
        Self { directory }
    }

    fn image(&self, name: &str, made_by: &str) -> Result<PathBuf, String> {
        let path = self.directory.join(name);
        if path.is_file() { Ok(path) } else { Err(format!("{} is missing: `make {made_by}` makes it", path.display())) }
    }

    /// The loader with hyp in it.
    pub fn freehold(&self) -> Result<PathBuf, String> {
        self.image("freehold.img", "build")
    }

    /// The same, with a hyp that compares itself with its specification.
    pub fn freehold_ghost(&self) -> Result<PathBuf, String> {
        self.image("freehold-ghost.img", "build GHOST=1")
    }

    /// The reference host.
    pub fn host(&self) -> Result<PathBuf, String> {
        self.image("host.img", "build")
    }

    /// The archive of guests for the reference host.
    pub fn guests(&self) -> Result<PathBuf, String> {
        self.image("guests.cpio", "build")
    }

    /// One guest as an arm64 `Image`, by the name of its binary.
    pub fn payload(&self, name: &str) -> Result<PathBuf, String> {
        self.image(&format!("guests/{name}.img"), "build")
    }

    /// The stock Linux kernel.
    pub fn linux(&self) -> Result<PathBuf, String> {
        self.image("linux/Image", "setup")
    }

    /// Debian 12's kernel, which is older than [`Self::linux`]. Not every Debian mirror has it.
    pub fn linux_6_1(&self) -> Result<PathBuf, String> {
        self.image("linux/Image-6.1", "setup")
    }

    /// The initial file system for Linux as the host, whose `/init` runs the test that `freehold.test=` names.
    pub fn linux_initrd(&self) -> Result<PathBuf, String> {
        self.image("linux/initrd.cpio.gz", "build")
    }

    /// The initial file system for Linux as a guest, whose `/init` runs the tests that `freehold.test=` names.
    pub fn linux_guest_initrd(&self) -> Result<PathBuf, String> {
        self.image("linux/guest-initrd.cpio", "build")
    }
}
