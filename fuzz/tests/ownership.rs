//! Target `ownership` without a fuzzer: random inputs.

use freehold_fuzz::ownership::random::Numbers;
use freehold_fuzz::ownership::run::run;

#[test]
fn random_inputs_find_nothing() {
    let mut numbers = Numbers::new(1);
    for _ in 0..400 {
        run(&numbers.case(32));
    }
}
