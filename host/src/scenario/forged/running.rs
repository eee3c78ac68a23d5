//! What the host takes from under a vCPU that runs on another CPU: nothing that the vCPU needs goes, or its guest finds out.

use crate::cpu::Cpu;
use crate::frames::Pages;
use crate::hypercall::{self, VmSettings};
use crate::run::{self, Exits, Stop};
use crate::scenario::{Context, check_returned, take_apart};
use crate::vm::Vm;
use crate::{cpu, expect, report, smp};
use abi::host::{RIGHT_EXECUTE, RIGHT_READ, RIGHT_WRITE, VM_PROTECTED, VmHandle};
use abi::register::{NamedRegister, Register};
use abi::run::ExitReason;
use abi::{Error, Gfn, Ipa, PAGE_SIZE, Pfn};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::Mutex;
use vmm::layout::{IPA_BITS, RAM_BASE};

/// How often what is refused is tried.
const ATTEMPTS: usize = 2_000;
/// Ticks for which a guest runs until it spins and makes no exits of its own, and after which one that goes on is not
/// going to end.
const TICKS: u64 = 3;
const MOST_TICKS: u64 = 300;
/// Distance from the start of RAM, in bytes, of a place where the guest has nothing.
const NOTHING_THERE: u64 = 12 << 20;

/// See the module.
pub fn run(context: &Context) {
    let Some(other) = smp::online().find(|cpu| !core::ptr::eq(*cpu, cpu::current())) else { return };
    not_taken_apart(context, other);
    code_taken_by_force(context, other);
    code_unshared(context, other);
}

/// A guest that does nothing any more but spin.
fn spinning(context: &Context, protected: bool) -> Option<Vm> {
    let mut vm = context.guest_with("spin", "", |setup| setup.protected = protected)?;
    let stop = run::run(&mut vm, &mut Exits::default(), TICKS);
    if expect!("guest-spins", stop, Stop::Interrupted) {
        return Some(vm);
    }
    take_apart(vm);
    None
}

/// Gives a guest up for want of something to go on with.
fn lack(vm: Vm) {
    report::check("host-has-what-it-takes", false, format_args!("for {}", vm.name()));
    take_apart(vm);
}

/// What a vCPU came to that ran beside what this CPU did.
struct Beside {
    /// How often it was entered.
    entries: u64,
    /// What it came out for, or was refused for, in the end.
    last: Result<ExitReason, Error>,
}

/// Runs vCPU 0 on `other`, and does `meanwhile` here once it runs. It is over when the vCPU comes out for anything but an
/// interrupt, when its VM is gone, when `meanwhile` says so by returning true, or a good while after that.
fn run_beside(handle: VmHandle, other: &'static Cpu, meanwhile: impl Fn() -> bool + Sync) -> Beside {
    let (is_done, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (entries, last) = (AtomicU64::new(0), Mutex::new(Ok(ExitReason::Interrupt)));
    smp::run_on(&[cpu::current(), other], || {
        if !core::ptr::eq(cpu::current(), other) {
            smp::wait_until(|| entries.load(Ordering::Acquire) > 2);
            is_over.store(meanwhile(), Ordering::Release);
            is_done.store(true, Ordering::Release);
            return;
        }
        let mut left = MOST_TICKS;
        while left != 0 && !is_over.load(Ordering::Acquire) {
            let result = hypercall::vcpu_run(handle, 0);
            left -= u64::from(is_done.load(Ordering::Acquire));
            // This CPU may have run it meanwhile.
            if result == Err(Error::Busy) {
                continue;
            }
            *last.lock() = result;
            if result != Ok(ExitReason::Interrupt) {
                break;
            }
            entries.fetch_add(1, Ordering::AcqRel);
        }
    });
    Beside { entries: entries.into_inner(), last: last.into_inner() }
}

/// Neither the VM, nor the vCPU, its run page or its memory is anyone's to make anew, take or give; once the vCPU is
/// out, the VM can be taken apart.
fn not_taken_apart(context: &Context, other: &'static Cpu) {
    let Some(vm) = spinning(context, true) else { return };
    let handle = vm.handle();
    let (Some((page, _)), Ok(sizes)) = (vm.map().runs().next(), hypercall::vm_sizes(IPA_BITS, 1)) else {
        return lack(vm);
    };
    let object = Pages::zeroed(sizes.vm_pages.max(sizes.vm_alignment));
    let (Some(object), Some(run_page)) = (object, Pages::zeroed(1)) else { return lack(vm) };
    let settings = VmSettings { flags: VM_PROTECTED, ipa_bits: IPA_BITS, vcpus: 1, entry: RAM_BASE, argument: 0 };
    let own_run_page = vm.vcpus[0].run_page_pfn();
    let free = Gfn::containing(Ipa::new(RAM_BASE.raw() + NOTHING_THERE));
    let vcpu_init = |run_page: Pfn| hypercall::vcpu_init(handle, 0, object.pfn(), sizes.vcpu_pages, run_page);

    let (busy, not_torn_down, wrong) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(None));
    let beside = run_beside(handle, other, || {
        for _ in 0..ATTEMPTS {
            busy.fetch_add(u64::from(hypercall::vcpu_run(handle, 0) == Err(Error::Busy)), Ordering::Relaxed);
            let refused = [
                ("VM_FINALISE", hypercall::vm_finalise(handle), Error::WrongState),
                ("VM_RECLAIM", hypercall::vm_reclaim(handle, page, 1).map(drop), Error::WrongState),
                ("VM_INIT", hypercall::vm_init(handle, &settings, object.pfn(), sizes.vm_pages), Error::WrongState),
                ("VCPU_INIT", vcpu_init(run_page.pfn()), Error::InvalidParameter),
                ("VCPU_INIT with its run page", vcpu_init(own_run_page), Error::InvalidParameter),
                ("HYP_UNSHARE of the run page", hypercall::hyp_unshare(own_run_page, 1), Error::Busy),
                ("VM_DONATE of the run page", hypercall::vm_donate(handle, 0, own_run_page, free, 1), Error::Busy),
                ("VM_DONATE of its page", hypercall::vm_donate(handle, 0, page, free, 1), Error::NotYours),
                ("HYP_SHARE of its page", hypercall::hyp_share(page, 1), Error::NotYours),
            ];
            for (call, result, expected) in refused {
                if result != Err(expected) {
                    wrong.lock().get_or_insert((call, result, expected));
                }
            }
            match hypercall::vm_teardown(handle) {
                Err(Error::Busy) => {
                    not_torn_down.fetch_add(1, Ordering::Relaxed);
                }
                result => {
                    if let Err(error) = result {
                        wrong.lock().get_or_insert(("VM_TEARDOWN", result, error));
                    }
                    break;
                }
            }
        }
        true
    });
    report::check("busy-while-it-runs", busy.into_inner() != 0, format_args!("{} entries", beside.entries));
    // It is torn down once the vCPU has come out, and not before.
    let not_torn_down = not_torn_down.into_inner();
    report::check("not-torn-down-while-it-runs", not_torn_down != 0, format_args!("{not_torn_down} refusals"));
    let wrong = wrong.into_inner();
    if !report::check("never-taken-apart-while-it-runs", wrong.is_none(), format_args!("{wrong:?}")) {
        // They may be hyp's.
        core::mem::forget((object, run_page));
    }
    // It is dying already, or still to die.
    let teardown = hypercall::vm_teardown(handle);
    report::check("dies-in-the-end", matches!(teardown, Ok(()) | Err(Error::WrongState)), format_args!("{teardown:?}"));
    check_returned(vm.reclaim());
}

/// VCPU_RUN of vCPU 0 until it comes out for something that it did, or a good while has passed.
fn run_on_from_interrupts(handle: VmHandle) -> Result<ExitReason, Error> {
    let mut results = (0..MOST_TICKS).map(|_| hypercall::vcpu_run(handle, 0));
    results.find(|result| *result != Ok(ExitReason::Interrupt)).unwrap_or(Ok(ExitReason::Interrupt))
}

/// All memory of a protected guest is taken by force: it comes out, and does not go on.
fn code_taken_by_force(context: &Context, other: &'static Cpu) {
    let Some(mut vm) = spinning(context, true) else { return };
    let handle = vm.handle();
    let frames = Gfn::containing(RAM_BASE).raw()..Gfn::containing(Ipa::new(RAM_BASE.raw() + NOTHING_THERE)).raw();
    let pages: Vec<(Gfn, Pfn)> =
        frames.map(Gfn::new).filter_map(|frame| vm.page_of(frame).map(|page| (frame, page))).collect();
    let taken = AtomicU64::new(0);
    let beside = run_beside(handle, other, || {
        let results = pages.iter().map(|(_, page)| hypercall::vm_force_reclaim(handle, *page, 1));
        taken.store(results.filter(Result::is_ok).count() as u64, Ordering::Relaxed);
        false
    });
    expect!("taken-by-force", taken.into_inner(), pages.len() as u64);
    for (frame, _) in &pages {
        vm.take_relinquished(*frame);
    }
    expect!("comes-out-poisoned", beside.last, Ok(ExitReason::Poisoned));
    expect!("poisoned-again", run_on_from_interrupts(handle), Ok(ExitReason::Poisoned));
    let place = run::read_exit(&vm, 0, ExitReason::Poisoned).ipa;
    let is_its = place.page_offset() == 0 && pages.iter().any(|(frame, _)| *frame == Gfn::containing(place));
    report::check("poisoned-where-it-was", is_its, format_args!("{place:?}"));
    let Some(page) = Pages::zeroed(1) else { return lack(vm) };
    let given = hypercall::vm_donate(handle, 0, page.pfn(), Gfn::containing(place), 1);
    if !expect!("nothing-put-in-its-place", given, Err(Error::WrongState)) {
        core::mem::forget(page);
    }
    take_apart(vm);
}

/// The code of a guest that is not protected is taken out of it, and lent anew: it asks for it, and goes on.
fn code_unshared(context: &Context, other: &'static Cpu) {
    let Some(vm) = spinning(context, false) else { return };
    let (handle, first) = (vm.handle(), Gfn::containing(vm.layout().image()));
    let vm = Mutex::new(vm);
    let (taken, odd) = (Mutex::new(None), AtomicU64::new(0));
    let busy = AtomicU64::new(0);
    let beside = run_beside(handle, other, || {
        for _ in 0..ATTEMPTS {
            match hypercall::vcpu_get_register(handle, 0, Register::Named(NamedRegister::Pc)) {
                Err(Error::Busy) => busy.fetch_add(1, Ordering::Relaxed),
                // Between two entries.
                Ok(_) => 0,
                Err(_) => odd.fetch_add(1, Ordering::Relaxed),
            };
        }
        *taken.lock() = Some(vm.lock().unshare(first));
        false
    });
    report::check("registers-busy-while-it-runs", busy.into_inner() != 0, format_args!("{} entries", beside.entries));
    expect!("registers-nothing-odd", odd.into_inner(), 0);
    expect!("asks-for-its-code", beside.last, Ok(ExitReason::MemoryFault));
    let place = run::read_exit(&vm.lock(), 0, ExitReason::MemoryFault).ipa;
    match taken.into_inner() {
        Some(Ok(pages)) => {
            let its = first.raw()..first.raw() + pages.count();
            let is_its = its.contains(&Gfn::containing(place).raw()) && place.raw().is_multiple_of(PAGE_SIZE);
            report::check("asks-where-it-was", is_its, format_args!("{place:?}"));
            let shared = vm.lock().share(pages, first, RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE);
            expect!("shared-anew", shared, Ok(()));
            let again = run_beside(handle, other, || true);
            expect!("goes-on-with-its-code", again.last, Ok(ExitReason::Interrupt));
        }
        taken => {
            report::check("unshared", false, format_args!("{:?}", taken.map(|taken| taken.map(drop))));
        }
    }
    let returned = vm.into_inner().destroy();
    report::check("guest-destroyed", returned.is_ok_and(|returned| returned.dirty == 0), format_args!("{returned:?}"));
}
