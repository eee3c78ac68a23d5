//! Freehold's EL2 image: the only code that is trusted with isolation.
//!
//! The boot, top to bottom: [`tables::build_tables`] with the MMU off, then [`start::boot_cpu_main`] in hyp's own
//! address space: console, features, ownership of all memory, the host's stage 2, the monitor, the host. Other CPUs
//! come later, through PSCI, to [`start::secondary_cpu_main`].
#![no_std]
#![no_main]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod assembly;
mod barrier;
mod cache;
mod console;
mod controls;
mod cpu_data;
mod environment;
mod exception;
mod fault;
mod firmware;
mod fixmap;
mod frame_pool;
#[cfg_attr(not(feature = "ghost"), path = "ghost_absent.rs")]
mod ghost;
mod guest_switch;
mod host;
mod id_registers;
mod interrupt_registers;
mod layout;
mod machine;
mod platform;
mod self_test;
mod start;
mod system_register;
mod tables;
mod tlb;
mod vector_registers;
