//! The judge judged by wrong maintenance: `pgtable`'s own operations run in an environment that does one step wrong, and
//! each time the machine (or what a test would ask it) must complain. Without the flaw, each scenario must pass.

mod caches;
mod el1;
mod el2;
mod flawed;
mod flaws;
mod scene;
mod shared;
mod stage2;
mod table;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::flawed::{Flaw, none};
use crate::scene::Scene;
use crate::table::Mutant;

/// What there is to complain about in a scenario; a panic is a complaint.
fn complaints(mutant: &Mutant, flaw: Flaw) -> (Vec<String>, bool) {
    let mut scene = Scene::new(flaw, mutant.features);
    let ended = catch_unwind(AssertUnwindSafe(|| (mutant.scenario)(&mut scene)));
    if ended.is_err() {
        scene.complain("panicked");
    }
    let has_gone_wrong = scene.environment.has_gone_wrong.get();
    (scene.complaints(), has_gone_wrong)
}

/// Fails unless the flaw is noticed for what it is, and the same scenario passes without it.
#[track_caller]
fn check(mutant: &Mutant) {
    let Mutant { name, flaw, caught, .. } = mutant;
    let (found, _) = complaints(mutant, none);
    assert!(found.is_empty(), "{name}: without the flaw: {found:#?}");
    let (found, has_gone_wrong) = complaints(mutant, *flaw);
    assert!(has_gone_wrong, "{name}: the flaw has changed nothing");
    assert!(!found.is_empty(), "{name} survived");
    assert!(found.iter().any(|complaint| complaint.contains(caught)), "{name}: nothing of {caught:?} in {found:#?}");
}

#[test]
fn there_are_at_least_forty_and_each_has_a_name_of_its_own() {
    let all: Vec<&Mutant> = [stage2::MUTANTS, caches::MUTANTS, el2::MUTANTS, el1::MUTANTS, shared::MUTANTS].concat();
    let names: HashSet<&str> = all.iter().map(|mutant| mutant.name).collect();
    assert_eq!(names.len(), all.len());
    assert!(all.len() >= 40, "{}", all.len());
}
