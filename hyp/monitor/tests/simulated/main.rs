//! The monitor over a simulated machine: real tables and ledger, hostile TLBs, a firmware and guests that do as the
//! test says.

mod guest_call_table;
mod guest_calls;
mod guest_device_guard;
mod guest_interrupts;
mod guest_memory_calls;
mod guest_traps;
mod guest_trng;
mod host_calls;
mod host_faults;
mod power;
mod random;
mod smc_filter;
mod table_pages;
mod vcpu_registers;
mod vm_life;

use simulation as world;
