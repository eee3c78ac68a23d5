//! The implementation beside the specification.

use crate::coverage::Coverage;
use crate::domain::is_whole;
use crate::walk::{Walked, walk};
use crate::world::domain;
use std::time::Instant;

/// Pages, frames of a guest, and how many kinds of rights borrowers are given.
fn sizes() -> Vec<(usize, usize, usize, bool)> {
    let mut sizes = vec![(1, 1, 3, true), (1, 2, 1, false), (2, 1, 1, false)];
    if is_whole() {
        sizes.extend([(2, 1, 3, true), (2, 2, 2, true)]);
    }
    sizes
}

#[test]
fn implementation_and_specification_agree_on_every_edge() {
    let mut coverage = Coverage::default();
    for (pages, frames, rights, strangers) in sizes() {
        for protected in [[true, true], [true, false]] {
            let domain = domain(protected, pages, frames, rights, strangers);
            let start = Instant::now();
            let Walked { states, unlike, done, refused, detours, compared, coverage: walked } = walk(&domain);
            println!(
                "{pages} pages, {frames} frames of each VM, {protected:?}: {states} states ({unlike} unlike), {done} calls done and \
                 {refused} refused, {detours} more on the way, {compared} compared under their locks, {:.1?}",
                start.elapsed()
            );
            coverage.add(walked);
        }
    }
    println!("{coverage}");
    println!("{} pairs; missing: {:#?}", coverage.pairs(), coverage.missing());
}
