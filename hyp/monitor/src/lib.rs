//! What hyp decides, free of hardware: whether a call is honoured, what a trap means, which state a VM, a vCPU or a CPU
//! is in, and what EL2's control registers hold.
//!
//! `hyp/src` knows how EL2 does a thing; this crate knows whether it may be done. The two meet in
//! [`Platform`], which `hyp/src` implements, and in [`Monitor`], whose
//! [`host_exit`](Monitor::host_exit) it calls for every synchronous exception of the host. Guests run within that call,
//! in [`VCPU_RUN`](abi::host::HostCall::VcpuRun).
#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod control_bits;
pub mod cpu_power;
pub mod entropy;
pub mod exit;
pub mod features;
mod guest_call;
mod guest_device_guard;
pub mod guest_exit;
mod guest_memory_call;
mod guest_psci;
pub mod guest_system_register;
pub mod guest_timer;
mod guest_trng;
pub mod host_exit;
mod hypercall;
pub mod id_registers;
pub mod inject;
pub mod interrupt;
pub mod mmio;
mod monitor;
pub mod object;
pub mod platform;
pub mod psci;
pub mod registers;
pub mod smccc;
pub mod switch_features;
pub mod syndrome;
pub mod traps;
pub mod vcpu;
mod vcpu_registers;
pub mod vm;
pub mod vm_table;

pub use host_exit::HostAction;
pub use monitor::Monitor;
pub use platform::Platform;
