//! The crate's edges: what it says where it refuses, and where ranges and tables end.

use std::collections::HashSet;

use abi::Ipa;
use pgtable::{Blame, Stage2Config, TableError};

use crate::bench::{Bench, GIB, PAGE};

const ERRORS: [(TableError, Blame); 9] = [
    (TableError::BadConfiguration, Blame::Caller),
    (TableError::Misaligned, Blame::Caller),
    (TableError::BadRange, Blame::Caller),
    (TableError::BadAttributes, Blame::Caller),
    (TableError::Exists, Blame::Caller),
    (TableError::Annotated, Blame::Caller),
    (TableError::NotMapped, Blame::Caller),
    (TableError::OutOfFrames, Blame::Resources),
    (TableError::Corrupt, Blame::Hypervisor),
];

#[test]
fn each_error_says_what_is_wrong_and_who_has_to_act() {
    let mut texts = HashSet::new();
    for (error, blame) in ERRORS {
        assert_eq!(error.blame(), blame, "{error:?}");
        let text = error.to_string();
        assert!(text.contains(' '), "{error:?}: {text}");
        assert!(texts.insert(text), "the text of {error:?} is another's");
    }
}

#[test]
fn a_leaf_prints_all_that_it_says() {
    let bench = Bench::with(Stage2Config::new(40, 48));
    let leaf = bench.table.lookup(&bench.cpu, Ipa::new(GIB + PAGE)).unwrap();
    let text = format!("{leaf:?}");
    let parts = ["Invalid { annotation: None }", "level: 1", "size: 1073741824"];
    assert!(parts.iter().all(|part| text.contains(part)) && text.contains(&format!("{:?}", leaf.base)), "{text}");
    bench.finish();
}
