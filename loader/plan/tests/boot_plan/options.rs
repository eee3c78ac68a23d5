//! The loader's own arguments.

use abi::boot::SelfTest;
use boot_plan::Options;
use boot_plan::memory::Bytes;
use boot_plan::options::LogLevel;

#[test]
fn every_level_has_its_name_and_number() {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    for (number, name) in levels.iter().enumerate() {
        let options = Options::parse(&format!("freehold.log={name}"));
        assert_eq!(options.log_level as usize, number);
        assert_eq!(options.unknown, [""; 0]);
    }
    assert_eq!(Options::parse("").log_level, LogLevel::Info);
    assert_eq!(Options::parse("freehold.log=warn freehold.log=trace").log_level, LogLevel::Trace);
}

#[test]
fn unknown_arguments_of_ours_are_named() {
    let options = Options::parse("freehold.log=loud freehold.speed=9 freehold.log= freehold.");
    assert_eq!(options.unknown, ["freehold.log=loud", "freehold.speed=9", "freehold.log=", "freehold."]);
    assert_eq!(options.log_level, LogLevel::Info);
}

#[test]
fn a_self_test_is_asked_for_by_name() {
    let options = Options::parse("freehold.self-test=stack-overflow");
    assert_eq!(options.self_test, Some(SelfTest::StackOverflow));
    let options = Options::parse("freehold.self-test=unheard-of");
    assert_eq!((options.self_test, options.unknown.len()), (None, 1));
    assert_eq!(Options::parse("").self_test, None);
}

#[test]
fn how_often_hyp_compares_itself_is_a_number() {
    assert_eq!(Options::parse("").ghost_one_in, 0);
    assert_eq!(Options::parse("freehold.ghost=16").ghost_one_in, 16);
    let options = Options::parse("freehold.ghost=often freehold.ghost=4294967296 freehold.ghost=-1");
    assert_eq!((options.ghost_one_in, options.unknown.len()), (0, 3));
}

#[test]
fn other_words_are_the_hosts_as_they_stand() {
    let options =
        Options::parse("  console=ttyAMA0  freehold.log=off\tdyndbg=\"file a.c +p ; freehold.log=trace\" quiet ");
    assert_eq!(options.remaining, "console=ttyAMA0 dyndbg=\"file a.c +p ; freehold.log=trace\" quiet");
    assert_eq!(options.log_level, LogLevel::Off);
}

#[test]
fn sizes_are_shown_in_their_unit() {
    let shown = |bytes| Bytes(bytes).to_string();
    assert_eq!(shown(0), "0 bytes");
    assert_eq!(shown(1023), "1023 bytes");
    assert_eq!(shown(1024), "1 KiB");
    assert_eq!(shown((1 << 20) - 1), "1023.9 KiB");
    assert_eq!(shown(4_650_000), "4.4 MiB");
    assert_eq!(shown(3 << 29), "1.5 GiB");
    assert_eq!(shown(u64::MAX), "17179869183.9 GiB");
}
