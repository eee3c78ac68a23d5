//! The specification alone.

use crate::coverage::Coverage;
use crate::domain::{ALL_RIGHTS, Domain, STRANGERS, is_whole};
use crate::search::{Found, search};
use abi::Pfn;
use ownership_spec::Machine;
use std::fmt;
use std::time::Instant;

/// How large a domain is.
struct Size {
    protected: [bool; 2],
    pages: usize,
    frames: usize,
    most_offers: usize,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = if self.protected[1] { "two protected VMs" } else { "one VM of each kind" };
        write!(f, "{} pages, {} frames of each of {kinds}", self.pages, self.frames)
    }
}

fn domain(size: &Size) -> Domain {
    let range = |first, end| Pfn::new(first)..Pfn::new(end);
    let placed = 1 + size.pages as u64;
    let mut machine = Machine::new(&[range(1, placed + 1)], &[range(placed, placed + 1)], placed + 1);
    machine.longest = 2;
    machine.most = 2;
    machine.most_offers = size.most_offers;
    Domain {
        machine,
        first_page: Pfn::new(1),
        pages: size.pages,
        device: Pfn::new(0),
        grants: true,
        frames: size.frames,
        gfn_limit: size.frames as u64,
        protected: size.protected,
        rights: ALL_RIGHTS,
        strangers: STRANGERS,
        pins: 2,
        life: true,
    }
}

/// Pages, frames of a guest, and offers of a guest. The whole size takes a while, and is searched where it is asked for.
fn sizes() -> Vec<(usize, usize, usize)> {
    let mut sizes = vec![(2, 1, 1), (3, 1, 1), (2, 2, 1)];
    if is_whole() {
        sizes.push((3, 2, 2));
    }
    sizes
}

#[test]
fn every_state_keeps_every_rule() {
    let mut coverage = Coverage::default();
    for (pages, frames, most_offers) in sizes() {
        for protected in [[true, true], [true, false]] {
            let size = Size { protected, pages, frames, most_offers };
            let start = Instant::now();
            let found = search(&domain(&size));
            let Found { states, done, refused, .. } = found;
            println!(
                "{size}: {} states, {done} calls done and {refused} refused, {:.1?}",
                states.len(),
                start.elapsed()
            );
            coverage.add(found.coverage);
        }
    }
    println!("{coverage}{} pairs of call and state", coverage.pairs());
    coverage.assert_all_kinds_seen();
    assert_eq!(coverage.missing(), [], "these were not made");
    assert_eq!(coverage.never_done(), [""; 0], "these were always refused");
}
