//! Every seed of the corpora, run once: what the fuzzer has learnt is checked by a stock toolchain.

use std::fmt::Debug;
use std::fs::{read, read_dir};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arbitrary::Arbitrary;
use call_script::Script;
use freehold_fuzz::ownership::case::Case;
use freehold_fuzz::ownership::run::{record, replay, run};
use freehold_fuzz::repeat::decode;
use freehold_fuzz::{contents, tables};

/// Runs all seeds of a target, and names those that fail.
fn run_all<T: for<'a> Arbitrary<'a> + Debug>(target: &str, run: impl Fn(&T)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut failed = Vec::new();
    let mut count = 0;
    for entry in read_dir(&folder).expect("a folder of seeds") {
        let path = entry.expect("a seed").path();
        let case: T = decode(&read(&path).expect("a readable seed")).expect("a seed that stands for something");
        count += 1;
        if catch_unwind(AssertUnwindSafe(|| run(&case))).is_err() {
            eprintln!("{}: {case:x?}", path.display());
            failed.push(path);
        }
    }
    assert_eq!(failed, <[&Path; 0]>::default());
    assert!(count > 100, "only {count} seeds in {}", folder.display());
}

#[test]
fn tables_hold_what_a_flat_map_holds() {
    run_all("tables", tables::run);
}

#[test]
fn any_contents_are_survived() {
    run_all("contents", contents::run);
}

/// And as a script in words each does the same again.
#[test]
fn calls_do_what_the_specification_says() {
    run_all("ownership", |case: &Case| {
        run(case);
        let script = record();
        let parsed = Script::parse(&script.to_string()).unwrap_or_else(|wrong| panic!("{wrong}:\n{script}"));
        assert_eq!(parsed, script, "{script}");
        assert_eq!(replay(&parsed, |_| {}), 0, "{script}");
        assert_eq!(record(), script, "another result the second time");
    });
}
