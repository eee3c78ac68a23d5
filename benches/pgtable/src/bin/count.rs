//! Prints the instructions that each row takes, as a table in Markdown.
//!
//! `count` alone runs itself under valgrind's callgrind once for each figure; `count ROW...` does so for some rows.
//! The profiles stay beside the binary, in `callgrind/`, for `callgrind_annotate`.

use std::env::{args, current_exe};
use std::error::Error;
use std::fs::create_dir_all;
use std::path::Path;
use std::process::{Command, ExitCode};

use pgtable_benches::freehold::Freehold;
use pgtable_benches::peer::Peer;
use pgtable_benches::row::Row;
use pgtable_benches::subject::Subject;

/// The function that callgrind counts in, with all that it calls.
#[inline(never)]
fn measured<S: Subject>(row: Row, subject: &mut S) {
    row.run(subject);
}

/// Who is measured, in the order of the table's columns.
const SUBJECTS: [&str; 3] = ["freehold", "peer", "live-peer"];

fn measure<S: Subject>(row: Row) {
    let mut subject = row.prepare::<S>();
    measured(row, &mut subject);
}

/// Runs `row` for one subject, in this process.
fn run(subject: &str, row: Row) {
    match subject {
        "freehold" => measure::<Freehold>(row),
        "peer" => measure::<Peer<false>>(row),
        "live-peer" => measure::<Peer<true>>(row),
        _ => unreachable!("{subject} is not a column"),
    }
}

/// Instructions that `row` takes, as callgrind counts them in a process of its own.
fn count(profiles: &Path, subject: &str, row: Row) -> Result<u64, Box<dyn Error>> {
    let profile = profiles.join(format!("{}.{subject}", row.name()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-instr=yes", "--collect-atstart=no", "--toggle-collect=*measured*"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(current_exe()?)
        .args(["run", subject, row.name()])
        .output()
        .map_err(|error| format!("valgrind cannot be started: {error}"))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected = log.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim());
    match collected.map(str::parse) {
        Some(Ok(count)) if output.status.success() && count > 0 => Ok(count),
        _ => Err(format!("{} of {subject} was not counted:\n{log}", row.name()).into()),
    }
}

/// A count and its share for one unit.
fn cell(count: u64, units: u64) -> String {
    format!("{count} ({:.1})", count as f64 / units as f64)
}

fn table(rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let profiles = current_exe()?.with_file_name("callgrind");
    create_dir_all(&profiles)?;
    println!("| instructions (each) | Freehold | aarch64-paging, in use | aarch64-paging, not in use |");
    println!("|---|--:|--:|--:|");
    for &row in rows {
        let (units, unit) = row.unit();
        let freehold = cell(count(&profiles, SUBJECTS[0], row)?, units);
        let peer = cell(count(&profiles, SUBJECTS[1], row)?, units);
        let live_peer =
            if row.peer_does_it_live() { cell(count(&profiles, SUBJECTS[2], row)?, units) } else { "refused".into() };
        println!("| {} (a {unit}) | {freehold} | {live_peer} | {peer} |", row.title());
    }
    Ok(())
}

fn row(name: &str) -> Result<Row, Box<dyn Error>> {
    let known = || Row::ALL.map(Row::name).join(", ");
    Row::ALL
        .into_iter()
        .find(|row| row.name() == name)
        .ok_or_else(|| format!("{name}: the rows are {}", known()).into())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["run", subject, name] if SUBJECTS.contains(subject) => row(name).map(|row| run(subject, row)),
        [] => table(&Row::ALL),
        names => names.iter().map(|name| row(name)).collect::<Result<Vec<_>, _>>().and_then(|rows| table(&rows)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("count: {error}");
            ExitCode::FAILURE
        }
    }
}
