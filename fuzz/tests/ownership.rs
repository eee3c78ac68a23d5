//! Target `ownership` without a fuzzer: random inputs, and scripts that must do the same again.

use call_script::Script;
use freehold_fuzz::ownership::random::Numbers;
use freehold_fuzz::ownership::run::{record, replay, run};

#[test]
fn random_inputs_find_nothing() {
    let mut numbers = Numbers::new(1);
    for _ in 0..400 {
        run(&numbers.case(32));
    }
}

#[test]
fn a_script_does_what_its_input_did() {
    let mut numbers = Numbers::new(2);
    for _ in 0..200 {
        run(&numbers.case(24));
        let script = record();
        let text = script.to_string();
        let parsed = Script::parse(&text).unwrap_or_else(|wrong| panic!("{wrong}:\n{text}"));
        assert_eq!(parsed, script, "{text}");
        assert_eq!(replay(&parsed, |_| {}), 0, "{text}");
        assert_eq!(record(), script, "{text}");
    }
}
