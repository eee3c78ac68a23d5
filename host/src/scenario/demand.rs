//! A guest gets memory when it touches it, gives some back, and dies with pages shared; another gives the same page back
//! over and over.

use super::{Context, check_returned, take_apart};
use crate::probe::{self, Access};
use crate::run::{self, Exit, Exits, Stop};
use crate::vm::Vm;
use crate::{expect, frames, hypercall, report};
use abi::payloads::pages::{self, TOUCHED};
use abi::run::ExitReason;
use abi::{Error, Gfn, PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use alloc::format;
use alloc::vec::Vec;

/// Pages that the payload `pages` gives back, and shares.
const GIVEN_BACK: u64 = TOUCHED.div_ceil(pages::GIVEN_BACK as u64);
const SHARED: usize = 2;
/// How often a guest gives the same page back; after how often nothing more is taken for it; and how often one does that
/// is there to have everything taken once.
const TIMES: u64 = 2_000;
const SETTLED: u64 = 16;
const TIMES_BEFORE: u64 = 32;

/// See the module.
pub fn run(context: &Context) {
    some_given_back(context);
    // Blocks of the host's stage 2 are split for good.
    over_and_over(context, TIMES_BEFORE);
    let before = free();
    over_and_over(context, TIMES);
    expect!("nothing-lost-afterwards", free(), before);
}

/// Free pages: the host's, and hyp's.
fn free() -> (u64, Result<u64, Error>) {
    (frames::free_count(), hypercall::memory_info().map(|info| info.free_pages))
}

/// A guest gives the same page back so often, and uses it again: it is wiped each time, and takes nothing of anybody's.
fn over_and_over(context: &Context, times: u64) {
    let bootargs = format!("{}={times:#x}", pages::OVER_AND_OVER);
    let Some(mut vm) = context.guest_with("pages", &bootargs, |_| {}) else { return };
    let (mut exits, mut settled, mut different, mut not_blank) = (Exits::default(), None, 0, 0);
    let mut count = 0;
    let stop = run::run_watched(&mut vm, &mut exits, u64::MAX, |vm, exit| {
        if exit.reason == ExitReason::Relinquished {
            count += 1;
            let blank = page_of(vm, exit).and_then(read_page) == Some([0; 3]);
            not_blank += u64::from(!blank);
            let free = free();
            match settled {
                None if count == SETTLED => settled = Some(free),
                Some(settled) => different += u64::from(free != settled),
                None => {}
            }
        }
    });
    expect!("guest-powers-off", stop, Stop::Off);
    expect!("given-back-each-time", (exits.relinquished, exits.faults), (times, times));
    expect!("given-back-wiped-each-time", not_blank, 0);
    expect!("nothing-taken-meanwhile", (different, settled.is_some()), (0, true));
    let end = vm.spoken().lock().end;
    report::check("guest-reports", end == Some((3, 0)), format_args!("{end:?}"));
    take_apart(vm);
}

/// A guest gets memory when it touches it, gives some back, and dies with pages shared.
fn some_given_back(context: &Context) {
    let Some(mut vm) = context.guest("pages") else { return };
    let given = vm.map().len();
    let (mut exits, mut shared, mut not_blank, mut out_of_reach) = (Exits::default(), Vec::new(), 0, 0);
    let stop = run::run_watched(&mut vm, &mut exits, u64::MAX, |vm, exit| match exit.reason {
        ExitReason::Relinquished => match page_of(vm, exit).map(read_page) {
            Some(Some(words)) => not_blank += words.iter().filter(|word| **word != 0).count(),
            _ => out_of_reach += 1,
        },
        ExitReason::Shared => shared.extend(page_of(vm, exit)),
        _ => {}
    });
    expect!("guest-powers-off", stop, Stop::Off);
    // What was given back is asked for anew, and one of the shared pages had never been touched.
    expect!("given-on-demand", exits.faults, TOUCHED + GIVEN_BACK + 1);
    expect!("given-back", exits.relinquished, GIVEN_BACK);
    expect!("given-back-pages-are-the-hosts", out_of_reach, 0);
    expect!("given-back-pages-are-wiped", not_blank, 0);
    expect!("memory-held", vm.map().len(), given + TOUCHED + 1);

    // The host borrows what is shared, and nothing else; it may not give it on.
    expect!("pages-shared", shared.len(), SHARED);
    let readable: Vec<bool> = shared.iter().map(|page| read_page(*page).is_some()).collect();
    report::check("shared-pages-readable", readable.iter().all(|readable| *readable), format_args!("{readable:?}"));
    let secret = shared.first().and_then(|page| read_page(*page)).is_some_and(|words| words[0] != 0);
    report::check("shared-page-holds-the-guests-words", secret, format_args!("it is blank"));
    for page in &shared {
        expect!("shared-page-not-the-hosts-to-share", hypercall::hyp_share(*page, 1), Err(Error::NotYours));
        let frame = Gfn::new(vm.layout().ram_size() / PAGE_SIZE - 1);
        let donated = hypercall::vm_donate(vm.handle(), 0, *page, frame, 1);
        expect!("shared-page-not-the-hosts-to-donate", donated, Err(Error::NotYours));
    }
    let private = vm.map().page_of(Gfn::containing(vm.layout().image())).and_then(read_page);
    expect!("private-page-out-of-reach", private, None);

    let result = hypercall::vm_teardown(vm.handle());
    expect!("teardown", result, Ok(()));
    let Some(returned) = check_returned(vm.reclaim()) else { return };
    report::check("memory-returned", returned.memory >= given + TOUCHED, format_args!("{returned:?}"));
    // A page that was shared has come back like every other, and is the host's to do with as it likes.
    let words: Vec<_> = shared.iter().map(|page| read_page(*page)).collect();
    let blank = words.iter().all(|words| words.as_ref().is_some_and(|words| words.iter().all(|word| *word == 0)));
    report::check("shared-pages-wiped", blank, format_args!("{words:x?}"));
    for page in &shared {
        expect!("shared-page-is-the-hosts", hypercall::hyp_share(*page, 1), Ok(()));
        expect!("shared-page-is-the-hosts", hypercall::hyp_unshare(*page, 1), Ok(()));
    }
}

/// The page that an exit is about.
fn page_of(vm: &Vm, exit: &Exit) -> Option<Pfn> {
    vm.map().page_of(Gfn::containing(exit.ipa))
}

/// The first and the last word of a page and one in the middle; `None` where the host cannot reach it.
fn read_page(page: Pfn) -> Option<[u64; 3]> {
    let start = PhysAddr::new(page.raw() * PAGE_SIZE).raw();
    let mut words = [0; 3];
    for (word, offset) in words.iter_mut().zip([0, PAGE_SIZE / 2, PAGE_SIZE - 8]) {
        // SAFETY: reading RAM has no effect.
        *word = unsafe { probe::attempt(Access::Read, VirtAddr::new(start + offset)) }.ok()?;
    }
    Some(words)
}
