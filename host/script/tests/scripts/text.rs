//! Reading and writing.

use crate::strategies::scripts;
use call_script::Script;
use proptest::prelude::*;

proptest! {
    #[test]
    fn what_is_written_reads_as_it_was(script in scripts()) {
        let text = script.to_string();
        prop_assert_eq!(Script::parse(&text), Ok(script), "{}", text);
    }

    #[test]
    fn no_text_is_too_much_for_the_reader(text in "[ -~\n]{0,200}") {
        let _ = Script::parse(&text);
    }

    #[test]
    fn no_words_of_scripts_are_too_much_for_the_reader(
        words in proptest::collection::vec(
            proptest::sample::select(&["0:", "vm0", "vm", "page", "3", "raw", "hyp", "frame", "=>", ",", "ok", "x1", "=",
                "hyp_share", "vm_donate", "mem_offer", "rights", "rw", "count", "exit", "\n", "read", "call", "ipa", "offer"][..]),
            0..30),
    ) {
        let _ = Script::parse(&words.join(" "));
    }
}

/// A line that says all of what `line` does reads the same and is written as `line`.
fn is_written_as(text: &str, line: &str) {
    let script = Script::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(script.steps[0].to_string(), line);
}

#[test]
fn what_may_be_left_out_is_not_written() {
    is_written_as("hyp_share page 3 count 1", "0: hyp_share page 3");
    is_written_as("0: hyp_share_restricted page 3 count 0x2", "0: hyp_share_restricted page 3 count 2");
    is_written_as(
        "2: vm_share vm1 vcpu 0 page hyp 0 frame 0x2 rights rwx+restricted",
        "2: vm_share vm1 page hyp 0 frame 2 rights rwx+restricted",
    );
    is_written_as(
        "1: vm0 vcpu 0 mem_offer frame 2 vm1 rights r => ok , x1 = 1",
        "1: vm0 mem_offer frame 2 vm1 rights r => ok, x1 = 1",
    );
    is_written_as("call 0xc6000102 1 0 0 0 0 0 0", "0: call 0xc6000102 1");
    is_written_as(
        "vm_init vm2 flags 1 bits 32 vcpus 1 page 0 count vm entry 0x40200000 argument 0",
        "0: vm_init vm2 protected bits 32 vcpus 1 page 0 count vm entry 0x40200000",
    );
    is_written_as("vm_share vm1 page 1 frame 1 rights raw 0", "0: vm_share vm1 page 1 frame 1 rights none");
}

/// The script that the crate's documentation shows.
#[test]
fn the_documented_script_reads() {
    let text = include_str!("../../src/lib.rs");
    let lines = text.lines().filter_map(|line| line.strip_prefix("//! "));
    let shown: Vec<&str> =
        lines.skip_while(|line| *line != "```text").skip(1).take_while(|line| *line != "```").collect();
    let script = Script::parse(&shown.join("\n")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((script.setup.vms.len(), script.steps.len()), (2, 7));
}

#[test]
fn comments_and_empty_lines_say_nothing() {
    let plain = Script::parse("pages 8\nvm vm0 protected\n0: version").unwrap();
    let noisy = "# a script\n\npages 8 # few\n\n  vm   vm0 protected\n # \n0: version # what\n\n";
    assert_eq!(Script::parse(noisy), Ok(plain));
}

#[test]
fn a_mistake_is_named_with_its_line() {
    for (text, line, word) in [
        ("0: version\n0: dance", 2, "dance"),
        ("0: hyp_share", 1, "page"),
        ("0: hyp_share page", 1, "page is missing"),
        ("\n\n0: hyp_share page 3 count", 3, "count"),
        ("0: hyp_share page -3", 1, "-3"),
        ("0: hyp_share page 0x1ffffffff", 1, "too large"),
        ("0: hyp_share page 3 page 4", 1, "not expected"),
        ("0: vm_run vm0", 1, "vm_run"),
        ("0: vcpu_run vm", 1, "raw"),
        ("0: vcpu_run vm300", 1, "vm300"),
        ("256: version", 1, "256"),
        ("x: version", 1, "CPU"),
        ("0:", 1, "missing"),
        ("0: version => fine", 1, "fine"),
        ("0: version =>", 1, "missing"),
        ("0: frames 2 => ok", 1, "no result"),
        ("0: vm0", 1, "missing"),
        ("0: vm0 hyp_share page 3", 1, "nothing that a guest does"),
        ("0: mem_share frame 1", 1, "nothing that the host does"),
        ("0: vm0 mem_share page 1", 1, "frame"),
        ("0: vm_share vm0 page 1 frame 1 rights rz", 1, "rz"),
        ("pages 0", 1, "page"),
        ("pages 0x100000000", 1, "too large"),
        ("0: version\npages 3", 2, "first step"),
        ("vm vm1\nvm vm1", 2, "already"),
        ("vm vm64", 1, "64"),
        ("vm vm1 secret", 1, "secret"),
    ] {
        let error = Script::parse(text).expect_err(text);
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.reason.contains(word), "{text}: {error}");
    }
}
