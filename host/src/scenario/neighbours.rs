//! Two guests live at the same time, and a third tries the physical addresses of their memory, of the host's and of hyp's
//! as its own, for accesses and for calls: to a guest they mean nothing.

use super::{Context, take_apart};
use crate::frames::Pages;
use crate::hypercall;
use crate::run::{self, Exits, Stop};
use crate::vm::Vm;
use crate::{expect, report};
use abi::{Gfn, Ipa, PAGE_SIZE, Pfn, PhysAddr};
use alloc::format;
use vmm::layout::{IMAGE_ALIGNMENT, IPA_BITS, RAM_BASE};

/// RAM of the guest that tries, in bytes: its own addresses should be few.
const RAM_SIZE: u64 = 2 * IMAGE_ALIGNMENT;

/// What the guest tries with an address, and the payload that does.
const ATTEMPTS: [(&str, &str); 5] =
    [("pages", "load"), ("pages", "store"), ("sharing", "share"), ("sharing", "unshare"), ("sharing", "relinquish")];

/// See the module.
pub fn run(context: &Context) {
    let (Some(mut one), Some(mut other)) = (context.guest("hello"), context.guest("hello")) else { return };
    let shared_pages = one.map().runs().flat_map(pages).filter(|page| holds(&other, *page)).count();
    expect!("guests-have-no-page-in-common", shared_pages, 0);
    // In turns: an interrupt, or a stop, takes each from the CPU.
    let (mut exits_of_one, mut exits_of_other) = (Exits::default(), Exits::default());
    let mut ends = (Stop::Interrupted, Stop::Interrupted);
    while ends.0 == Stop::Interrupted || ends.1 == Stop::Interrupted {
        if ends.0 == Stop::Interrupted {
            ends.0 = run::run(&mut one, &mut exits_of_one, 1);
        }
        if ends.1 == Stop::Interrupted {
            ends.1 = run::run(&mut other, &mut exits_of_other, 1);
        }
    }
    expect!("both-power-off", ends, (Stop::Off, Stop::Off));

    let Some(own) = Pages::zeroed(1) else { return };
    let Ok(info) = hypercall::memory_info() else { return };
    let carve_out = |address: PhysAddr| Some(Pfn::containing(address));
    let targets = [
        ("guest-one", foreign_page(&one)),
        ("guest-other", foreign_page(&other)),
        ("host", Some(own.pfn())),
        ("carve-out-first", carve_out(info.carve_out.start)),
        ("carve-out-last", carve_out(PhysAddr::new(info.carve_out.end.raw() - 1))),
    ];
    for (name, page) in targets {
        let address = page.map(|page| Ipa::new(page.raw() * PAGE_SIZE)).filter(|address| is_foreign(*address));
        let Some(address) = address else {
            report::check(&format!("{name}.address"), false, format_args!("{page:?} is no address to try"));
            continue;
        };
        for (payload, attempt) in ATTEMPTS {
            let bootargs = format!("{attempt}={:#x}", address.raw());
            let change = |setup: &mut crate::vm::Setup<'_>| setup.ram_size = RAM_SIZE;
            let Some(mut vm) = context.guest_with(payload, &bootargs, change) else { return };
            let stop = run::run(&mut vm, &mut Exits::default(), u64::MAX);
            expect!(&format!("{name}.{attempt}"), stop, Stop::NoMemoryAt(address));
            take_apart(vm);
        }
    }
    take_apart(one);
    take_apart(other);
}

/// The pages of a run.
fn pages((first, count): (Pfn, u64)) -> impl Iterator<Item = Pfn> {
    (0..count).map(move |index| Pfn::new(first.raw() + index))
}

/// True where `page` is the guest's.
fn holds(vm: &Vm, page: Pfn) -> bool {
    vm.map().runs().flat_map(pages).any(|own| own == page)
}

/// True where the guest that tries has no memory of its own at `address`, and may have asked for some.
fn is_foreign(address: Ipa) -> bool {
    let own = RAM_BASE.raw()..RAM_BASE.raw() + RAM_SIZE;
    address >= RAM_BASE && !own.contains(&address.raw()) && address.raw() < 1 << IPA_BITS
}

/// A page of the guest's whose address is foreign to the guest that tries.
fn foreign_page(vm: &Vm) -> Option<Pfn> {
    let image = vm.map().page_of(Gfn::containing(vm.layout().image()));
    let all = vm.map().runs().flat_map(pages);
    image.into_iter().chain(all).find(|page| is_foreign(Ipa::new(page.raw() * PAGE_SIZE)))
}
