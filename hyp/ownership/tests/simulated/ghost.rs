//! What a ghost reports: calls and faults that end otherwise than the specification says, and damage that it meets.

use crate::abstraction::{PAGE, SOFTWARE, Tree, change, donate, whole, world};
use crate::common::calls::*;
use crate::common::cpu::TestCpu;
use crate::common::step::Step;
use crate::common::*;
use abi::{Error, Gfn, Ipa, Pfn};
use ownership::{Access, Call as RealCall, Component, HostFault, LockedMemory, PageState};
use ownership_ghost::{Ghost, Report, Settings};
use ownership_spec::{Call, Rights};

/// What a ghost says that has seen a call begin in one world, and end so in another.
fn across(before: &World, after: &World, call: &RealCall, result: Result<(), Error>) -> Option<Report> {
    let mut ghost = Ghost::new(Settings::ALL);
    let view = |world: &World, look: &mut dyn FnMut(&TestCpu, &LockedMemory<'_>)| {
        world.ownership.look(|memory| {
            let guest = world.memory(FIRST).lock();
            look(&world.cpu, &LockedMemory { guests: [Some(&guest), None], ..*memory });
        });
    };
    let mut report = None;
    view(before, &mut |cpu, memory| assert_eq!(ghost.before(cpu, memory, call), Ok(())));
    view(after, &mut |cpu, memory| report = ghost.after(cpu, memory, result).err());
    report.map(|report| *report)
}

/// The call that donates [`PAGE`] to [`FIRST`], as the witness is told of it.
fn donation() -> RealCall {
    let slot = ownership::VmSlot::new(usize::from(FIRST.0)).unwrap();
    RealCall::HostDonateGuest { slot, first: Pfn::new(PAGE), gfn: Gfn::new(0x200), count: 1 }
}

#[test]
fn a_call_that_ends_as_it_should_is_passed_over() {
    assert_eq!(across(&world(&[]), &world(&[donate()]), &donation(), Ok(())), None);
    assert_eq!(across(&world(&[]), &world(&[]), &donation(), Err(Error::OutOfMemory)), None);
    assert_eq!(across(&world(&[donate()]), &world(&[donate()]), &donation(), Err(Error::NotYours)), None);
}

#[test]
fn a_call_that_ends_otherwise_is_reported() {
    let result = |before: &[Call], result| match across(&world(before), &world(before), &donation(), result) {
        Some(Report::Result(call, seen, expected)) => {
            assert_eq!((call, seen), (donate(), result));
            expected
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(result(&[], Err(Error::WrongState)), Ok(()));
    assert_eq!(result(&[donate()], Ok(())), Err(Error::NotYours));
    assert_eq!(result(&[donate()], Err(Error::WrongState)), Err(Error::NotYours));
    assert_eq!(result(&[donate()], Err(Error::OutOfMemory)), Err(Error::NotYours), "memory comes last");
}

#[test]
fn a_call_that_leaves_another_state_is_reported() {
    let (start, donated) = (world(&[]), world(&[donate()]));
    let lent = world(&[host_lend_guest(FIRST, PAGE, 0x200, 1)]);
    let elsewhere = world(&[host_donate_guest(FIRST, PAGE, 0x201, 1)]);
    for (after, result) in
        [(&start, Ok(())), (&lent, Ok(())), (&elsewhere, Ok(())), (&donated, Err(Error::OutOfMemory))]
    {
        let report = across(&start, after, &donation(), result);
        assert!(matches!(report, Some(Report::State(..))), "{report:?}");
    }
}

#[test]
fn a_count_that_moves_without_a_page_is_reported() {
    let more = world(&[donate(), host_donate_guest(FIRST, LOW, 0x300, 1)]);
    let report = across(&world(&[]), &more, &donation(), Ok(()));
    assert_eq!(report, Some(Report::Held(donate(), FIRST, 1)));
    let report = across(&more, &world(&[donate()]), &donation(), Err(Error::NotYours));
    assert_eq!(report, Some(Report::Held(donate(), FIRST, -1)));
}

#[test]
fn damage_that_a_call_leaves_is_reported() {
    let (start, after) = (world(&[]), world(&[donate()]));
    change(&after, Tree::Guest(FIRST), 0x200, |raw| raw ^ SOFTWARE);
    let report = across(&start, &after, &donation(), Ok(()));
    assert!(matches!(report, Some(Report::After(..))), "{report:?}");
}

/// A page of the host's that the ledger of another world says is hyp's, under the host's lock.
fn fault(page: u64, access: Access, fault: HostFault, starved: bool) -> Option<Report> {
    let script = [donate(), guest_share_host(FIRST, 0x200), host_share_hyp_restricted(LOW, 1)];
    let world = world(&script);
    let mut ghost = Ghost::new(Settings::ALL);
    let ipa = Ipa::new(page << 12 | 0x123);
    let report = world.ownership.look(|memory| ghost.fault(&world.cpu, memory, ipa, access, fault, starved));
    report.err().map(|report| *report)
}

#[test]
fn a_fault_that_is_decided_wrongly_is_reported() {
    use Access::{Execute, Read, Write};
    for (page, access, right) in [
        (LOW + 1, Write, HostFault::Resume),
        (LOW + 1, Execute, HostFault::Resume),
        (LOW, Read, HostFault::Resume),
        (LOW, Write, HostFault::Inject),
        (PAGE, Write, HostFault::Resume),
        (PAGE, Execute, HostFault::Inject),
        (CARVE_OUT, Read, HostFault::Inject),
        (DEVICE, Write, HostFault::Resume),
        (DEVICE, Execute, HostFault::Inject),
        (PFN_LIMIT, Read, HostFault::Inject),
        (u64::MAX >> 12, Read, HostFault::Inject),
    ] {
        let wrong = if right == HostFault::Resume { HostFault::Inject } else { HostFault::Resume };
        assert_eq!(fault(page, access, right, false), None, "{page:#x} {access:?}");
        let report = fault(page, access, wrong, false);
        assert!(matches!(report, Some(Report::Fault(_, _, seen)) if seen == wrong), "{page:#x} {access:?}");
        let excused = fault(page, access, wrong, true).is_none();
        assert_eq!(excused, wrong == HostFault::Inject, "{page:#x} {access:?}: frames lacked, and that is all");
    }
}

#[test]
fn a_fault_that_meets_damage_is_reported() {
    let (ledger, tables) = (world(&[host_donate_hyp(PAGE, 1)]), world(&[]));
    let mut ghost = Ghost::new(Settings::ALL);
    let ipa = Ipa::new(PAGE << 12);
    let report = ledger.ownership.look(|memory| {
        ghost.fault(&tables.cpu, memory, ipa, Access::Read, HostFault::Resume, false).expect_err("damage")
    });
    assert!(matches!(*report, Report::AtFault(..)), "{report}");
}

/// After each call more pages are looked at, round and round.
#[test]
fn damage_beside_a_call_is_found_in_the_end() {
    let high = HIGH + HIGH_PAGES - 1;
    for (page, called_for) in [(LOW, high), (LOW + 300, high), (LOW + LOW_PAGES - 1, high), (high, LOW)] {
        let owned = |world: &World| world.ownership.state(Pfn::new(page)).map(PageState::owner);
        let (ledger, tables) = (world(&[]), world(&[]));
        let bits = if owned(&ledger) == Some(Component::Hyp) { 1 << 2 } else { 2 << 2 };
        change(&tables, Tree::Host, page, |raw| raw ^ bits);
        let mut ghost = Ghost::new(Settings { sweep: 50, ..Settings::ALL });
        let call = RealCall::HypUnpin { page: Pfn::new(called_for) };
        let mut calls = 0;
        let report = loop {
            calls += 1;
            let result = ledger.ownership.look(|memory| {
                ghost.before(&tables.cpu, memory, &call).unwrap();
                ghost.after(&tables.cpu, memory, Err(Error::WrongState))
            });
            if let Err(report) = result {
                break report;
            }
            assert!(calls < 40, "a round is over");
        };
        assert!(matches!(*report, Report::Elsewhere(_)), "{report}");
    }
}

#[test]
fn of_a_long_range_parts_are_compared() {
    let settings = Settings { most_pages: 4, ..Settings::ALL };
    let mut watched = world(&[]);
    watched.cpu.watch(settings);
    watched.done(host_donate_guest(FIRST, LOW, 0x200, 100));
    watched.refused(host_donate_guest(FIRST, LOW + 99, 0x300, 20), Error::NotYours);
    watched.refused(host_donate_guest(FIRST, LOW + 100, 0x250, 40), Error::WrongState);
    watched.done(host_share_guest(THIRD, LOW + 100, 0x200, 100));
    watched.done(host_unshare_guest(THIRD, 0x210, 20));
    // What the guest offers goes with its pages, in whatever part of the range they are.
    watched.done(guest_offer(FIRST, 0x250, SECOND, Rights::FULL));
    watched.done(guest_offer(FIRST, 0x226, SECOND, Rights::FULL));
    watched.done(force_reclaim(FIRST, LOW + 30, 20));
    watched.done(start_teardown(FIRST));
    let before = watched.cpu.compared();
    watched.done(reclaim(FIRST, LOW, 30));
    watched.done(reclaim(FIRST, LOW + 50, 50));
    assert_eq!(watched.cpu.compared(), before + 2);
    watched.tear_down();

    // Damage at the last of many pages is found by the second of four calls, which looks at the last pages.
    let (ledger, tables) = (world(&[host_donate_hyp(LOW + 99, 1)]), world(&[]));
    let mut ghost = Ghost::new(settings);
    let call = RealCall::HostUnshareHyp { first: Pfn::new(LOW), count: 100 };
    let outcomes = [Err(Error::WrongState), Err(Error::WrongState)].map(|result| {
        ledger.ownership.look(|memory| {
            ghost.before(&tables.cpu, memory, &call)?;
            ghost.after(&tables.cpu, memory, result)
        })
    });
    assert!(outcomes[0].is_ok() && outcomes[1].is_err(), "{outcomes:?}");
}

#[test]
fn one_in_so_many_calls_is_compared() {
    let mut world = world(&[]);
    world.cpu.watch(Settings { one_in: 3, ..Settings::ALL });
    for page in LOW..LOW + 7 {
        world.done(host_share_hyp(page, 1));
    }
    assert_eq!(world.cpu.compared(), 3);
    world.done(Step::HostFault { page: LOW, access: Access::Read });
    world.done(Step::HostFault { page: LOW, access: Access::Read });
    assert_eq!(world.cpu.compared(), 3);
    world.done(Step::HostFault { page: LOW, access: Access::Read });
    assert_eq!(world.cpu.compared(), 4);
    world.tear_down();
}

#[test]
fn what_is_wrong_is_said_so_that_people_can_read_it() {
    let (ledger, tables) = (world(&[donate()]), world(&[]));
    let said = whole(&ledger, &tables.cpu).unwrap().to_string();
    assert_eq!(
        said,
        "page 0x40003: the ledger says guest 1 at frame 0x200; the host's stage 2 does not map it, and says Host"
    );
    let report = across(&world(&[]), &world(&[]), &donation(), Err(Error::Busy)).unwrap().to_string();
    assert_eq!(report, "host_donate_guest vm 1 page 0x40003 frame 0x200 count 1: refused: busy | expected done");
}
