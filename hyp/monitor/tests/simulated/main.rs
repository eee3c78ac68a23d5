//! The monitor over a simulated machine: real tables and ledger, hostile TLBs, a firmware and guests that do as the
//! test says.

mod guest_calls;
mod guest_interrupts;
mod guest_memory_calls;
mod guest_traps;
mod host_calls;
mod host_faults;
mod power;
mod random;
mod smc_filter;
mod vm_life;

use simulation as world;
