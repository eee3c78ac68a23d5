//! Explaining what several CPUs saw that acted at the same time.

use super::{Company, Model};
use crate::executor::Request;
use crate::expectation::Outcome;
use crate::resolve::Names;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// A request, and what came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// The request.
    pub request: Request,
    /// What came of it.
    pub outcome: Outcome,
}

/// All states that the requests of several CPUs may have led to, from one of `starts`: each CPU's requests one after the
/// other, those of several in any order. Where there is none, no order explains what was seen.
///
/// `names` are those of the VMs; the requests must not change them.
pub fn orders(starts: &[Model], names: &Names, cpus: &[Vec<Observed>]) -> Vec<Model> {
    // How far each CPU is, and the states that this may be: from the beginning on, each CPU's next request is tried.
    let mut reached = BTreeMap::from([(vec![0; cpus.len()], starts.to_vec())]);
    let total: usize = cpus.iter().map(Vec::len).sum();
    for _ in 0..total {
        let mut next: BTreeMap<Vec<usize>, Vec<Model>> = BTreeMap::new();
        for (place, states) in &reached {
            for (cpu, observed) in cpus.iter().enumerate().filter_map(|(cpu, seen)| Some((cpu, seen.get(place[cpu])?)))
            {
                let mut beyond = place.clone();
                beyond[cpu] += 1;
                for state in states {
                    let judged = state.judge(names, &observed.request, &observed.outcome, Company::Others);
                    let Ok(after) = judged else { continue };
                    let after = after.unwrap_or_else(|| state.clone());
                    let known = next.entry(beyond.clone()).or_default();
                    if !known.contains(&after) {
                        known.push(after);
                    }
                }
            }
        }
        reached = next;
    }
    reached.into_values().flatten().collect()
}
