//! Scripts as text and data, and run on a machine that only remembers.

mod chosen;
mod driver;
mod every_call;
mod orders;
mod recorder;
mod simulated;
mod strategies;
mod text;
