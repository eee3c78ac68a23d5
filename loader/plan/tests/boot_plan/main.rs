//! The boot plan on real and on broken device trees.

mod edits;
mod elf;
mod heap;
mod hyp_image;
mod mutated_trees;
mod options;
mod placement;
mod real_machines;
mod refusals;
mod seed;
mod support;
