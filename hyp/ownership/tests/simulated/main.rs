//! The transitions over a simulated machine: real tables, hostile TLBs, and the specification beside them. Each call is
//! compared with the specification, and each step judged by the machine.

mod abstraction;
mod beside;
mod blocks;
mod common;
mod device_marks;
mod devices;
mod faults;
mod ghost;
mod guest_guest;
mod host_hyp;
mod known_bugs;
mod loans;
mod poison;
mod protected;
mod races;
mod random;
mod refusals;
mod restricted;
mod shared;
