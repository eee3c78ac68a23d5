//! The boot modules: the host kernel, its arguments and its initial RAM disk.

use crate::options::Options;
use crate::survey::{ModuleKind, Survey};
use abi::PhysRange;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// What is wrong with the boot modules. The fault is with whoever wrote the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModuleError {
    /// No module is a kernel.
    NoKernel,
    /// More than one is.
    TwoKernels,
    /// A module's place is missing, empty, or not in memory.
    BadPlace(&'static str, Option<PhysRange>),
}

impl fmt::Display for ModuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel => write!(
                f,
                "no host kernel was given; name one (QEMU: -device \
                 guest-loader,addr=0x42000000,kernel=path/to/Image,bootargs=\"…\")"
            ),
            Self::TwoKernels => write!(f, "more than one host kernel was given; give one"),
            Self::BadPlace(what, None) => write!(f, "the device tree does not say where the {what} lies"),
            Self::BadPlace(what, Some(range)) => write!(
                f,
                "the {what} is said to lie at {range}, which is not all memory; choose another address or give the \
                 machine more memory (QEMU: addr=…, -m …)"
            ),
        }
    }
}

/// What the host is to be started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Modules {
    /// The host kernel's file.
    pub kernel: PhysRange,
    /// Its arguments.
    pub arguments: String,
    /// Its initial RAM disk.
    pub ramdisk: Option<PhysRange>,
    /// Paths of the module nodes, which the host has no use for.
    pub nodes: Vec<String>,
    /// What is odd, but no reason to give up.
    pub warnings: Vec<String>,
}

impl Modules {
    /// Judges the modules that `survey` found in the RAM `memory`.
    ///
    /// # Errors
    /// [`ModuleError`]: a module is missing or misplaced.
    pub fn new(survey: &Survey, options: &Options, memory: &[PhysRange]) -> Result<Self, ModuleError> {
        let mut warnings = Vec::new();
        let place = |what, range: Option<PhysRange>| match range {
            Some(range) if !range.is_empty() && memory.iter().any(|bank| bank.contains_range(&range)) => Ok(range),
            _ => Err(ModuleError::BadPlace(what, range)),
        };
        let of_kind = |kind| survey.modules.iter().filter(move |module| module.kind == kind);

        let mut kernels = of_kind(ModuleKind::Kernel);
        let node = kernels.next().ok_or(ModuleError::NoKernel)?;
        if kernels.next().is_some() {
            return Err(ModuleError::TwoKernels);
        }
        let kernel = place("host kernel", node.range)?;
        let arguments = match &node.arguments {
            None => options.remaining.clone(),
            Some(arguments) => {
                if !options.remaining.is_empty() {
                    let ignored = &options.remaining;
                    warnings.push(format!("the host kernel has arguments of its own; ignored: {ignored}"));
                }
                arguments.clone()
            }
        };

        let mut ramdisks = of_kind(ModuleKind::Ramdisk);
        let ramdisk = match (ramdisks.next(), survey.initrd) {
            (Some(module), initrd) => {
                let range = place("RAM disk", module.range)?;
                if ramdisks.next().is_some() || initrd.is_some_and(|initrd| initrd != range) {
                    warnings.push(format!("more than one RAM disk was given; the host gets the one at {range}"));
                }
                Some(range)
            }
            (None, Some(initrd)) => Some(place("RAM disk", Some(initrd))?),
            (None, None) => None,
        };
        for module in of_kind(ModuleKind::Other) {
            warnings.push(format!("module {} is neither kernel nor ramdisk: ignored", module.path));
        }
        let nodes = survey.modules.iter().map(|module| module.path.clone()).collect();
        Ok(Self { kernel, arguments, ramdisk, nodes, warnings })
    }
}
