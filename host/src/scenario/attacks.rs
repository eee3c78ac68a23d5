//! The host misbehaves: it touches memory that is not its own, and offers hyp what it must not take.

use super::{Context, calls, check_returned, sweep};
use crate::frames::Pages;
use crate::hypercall::{self, VmSettings};
use crate::paging::{Window, WindowKind};
use crate::probe::{self, Access};
use crate::run::{self, Exits, Stop};
use crate::vm::Vm;
use crate::{expect, report};
use abi::host::{MAX_PAGES_PER_CALL, RIGHT_READ, VM_PROTECTED, VmHandle};
use abi::{Error, Gfn, Ipa, PAGE_SIZE, Pfn, PhysAddr, VirtAddr};
use alloc::format;
use vmm::layout::{DEVICE_TREE, IPA_BITS};

/// See the module.
pub fn run(context: &Context) {
    probe_own_page();
    let Ok(info) = hypercall::memory_info() else {
        report::check("memory-info", false, format_args!("refused"));
        return;
    };
    let carve_out = info.carve_out;
    for (name, offset) in
        [("first", 0), ("middle", carve_out.size() / 2), ("last", carve_out.size().saturating_sub(PAGE_SIZE))]
    {
        probe_foreign(&format!("carve-out-{name}"), PhysAddr::new(carve_out.start.raw() + offset));
    }
    sweep::run(carve_out);
    calls::run();
    exhaust_handles();

    let Some(mut vm) = context.guest("hello") else { return };
    let Some(page) = vm.map().page_of(Gfn::containing(vm.layout().image())) else { return };
    let address = PhysAddr::new(page.raw() * PAGE_SIZE);
    probe_foreign("guest-page", address);
    bad_donations(context, &vm, page, Pfn::containing(carve_out.start));
    bad_shares(&vm, page);
    bad_vcpus(&vm);
    bad_lives(&vm, page);

    // After all that the guest is as it was.
    let mut exits = Exits::default();
    expect!("guest-unharmed", run::run(&mut vm, &mut exits, u64::MAX), Stop::Off);
    probe_foreign("guest-page-after-run", address);
    die_badly(vm, page);
    probe_own_page();
}

/// Touches a page that is not the host's in every way there is; each must abort, at that address.
fn probe_foreign(name: &str, address: PhysAddr) {
    for access in Access::available() {
        let kind = if access == Access::Execute { WindowKind::Code } else { WindowKind::Data };
        let window = Window::open(address, kind);
        let at = window.address(address);
        // SAFETY: the page is not the host's: the access aborts. If it does not, that is the failure to find, and no
        // memory of the host is touched.
        let outcome = unsafe { probe::attempt(access, at) };
        let aborted = outcome.is_err_and(|abort| abort.syndrome.is_external_abort() && abort.address == at);
        report::check(&format!("{name}.{}", access.name()), aborted, format_args!("{outcome:x?}"));
    }
}

/// Touches a page of the host's own in the same ways: none aborts, so that an abort elsewhere means something.
fn probe_own_page() {
    /// The encoding of RET.
    const RET: u32 = 0xd65f_03c0;
    let Some(mut page) = Pages::zeroed(1) else { return };
    for access in Access::available() {
        page.bytes()[..4].copy_from_slice(&RET.to_le_bytes());
        crate::paging::clean_to_memory(page.address().raw(), PAGE_SIZE);
        let kind = if access == Access::Execute { WindowKind::Code } else { WindowKind::Data };
        let window = Window::open(page.address(), kind);
        crate::paging::forget_instructions();
        // SAFETY: the page is this function's, and holds a function that returns.
        let outcome = unsafe { probe::attempt(access, window.address(page.address())) };
        report::check(&format!("own-page.{}", access.name()), outcome.is_ok(), format_args!("{outcome:x?}"));
    }
}

/// Checks that a call was refused, with one of `errors`.
fn refused<T: core::fmt::Debug>(name: &str, result: Result<T, Error>, errors: &[Error]) {
    let right = result.as_ref().is_err_and(|error| errors.contains(error));
    report::check(name, right, format_args!("{result:?}, not one of {errors:?}"));
}

/// Any error but NOT_SUPPORTED: the call exists, and says no.
const ANY: &[Error] = &[
    Error::InvalidParameter,
    Error::NotYours,
    Error::WrongState,
    Error::BadRange,
    Error::NotMemory,
    Error::Busy,
    Error::OutOfMemory,
    Error::VmGone,
    Error::Limit,
];

/// Offers what is not the host's, or not memory, or no range.
fn bad_donations(context: &Context, vm: &Vm, taken: Pfn, hyp_page: Pfn) {
    let handle = vm.handle();
    let frame = Gfn::new(Gfn::containing(DEVICE_TREE).raw() + 0x300);
    let donate = |page: Pfn, frame: Gfn, count: u64| hypercall::vm_donate(handle, 0, page, frame, count);
    let Some(mut own) = Pages::zeroed(2) else { return };
    let outside = context.machine.memory.iter().map(|bank| bank.end).max().unwrap_or_default();
    let limit = &[Error::BadRange, Error::Limit, Error::InvalidParameter];

    refused("donate-twice", donate(taken, frame, 1), &[Error::NotYours]);
    refused("donate-hyp-page", donate(hyp_page, frame, 1), &[Error::NotYours]);
    refused("donate-mmio", donate(Pfn::containing(context.machine.uart.start), frame, 1), &[Error::NotMemory]);
    let beyond = Pfn::containing(outside);
    refused("donate-outside-ram", donate(beyond, frame, 1), &[Error::NotMemory, Error::BadRange]);
    refused("donate-beyond-physical", donate(Pfn::new(1 << 40), frame, 1), &[Error::NotMemory, Error::BadRange]);
    refused("donate-wrapping-pages", donate(Pfn::new(u64::MAX - 1), frame, 16), limit);
    refused("donate-wrapping-frames", donate(own.pfn(), Gfn::new(u64::MAX), 2), limit);
    refused("donate-frame-beyond-ipa", donate(own.pfn(), Gfn::new(1 << (IPA_BITS - 12)), 1), limit);
    refused("donate-nothing", donate(own.pfn(), frame, 0), limit);
    refused("donate-too-much", donate(own.pfn(), frame, MAX_PAGES_PER_CALL + 1), limit);
    refused("donate-count-max", donate(own.pfn(), frame, u64::MAX), limit);
    refused("donate-to-taken-frame", donate(own.pfn(), Gfn::containing(DEVICE_TREE), 1), ANY);
    refused("donate-by-unknown-vcpu", hypercall::vm_donate(handle, 7, own.pfn(), frame, 1), ANY);
    refused("top-up-with-taken", hypercall::vcpu_top_up(handle, 0, taken, 1), &[Error::NotYours]);
    refused("top-up-with-hyp-page", hypercall::vcpu_top_up(handle, 0, hyp_page, 1), &[Error::NotYours]);
    refused("top-up-with-nothing", hypercall::vcpu_top_up(handle, 0, own.pfn(), 0), limit);

    // All or nothing: a good page beside a bad one stays the host's. The page below hyp's may itself be a run page.
    let below = Pfn::new(hyp_page.raw() - 1);
    refused("donate-partly-hyp", donate(below, frame, 2), &[Error::NotYours, Error::Busy]);
    let second = Pfn::new(own.pfn().raw() + 1);
    expect!("share-second", hypercall::hyp_share(second, 1), Ok(()));
    refused("donate-partly-shared", donate(own.pfn(), frame, 2), &[Error::WrongState]);
    expect!("unshare-second", hypercall::hyp_unshare(second, 1), Ok(()));
    // SAFETY: reading RAM has no effect.
    let still = unsafe { probe::attempt(Access::Read, VirtAddr::new(own.address().raw())) };
    report::check("refused-donation-changes-nothing", still.is_ok(), format_args!("{still:x?}"));

    // What was refused is the host's still.
    own.words().fill(0x55);
    report::check("own-pages-usable", own.words().iter().all(|word| *word == 0x55), format_args!("lost"));
}

/// Shares and takes back out of order.
fn bad_shares(vm: &Vm, taken: Pfn) {
    let handle = vm.handle();
    let frame = Gfn::new(Gfn::containing(DEVICE_TREE).raw() + 0x300);
    let Some(own) = Pages::zeroed(1) else { return };
    let own_pfn = own.pfn();
    refused("unshare-not-shared", hypercall::hyp_unshare(own_pfn, 1), &[Error::WrongState]);
    expect!("share", hypercall::hyp_share(own_pfn, 1), Ok(()));
    refused("share-twice", hypercall::hyp_share(own_pfn, 1), &[Error::WrongState]);
    refused("donate-shared", hypercall::vm_donate(handle, 0, own_pfn, frame, 1), &[Error::WrongState]);
    expect!("unshare", hypercall::hyp_unshare(own_pfn, 1), Ok(()));
    refused("unshare-twice", hypercall::hyp_unshare(own_pfn, 1), &[Error::WrongState]);
    refused("share-guest-page", hypercall::hyp_share(taken, 1), &[Error::NotYours]);
    refused("unshare-guest-page", hypercall::hyp_unshare(taken, 1), &[Error::NotYours]);

    let run_page = vm.vcpus[0].run_page_pfn();
    refused("unshare-run-page", hypercall::hyp_unshare(run_page, 1), &[Error::Busy]);
    refused("donate-run-page", hypercall::vm_donate(handle, 0, run_page, frame, 1), &[Error::Busy, Error::WrongState]);
    refused("share-with-protected", hypercall::vm_share(handle, 0, own_pfn, frame, 1, RIGHT_READ), ANY_OR_UNSUPPORTED);
    refused("unshare-from-protected", hypercall::vm_unshare(handle, frame, 1), ANY_OR_UNSUPPORTED);
}

/// Any error at all.
const ANY_OR_UNSUPPORTED: &[Error] = &Error::ALL;

/// Runs and initialises what is not there, or is there already.
fn bad_vcpus(vm: &Vm) {
    let handle = vm.handle();
    for (name, index) in [("1", 1), ("16", 16), ("max", u64::MAX)] {
        refused(&format!("run-vcpu-{name}"), hypercall::vcpu_run(handle, index), ANY);
    }
    for (name, wrong) in [("zero", 0), ("max", u32::MAX), ("next", handle.0 + 1)] {
        let wrong = VmHandle(wrong);
        refused(
            &format!("run-handle-{name}"),
            hypercall::vcpu_run(wrong, 0),
            &[Error::VmGone, Error::InvalidParameter],
        );
        refused(
            &format!("teardown-handle-{name}"),
            hypercall::vm_teardown(wrong),
            &[Error::VmGone, Error::InvalidParameter],
        );
    }
    let Some((_, vcpu_pages)) = object_pages() else { return };
    let Some(pages) = Pages::zeroed(vcpu_pages + 1) else { return };
    let run_page = Pfn::new(pages.pfn().raw() + vcpu_pages);
    for (name, index) in [("again", 0), ("too-many", 1), ("max", u64::MAX)] {
        let result = hypercall::vcpu_init(handle, index, pages.pfn(), vcpu_pages, run_page);
        refused(&format!("vcpu-init-{name}"), result, ANY);
    }
}

/// Pages that VM_INIT and VCPU_INIT take for a VM with one vCPU.
fn object_pages() -> Option<(u64, u64)> {
    let sizes = hypercall::vm_sizes(IPA_BITS, 1);
    report::check("vm-sizes", sizes.is_ok(), format_args!("{sizes:?}"));
    sizes.ok().map(|sizes| (sizes.vm_pages, sizes.vcpu_pages))
}

/// Skips steps of a VM's life, and initialises VMs that cannot be.
fn bad_lives(vm: &Vm, page: Pfn) {
    let handle = vm.handle();
    refused("finalise-alive", hypercall::vm_finalise(handle), ANY);
    refused("reclaim-alive", hypercall::vm_reclaim(handle, page, 1), ANY);
    let Some((count, vcpu_pages)) = object_pages() else { return };
    let Some(pages) = Pages::zeroed(count.max(vcpu_pages) + 1) else { return };
    let good = VmSettings { flags: VM_PROTECTED, ipa_bits: IPA_BITS, vcpus: 1, entry: DEVICE_TREE, argument: 0 };
    refused("init-twice", hypercall::vm_init(handle, &good, pages.pfn(), count), &[Error::WrongState]);

    let Ok(reserved) = hypercall::vm_reserve() else {
        report::check("reserve", false, format_args!("refused"));
        return;
    };
    refused("run-uninitialised", hypercall::vcpu_run(reserved, 0), &[Error::WrongState]);
    let donated = hypercall::vm_donate(reserved, 0, pages.pfn(), Gfn::containing(DEVICE_TREE), 1);
    refused("donate-uninitialised", donated, &[Error::WrongState]);
    let vcpu = hypercall::vcpu_init(reserved, 0, pages.pfn(), vcpu_pages, Pfn::new(pages.pfn().raw() + vcpu_pages));
    refused("vcpu-init-uninitialised", vcpu, &[Error::WrongState]);
    for (name, settings, count) in [
        ("no-vcpus", VmSettings { vcpus: 0, ..good }, count),
        ("many-vcpus", VmSettings { vcpus: abi::host::MAX_VCPUS + 1, ..good }, count),
        ("ipa-bits-0", VmSettings { ipa_bits: 0, ..good }, count),
        ("ipa-bits-64", VmSettings { ipa_bits: 64, ..good }, count),
        ("flags", VmSettings { flags: !0, ..good }, count),
        ("entry-beyond-ipa", VmSettings { entry: Ipa::new(1 << IPA_BITS), ..good }, count),
        ("entry-odd", VmSettings { entry: Ipa::new(DEVICE_TREE.raw() + 1), ..good }, count),
        ("no-pages", good, 0),
        ("few-pages", good, count - 1),
        ("many-pages", good, u64::MAX),
    ] {
        refused(&format!("init-{name}"), hypercall::vm_init(reserved, &settings, pages.pfn(), count), ANY);
    }
    // A vCPU of one VM with the run page of another's, or with a page that is not the host's.
    let Some(other) = Vm::empty(1).map_err(|error| report::check("other-vm", false, format_args!("{error}"))).ok()
    else {
        return;
    };
    for (name, run_page) in [("of-another", vm.vcpus[0].run_page_pfn()), ("of-a-guest", page)] {
        let result = hypercall::vcpu_init(other.handle(), 0, pages.pfn(), vcpu_pages, run_page);
        refused(&format!("vcpu-init-run-page-{name}"), result, &[Error::WrongState, Error::Busy, Error::NotYours]);
    }
    let result = hypercall::vcpu_init(other.handle(), 0, pages.pfn(), vcpu_pages, pages.pfn());
    refused("vcpu-init-run-page-in-object", result, ANY);
    check_returned(other.destroy());
    refused("init-with-guest-page", hypercall::vm_init(reserved, &good, page, count), &[Error::NotYours]);
    release(reserved);
}

/// Gives a handle back that was only reserved.
fn release(handle: VmHandle) {
    let released = hypercall::vm_teardown(handle).and_then(|()| hypercall::vm_finalise(handle));
    expect!("handle-released", released, Ok(()));
}

/// Reserves handles until there are none, then gives them back.
fn exhaust_handles() {
    let mut handles = alloc::vec::Vec::new();
    let last = loop {
        match hypercall::vm_reserve() {
            Ok(handle) if handles.len() <= abi::host::MAX_VMS => handles.push(handle),
            other => break other,
        }
    };
    refused("handles-run-out", last, &[Error::Limit]);
    expect!("handles-reserved", handles.len(), abi::host::MAX_VMS);
    let distinct = handles.iter().enumerate().all(|(index, handle)| !handles[..index].contains(handle));
    report::check("handles-distinct", distinct, format_args!("{handles:?}"));
    for handle in handles {
        release(handle);
    }
}

/// Tears the guest down, and tries everything on the way that may not be done in that order.
fn die_badly(vm: Vm, page: Pfn) {
    let handle = vm.handle();
    let Some(own) = Pages::zeroed(1) else { return };
    refused("finalise-before-teardown", hypercall::vm_finalise(handle), ANY);
    expect!("teardown", hypercall::vm_teardown(handle), Ok(()));
    refused("run-dying", hypercall::vcpu_run(handle, 0), ANY);
    refused("donate-to-dying", hypercall::vm_donate(handle, 0, own.pfn(), Gfn::new(0x40300), 1), ANY);
    refused("finalise-holding-pages", hypercall::vm_finalise(handle), &[Error::Busy]);
    refused("reclaim-own-page", hypercall::vm_reclaim(handle, own.pfn(), 1), ANY);
    refused("reclaim-nothing", hypercall::vm_reclaim(handle, page, 0), ANY);
    refused("reclaim-wrapping", hypercall::vm_reclaim(handle, Pfn::new(u64::MAX), 2), ANY);
    refused("reclaim-beyond", hypercall::vm_reclaim(handle, Pfn::new(1 << 40), 1), ANY);
    probe_foreign("guest-page-dying", PhysAddr::new(page.raw() * PAGE_SIZE));
    refused("teardown-twice", hypercall::vm_teardown(handle), &[Error::WrongState]);
    check_returned(vm.reclaim());
    refused("teardown-gone", hypercall::vm_teardown(handle), &[Error::VmGone]);
    refused("finalise-gone", hypercall::vm_finalise(handle), &[Error::VmGone]);
    refused("reclaim-gone", hypercall::vm_reclaim(handle, page, 1), &[Error::VmGone]);
}
