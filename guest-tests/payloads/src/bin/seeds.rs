//! A guest that tells the random seeds of its device tree, word by word.
#![no_std]
#![no_main]

use payloads::report::Report;
use payloads::{Machine, payload, println};

/// Fewest words of `rng-seed`; of `kaslr-seed` there is one.
const FEWEST: usize = 4;

payload!(seeds);

fn seeds(machine: &mut Machine) {
    println!("seeds: reading the device tree");
    let mut report = Report::begin("seeds");
    let seeds = [("seeds.kaslr", machine.platform.kaslr_seed, 1), ("seeds.rng", machine.platform.rng_seed, FEWEST)];
    for (name, seed, fewest) in seeds {
        let words = seed.as_chunks().0;
        report.check_in(name, "there", words.len() >= fewest, format_args!("{} words", words.len()));
        let zeroes = words.iter().filter(|word| **word == [0; 8]).count();
        report.check_in(name, "not-zero", zeroes == 0, format_args!("{zeroes} words are"));
        words.iter().for_each(|word| report.value(name, u64::from_be_bytes(*word)));
    }
    report.end();
}
