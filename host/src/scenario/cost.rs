//! What the host's calls cost: ticks of the virtual counter from each call to the instruction behind it. Where QEMU counts
//! instructions (`-icount shift=0`) and the counter runs at 1 GHz, a tick is an instruction.
//!
//! Every call is made for single pages, for 512 pages that are no whole 2 MiB block, and for one that is. The boot argument
//! `vms=` is the number of other VMs that there are meanwhile.

use super::Context;
use crate::frames::{Given, Pages};
use crate::report;
use crate::vm::{Setup, Vm};
use abi::host::{HostCall, RIGHT_EXECUTE, RIGHT_READ, RIGHT_RESTRICTED, RIGHT_WRITE};
use abi::{Error, Gfn, Ipa, PAGE_SIZE, Pfn};
use alloc::format;
use alloc::vec::Vec;
use core::arch::asm;

/// Pages of a 2 MiB block.
const BLOCK: u64 = 512;
/// Pages that the calls are made for: four blocks.
const PAGES: u64 = 4 * BLOCK;
/// How many pages are changed one by one. They lie in the first block.
const SINGLES: u64 = 8;
/// The first of them.
const FIRST_SINGLE: u64 = 100;
/// A page of the same block, away from all others that are changed.
const ALONE: u64 = 400;
/// The first of [`BLOCK`] pages that lie in the second and the third block.
const UNALIGNED: u64 = BLOCK + BLOCK / 2;
/// The first page of the fourth block.
const ALIGNED: u64 = 3 * BLOCK;
/// Where guests get the pages: the same way into their blocks as in the host's memory.
const PLACE: Gfn = Gfn::containing(Ipa::new(0x8000_0000));
/// Addresses of devices that there are not, and that nobody uses: within the board's window for PCI.
const DEVICES: Pfn = Pfn::containing(abi::PhysAddr::new(0x2000_0000));
/// Where a guest gets them: below its memory, and the same way into its blocks.
const DEVICE_PLACE: Gfn = Gfn::containing(Ipa::new(0x2000_0000));

/// A call with its arguments.
type Call = (HostCall, [u64; 7]);

/// See the module.
pub fn run(context: &Context) {
    let others = context.machine.argument("vms").and_then(|number| number.parse().ok()).unwrap_or(0);
    let others: Vec<Vm> = (0..others).filter_map(|_| Vm::empty(1).ok()).collect();
    report::value("other-vms", others.len() as u64);
    let Some(pages) = Pages::zeroed(PAGES) else { return };
    let first = pages.pfn();
    let mut meter = Meter { pages: pages.given(), idle: 0 };
    meter.idle = meter.calibrate();

    let version = meter.measure((HostCall::Version, [0; 7]));
    report::value("version", version);
    hyp(&meter, first);
    donation(context, &meter, first);
    loan(context, &meter, first);
    force(context, &meter, first);
    share(context, &meter, first);
    devices(context, &meter);
    top_up(context, &meter, first);

    // SAFETY: every VM that had some of the pages is gone, and hyp borrows none.
    drop(unsafe { meter.pages.returned() });
    for other in others {
        super::take_apart(other);
    }
}

/// Makes calls and counts.
struct Meter {
    /// What is given away and taken back.
    pages: Given,
    /// Ticks from one look at the counter to the next.
    idle: u64,
}

impl Meter {
    /// Ticks between two looks at the counter with nothing in between.
    fn calibrate(&self) -> u64 {
        let (before, after): (u64, u64);
        // SAFETY: the counter is only read.
        unsafe {
            asm!("mrs {}, cntvct_el0", "mrs {}, cntvct_el0", out(reg) before, out(reg) after, options(nomem, nostack));
        }
        after - before
    }

    /// Makes a call that must succeed, with interrupts masked, and returns its ticks.
    fn measure(&self, (function, arguments): Call) -> u64 {
        let (before, after, status): (u64, u64, u64);
        let [x1, x2, x3, x4, x5, x6, x7] = arguments;
        arm_gic::irq_disable();
        // SAFETY: the calls take no memory away but the meter's own pages, which nobody refers to while they are given.
        // x4 to x30 are kept.
        unsafe {
            asm!(
                "mrs x9, cntvct_el0",
                "hvc #0",
                "mrs x10, cntvct_el0",
                inout("x0") function as u64 => status,
                inout("x1") x1 => _,
                inout("x2") x2 => _,
                inout("x3") x3 => _,
                in("x4") x4,
                in("x5") x5,
                in("x6") x6,
                in("x7") x7,
                out("x9") before,
                out("x10") after,
                options(nostack)
            );
        }
        arm_gic::irq_enable();
        report_refusal(function, status);
        after - before - self.idle
    }

    /// Touches `count` of the host's pages from `index`, so that its stage 2 maps them.
    fn touch(&self, index: u64, count: u64) {
        for page in index..index + count {
            let word = (self.pages.address().raw() + page * PAGE_SIZE) as *mut u64;
            // SAFETY: the caller says that the page is the host's; nothing refers to it.
            unsafe { word.write_volatile(page) };
        }
    }

    /// Measures a change of pages that are the host's: single ones, those that are no block, and the block.
    fn there(&self, name: &str, call: impl Fn(u64, u64) -> Call) {
        self.there_untouched(name, call, |index, count| self.touch(index, count));
    }

    /// The same after `prepare`, for what cannot be touched.
    fn there_untouched(&self, name: &str, call: impl Fn(u64, u64) -> Call, prepare: impl Fn(u64, u64)) {
        let measure = |index: u64, count: u64| {
            prepare(index, count);
            self.measure(call(index, count))
        };
        let first = measure(FIRST_SINGLE, 1);
        let one = (1..SINGLES).map(|index| measure(FIRST_SINGLE + index, 1)).max().unwrap_or(0);
        let alone = measure(ALONE, 1);
        let range = measure(UNALIGNED, BLOCK);
        let block = measure(ALIGNED, BLOCK);
        say(name, "first", [first, one, alone, range, block]);
    }

    /// Measures the change back, in the opposite order.
    fn back(&self, name: &str, call: impl Fn(u64, u64) -> Call) {
        let measure = |index: u64, count: u64| self.measure(call(index, count));
        let block = measure(ALIGNED, BLOCK);
        let range = measure(UNALIGNED, BLOCK);
        let alone = measure(ALONE, 1);
        let one = (1..SINGLES).rev().map(|index| measure(FIRST_SINGLE + index, 1)).max().unwrap_or(0);
        let last = measure(FIRST_SINGLE, 1);
        say(name, "last", [last, one, alone, range, block]);
    }
}

/// A refused call is a failed check.
fn report_refusal(function: HostCall, status: u64) {
    if status != 0 {
        let error = Error::from_register(status);
        report::check("call-succeeds", false, format_args!("{function:?}: {error:?}"));
    }
}

fn say(name: &str, end: &str, [outermost, one, alone, range, block]: [u64; 5]) {
    report::value(&format!("{name}.{end}"), outermost);
    report::value(&format!("{name}.one"), one);
    report::value(&format!("{name}.alone"), alone);
    report::value(&format!("{name}.range"), range);
    report::value(&format!("{name}.block"), block);
}

/// The call for `count` pages from `index` on.
fn on_pages(function: HostCall, first: Pfn) -> impl Fn(u64, u64) -> Call {
    move |index, count| (function, [first.raw() + index, count, 0, 0, 0, 0, 0])
}

/// The call that gives them to a guest, with `rights` where it takes any.
fn to_guest(function: HostCall, vm: &Vm, first: Pfn, rights: u64) -> impl Fn(u64, u64) -> Call {
    let handle = u64::from(vm.handle().0);
    move |index, count| (function, [handle, 0, first.raw() + index, PLACE.raw() + index, count, rights, 0])
}

/// The call that takes them from a guest, by page.
fn from_guest(function: HostCall, vm: &Vm, first: Pfn) -> impl Fn(u64, u64) -> Call {
    let handle = u64::from(vm.handle().0);
    move |index, count| (function, [handle, first.raw() + index, count, 0, 0, 0, 0])
}

fn hyp(meter: &Meter, first: Pfn) {
    meter.there("hyp-share", on_pages(HostCall::HypShare, first));
    meter.back("hyp-unshare", on_pages(HostCall::HypUnshare, first));
    meter.there("hyp-share-restricted", on_pages(HostCall::HypShareRestricted, first));
    meter.back("hyp-unshare-restricted", on_pages(HostCall::HypUnshare, first));
}

/// A guest that never runs, with pages for its tables.
fn guest(context: &Context, protected: bool) -> Option<Vm> {
    let mut vm = context.guest_with("hello", "", |setup: &mut Setup<'_>| setup.protected = protected)?;
    for _ in 0..2 {
        crate::expect!("topped-up", vm.top_up(0), Ok(()));
    }
    Some(vm)
}

/// The guest is dying from here on.
fn begin_to_end(vm: &Vm) {
    crate::expect!("torn-down", crate::hypercall::vm_teardown(vm.handle()), Ok(()));
}

fn end(vm: Vm) {
    super::check_returned(vm.reclaim());
}

fn donation(context: &Context, meter: &Meter, first: Pfn) {
    let Some(vm) = guest(context, true) else { return };
    meter.there("vm-donate", to_guest(HostCall::VmDonate, &vm, first, 0));
    begin_to_end(&vm);
    meter.back("vm-reclaim", from_guest(HostCall::VmReclaim, &vm, first));
    end(vm);
}

fn loan(context: &Context, meter: &Meter, first: Pfn) {
    let Some(vm) = guest(context, true) else { return };
    meter.there("vm-lend", to_guest(HostCall::VmLend, &vm, first, 0));
    begin_to_end(&vm);
    meter.back("vm-reclaim-lent", from_guest(HostCall::VmReclaim, &vm, first));
    end(vm);
}

fn force(context: &Context, meter: &Meter, first: Pfn) {
    let Some(vm) = guest(context, true) else { return };
    meter.there("vm-donate-again", to_guest(HostCall::VmDonate, &vm, first, 0));
    meter.back("vm-force-reclaim", from_guest(HostCall::VmForceReclaim, &vm, first));
    begin_to_end(&vm);
    end(vm);
}

fn share(context: &Context, meter: &Meter, first: Pfn) {
    let Some(vm) = guest(context, false) else { return };
    let rights = RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE;
    let handle = u64::from(vm.handle().0);
    let unshare = |index, count| (HostCall::VmUnshare, [handle, PLACE.raw() + index, count, 0, 0, 0, 0]);
    meter.there("vm-share", to_guest(HostCall::VmShare, &vm, first, rights));
    meter.back("vm-unshare", unshare);
    meter.there("vm-share-restricted", to_guest(HostCall::VmShare, &vm, first, rights | RIGHT_RESTRICTED));
    meter.back("vm-unshare-restricted", unshare);
    begin_to_end(&vm);
    end(vm);
}

fn devices(context: &Context, meter: &Meter) {
    let Some(vm) = guest(context, true) else { return };
    let handle = u64::from(vm.handle().0);
    let grant = |index: u64, count: u64| {
        (HostCall::VmGrantDevice, [handle, 0, DEVICES.raw() + index, DEVICE_PLACE.raw() + index, count, 0, 0])
    };
    meter.there_untouched("vm-grant-device", grant, |_, _| ());
    begin_to_end(&vm);
    meter.back("vm-reclaim-device", from_guest(HostCall::VmReclaimDevice, &vm, DEVICES));
    end(vm);
}

fn top_up(context: &Context, meter: &Meter, first: Pfn) {
    let Some(vm) = guest(context, true) else { return };
    let handle = u64::from(vm.handle().0);
    let call = |index: u64, count: u64| (HostCall::VcpuTopUp, [handle, 0, first.raw() + index, count, 0, 0, 0]);
    meter.there("vcpu-top-up", call);
    begin_to_end(&vm);
    end(vm);
}
