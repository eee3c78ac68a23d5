//! What Freehold's images say to each other: typed addresses, hypercall and SMCCC numbers, PSCI codes, error codes,
//! the structures that cross between exception levels, and the line protocol of the test payloads.
//!
//! This crate depends on nothing else of Freehold and holds no logic beyond encoding and decoding.
#![no_std]

pub mod actor;
pub mod address;
pub mod boot;
pub mod carve_out;
pub mod error;
pub mod guest;
pub mod guest_register;
pub mod host;
pub mod payloads;
pub mod psci;
pub mod register;
pub mod report;
pub mod run;
pub mod smccc;
pub mod standard;
pub mod system_register;
pub mod watch;

pub use address::{Gfn, Ipa, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, PhysRange, VirtAddr};
pub use error::Error;
