//! Boots images in QEMU and judges what their consoles say.
//!
//! A test names a [`Machine`], starts it, and gets a [`Console`] to talk to, or runs it to its end and gets a
//! [`Transcript`] to judge. Checks that run on the machine itself report by the line protocol of [`abi::report`]; the
//! transcript's assertions are about those lines. What goes wrong is a [`Failure`], which carries the whole console, the
//! command line that does it again, and the last lines that came.

pub mod console;
pub mod device_tree;
pub mod images;
pub mod machine;
pub mod transcript;

pub use console::Console;
pub use images::Images;
pub use machine::{Gic, Machine};
pub use transcript::{Failure, Transcript};
