//! The specification: what the transitions of memory mean, and nothing of how they are done.
//!
//! The whole state, [`Specification`], is a map from page to owner, borrowers and rights, a map from page of a device to
//! who has it, and a map from VM to what it is. Each transition is a function from one state to the next, or to the
//! refusal that the caller gets. They are written from the rules, for reading; they share no code with the
//! implementation, which is compared with them after every step. Lack of memory for tables is not their subject: a call
//! that the implementation refuses for that changes nothing.
//!
//! Every function checks in the same order, and the first refusal counts. Arguments that make no sense whatever the state
//! come first: [`InvalidParameter`](abi::Error::InvalidParameter). Then:
//!
//! 1. the numbers of the pages: [`BadRange`](abi::Error::BadRange);
//! 2. what the pages are: [`NotMemory`](abi::Error::NotMemory), or `BadRange` where devices are called for;
//! 3. the numbers of the frames: `BadRange`;
//! 4. the VMs: [`VmGone`](abi::Error::VmGone) for one that there is not or that is dying, [`Busy`](abi::Error::Busy) for
//!    one that should be dying, [`WrongState`](abi::Error::WrongState) for one of the wrong kind;
//! 5. the pages, in rising order: [`NotYours`](abi::Error::NotYours), `Busy` where pinned, `WrongState`,
//!    [`Limit`](abi::Error::Limit) where a count is full;
//! 6. whether the frames are vacant: `WrongState`.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

extern crate alloc;

#[macro_use]
mod operand;
mod call;
mod device;
mod difference;
mod frame;
mod guest;
mod guest_call;
mod host_guest;
mod host_hyp;
mod invariants;
mod kind;
mod life;
mod machine;
mod offer;
mod page;
mod reclaim;
mod state;
pub mod witness;

pub use call::{Call, Output};
pub use device::Device;
pub use difference::Difference;
pub use frame::Frame;
pub use guest::{Guest, Vm};
pub use invariants::Breach;
pub use kind::Kind;
pub use machine::Machine;
pub use offer::Offer;
pub use operand::Substitute;
pub use page::{Borrower, Owner, Page, Rights};
pub use state::{Next, Specification};
