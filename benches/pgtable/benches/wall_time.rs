//! The time that each row takes, the subjects side by side. On a machine that does other work as well, compare the
//! fastest runs.

use std::fmt;

use divan::Bencher;
use pgtable_benches::freehold::Freehold;
use pgtable_benches::peer::Peer;
use pgtable_benches::row::Row;
use pgtable_benches::subject::Subject;

/// Who does what.
#[derive(Clone, Copy)]
struct Case {
    row: Row,
    subject: &'static str,
    measure: fn(Bencher, Row),
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.row.name(), self.subject)
    }
}

fn measure<S: Subject>(bencher: Bencher, row: Row) {
    bencher.with_inputs(|| row.prepare::<S>()).bench_refs(|subject| row.run(subject));
}

fn cases() -> impl Iterator<Item = Case> {
    Row::ALL.into_iter().flat_map(|row| {
        let live_peer = Case { row, subject: "aarch64-paging in use", measure: measure::<Peer<true>> };
        [
            Some(Case { row, subject: "Freehold", measure: measure::<Freehold> }),
            row.peer_does_it_live().then_some(live_peer),
            Some(Case { row, subject: "aarch64-paging not in use", measure: measure::<Peer<false>> }),
        ]
        .into_iter()
        .flatten()
    })
}

#[divan::bench(args = cases(), max_time = 0.5, skip_ext_time = true)]
fn tables(bencher: Bencher, case: &Case) {
    (case.measure)(bencher, case.row);
}

fn main() {
    divan::main();
}
