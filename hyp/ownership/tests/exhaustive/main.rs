//! Every reachable state of a small machine, and every call in each of them: of the specification alone, and of the
//! implementation beside it.

mod code;
mod coverage;
mod cpu;
mod domain;
mod implementation;
mod named;
mod rules;
mod search;
mod specification;
mod walk;
mod world;
