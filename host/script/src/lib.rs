//! Scripts of calls: what the host's CPUs and the guests do to hyp, step by step.
//!
//! A script names things by symbols (a page of the pool that the script plays with, a frame of a guest, a VM), so that the
//! same one runs on a simulated machine and on a real one. It is data that a fuzzer makes and shrinks, and text that
//! people read and write, one step a line:
//!
//! ```text
//! pages 16                                # the pool; 64 if nothing is said
//! vm vm0 protected                        # a VM that is there before the first step
//! vm vm1
//! 0: hyp_share page 3 count 2 => ok
//! 1: vm_donate vm0 page 5 frame 2 => ok   # CPU 1
//! 0: write page 5 0x11 => abort           # the host touches the page
//! 1: vm0 mem_share frame 2 => ok, exit Shared
//! 0: interleave 2                         # CPU 1's step comes at the second lock boundary of CPU 0's
//! 0: hyp_unshare page 3
//! 1: hyp_share page raw 0xffffffffffffffff => BadRange
//! ```
//! What follows `=>` is what must come of the step. Where nothing follows, anything may.
//!
//! [`Script`] is the data, [`Script::parse`] reads text, and `Display` writes it. A [`Driver`] runs one on whatever
//! implements [`Executor`]. What comes of a step is judged by the [`model`], and [`choice`] makes up steps by chance.
#![no_std]

extern crate alloc;

pub mod choice;
mod driver;
mod executor;
mod expectation;
mod guest_step;
mod host_step;
pub mod model;
mod operand;
mod parse;
mod performed;
mod resolve;
mod step;
mod words;

pub use driver::Driver;
pub use executor::{Access, Executor, GuestRequest, Places, Request};
pub use expectation::{Expectation, Notice, Outcome, Status};
pub use guest_step::{GuestAction, GuestFunction, GuestStep};
pub use host_step::HostStep;
pub use operand::{CountName, FrameName, IpaName, Kind, Operand, PageName, VmName, VmNumber};
pub use parse::ParseError;
pub use performed::{Done, Performed, Summary};
pub use resolve::{Names, Unresolved};
pub use step::{Action, HostAccess, Script, Setup, Step, VmSetup};
