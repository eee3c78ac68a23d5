//! Where ledger and tables do not go together, the abstraction says so. Two worlds of the same layout come apart: the ledger
//! and hyp's records are of the one, the tables of the other, or one descriptor is not what hyp wrote.

use crate::common::calls::*;
use crate::common::cpu::TestCpu;
use crate::common::step::host_fault;
use crate::common::*;
use abi::{Pfn, PhysAddr};
use ownership::{Access, Call as RealCall, Lock, LockedMemory};
use ownership_ghost::{Disagreement, Ghost, Report, Settings, Table};
use ownership_spec::{Call, Rights, Vm};
use pgtable::geometry::{LAST_LEVEL, entry_size};
use pgtable::{Geometry, TableFrames};

/// The page that the scripts are about.
pub(crate) const PAGE: u64 = LOW + 3;

/// Two protected guests and one that is not, after these calls.
pub(crate) fn world(script: &[Call]) -> World {
    let mut world = World::with_guests(&[true, true, false], 12);
    for call in script {
        world.done(call.clone());
    }
    world
}

/// What the whole is found to be where ledger and records are `world`'s and tables those behind `tables`.
pub(crate) fn whole(world: &World, tables: &TestCpu) -> Option<Disagreement> {
    let guests = world.guests.iter().map(|guest| &guest.memory);
    ownership_ghost::abstraction(tables, &world.ownership, guests).err()
}

/// What a ghost says that is there when a call about the page begins, with the locks of host, hyp and some guests.
fn at_call(world: &World, tables: &TestCpu, guests: &[Vm], call: RealCall) -> Option<Disagreement> {
    world.ownership.look(|memory| {
        let (first, second) = match *guests {
            [] => (None, None),
            [one] => (Some(world.memory(one).lock()), None),
            [one, other, ..] => {
                let (one, other) = Lock::lock_two(world.memory(one), world.memory(other)).expect("two guests");
                (Some(one), Some(other))
            }
        };
        let guests = [first.as_deref(), second.as_deref()];
        let memory = LockedMemory { guests, ..*memory };
        match Ghost::new(Settings::ALL).before(tables, &memory, &call) {
            Ok(()) => None,
            Err(report) => match *report {
                Report::Before(_, disagreement) => Some(disagreement),
                other => panic!("{other}"),
            },
        }
    })
}

/// The table that a disagreement is about.
fn table_of(disagreement: &Disagreement) -> Option<Table> {
    match disagreement {
        Disagreement::Page { table, .. } => Some(*table),
        Disagreement::Held { .. } | Disagreement::Rule(_) => None,
    }
}

/// Asserts that tables of one world and ledger of another are found not to go together: by the abstraction of the whole,
/// and by a ghost from within the locks of host, hyp and the two protected guests.
#[track_caller]
fn come_apart(ledger: &[Call], tables: &[Call], expected: Table) {
    come_apart_as_a_whole(ledger, tables, expected);
    let (ledger, tables) = (world(ledger), world(tables));
    let call = RealCall::HostUnshareHyp { first: Pfn::new(PAGE), count: 1 };
    let found = at_call(&ledger, &tables.cpu, &[FIRST, SECOND], call).expect("the page is not in order");
    assert_eq!(table_of(&found), Some(expected), "{found}");
}

/// Asserts that tables of one world and ledger of another are found not to go together where all is looked at.
#[track_caller]
fn come_apart_as_a_whole(ledger: &[Call], tables: &[Call], expected: Table) {
    let (ledger, tables) = (world(ledger), world(tables));
    let found = whole(&ledger, &tables.cpu).expect("the whole does not go together");
    assert_eq!(table_of(&found), Some(expected), "{found}");
}

pub(crate) fn donate() -> Call {
    host_donate_guest(FIRST, PAGE, 0x200, 1)
}

fn offer() -> Call {
    guest_offer(FIRST, 0x200, SECOND, Rights::FULL)
}

fn accept(gfn: u64) -> Call {
    guest_accept(SECOND, FIRST, 1, gfn, Rights::FULL)
}

#[test]
fn worlds_that_are_the_same_go_together() {
    let script = [donate(), offer(), accept(0x300), host_grant_device(FIRST, DEVICE, 0x100, 1)];
    let (one, other) = (world(&script), world(&script));
    assert_eq!(whole(&one, &other.cpu), None);
    let call = RealCall::HostUnshareHyp { first: Pfn::new(PAGE), count: 1 };
    for guests in [&[FIRST, SECOND][..], &[SECOND], &[FIRST], &[]] {
        assert_eq!(at_call(&one, &other.cpu, guests, call), None, "{guests:?}");
    }
}

#[test]
fn the_hosts_table_grants_what_the_ledger_says() {
    come_apart(&[], &[host_donate_hyp(PAGE, 1)], Table::Host);
    come_apart(&[host_donate_hyp(PAGE, 1)], &[], Table::Host);
    come_apart(&[donate()], &[host_donate_guest(SECOND, PAGE, 0x200, 1)], Table::Host);
    come_apart(&[donate()], &[donate(), guest_share_host(FIRST, 0x200)], Table::Host);
    come_apart(&[donate(), guest_share_host(FIRST, 0x200)], &[donate()], Table::Host);
    come_apart(&[donate(), guest_lend_host(FIRST, 0x200)], &[donate(), guest_share_host(FIRST, 0x200)], Table::Host);
    come_apart(&[host_lend_guest(FIRST, PAGE, 0x200, 1)], &[], Table::Host);
    come_apart(&[host_share_hyp_restricted(PAGE, 1)], &[host_share_hyp(PAGE, 1)], Table::Host);
    come_apart(&[host_share_hyp(PAGE, 1)], &[host_share_hyp_restricted(PAGE, 1)], Table::Host);
}

#[test]
fn hyp_maps_what_it_has_and_nothing_else() {
    come_apart(&[], &[host_share_hyp(PAGE, 1)], Table::Hyp);
    come_apart(&[host_share_hyp(PAGE, 1)], &[], Table::Hyp);
}

#[test]
fn guests_tables_grant_what_the_ledger_says() {
    let lend = host_lend_guest(FIRST, PAGE, 0x200, 1);
    come_apart(std::slice::from_ref(&lend), &[donate()], Table::Guest(FIRST));
    come_apart(&[donate()], &[lend], Table::Guest(FIRST));
    come_apart(&[donate()], &[host_donate_guest(FIRST, PAGE, 0x201, 1)], Table::Guest(FIRST));
    // No record leads to the frame at which the page is borrowed.
    come_apart_as_a_whole(&[donate(), offer()], &[donate(), offer(), accept(0x300)], Table::Guest(SECOND));
    come_apart(&[donate(), offer(), accept(0x300)], &[donate(), offer()], Table::Guest(SECOND));
    come_apart(&[donate(), offer(), accept(0x300)], &[donate(), offer(), accept(0x301)], Table::Guest(SECOND));
    let [read, write] = [Rights::READ, Rights::DATA].map(|rights| {
        let offer = guest_offer(FIRST, 0x200, SECOND, rights);
        [donate(), offer, guest_accept(SECOND, FIRST, 1, 0x300, rights)]
    });
    come_apart(&read, &write, Table::Guest(SECOND));
}

#[test]
fn mappings_are_counted() {
    let share = host_share_guest(THIRD, PAGE, 0x10, 1);
    for (ledger, tables) in [(vec![share.clone()], vec![]), (vec![], vec![share])] {
        let (ledger, tables) = (world(&ledger), world(&tables));
        let found = whole(&ledger, &tables.cpu).expect("the count is wrong");
        assert_eq!(table_of(&found), Some(Table::Ledger), "{found}");
    }
}

#[test]
fn a_guest_counts_what_it_holds() {
    // A device is in no ledger: only the count tells that the guest had none when it was left out.
    let (without, with) = (world(&[]), world(&[host_grant_device(FIRST, DEVICE, 0x100, 1)]));
    let found = whole(&without, &with.cpu);
    assert_eq!(found, Some(Disagreement::Held { vm: FIRST, counted: 0, found: 1 }));
    let poisoned = world(&[donate(), force_reclaim(FIRST, PAGE, 1)]);
    assert_eq!(whole(&poisoned, &without.cpu), None, "the mark is the table's, and nothing is missing");
}

#[test]
fn all_guests_must_be_there() {
    let world = world(&[donate(), offer(), accept(0x300)]);
    let some = world.guests.iter().take(1).map(|guest| &guest.memory);
    assert!(
        ownership_ghost::abstraction(&world.cpu, &world.ownership, some).is_ok(),
        "what the rest has is taken as told"
    );
    let plain = self::world(&[host_share_guest(THIRD, PAGE, 0x10, 1)]);
    let some = plain.guests.iter().take(2).map(|guest| &guest.memory);
    let found = ownership_ghost::abstraction(&plain.cpu, &plain.ownership, some).expect_err("a borrower is missing");
    assert_eq!(table_of(&found), Some(Table::Ledger), "{found}");
}

/// The descriptor that decides for an address, in memory.
fn descriptor(cpu: &TestCpu, root: PhysAddr, geometry: &Geometry, input: u64) -> PhysAddr {
    let first = geometry.start_level();
    let mut table = root.raw();
    for level in first..=LAST_LEVEL {
        let index = input / entry_size(level);
        // Tables that are concatenated at the root lie one behind the other.
        let index = if level == first { index } else { index % 512 };
        let at = PhysAddr::new(table + index * 8);
        let raw = cpu.read(at);
        if level == LAST_LEVEL || raw & 0b11 != 0b11 {
            return at;
        }
        table = raw & 0x0000_ffff_ffff_f000;
    }
    unreachable!("a walk ends at the last level")
}

/// Which table a descriptor is changed in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tree {
    Host,
    Hyp,
    Guest(Vm),
}

/// Changes the descriptor that decides for a page of a table's input.
pub(crate) fn change(world: &World, tree: Tree, page: u64, change: impl Fn(u64) -> u64) {
    let cpu = &world.cpu;
    let at = match tree {
        Tree::Guest(vm) => {
            let memory = world.memory(vm).lock();
            descriptor(cpu, memory.stage2().root(), memory.stage2().geometry(), page << 12)
        }
        Tree::Host | Tree::Hyp => world.ownership.look(|memory| match (tree, memory.host, memory.hyp) {
            (Tree::Host, Some(host), _) => descriptor(cpu, host.root(), host.geometry(), page << 12),
            (_, _, Some(hyp)) => descriptor(cpu, hyp.root(), hyp.geometry(), page << 12),
            _ => unreachable!("both are there"),
        }),
    };
    world.machine.corrupt(at, change(world.machine.read_word(at)));
}

/// Bits of a descriptor of stage 2 (Arm ARM D8.3): the right to write, the shareability, the access flag, the lowest
/// software bit, and the lowest bit of a page's output address.
const S2AP_WRITE: u64 = 1 << 7;
const SHAREABILITY: u64 = 0b11 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
pub(crate) const SOFTWARE: u64 = 1 << 55;
const OUTPUT: u64 = 1 << 12;
/// The lowest bit of MemAttr.
const MEMORY_TYPE: u64 = 0b1110 << 2;
/// AP\[2\] of stage 1: read-only.
const READ_ONLY: u64 = 1 << 7;

#[test]
fn a_descriptor_that_was_changed_behind_hyps_back_is_found() {
    let script = [
        donate(),
        guest_share_host(FIRST, 0x200),
        host_share_hyp(LOW, 1),
        host_share_guest(THIRD, LOW + 1, 0x10, 1),
        host_grant_device(SECOND, DEVICE, 0x100, 1),
        host_donate_device_hyp(DEVICE + 1, 1),
        host_donate_guest(SECOND, LOW + 5, 0x210, 1),
        guest_lend_host(SECOND, 0x210),
    ];
    let xor = |bits: u64| move |raw: u64| raw ^ bits;
    for (tree, page, bits, expected) in [
        (Tree::Host, PAGE, S2AP_WRITE, Table::Host),
        (Tree::Host, PAGE, SHAREABILITY, Table::Host),
        (Tree::Host, PAGE, ACCESS_FLAG, Table::Host),
        (Tree::Host, PAGE, SOFTWARE, Table::Host),
        (Tree::Host, PAGE, OUTPUT, Table::Host),
        (Tree::Host, PAGE, MEMORY_TYPE, Table::Host),
        (Tree::Host, DEVICE, 1 << 63, Table::Host),
        (Tree::Hyp, LOW, READ_ONLY, Table::Hyp),
        (Tree::Hyp, LOW, OUTPUT, Table::Hyp),
        (Tree::Hyp, DEVICE + 1, READ_ONLY, Table::Hyp),
        (Tree::Guest(FIRST), 0x200, S2AP_WRITE, Table::Guest(FIRST)),
        (Tree::Guest(FIRST), 0x200, SOFTWARE, Table::Guest(FIRST)),
        (Tree::Guest(FIRST), 0x200, MEMORY_TYPE, Table::Guest(FIRST)),
        (Tree::Guest(THIRD), 0x10, SOFTWARE, Table::Guest(THIRD)),
        (Tree::Guest(SECOND), 0x100, SOFTWARE, Table::Guest(SECOND)),
        (Tree::Guest(SECOND), 0x210, 1 << 1 | 1 << 2, Table::Guest(SECOND)),
    ] {
        let world = world(&script);
        assert_eq!(whole(&world, &world.cpu), None);
        change(&world, tree, page, xor(bits));
        let found = whole(&world, &world.cpu).unwrap_or_else(|| panic!("{tree:?} {page:#x} {bits:#x}"));
        assert_eq!(table_of(&found), Some(expected), "{tree:?} {page:#x} {bits:#x}: {found}");
    }
}

#[test]
fn a_guest_that_lost_a_device_or_a_loan_is_found() {
    let script = [
        host_grant_device(SECOND, DEVICE, 0x100, 1),
        host_donate_guest(SECOND, LOW + 5, 0x210, 1),
        guest_lend_host(SECOND, 0x210),
    ];
    for (gfn, expected) in [(0x100, Table::Host), (0x210, Table::Guest(SECOND))] {
        let world = world(&script);
        change(&world, Tree::Guest(SECOND), gfn, |_| 0);
        let found = whole(&world, &world.cpu).expect("something is missing");
        assert_eq!(table_of(&found), Some(expected), "{found}");
    }
}

/// A frame that says that its page is lent, and the page knows nothing of it.
#[test]
fn a_note_of_a_loan_that_there_is_not_is_found() {
    let lent = [donate(), guest_lend_host(FIRST, 0x200)];
    let (with, without) = (world(&lent), world(&[donate()]));
    change(&without, Tree::Guest(FIRST), 0x208, |_| {
        let memory = with.memory(FIRST).lock();
        let at = descriptor(&with.cpu, memory.stage2().root(), memory.stage2().geometry(), 0x200 << 12);
        with.machine.read_word(at)
    });
    let found = whole(&without, &without.cpu).expect("a loan that nobody gave");
    assert_eq!(table_of(&found), Some(Table::Guest(FIRST)), "{found}");
}

#[test]
fn a_device_that_is_mapped_as_memory_is_found() {
    let mut world = world(&[]);
    world.done(host_fault(HIGH - 1, Access::Read));
    change(&world, Tree::Host, HIGH - 1, |raw| raw | 0b1111 << 2);
    let found = whole(&world, &world.cpu).expect("memory where there is none");
    assert_eq!(table_of(&found), Some(Table::Host), "{found}");
}

#[test]
fn a_table_in_a_page_that_is_not_hyps_is_found() {
    let (world, other) = (world(&[]), world(&[host_donate_guest(FIRST, LOW, 0x10, 1)]));
    // The first table below the root is moved to a page of the host's.
    let root = world.guest(FIRST).root.checked_address().unwrap();
    assert_eq!(world.machine.read_word(root), 0);
    other.machine.corrupt(root, LOW << 12 | 0b11);
    let found = whole(&world, &other.cpu).expect("a table lies in the host's memory");
    assert_eq!(table_of(&found), Some(Table::Guest(FIRST)), "{found}");
}
