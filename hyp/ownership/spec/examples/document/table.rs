//! The tables of what each call does to each kind of page, and at each kind of frame.

use abi::Error;
use ownership_spec::witness::{FrameWitness, OTHER, SPARE, Witness};
use ownership_spec::{Call, Frame, Kind, Specification};
use std::fmt::Write;

/// The calls, by who changes hands with whom.
pub const PARTS: [(&str, &[&str]); 6] = [
    (
        "Host and hyp",
        &[
            "host_share_hyp",
            "host_share_hyp restricted",
            "host_unshare_hyp",
            "host_donate_hyp",
            "hyp_donate_host",
            "hyp_pin",
            "hyp_unpin",
        ],
    ),
    (
        "Host and guests, by the host",
        &[
            "host_donate_guest",
            "host_lend_guest",
            "host_share_guest",
            "host_share_guest restricted",
            "host_unshare_guest",
            "host_return_guest",
        ],
    ),
    (
        "Host and guests, by a guest",
        &["guest_share_host", "guest_unshare_host", "guest_lend_host", "guest_return", "guest_relinquish"],
    ),
    ("Guests among each other", &["guest_offer", "guest_accept", "guest_withdraw", "guest_drop", "host_end_share"]),
    ("What ends", &["start_teardown", "reclaim", "force_reclaim", "finalise"]),
    ("Devices", &["host_grant_device", "reclaim_device", "host_donate_device_hyp", "hyp_donate_device_host"]),
];

/// What stands where a call cannot be made of the row's page.
const NO_CALL: &str = "·";

/// One row for each witness, one table for each part.
pub fn pages() -> String {
    let mut text = String::new();
    for (title, columns) in PARTS {
        let rows = Witness::all().into_iter().map(|witness| {
            let state = witness.state().expect("a witness is reached");
            let name = match witness.view {
                Some((vm, _)) if vm == OTHER => format!("{}; by its borrower", witness.kind),
                _ => witness.kind.to_string(),
            };
            let after = |next: &Specification| next.kind(witness.page).map_or("none", Kind::name);
            (name, cells(&state, &witness.calls(), columns, after))
        });
        part(&mut text, title, "page", &headings(columns), rows);
    }
    text
}

/// One row for each thing that a guest can have at a frame.
pub fn frames() -> String {
    let mut text = String::new();
    let columns: Vec<_> = FrameWitness::all().iter().flat_map(FrameWitness::calls).map(|(title, _)| title).fold(
        Vec::new(),
        |mut seen, title| {
            if !seen.contains(&title) {
                seen.push(title);
            }
            seen
        },
    );
    for (number, columns) in columns.chunks(6).enumerate() {
        let rows = FrameWitness::all().into_iter().map(|witness| {
            let state = witness.state().expect("a witness is reached");
            let after = |next: &Specification| match next.frame(witness.vm, ownership_spec::witness::FRAME) {
                Frame::Vacant => "vacant",
                Frame::Poisoned => "poisoned",
                Frame::LentOut(_) => "lent out",
                Frame::Device(_) => "device",
                Frame::Memory(pfn) if pfn == SPARE => "memory, the given page",
                Frame::Memory(_) => "memory",
            };
            (witness.title.to_string(), cells(&state, &witness.calls(), columns, after))
        });
        let title = ["What is at a guest's frame", "What is at a guest's frame, continued"][number.min(1)];
        part(&mut text, title, "frame", &headings(columns), rows);
    }
    text
}

/// The results of the calls with the titles of the columns.
fn cells(
    state: &Specification,
    calls: &[(&'static str, Call)],
    columns: &[&str],
    after: impl Fn(&Specification) -> &'static str,
) -> Vec<String> {
    let cell = |column: &&str| match calls.iter().find(|(title, _)| title == column) {
        None => NO_CALL.to_string(),
        Some((_, call)) => match state.apply(call) {
            Ok((next, _)) => format!("**{}**", after(&next)),
            Err(error) => word(error),
        },
    };
    columns.iter().map(cell).collect()
}

/// The calls' names as headings.
fn headings(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|name| format!("`{name}`")).collect()
}

/// An error as tables show it.
pub fn word(error: Error) -> String {
    format!("{error:?}")
}

/// One table, without rows that say nothing.
pub fn part(
    text: &mut String,
    title: &str,
    corner: &str,
    headings: &[String],
    rows: impl Iterator<Item = (String, Vec<String>)>,
) {
    let _ = writeln!(text, "### {title}\n");
    let _ = writeln!(text, "| {corner} | {} |", headings.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(headings.len() + 1));
    for (name, cells) in rows.filter(|(_, cells)| cells.iter().any(|cell| cell != NO_CALL)) {
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    let _ = writeln!(text);
}
