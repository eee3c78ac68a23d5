//! Checks, by the line protocol of `abi::report`.

use crate::println;
use abi::report::Line;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);
static SPOKEN: AtomicBool = AtomicBool::new(true);

/// Starts the report of `scenario`. Where `spoken` is false only failures are printed, as prose.
pub fn begin(scenario: &str, spoken: bool) {
    SPOKEN.store(spoken, Ordering::Relaxed);
    say(Line::Begin(scenario));
}

fn say(line: Line<'_>) {
    if SPOKEN.load(Ordering::Relaxed) {
        println!("{line}");
    }
}

/// Records a check: whether it `holds`, and what was seen otherwise. Returns `holds`.
pub fn check(name: &str, holds: bool, seen: fmt::Arguments<'_>) -> bool {
    if holds {
        PASSED.fetch_add(1, Ordering::Relaxed);
        say(Line::Pass(name));
    } else {
        FAILED.fetch_add(1, Ordering::Relaxed);
        if SPOKEN.load(Ordering::Relaxed) {
            let seen = alloc::format!("{seen}");
            say(Line::Fail(name, &seen));
        } else {
            println!("host: FAILED {name}: {seen}");
        }
    }
    holds
}

/// Records a number.
pub fn value(name: &str, number: u64) {
    say(Line::Value(name, number));
}

/// Checks that passed and failed so far.
pub fn counts() -> (u32, u32) {
    (PASSED.load(Ordering::Relaxed), FAILED.load(Ordering::Relaxed))
}

/// Ends the report.
pub fn end() {
    let (passed, failed) = counts();
    say(Line::End(passed, failed));
}

/// Checks that the first argument, a result, equals the second.
#[macro_export]
macro_rules! expect {
    ($name:expr, $seen:expr, $expected:expr) => {{
        let (seen, expected) = ($seen, $expected);
        $crate::report::check($name, seen == expected, format_args!("{seen:?}, not {expected:?}"))
    }};
}
