//! What the loader decides, free of hardware: what the machine has, where hyp and the host kernel go, and the device
//! tree that the host sees.
//!
//! The device tree comes from whoever started the machine and every value in it is checked; none can make this crate
//! panic. The steps, in order:
//!
//! 1. [`DeviceTree::parse`] bounds and validates the device tree;
//! 2. [`Survey::of`] walks it once and notes everything that matters to a boot, without judging;
//! 3. [`Options`] are the loader's own boot arguments, [`Machine::new`] and [`Modules::new`] judge the rest;
//! 4. [`KernelImage::parse`] checks the host kernel's header, [`HypImage::parse`] hyp's ELF;
//! 5. [`Plan::new`] places everything, [`host_tree::write`] emits the host's device tree, [`Plan::boot_info`] what hyp
//!    is told.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

extern crate alloc;

mod bus;
pub mod edit;
pub mod error;
pub mod free_memory;
pub mod host_tree;
pub mod hyp_image;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod modules;
pub mod options;
pub mod plan;
mod properties;
pub mod seed;
pub mod survey;
pub mod tree;
mod walk;

pub use error::BootError;
pub use hyp_image::HypImage;
pub use kernel::KernelImage;
pub use machine::Machine;
pub use modules::Modules;
pub use options::Options;
pub use plan::Plan;
pub use seed::Seed;
pub use survey::Survey;
pub use tree::DeviceTree;
