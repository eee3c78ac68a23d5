//! What an input space holds, without any tables: the oracle.

use crate::walk::{Held, Run};

/// Parts of the input space, each up to the next, no two neighbours alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flat {
    parts: Vec<(u64, Held)>,
    end: u64,
}

impl Flat {
    /// An input space of `size` bytes that holds nothing.
    pub fn new(size: u64) -> Self {
        Self { parts: vec![(0, Held::Nothing)], end: size }
    }

    /// What the tables say, by their leaves.
    pub fn of_runs(runs: &[Run]) -> Self {
        let mut flat = Self { parts: Vec::new(), end: 0 };
        for run in runs {
            assert_eq!(run.start, flat.end, "leaves follow each other");
            if flat.parts.last().is_none_or(|(_, held)| *held != run.held) {
                flat.parts.push((run.start, run.held));
            }
            flat.end = run.end;
        }
        flat
    }

    /// The parts between `start` and `end`, cut to them.
    pub fn parts(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, Held)> {
        let ends = self.parts.iter().skip(1).map(|part| part.0).chain([self.end]);
        let parts = self.parts.iter().zip(ends).map(|((from, held), to)| (*from, to, *held));
        parts
            .filter(move |(from, to, _)| *from < end && *to > start)
            .map(move |(from, to, held)| (from.max(start), to.min(end), held))
    }

    /// Changes what is held between `start` and `end`.
    pub fn change(&mut self, start: u64, end: u64, held: impl Fn(Held) -> Held) {
        let cut: Vec<(u64, Held)> = [(0, start), (start, end), (end, self.end)]
            .into_iter()
            .flat_map(|(from, to)| self.parts(from, to).map(|(at, _, old)| (at, old)).collect::<Vec<_>>())
            .map(|(at, old)| (at, if at >= start && at < end { held(old) } else { old }))
            .collect();
        self.parts = cut;
        self.parts.dedup_by(|next, last| next.1 == last.1);
    }
}
