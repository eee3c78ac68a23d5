//! What the transitions do, rule by rule, and that no sequence of them breaks a rule.

mod common;
mod devices;
mod guests;
mod hyp;
mod life;
mod offers;
mod order;
mod print;
mod random;
mod reached;
