//! docs/HYPERCALLS.md against the numbers that both sides compile.

use abi::Error;
use abi::guest::GuestCall;
use abi::host::HostCall;
use abi::run::ExitReason;
use abi::standard::Standard;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/HYPERCALLS.md");
    fs::read_to_string(path).expect("docs/HYPERCALLS.md is there")
}

/// `VmEndShare` as `VM_END_SHARE`.
fn shout(name: &str) -> String {
    let mut shouted = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !shouted.is_empty() {
            shouted.push('_');
        }
        shouted.push(letter.to_ascii_uppercase());
    }
    shouted
}

/// The rows of all tables whose first column is a number: the number, and the second column.
fn rows(page: &str) -> Vec<(i64, String)> {
    let columns = |line: &str| line.split('|').map(|column| column.trim().to_owned()).collect::<Vec<_>>();
    let rows = page.lines().filter(|line| line.starts_with('|')).map(columns);
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let cells = rows.flat_map(|row| {
        let (numbers, names) = (row[1].clone(), row[2].clone());
        let pairs: Vec<_> = numbers.split(", ").map(str::to_owned).zip(names.split(", ").map(str::to_owned)).collect();
        pairs
    });
    cells.filter_map(|(first, second)| Some((number(&first)?, second))).collect()
}

/// The part of the page from one heading to the next of the same depth.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, after) = page.split_once(&format!("\n## {heading}\n")).expect("the page has the section");
    after.split_once("\n## ").map_or(after, |(section, _)| section)
}

/// The calls that a section lists: whatever has a number with bit 31 set.
fn listed_calls(heading: &str) -> Vec<(i64, String)> {
    let mut listed = rows(section(&page(), heading));
    listed.retain(|(number, _)| *number >= 1 << 31);
    listed.sort();
    listed
}

fn expected_calls(
    is_found: impl Fn(&Standard) -> bool,
    own: impl Iterator<Item = (u32, String)>,
) -> Vec<(i64, String)> {
    let standard = Standard::ALL.iter().filter(|call| is_found(call));
    let standard = standard.map(|call| (call.function, call.name.to_owned()));
    let mut expected: Vec<_> = standard.chain(own).map(|(number, name)| (i64::from(number), name)).collect();
    expected.sort();
    expected
}

#[test]
fn every_call_of_the_host_is_listed_by_its_number_and_no_other() {
    let own = HostCall::ALL.iter().map(|call| (*call as u32, shout(&format!("{call:?}"))));
    assert_eq!(listed_calls("From the host"), expected_calls(Standard::is_for_host, own));
}

#[test]
fn every_call_of_a_guest_is_listed_by_its_number_and_no_other() {
    let own = GuestCall::ALL.iter().map(|call| (*call as u32, shout(&format!("{call:?}"))));
    assert_eq!(listed_calls("From a guest"), expected_calls(|call| call.is_for_guest(true), own));
}

#[test]
fn every_error_is_listed_by_its_code() {
    let listed: BTreeMap<i64, String> = rows(&page()).into_iter().filter(|(number, _)| *number < 0).collect();
    let expected: BTreeMap<i64, String> =
        Error::ALL.iter().map(|error| (*error as i64, format!("{error:?}"))).collect();
    assert_eq!(listed, expected);
}

#[test]
fn every_exit_is_listed_by_its_number() {
    let listed: BTreeMap<i64, String> =
        rows(&page()).into_iter().filter(|(number, _)| (0..0x1000).contains(number)).collect();
    let expected: BTreeMap<i64, String> = (0..64)
        .filter_map(|number| Some((number as i64, format!("{:?}", ExitReason::from_register(number)?))))
        .collect();
    assert_eq!(listed, expected);
}
