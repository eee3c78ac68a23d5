//! Tables in memory that comes late, goes, or is shared with the host, while they are in use.

use crate::entries::{DATA, ENTRIES, TABLE, Table, abort_status, behind, enter, flush, table_at, translation_fault};
use abi::{Ipa, PAGE_SIZE};
use payloads::Machine;
use payloads::hypervisor::KvmCalls;
use payloads::memory::Kind;
use payloads::probe::{Access, Outcome, Width, probe};
use payloads::report::Report;

/// Distances from the start of RAM at which nothing is loaded, each in a block of its own, in bytes.
const LATE: [u64; 4] = [8 << 20, 10 << 20, 12 << 20, 14 << 20];
/// What is in the page behind the tables.
const WORD: u64 = 0x7a_b1e5;
/// The load that all checks make.
const LOAD: Access = Access::Load(Width::Doubleword);

static LEVEL2: Table = Table::new();
/// The page behind the tables.
static PAGE: Table = Table::new();

/// See the module. `calls` are there for a protected guest.
pub fn attack(machine: &mut Machine, report: &mut Report, calls: Option<KvmCalls>) {
    let places = LATE.map(|distance| Ipa::new(machine.platform.memory.start + distance));
    PAGE.only(0, WORD);
    late(machine, report, places);
    if let Some(calls) = calls {
        given_back(machine, report, &calls, places[0]);
        shared(machine, report, &calls, places[1]);
    }
    enter(0);
}

/// Tables that nobody has touched before the walk does: what is new is zero, so that the walk ends there.
fn late(machine: &mut Machine, report: &mut Report, places: [Ipa; 4]) {
    let mut expect = |name: &str, outcome: Outcome, address, level: u64| {
        let right = abort_status(&outcome, address) == Some(translation_fault(level));
        report.check_in("tables.late", name, right, format_args!("{outcome}"));
    };
    let address = behind(0, 1, 0);
    for (place, name, access) in [(places[0], "load", LOAD), (places[1], "store", Access::Store(Width::Word))] {
        LEVEL2.only(0, table_at(place));
        enter(LEVEL2.descriptor());
        // SAFETY: Nothing is mapped there.
        expect(name, unsafe { probe(access, address) }, address, 3);
    }
    LEVEL2.only(0, table_at(places[2]));
    enter(LEVEL2.descriptor());
    // SAFETY: As above.
    expect("execute", unsafe { probe(Access::Execute, address) }, address, 3);
    enter(table_at(places[3]));
    // SAFETY: As above.
    expect("at-level-2", unsafe { probe(LOAD, address) }, address, 2);
    for (index, place) in places[..3].iter().enumerate() {
        write(machine, *place, 1, PAGE.address() | DATA | TABLE);
        LEVEL2.only(0, table_at(*place));
        enter(LEVEL2.descriptor());
        works(report, if index == 0 { "late.then-good" } else { "late.then-good-again" });
    }
}

/// The load reads what is in the page.
fn works(report: &mut Report, name: &str) {
    // SAFETY: A load changes nothing.
    let outcome = unsafe { probe(LOAD, behind(0, 1, 0)) };
    report.check_in("tables", name, outcome == Outcome::Done(WORD), format_args!("{outcome}"));
}

/// A table goes back to the host while the TLB knows what was in it; what comes in its place is zero.
fn given_back(machine: &mut Machine, report: &mut Report, calls: &KvmCalls, place: Ipa) {
    LEVEL2.only(0, table_at(place));
    enter(LEVEL2.descriptor());
    works(report, "given-back.before");
    let status = calls.relinquish(place);
    report.check("tables.given-back.relinquish", status == 0, format_args!("{status}"));
    // What the TLB still holds leads to the guest's own page, so that either is right.
    // SAFETY: A load changes nothing.
    let outcome = unsafe { probe(LOAD, behind(0, 1, 0)) };
    let right = outcome == Outcome::Done(WORD) || abort_status(&outcome, behind(0, 1, 0)) == Some(translation_fault(3));
    report.check("tables.given-back.cached", right, format_args!("{outcome}"));
    flush();
    // SAFETY: As above.
    let outcome = unsafe { probe(LOAD, behind(0, 1, 0)) };
    let right = abort_status(&outcome, behind(0, 1, 0)) == Some(translation_fault(3));
    report.check("tables.given-back.gone", right, format_args!("{outcome}"));
    write(machine, place, 1, PAGE.address() | DATA | TABLE);
    flush();
    works(report, "given-back.again");
}

/// A table that the host may write to translates as before, and so it does when it is private again.
fn shared(machine: &mut Machine, report: &mut Report, calls: &KvmCalls, place: Ipa) {
    write(machine, place, 1, PAGE.address() | DATA | TABLE);
    LEVEL2.only(0, table_at(place));
    enter(LEVEL2.descriptor());
    let status = calls.share(place);
    report.check("tables.shared.share", status == 0, format_args!("{status}"));
    flush();
    works(report, "shared.works");
    let status = calls.unshare(place);
    report.check("tables.shared.unshare", status == 0, format_args!("{status}"));
    flush();
    works(report, "shared.private-again");
}

/// Writes an entry of a table that is anywhere in RAM.
fn write(machine: &mut Machine, table: Ipa, index: usize, descriptor: u64) {
    assert!(index < ENTRIES && table.is_aligned(PAGE_SIZE), "no entry of a table");
    let Ok(window) = machine.address_space.open_window(table, Kind::Data) else { panic!("{table} cannot be mapped") };
    // SAFETY: The page is the guest's, mapped at the window, and nothing but the attacks' tables is in it.
    unsafe { (window.raw() as *mut u64).add(index).write_volatile(descriptor) };
    machine.address_space.close_window();
}
