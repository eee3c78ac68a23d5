//! What the host knows about building a guest, free of hardware: where things lie in a guest's address space, how its
//! kernel image and device tree look, which page backs which frame, and the devices that its MMIO exits reach.
#![no_std]

extern crate alloc;

pub mod address_space;
pub mod backing;
pub mod config;
pub mod cpio;
pub mod device_tree;
pub mod dirty;
pub mod dispatch;
pub mod entropy;
pub mod fifo;
pub mod flat_view;
pub mod gic;
pub mod guest_space;
pub mod image;
pub mod layout;
pub mod line;
pub mod loans;
pub mod memory;
pub mod mmio;
pub mod multiplexer;
pub mod pl011;
pub mod pl031;
pub mod primecell;
pub mod ranges;
pub mod region;
pub mod slots;
