//! Why the host cannot do with a guest what it wants to.

use abi::Error;
use core::fmt;
use vmm::device_tree::TreeError;
use vmm::guest_space::SpaceError;
use vmm::image::{ImageError, PageSize};
use vmm::layout::LayoutError;

/// Why a guest cannot be built, or goes no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmError {
    /// Hyp refused the named call.
    Refused(&'static str, Error),
    /// The kernel is no image.
    Image(ImageError),
    /// The CPU has no such pages, which the kernel makes its tables of.
    NoPages(PageSize),
    /// The kernel does not fit.
    Layout(LayoutError),
    /// The device tree cannot be written.
    Tree(TreeError),
    /// The host has no pages left.
    OutOfMemory,
    /// Its interrupt controller cannot be made.
    Interrupts,
    /// Its address space cannot be arranged so.
    Space(SpaceError),
    /// There is memory already, or there is to be none.
    Taken,
}

impl From<SpaceError> for VmError {
    fn from(error: SpaceError) -> Self {
        VmError::Space(error)
    }
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VmError::Refused(call, error) => write!(f, "{call}: {error}"),
            VmError::Image(error) => write!(f, "bad image: {error:?}"),
            VmError::NoPages(size) => write!(f, "the image is made for pages that this CPU has not: {size:?}"),
            VmError::Layout(error) => write!(f, "bad layout: {error:?}"),
            VmError::Tree(error) => write!(f, "bad device tree: {error:?}"),
            VmError::OutOfMemory => f.write_str("the host is out of memory"),
            VmError::Interrupts => f.write_str("the CPU's interrupt controller serves no guests"),
            VmError::Space(error) => write!(f, "bad address space: {error:?}"),
            VmError::Taken => f.write_str("no memory can be there"),
        }
    }
}

/// Names the call that hyp refused.
pub fn refused(call: &'static str) -> impl Fn(Error) -> VmError {
    move |error| VmError::Refused(call, error)
}
