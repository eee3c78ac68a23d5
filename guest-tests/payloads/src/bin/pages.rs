//! A guest that uses memory which it was not given when it started, gives some back, and leaves a page shared; or, with
//! the boot argument `over-and-over=0x…`, gives one page back so often and uses it again; or, with `load=0x…` or
//! `store=0x…`, touches one address and nothing else.
#![no_std]
#![no_main]

use abi::payloads::pages::{GIVEN_BACK, OVER_AND_OVER, TOUCHED};
use abi::{Ipa, PAGE_SIZE, VirtAddr};
use payloads::hypervisor::KvmCalls;
use payloads::memory::Kind;
use payloads::probe::{Access, Outcome, Width, probe};
use payloads::report::Report;
use payloads::{Machine, payload, println};

/// Distance of the first of them from the start of RAM, in bytes: beyond everything that is loaded.
const FIRST: u64 = 8 << 20;
/// Their distance from each other, in bytes.
const STRIDE: u64 = 33 * PAGE_SIZE;
/// The last 64-bit word of a page.
const LAST_WORD: usize = PAGE_SIZE as usize / 8 - 1;
/// What is written.
const PATTERN: u64 = 0x7e4a_4700_0000_0000;

payload!(pages);

fn pages(machine: &mut Machine) {
    let load = Access::Load(Width::Doubleword);
    let store = Access::Store(Width::Doubleword);
    if let Some(address) = machine.platform.hexadecimal_argument("load") {
        touch(machine, load, Ipa::new(address));
    } else if let Some(address) = machine.platform.hexadecimal_argument("store") {
        touch(machine, store, Ipa::new(address));
    } else if let Some(times) = machine.platform.hexadecimal_argument(OVER_AND_OVER) {
        give_back_over_and_over(machine, times);
    } else {
        use_memory(machine);
    }
}

/// Touches an address that may be anybody's, and says what came of it.
fn touch(machine: &mut Machine, access: Access, address: Ipa) {
    println!("pages: {} at {:#x}", access.name(), address.raw());
    let window = window(machine, address);
    // SAFETY: The host chooses an address where the payload has nothing of its own.
    let outcome = unsafe { probe(access, window) };
    match outcome {
        Outcome::Done(value) => println!("pages: done, {value:#x}"),
        Outcome::Exception(exception) if exception.is_abort() => println!("pages: abort"),
        Outcome::Exception(exception) => println!("pages: {exception}"),
    }
}

/// Page `index` of the new memory.
fn page(machine: &Machine, index: u64) -> Ipa {
    Ipa::new(machine.platform.memory.start + FIRST + index * STRIDE)
}

/// Maps the page at `page` at the window.
fn window(machine: &mut Machine, page: Ipa) -> VirtAddr {
    match machine.address_space.open_window(page, Kind::Data) {
        Ok(window) => window,
        Err(error) => panic!("{page} cannot be mapped: {error:?}"),
    }
}

/// Reads the first and last word of a page and then, where there is something to write, writes it to both.
fn words(machine: &mut Machine, page: Ipa, written: Option<u64>) -> [u64; 2] {
    let base = window(machine, page).raw() as *mut u64;
    let seen = [0, LAST_WORD].map(|index| {
        // SAFETY: The page is mapped at the window, and nothing of the payload's own is in it.
        unsafe {
            let word = base.add(index);
            let seen = word.read_volatile();
            if let Some(value) = written {
                word.write_volatile(value);
            }
            seen
        }
    });
    machine.address_space.close_window();
    seen
}

/// Gives the same page back so many times, with words in it, and finds none there when it uses it again.
fn give_back_over_and_over(machine: &mut Machine, times: u64) {
    let mut report = Report::begin("pages");
    let Some(calls) = KvmCalls::find() else {
        report.check("pages.calls", false, format_args!("no pKVM here"));
        return report.end();
    };
    let page = page(machine, 0);
    let (mut dirty, mut lost, mut refused, mut given_back) = (0, 0, 0, 0);
    for time in 0..times {
        let pattern = PATTERN + time;
        dirty += u64::from(words(machine, page, Some(pattern)) != [0, 0]);
        lost += u64::from(words(machine, page, None) != [pattern; 2]);
        match calls.relinquish(page) {
            0 => given_back += 1,
            _ => refused += 1,
        }
    }
    report.check("pages.refused", refused == 0, format_args!("{refused} times"));
    report.check("pages.zero-each-time", dirty == 0, format_args!("{dirty} times it was not"));
    report.check("pages.kept-each-time", lost == 0, format_args!("{lost} times it was not"));
    report.value("pages.given-back", given_back);
    report.end();
}

fn use_memory(machine: &mut Machine) {
    let mut report = Report::begin("pages");
    let pages: [Ipa; TOUCHED as usize] = core::array::from_fn(|index| page(machine, index as u64));
    let pattern = |page: Ipa| PATTERN ^ page.raw();

    let dirty = pages.iter().filter(|page| words(machine, **page, Some(pattern(**page))) != [0, 0]).count();
    report.check("pages.new-are-zero", dirty == 0, format_args!("{dirty} are not"));
    let lost = pages.iter().filter(|page| words(machine, **page, None) != [pattern(**page); 2]).count();
    report.check("pages.kept", lost == 0, format_args!("{lost} are not"));

    if let Some(calls) = KvmCalls::find() {
        let refused = pages.iter().step_by(GIVEN_BACK).filter(|page| calls.relinquish(**page) != 0).count();
        report.check("pages.relinquished", refused == 0, format_args!("{refused} were refused"));
        let dirty = pages
            .iter()
            .step_by(GIVEN_BACK)
            .filter(|page| words(machine, **page, Some(pattern(**page))) != [0, 0])
            .count();
        report.check("pages.new-again-are-zero", dirty == 0, format_args!("{dirty} are not"));
        let lost = pages.iter().filter(|page| words(machine, **page, None) != [pattern(**page); 2]).count();
        report.check("pages.kept-again", lost == 0, format_args!("{lost} are not"));
        // A page with words in it, and one that has never been touched. Neither is taken back.
        let untouched = page(machine, TOUCHED);
        for (name, page) in [("pages.share", pages[1]), ("pages.share-untouched", untouched)] {
            let status = calls.share(page);
            report.check(name, status == 0, format_args!("{status}"));
        }
    }
    report.end();
}
