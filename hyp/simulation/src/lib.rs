//! A simulated machine with the [monitor](monitor::Monitor) on it: real tables and ledger, hostile TLBs that `memsim`
//! judges, and guests and a firmware that do as a test says.
//!
//! A [`World`] is the machine. Its CPUs are [`TestPlatform`]s, by which [`host_call`] and [`smccc`] go through the very
//! decoder that ships. How much RAM there is, is a matter of [`Layout`]. An [`Observer`] sees the transitions of a CPU from
//! within their locks, and each moment at which the locks were given back.

mod arena;
mod exception;
mod layout;
mod platform;
mod registers;
mod world;

pub use arena::Arena;
pub use exception::{abort, esr, hvc, smc, trap};
pub use layout::{
    CARVE_OUT, CARVE_OUT_PAGES, CPUS, DEVICE, FREE_FRAMES, GUEST_ENTRY, GUEST_RAM, HYP_CONTEXT, HYP_ENTRY, IPA_BITS,
    Layout, PA_BITS, RAM, RAM_PAGES, range_of,
};
pub use platform::{Firmware, FirmwareCalls, GuestStep, Observer, TestPlatform, agreeable_firmware};
pub use registers::{host_call, smccc};
pub use world::{Options, SimulatedMonitor, TestVm, VIRTUAL_TIMER, World};
