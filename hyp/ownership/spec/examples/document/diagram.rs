//! The state diagram: which kinds of pages there are, which calls lead from one to another, and where each is drawn.

use crate::layout::{Drawing, Edge, Place, lay_out};
use ownership_spec::Kind;
use ownership_spec::witness::Witness;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The calls that lead from one kind to another, or change a page that stays of its kind.
pub fn transitions() -> BTreeMap<(Kind, Kind), Vec<&'static str>> {
    let mut transitions: BTreeMap<(Kind, Kind), Vec<&'static str>> = BTreeMap::new();
    for witness in Witness::all() {
        let before = witness.state().expect("a witness is reached");
        for (title, call) in witness.calls() {
            let Ok((after, _)) = before.apply(&call) else { continue };
            let to = after.kind(witness.page).expect("a page stays a page");
            let titles = transitions.entry((witness.kind, to)).or_default();
            let changed = to != witness.kind || after.page(witness.page) != before.page(witness.page);
            if changed && !titles.contains(&title) {
                titles.push(title);
            }
        }
    }
    transitions.retain(|_, titles| !titles.is_empty());
    transitions
}

/// The diagram. What can be taken back at any time has its way to the host on the right, where the host is drawn again.
pub fn drawing() -> Drawing {
    let transitions = transitions();
    let places: Vec<_> = PLACES.iter().map(|(kind, column, rows)| place(*kind, *column, rows, &transitions)).collect();
    let mut edges = Vec::new();
    for ((from, to), titles) in &transitions {
        if from == to {
            continue;
        }
        let source = nearest(&places, *from, None);
        let target = nearest(&places, *to, Some(places[source].column));
        edges.push(Edge { from: source, to: target, titles: in_lines(titles) });
    }
    lay_out(places, edges)
}

/// The column and the rows of each kind. The host, and devices of the host's, are drawn twice.
const PLACES: [(Kind, usize, RangeInclusive<usize>); 27] = [
    (Kind::Pinned, 0, 0..=1),
    (Kind::SharedWithHyp, 1, 0..=0),
    (Kind::SharedWithHypRestricted, 1, 1..=1),
    (Kind::Hyps, 1, 2..=2),
    (Kind::Placed, 1, 3..=3),
    (Kind::HostAlone, 2, 0..=8),
    (Kind::Mapped, 3, 0..=0),
    (Kind::MappedRestricted, 3, 1..=1),
    (Kind::LentToGuest, 3, 2..=2),
    (Kind::GuestsAlone, 3, 3..=8),
    (Kind::SharedWithHost, 4, 3..=3),
    (Kind::LentToHost, 4, 4..=4),
    (Kind::Offered, 4, 5..=5),
    (Kind::SharedWithGuest, 4, 6..=6),
    (Kind::SharedWithDyingGuest, 4, 7..=7),
    (Kind::LentToDyingGuest, 5, 2..=2),
    (Kind::DyingSharedWithHost, 5, 3..=3),
    (Kind::DyingLentToHost, 5, 4..=4),
    (Kind::DyingOffered, 5, 5..=5),
    (Kind::DyingSharedWithGuest, 5, 6..=7),
    (Kind::DyingAlone, 5, 8..=8),
    (Kind::HostAlone, 6, 2..=8),
    (Kind::DeviceHyps, 1, 9..=9),
    (Kind::DeviceHosts, 2, 9..=9),
    (Kind::DeviceGuests, 3, 9..=9),
    (Kind::DeviceDyingGuests, 5, 9..=9),
    (Kind::DeviceHosts, 6, 9..=9),
];

fn place(
    kind: Kind,
    column: usize,
    rows: &RangeInclusive<usize>,
    transitions: &BTreeMap<(Kind, Kind), Vec<&'static str>>,
) -> Place {
    let stays = transitions.get(&(kind, kind)).map(|titles| in_lines(titles)).unwrap_or_default();
    Place { column, rows: rows.clone(), title: kind.name(), colour: colour(kind), stays }
}

/// A line for each word.
fn in_lines(titles: &[&'static str]) -> Vec<&'static str> {
    titles.iter().flat_map(|title| title.split(' ')).collect()
}

/// Where a kind is drawn: first, or nearest to a column; of two that are as near, the right one.
fn nearest(places: &[Place], kind: Kind, column: Option<usize>) -> usize {
    let its = places.iter().enumerate().filter(|(_, place)| place.title == kind.name());
    let nearest = its.min_by_key(|(index, place)| match column {
        Some(column) => (place.column.abs_diff(column), usize::MAX - index),
        None => (*index, 0),
    });
    nearest.expect("every kind is drawn").0
}

/// The colour of a page is its owner's.
fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::HostAlone | Kind::SharedWithHyp | Kind::SharedWithHypRestricted | Kind::Pinned | Kind::Mapped => {
            "#d6e6fa"
        }
        Kind::MappedRestricted | Kind::LentToGuest | Kind::LentToDyingGuest | Kind::DeviceHosts => "#d6e6fa",
        Kind::Hyps | Kind::Placed | Kind::DeviceHyps => "#fae3c8",
        Kind::GuestsAlone | Kind::Offered | Kind::SharedWithHost | Kind::LentToHost | Kind::SharedWithGuest => {
            "#d5efd2"
        }
        Kind::SharedWithDyingGuest | Kind::DeviceGuests => "#d5efd2",
        Kind::DyingAlone | Kind::DyingOffered | Kind::DyingSharedWithHost | Kind::DyingLentToHost => "#e2e2e2",
        Kind::DyingSharedWithGuest | Kind::DeviceDyingGuests => "#e2e2e2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_drawn_and_every_transition_has_its_line() {
        for kind in Kind::ALL {
            assert!(PLACES.iter().any(|(drawn, ..)| drawn == kind), "{kind} is not drawn");
        }
        let moves = transitions().keys().filter(|(from, to)| from != to).count();
        assert_eq!(drawing().lines.len(), moves);
    }
}
