//! Who holds each page of memory: the ledger, the checked transitions, and their executable specification.
//!
//! A page of RAM has exactly one owner: the host, hyp, or a protected guest. The owner may let others borrow it. The
//! [`Ledger`] records both; the host's stage 2, hyp's stage 1 and each guest's stage 2 grant no more
//! than it says. [`Ownership`] holds them all and has a method for every change of hands, each of which is done on a
//! whole range or not at all, in two steps under the locks: a check, which refuses or returns a proof; and a commit,
//! which consumes the proof and cannot fail.
//!
//! Table frames that a transition may need are put aside by its check. Hyp's and the host's tables draw from the
//! environment's frames, a guest's from the pages that were donated for it.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod annotation;
pub mod door;
pub mod environment;
pub mod fault;
pub mod guest_memory;
pub mod ledger;
pub mod lock;
pub mod offer;
mod ownership;
pub mod page_cache;
pub mod page_range;
mod reserve;
pub mod shared_lock;
pub mod state;
pub mod table_pages;
pub mod transition;
pub mod turns;

pub use environment::{Environment, Wipe, Witness};
pub use fault::{Access, HostFault};
pub use guest_memory::{GuestAccount, GuestLock, GuestMemory, Presence, Rights, Software};
pub use ledger::Ledger;
pub use lock::{Guard, Lock, Rank};
pub use ownership::{Ownership, StartError};
pub use state::{Component, GuestUse, PageState, VmSlot};
pub use table_pages::Payer;
pub use transition::{Call, LockedMemory};
