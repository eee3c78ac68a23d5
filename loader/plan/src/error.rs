//! Every reason for which a boot is given up.

use crate::hyp_image::HypImageError;
use crate::kernel::KernelError;
use crate::machine::MachineError;
use crate::modules::ModuleError;
use crate::plan::PlanError;
use crate::tree::TreeError;
use core::fmt;

/// Why a boot was given up. The `Display` form is what the user reads on the console.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BootError {
    /// The device tree cannot be read.
    Tree(TreeError),
    /// The machine is not one that Freehold can take.
    Machine(MachineError),
    /// The boot modules are missing or wrong.
    Module(ModuleError),
    /// The host kernel cannot be started.
    Kernel(KernelError),
    /// Something does not fit in memory.
    Plan(PlanError),
    /// Hyp's image was not built right.
    HypImage(HypImageError),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => error.fmt(f),
            Self::Machine(error) => error.fmt(f),
            Self::Module(error) => error.fmt(f),
            Self::Kernel(error) => error.fmt(f),
            Self::Plan(error) => error.fmt(f),
            Self::HypImage(error) => error.fmt(f),
        }
    }
}

macro_rules! from {
    ($($variant:ident($error:ty)),*) => {
        $(impl From<$error> for BootError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}
from!(
    Tree(TreeError),
    Machine(MachineError),
    Module(ModuleError),
    Kernel(KernelError),
    Plan(PlanError),
    HypImage(HypImageError)
);
