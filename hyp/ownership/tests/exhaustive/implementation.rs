//! The implementation beside the specification.

use crate::coverage::{Coverage, Subject};
use crate::domain::is_whole;
use crate::search::search;
use crate::walk::{Walked, walk};
use crate::world::domain;
use std::time::Instant;

/// How large a walk is.
struct Size {
    pages: usize,
    /// Of each VM.
    frames: usize,
    /// How many kinds of rights borrowers are given.
    rights: usize,
    /// VMs that are not there are offered something, and the device changes hands.
    more: bool,
}

const SMALL: [Size; 3] = [
    Size { pages: 1, frames: 1, rights: 3, more: true },
    Size { pages: 1, frames: 2, rights: 1, more: false },
    Size { pages: 2, frames: 1, rights: 1, more: false },
];

const WHOLE: [Size; 4] = [
    Size { pages: 2, frames: 1, rights: 3, more: true },
    Size { pages: 3, frames: 1, rights: 1, more: false },
    Size { pages: 2, frames: 2, rights: 2, more: false },
    Size { pages: 2, frames: 2, rights: 1, more: true },
];

#[test]
fn implementation_and_specification_agree_on_every_edge() {
    let mut coverage = Coverage::default();
    for Size { pages, frames, rights, more } in SMALL.into_iter().chain(WHOLE.into_iter().filter(|_| is_whole())) {
        for protected in [[true, true], [true, false]] {
            let domain = domain(protected, pages, frames, rights, more);
            let start = Instant::now();
            let Walked { states, unlike, done, refused, detours, compared, coverage: walked } = walk(&domain);
            let kinds = if protected[1] { "two protected VMs" } else { "one VM of each kind" };
            let rest = if more { ", all offers and a device" } else { "" };
            println!(
                "{pages} pages, {frames} frames of each of {kinds}, {rights} kinds of rights{rest}: {states} states \
                 ({} unlike), {done} calls done and {refused} refused, {detours} more on the way, {compared} \
                 compared under their locks, {:.1?}",
                unlike.len(),
                start.elapsed()
            );
            let expected = search(&domain).states;
            let differing: Vec<_> = unlike.symmetric_difference(&expected).collect();
            assert!(differing.is_empty(), "these only one of walk and specification reaches: {differing:#?}");
            coverage.add(walked);
        }
    }
    println!("{coverage}{} pairs of call and state", coverage.pairs());
    coverage.assert_all_kinds_seen();
    let missing: Vec<_> =
        coverage.missing().into_iter().filter(|(name, subject)| !is_monitors(name, *subject)).collect();
    assert_eq!(missing, [], "these were not made");
    assert_eq!(coverage.never_done(), [""; 0], "these were always refused");
}

/// True where the monitor alone makes or refuses a call, since it is about the life of a VM.
fn is_monitors(name: &str, subject: Subject) -> bool {
    name == "create" || name == "start_teardown" || subject == Subject::NoVm
}
