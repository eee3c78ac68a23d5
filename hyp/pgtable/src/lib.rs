//! AArch64 translation tables: typed descriptors, one recursive walker, and break-before-make done by the book.
//!
//! [`Stage2`] serves the host and guests, [`El2Stage1`] the hypervisor itself, [`El1Stage1`] the reference host and the
//! guest payloads; all three are a [`PageTable`] over a [`Regime`]. Memory and the TLB are reached only through the two
//! traits of [`environment`], which the caller passes with each call: a guest's tables draw their frames from what was
//! donated for that guest, the hypervisor's own from its pool.
//!
//! The granule is 4 KiB; leaves are 4 KiB, 2 MiB and 1 GiB. Every operation that fails leaves the table as it was. A
//! table is changed by one caller at a time (`&mut self`); readers that run at the same time are the hardware's walkers.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod age;
mod attributes;
mod bits;
mod build;
mod change;
mod coalesce;
mod commit;
pub mod descriptor;
mod dump;
pub mod el1;
pub mod el2;
pub mod environment;
pub mod error;
mod flush;
pub mod geometry;
pub mod memory_type;
pub mod page;
pub mod regime;
mod reserve;
pub mod shared;
pub mod slot;
mod split;
pub mod stage2;
pub mod table;
pub mod tlbi;
mod walker;

pub use descriptor::{Annotation, Descriptor, Leaf, RawLeaf};
pub use el1::{El1Attributes, El1Config, El1Stage1, VirtualHalf};
pub use el2::{El2Attributes, El2Config, El2Stage1};
pub use environment::{DsbKind, Environment, Maintenance, TableFrames};
pub use error::{Blame, TableError};
pub use geometry::Geometry;
pub use memory_type::{MAIR_VALUE, MemoryType, Shareability};
pub use page::PageEntry;
pub use regime::{Regime, TlbiFeatures};
pub use slot::LeafSlot;
pub use stage2::{Stage2, Stage2Attributes, Stage2Config, Stage2Execute, Stage2Memory};
pub use table::{MapOptions, PageTable};
pub use tlbi::Tlbi;
