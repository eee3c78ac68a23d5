//! docs/HYPERCALLS.md against the numbers that both sides compile.

use abi::Error;
use abi::guest::{self, GuestCall};
use abi::host::HostCall;
use abi::run::ExitReason;
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

#[test]
fn every_call_is_listed_by_its_number_and_no_other() {
    let listed: BTreeMap<i64, String> =
        rows(&page()).into_iter().filter(|(number, _)| *number >= 0xc600_0000).collect();
    let host = HostCall::ALL.iter().map(|call| (*call as u32, shout(&format!("{call:?}"))));
    let own = GuestCall::ALL.iter().map(|call| (*call as u32, shout(&format!("{call:?}"))));
    let kvm = [
        (guest::HYP_MEMINFO, "HYP_MEMINFO"),
        (guest::MEM_SHARE, "MEM_SHARE"),
        (guest::MEM_UNSHARE, "MEM_UNSHARE"),
        (guest::MMIO_GUARD_INFO, "MMIO_GUARD_INFO"),
        (guest::MMIO_GUARD_ENROLL, "MMIO_GUARD_ENROLL"),
        (guest::MMIO_GUARD_MAP, "MMIO_GUARD_MAP"),
        (guest::MMIO_GUARD_UNMAP, "MMIO_GUARD_UNMAP"),
        (guest::MEM_RELINQUISH, "MEM_RELINQUISH"),
    ];
    let kvm = kvm.into_iter().map(|(number, name)| (number, name.to_owned()));
    let expected: BTreeMap<i64, String> =
        host.chain(own).chain(kvm).map(|(number, name)| (i64::from(number), name)).collect();
    assert_eq!(listed, expected);
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
