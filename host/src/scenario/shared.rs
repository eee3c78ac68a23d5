//! A guest that is not protected: it lives in memory that the host shares with it, sees and can take back.

use super::Context;
use crate::frames::Pages;
use crate::hypercall;
use crate::run::{self, Exits, Stop};
use crate::vm::{OnDemand, Returned, Setup, Vm, VmError};
use crate::{expect, report};
use abi::host::{RIGHT_EXECUTE, RIGHT_READ, RIGHT_WRITE};
use abi::register::{NamedRegister, Register};
use abi::run::ExitReason;
use abi::{Error, Gfn, Ipa, PAGE_SIZE};
use alloc::format;
use alloc::string::String;
use vmm::layout::{DEVICE_TREE, RAM_BASE};

/// What the first secret word of the payload `hello` is.
const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;
/// What the host puts where a guest looks.
const WORD: u64 = 0x0123_4567_89ab_cdef;
/// An address in the guest's RAM that nothing is loaded to.
const PLACE: Ipa = Ipa::new(RAM_BASE.raw() + (8 << 20));

/// See the module.
pub fn run(context: &Context) {
    lives_in_the_hosts_memory(context);
    gets_memory_on_demand(context);
    sees_what_the_host_writes(context);
    keeps_to_its_rights(context);
    loses_what_is_taken_back(context);
    two_borrow_one_page(context);
    seeds_differ(context);
    has_the_registers_that_the_host_sets(context);
}

/// A guest that is not protected.
fn guest(context: &Context, name: &'static str, bootargs: &str) -> Option<Vm> {
    context.guest_with(name, bootargs, |setup: &mut Setup<'_>| setup.protected = false)
}

/// Takes a guest apart, whose objects at least must come back wiped.
fn end(vm: Vm) {
    let returned = vm.destroy();
    let right = returned.as_ref().is_ok_and(|Returned { dirty, memory, .. }| (*dirty, *memory) == (0, 0));
    report::check("guest-destroyed", right, format_args!("{returned:?}"));
}

/// It runs, finds no calls to share memory, and the host reads its secrets.
fn lives_in_the_hosts_memory(context: &Context) {
    let Some(mut vm) = guest(context, "hello", "") else { return };
    expect!("no-secret-before", secrets(&mut vm), 0);
    let mut exits = Exits::default();
    expect!("guest-powers-off", run::run(&mut vm, &mut exits, u64::MAX), Stop::Off);
    expect!("nothing-shared-by-the-guest", (exits.shares, exits.relinquished), (0, 0));
    report::check("host-reads-its-memory", secrets(&mut vm) != 0, format_args!("no secret found"));
    end(vm);
}

/// How often the first secret word is found in the guest's memory.
fn secrets(vm: &mut Vm) -> usize {
    vm.lent().flat_map(|pages| pages.words().iter()).filter(|word| **word == SECRET).count()
}

fn gets_memory_on_demand(context: &Context) {
    let Some(mut vm) = guest(context, "pages", "") else { return };
    let mut exits = Exits::default();
    expect!("guest-powers-off", run::run(&mut vm, &mut exits, u64::MAX), Stop::Off);
    report::check("given-on-demand", exits.faults != 0, format_args!("{exits:?}"));
    end(vm);
}

/// A page for the guest at [`PLACE`], with [`WORD`] in it.
fn place(vm: &mut Vm, rights: u64) -> bool {
    let Some(mut page) = Pages::zeroed(1) else { return false };
    page.words()[0] = WORD;
    let shared = vm.share(page, Gfn::containing(PLACE), rights);
    expect!("shared", shared, Ok(()))
}

/// Runs a guest that touches [`PLACE`] once; how it ended, and the last line that it said.
fn touch(vm: &mut Vm) -> (Stop, String) {
    vm.on_demand = OnDemand::Nothing;
    let stop = run::run(vm, &mut Exits::default(), u64::MAX);
    (stop, vm.spoken().lock().lines.last().cloned().unwrap_or_default())
}

fn sees_what_the_host_writes(context: &Context) {
    let Some(mut vm) = guest(context, "pages", &format!("load={:#x}", PLACE.raw())) else { return };
    if place(&mut vm, RIGHT_READ | RIGHT_WRITE) {
        expect!("guest-sees-the-hosts-word", touch(&mut vm), (Stop::Off, format!("done, {WORD:#x}")));
    }
    end(vm);
    let Some(mut vm) = guest(context, "pages", &format!("store={:#x}", PLACE.raw())) else { return };
    if place(&mut vm, RIGHT_READ | RIGHT_WRITE) {
        expect!("guest-writes", touch(&mut vm), (Stop::Off, String::from("done, 0x0")));
        let word = vm.unshare(Gfn::containing(PLACE)).map(|mut page| page.words()[0]);
        report::check("host-sees-the-guests-word", word.is_ok_and(|word| word != WORD), format_args!("{word:x?}"));
    }
    end(vm);
}

/// A write that was not given the right for comes to the host, and the page stays as it was.
fn keeps_to_its_rights(context: &Context) {
    let Some(mut vm) = guest(context, "pages", &format!("store={:#x}", PLACE.raw())) else { return };
    if place(&mut vm, RIGHT_READ) {
        expect!("read-only-page-not-written", touch(&mut vm).0, Stop::NoMemoryAt(PLACE));
        let word = vm.unshare(Gfn::containing(PLACE)).map(|mut page| page.words()[0]);
        expect!("read-only-page-kept", word, Ok(WORD));
    }
    end(vm);
    let Some(mut vm) = guest(context, "pages", &format!("load={:#x}", PLACE.raw())) else { return };
    if place(&mut vm, RIGHT_READ) {
        expect!("read-only-page-read", touch(&mut vm), (Stop::Off, format!("done, {WORD:#x}")));
    }
    let Some(page) = Pages::zeroed(1) else { return };
    let frame = Gfn::new(Gfn::containing(PLACE).raw() + 1);
    for rights in [0, RIGHT_EXECUTE << 1, u64::MAX] {
        let refused = hypercall::vm_share(vm.handle(), 0, page.pfn(), frame, 1, rights);
        report::check("bad-rights-refused", refused.is_err(), format_args!("{rights:#x}: {refused:?}"));
    }
    end(vm);
}

/// What was taken back is out of the guest's reach, and the host's to give to others.
fn loses_what_is_taken_back(context: &Context) {
    let Some(mut vm) = guest(context, "pages", &format!("load={:#x}", PLACE.raw())) else { return };
    let frame = Gfn::containing(PLACE);
    if !place(&mut vm, RIGHT_READ | RIGHT_WRITE) {
        return;
    }
    let Some(page) = vm.page_of(frame) else { return };
    let Some(mut protected) = context.guest("hello") else { return };
    let unused = Gfn::containing(Ipa::new(PLACE.raw() + PAGE_SIZE));
    let donated = hypercall::vm_donate(protected.handle(), 0, page, unused, 1);
    expect!("shared-page-not-donated", donated, Err(Error::WrongState));
    expect!("shared-page-not-shared-with-hyp", hypercall::hyp_share(page, 1), Err(Error::WrongState));
    expect!("unshare-other-frame", hypercall::vm_unshare(vm.handle(), unused, 1), Err(Error::WrongState));

    let taken = vm.unshare(frame);
    expect!("taken-back", taken.as_ref().map(|page| page.count()), Ok(1));
    expect!("unshare-twice", hypercall::vm_unshare(vm.handle(), frame, 1), Err(Error::WrongState));
    let (stop, _) = touch(&mut vm);
    expect!("taken-back-page-out-of-reach", stop, Stop::NoMemoryAt(PLACE));
    if let Ok(taken) = taken {
        expect!("taken-back-page-given-on", protected.give(taken, unused), Ok(()));
    }
    super::take_apart(protected);
    end(vm);
}

/// Two guests have the same page; taken out of one, it is still the other's.
fn two_borrow_one_page(context: &Context) {
    let (load, store) = (format!("load={:#x}", PLACE.raw()), format!("store={:#x}", PLACE.raw()));
    let (Some(mut reader), Some(mut writer)) = (guest(context, "pages", &load), guest(context, "pages", &store)) else {
        return;
    };
    let frame = Gfn::containing(PLACE);
    if place(&mut writer, RIGHT_READ | RIGHT_WRITE) {
        let page = writer.page_of(frame);
        let handle = reader.handle();
        let share = |page| reader.with_tables(|| hypercall::vm_share(handle, 0, page, frame, 1, RIGHT_READ));
        let shared = page.map(share);
        expect!("shared-with-a-second-guest", shared, Some(Ok(())));
        expect!("one-writes", touch(&mut writer).0, Stop::Off);
        // The other guest has the page still: it is not to be anybody's else.
        let taken = writer.unshare(frame);
        expect!("taken-from-one", taken.as_ref().map(drop), Ok::<(), &VmError>(()));
        let (stop, line) = touch(&mut reader);
        let seen = stop == Stop::Off && line.starts_with("done") && line != "done, 0x0" && !line.ends_with("cdef");
        report::check("the-other-reads", seen, format_args!("{stop:?} {line}"));
        expect!("taken-from-the-other", hypercall::vm_unshare(reader.handle(), frame, 1), Ok(()));
    }
    end(reader);
    end(writer);
}

/// Two guests that are alike in all else have other random seeds in their device trees.
fn seeds_differ(context: &Context) {
    let (Some(one), Some(other)) = (guest(context, "hello", ""), guest(context, "hello", "")) else { return };
    let trees = [&one, &other].map(|vm| {
        let page = vm.page_of(Gfn::containing(DEVICE_TREE))?;
        // SAFETY: the page is the host's and lent to the guest, which is not running; any byte is a `u8`.
        let bytes = unsafe { core::slice::from_raw_parts((page.raw() * PAGE_SIZE) as *const u8, PAGE_SIZE as usize) };
        Some(bytes.to_vec())
    });
    let [Some(one_tree), Some(other_tree)] = trees else { return };
    let different = one_tree.iter().zip(&other_tree).filter(|(one, other)| one != other).count();
    // Of 72 random bytes few are the same.
    report::check("seeds-differ", (48..=72).contains(&different), format_args!("{different} bytes differ"));
    end(one);
    end(other);
}

/// What the guest does that finds its registers set: says what three hold, by a store to no device.
const CODE: [u32; 5] = [
    0x9100_0401, // add x1, x0, #1
    0xd538_d083, // mrs x3, tpidr_el1
    0x9e66_0064, // fmov x4, d3
    0xf900_0041, // str x1, [x2]
    0x1400_0000, // b .
];
/// Where in it the store is, in bytes.
const STORE: u64 = 12;
/// Where nothing is, not even a device.
const NO_DEVICE: Ipa = Ipa::new(0x0b00_0000);
/// CPACR_EL1.FPEN: FP and SIMD do not trap.
const FPEN: u64 = 0b11 << 20;
/// PSTATE of EL1 with SP_EL1, DAIF masked.
const EL1H_MASKED: u64 = 0x3c5;

/// Registers set before the first instruction are there, and what the guest makes of them is the host's to read.
fn has_the_registers_that_the_host_sets(context: &Context) {
    let Some(mut vm) = guest(context, "hello", "") else { return };
    let handle = vm.handle();
    let get = |register| hypercall::vcpu_get_register(handle, 0, register);
    let set = |register, value| hypercall::vcpu_set_register(handle, 0, register, value);
    let named = Register::Named;
    let pc = named(NamedRegister::Pc);
    expect!("starts-at-its-image", get(pc), Ok(vm.layout().image().raw()));
    expect!("starts-with-its-tree", get(Register::General(0)), Ok(DEVICE_TREE.raw()));

    let Some(mut page) = Pages::zeroed(1) else { return };
    for (place, instruction) in page.bytes().chunks_exact_mut(4).zip(CODE) {
        place.copy_from_slice(&instruction.to_le_bytes());
    }
    let frame = Gfn::containing(PLACE);
    expect!("shared", vm.share(page, frame, RIGHT_READ | RIGHT_EXECUTE), Ok(()));
    let values = [
        (pc, PLACE.raw()),
        (Register::General(0), WORD),
        (Register::General(2), NO_DEVICE.raw()),
        (named(NamedRegister::TpidrEl1), !WORD),
        (named(NamedRegister::CpacrEl1), FPEN),
        (Register::Vector { index: 3, upper: false }, WORD << 4),
        (Register::Vector { index: 31, upper: true }, WORD << 8),
    ];
    for (register, value) in values {
        expect!("register-set", set(register, value), Ok(()));
        expect!("register-read-back", get(register), Ok(value));
    }
    // EL2 and EL3, AArch32, and bits that no PSTATE has.
    for forbidden in
        [0x3c8, 0x3c9, 0x3cc, 0x3cd, 0x1d0, 0x1d3, 0x1da, EL1H_MASKED | 1 << 5, EL1H_MASKED | 1 << 32, u64::MAX]
    {
        let refused = set(named(NamedRegister::Pstate), forbidden);
        report::check(
            "forbidden-pstate-refused",
            refused == Err(Error::InvalidParameter),
            format_args!("{forbidden:#x}"),
        );
        expect!("pstate-as-it-was", get(named(NamedRegister::Pstate)), Ok(EL1H_MASKED));
    }
    for register in [NamedRegister::ActlrEl1, NamedRegister::MdscrEl1] {
        expect!("nothing-but-zero", set(named(register), 1 << 15), Err(Error::InvalidParameter));
    }
    expect!("no-such-vcpu", hypercall::vcpu_get_register(handle, 1, pc), Err(Error::VmGone));

    let exit = loop {
        match hypercall::vcpu_run(handle, 0) {
            Ok(ExitReason::Interrupt) => {}
            Ok(reason) => break run::read_exit(&vm, 0, reason),
            Err(error) => {
                report::check("guest-runs", false, format_args!("{error:?}"));
                return end(vm);
            }
        }
    };
    expect!("stores-what-it-was-given", (exit.reason, exit.ipa, exit.data), (ExitReason::Mmio, NO_DEVICE, WORD + 1));
    let after = [
        (pc, PLACE.raw() + STORE),
        (Register::General(1), WORD + 1),
        (Register::General(3), !WORD),
        (Register::General(4), WORD << 4),
        (Register::Vector { index: 31, upper: true }, WORD << 8),
    ];
    for (register, value) in after {
        let read = get(register);
        report::check("register-after-the-exit", read == Ok(value), format_args!("{register:?} is {read:x?}"));
    }
    // The store is done with; there is nothing but interrupts after it.
    expect!("goes-on-behind-it", hypercall::vcpu_run(handle, 0), Ok(ExitReason::Interrupt));
    expect!("pc-behind-it", get(pc), Ok(PLACE.raw() + STORE + 4));
    end(vm);
}
