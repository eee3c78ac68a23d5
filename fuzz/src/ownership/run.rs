//! Running an input or a script to its end.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::panic::{set_hook, take_hook};
use std::sync::Once;

use abi::host::{HostCall, RECLAIM_MOST};
use call_script::{Action, Driver, Executor, Expectation, Names, Outcome, Performed, Script, Setup, Status, Step};
use ownership_spec::{Borrower, Owner, Vm};

use super::bench::Bench;
use super::case::Case;
use super::generate::{Generator, timing};
use super::model::Life;

/// After so many steps everything is compared, at the latest.
const CHECK_EVERY: usize = 16;

thread_local! {
    /// What this thread has run so far.
    static RECORD: RefCell<Script> = RefCell::default();
    /// What panics on this thread is not told to people.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The script of what this thread has run, up to where it failed.
pub fn record() -> Script {
    RECORD.with(|record| record.try_borrow().map(|script| script.clone()).unwrap_or_default())
}

/// Tries what may well panic, without a word.
pub fn quietly<T>(attempt: impl FnOnce() -> T) -> T {
    print_scripts_of_panics();
    IS_QUIET.set(true);
    let result = attempt();
    IS_QUIET.set(false);
    result
}

/// From here on, whatever panics prints the script that led there first: a fuzzer ends its process there and then.
fn print_scripts_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if IS_QUIET.get() {
                return;
            }
            let script = record();
            if !script.steps.is_empty() {
                eprintln!("---- script ----\n{script}---- end of the script ----");
            }
            before(panic);
        }));
    });
}

/// Runs an input.
///
/// # Panics
/// Where anything is not as it must be.
pub fn run(case: &Case) {
    print_scripts_of_panics();
    let mut seeds = case.steps.iter().copied();
    execute(
        &case.setup(),
        |bench, names| {
            let seed = seeds.next()?;
            let model = bench.model();
            let places = bench.places();
            let make = |seed| Generator { model: &model, names, places: &places, seed }.action();
            let timing = self::timing(&seed);
            let step = |cpu, action| Step { cpu, action, expected: None };
            let mut steps = vec![step(timing.cpu, make(seed))];
            if let Some(boundary) = timing.boundary
                && !matches!(steps[0].action, Action::Frames(_))
                && let Some(inner) = seeds.next()
            {
                let cpu = self::timing(&inner).cpu;
                let cpu = if cpu == timing.cpu { (cpu + 1) % 4 } else { cpu };
                steps.insert(0, step(timing.cpu, Action::Interleave(boundary)));
                steps.push(step(cpu, make(inner)));
            }
            Some(steps)
        },
        |_| {},
    );
}

/// Runs a script, and says how many steps came out other than the script expects. `listen` hears of each step.
///
/// # Panics
/// Where anything is not as it must be.
pub fn replay(script: &Script, mut listen: impl FnMut(&Performed<'_>)) -> usize {
    print_scripts_of_panics();
    let mut steps = script.steps.iter().cloned().peekable();
    let mut failed = 0;
    execute(
        &script.setup,
        |_, _| {
            let first = steps.next()?;
            let more = if matches!(first.action, Action::Interleave(_)) { 2 } else { 0 };
            Some(std::iter::once(first).chain(steps.by_ref().take(more)).collect())
        },
        |performed| {
            failed += usize::from(!performed.is_as_expected());
            listen(performed);
        },
    );
    failed
}

/// Runs the steps that `next` gives, some at a time, and then ends everything.
fn execute(
    setup: &Setup,
    mut next: impl FnMut(&Bench, &Names) -> Option<Vec<Step>>,
    mut listen: impl FnMut(&Performed<'_>),
) {
    RECORD.set(Script { setup: setup.clone(), steps: Vec::new() });
    let mut bench = Bench::new(setup.pages, setup.vms.len() as u64);
    let watched = bench.clone();
    let start = Script { setup: setup.clone(), steps: Vec::new() };
    let mut driver = Driver::new(&mut bench, &start).unwrap_or_else(|error| panic!("the setup is refused: {error}"));
    let (mut done, mut checked) = (0, 0);
    while let Some(steps) = next(&watched, driver.names()) {
        let first = RECORD.with_borrow_mut(|record| {
            record.steps.extend(steps.iter().cloned());
            record.steps.len() - steps.len()
        });
        let script = Script { setup: Setup::default(), steps };
        driver.run(&script, |performed| {
            let expected = performed.done.outcome.as_ref().ok().and_then(expectation);
            RECORD.with_borrow_mut(|record| {
                if let Some(step) = record.steps.get_mut(first + performed.index) {
                    step.expected =
                        expected.filter(|_| !matches!(step.action, Action::Interleave(_) | Action::Frames(_)));
                }
            });
            listen(performed);
        });
        for (number, handle) in driver.names().iter() {
            watched.name(number, handle);
        }
        done += script.steps.len();
        if done - checked >= CHECK_EVERY {
            watched.check();
            checked = done;
        }
    }
    drop(driver);
    finish(&mut bench);
}

/// What must come of a step that came to this here: how it ends and, where the guest does not come past it, why.
fn expectation(outcome: &Outcome) -> Option<Expectation> {
    let exit = outcome.notice.map(|notice| notice.reason).filter(|_| outcome.status == Status::Stopped);
    match outcome.status {
        Status::Skipped(_) => None,
        status => Some(Expectation { exit, ..Expectation::of(status) }),
    }
}

/// Ends all VMs, and makes sure that everything is the host's again.
fn finish(bench: &mut Bench) {
    bench.check();
    bench.limit_frames(None);
    let call = |bench: &mut Bench, call: HostCall, operands: &[u64]| {
        let mut arguments = [0; 7];
        arguments[..operands.len()].copy_from_slice(operands);
        let [x0, ..] = bench.host_call(0, call as u64, arguments);
        assert_eq!(x0, 0, "{call:?} {operands:#x?} at the end");
    };
    let handles: Vec<(u64, Vm)> = bench.model().vms.iter().map(|(handle, vm)| (*handle, vm.vm())).collect();
    let living: Vec<u64> =
        bench.model().vms.iter().filter(|(_, vm)| vm.life != Life::Dying).map(|(handle, _)| *handle).collect();
    living.iter().for_each(|handle| call(bench, HostCall::VmTeardown, &[*handle]));
    let handle_of = |vm: Vm| handles.iter().find(|(_, known)| *known == vm).map_or(0, |(handle, _)| *handle);
    let shares: Vec<[u64; 3]> = {
        let model = bench.model();
        let offers =
            model.spec.guests().flat_map(|(owner, guest)| guest.offers.iter().map(move |offer| (owner, offer)));
        let accepted = offers.filter_map(|(owner, (number, offer))| Some((owner, offer.accepted?.0, *number)));
        accepted.map(|(owner, borrower, number)| [handle_of(owner), handle_of(borrower), number]).collect()
    };
    shares.iter().for_each(|share| call(bench, HostCall::VmEndShare, share));
    for (handle, vm) in &handles {
        let (pages, frames, devices) = held(bench, *vm);
        for (first, count) in runs(pages) {
            for done in (0..count).step_by(RECLAIM_MOST as usize) {
                call(bench, HostCall::VmReclaim, &[*handle, first + done, count - done]);
            }
        }
        runs(frames).into_iter().for_each(|(first, count)| call(bench, HostCall::VmUnshare, &[*handle, first, count]));
        for (first, count) in runs(devices) {
            call(bench, HostCall::VmReclaimDevice, &[*handle, first, count]);
        }
        call(bench, HostCall::VmFinalise, &[*handle]);
    }
    let shared: Vec<u64> = {
        let model = bench.model();
        let shared = model.spec.changed_pages().filter(|(_, page)| page.borrowers.contains_key(&Borrower::Hyp));
        shared.map(|(pfn, _)| pfn.raw()).collect()
    };
    runs(shared).into_iter().for_each(|(first, count)| call(bench, HostCall::HypUnshare, &[first, count]));
    bench.check();
    let model = bench.model();
    let mut left = String::new();
    for (pfn, page) in model.spec.changed_pages() {
        let _ = writeln!(left, "page {pfn}: {page}");
    }
    for (pfn, device) in model.spec.changed_devices() {
        let _ = writeln!(left, "device page {pfn}: {device}");
    }
    assert!(left.is_empty() && model.vms.is_empty(), "at the end there is left:\n{left}{:?}", model.vms);
}

/// The numbers of the pages that a VM owns or has on loan, of the frames at which it borrows the host's, and of the pages
/// of devices that it has.
fn held(bench: &Bench, vm: Vm) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
    let model = bench.model();
    let (mut pages, mut frames) = (Vec::new(), Vec::new());
    for (pfn, page) in model.spec.changed_pages() {
        if page.owner == Owner::Guest(vm) || page.is_lent() && page.frames().any(|(guest, _)| guest == vm) {
            pages.push(pfn.raw());
        } else if page.owner == Owner::Host {
            frames.extend(page.frames().filter(|(guest, _)| *guest == vm).map(|(_, gfn)| gfn.raw()));
        }
    }
    let devices = model.spec.changed_devices().filter(|(_, device)| device.owner == Owner::Guest(vm));
    let devices = devices.map(|(pfn, _)| pfn.raw()).collect();
    (pages, frames, devices)
}

/// Numbers that follow each other, together.
fn runs(mut numbers: Vec<u64>) -> Vec<(u64, u64)> {
    numbers.sort_unstable();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    runs
}
